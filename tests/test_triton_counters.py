"""Memory that kernels ask for, counted on a simulated device: each input is read once and each output written once.

Sectors of 32 bytes asked for against those that the shapes compel: bounds from counted work, no times. What an op asks
for beyond its inputs and outputs stands in the table, with its reason.
"""

import dataclasses

import pytest
import torch

from lps_kernels import testing
from lps_kernels.op import OPS
from lps_kernels.testing import Case

gpusim = pytest.importorskip("gpusim", reason="counters come from a simulated device")
triton = pytest.importorskip("triton")
pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
ALLOWED = 1.15


@dataclasses.dataclass(frozen=True)
class Traffic:
    """An op's case; launches forward and backward; bytes beyond inputs and outputs; what the backward does not read.

    more, more_back: of the case's sizes b, k, n, c. unread: arguments or saved outputs, by name.
    """

    case: Case
    launches: tuple[int, int]
    more: object = lambda **s: 0
    more_back: object = lambda **s: 0
    unread: tuple[str, ...] = ()
    needs: int | None = None

    def __str__(self) -> str:
        return f"{self.case}"


WIDE = (188, 64), (20, 500)
SIZES = {"b": 2, "k": 4, "n": 188, "c": 8, "ragged": False, "tau": 0.01}
HARD = {**SIZES, "soft": False}
EDGES = {**HARD, "order": 2, "n": 64, "c": 4}
FEATURES = [
    *(Case(**{**HARD, "c": c}) for c in (1, 3, 4, 5, 8, 20)),
    *(Case(**{**EDGES, "c": c, "n": n}) for c, n in ((1, 64), (4, 64), (5, 61), (8, 64))),
]


def inverting(programs, each):
    """Of a cache: so many programs of a graph, none of which holds it, read perm, write ranks of nodes to any place of
    their own memory, and read them there, in so many bytes a node.
    """
    return lambda b, k, n, **_: programs * b * k * n * each


def each_sample(b, k, n, c, width=1, **_):
    """x is read again for each sample but one: from a cache, which holds it, as k programs or warps do at once."""
    return b * (k - 1) * n * c * width * 4


def space(d=3, **s):
    return each_sample(width=d, **s)


def points(b, n, c, **_):
    """x is read once more for a centroid that no program finds by itself."""
    return b * n * 3 * c * 4


TRAFFIC = [
    *(("permute", Traffic(case, (1, 1), unread=("x",), needs=1)) for case in FEATURES),
    *(("inverse_permute_mean", Traffic(case, (1, 1), unread=("y",), needs=1)) for case in FEATURES),
    # More than a program holds: it has some of the channels. Of narrow nodes a sum reads sectors in part.
    *(("permute", Traffic(Case(**{**HARD, "c": c, "n": n}), (1, 1), unread=("x",), needs=1)) for n, c in WIDE),
    ("permute", Traffic(Case(**{**HARD, "c": 13, "n": 700}), (1, 0))),
    ("random_permutation", Traffic(Case(**SIZES), (1, 0))),
    # Every iterate of each row of 256 is kept while the backward runs, in 32 MB at most, which an L2 holds.
    ("soft_sort", Traffic(Case(**SIZES), (1, 1), more_back=lambda b, k, **_: b * k * 2 * 2 * 5 * 256 * 4)),
    # The second launch adds up samples: they are programs, which must not by atomics.
    ("permutation_entropy", Traffic(Case(**{**SIZES, "n": 192}), (2, 1))),
    ("gram_schmidt", Traffic(Case(b=1024), (1, 1))),
    ("random_orthogonal", Traffic(Case(b=16, k=64), (1, 0))),
    # Backward twice where sums over nodes, which are programs, make the gradient of q.
    ("rotate", Traffic(Case(**SIZES), (1, 2))),
    ("inverse_rotate_mean", Traffic(Case(**SIZES), (1, 2))),
    ("permute_rotate", Traffic(Case(**HARD), (1, 2), space, inverting(3, 24))),
    ("inverse_permute_rotate_mean", Traffic(Case(**HARD), (1, 2), inverting(3, 24), space)),
    # Up to 1,024 nodes and channels, a program holds the graph and puts it in order in shared memory.
    *((name, Traffic(Case(**{**HARD, "n": n, "c": c, "order": order}), (1, launches)))
      for name in ("permute_rotate", "inverse_permute_rotate_mean")
      for n, c, order, launches in ((100, 3, 1, 1), (60, 3, 2, 1))),
    # The centroid's share of the gradient takes another pass over that of x.
    ("sample_rotate", Traffic(Case(**SIZES), (2, 2), points, lambda **s: 2 * points(**s))),
    ("sample_rotate", Traffic(Case(**{**SIZES, "c": 1}), (1, 1), more_back=lambda **s: 2 * points(**s))),
    ("sample_permute", Traffic(Case(**{**HARD, "n": 64}), (2, 2), each_sample,
                               unread=("x", "edges", "scores", "saved_t"), needs=6)),
]  # fmt: skip


@pytest.fixture
def launched():
    """Counters of every launch of a Triton kernel, as they come."""
    found = []

    def record(_metadata):
        found.append(gpusim.counters())

    hook = triton.knobs.runtime.launch_exit_hook
    hook.add(record)
    yield found
    hook.remove(record)


def size_of(tensors) -> int:
    return sum(t.numel() * t.element_size() for t in tensors if isinstance(t, torch.Tensor))


def check(what, launched, launches, compelled):
    torch.cuda.synchronize()
    sectors = sum(c["gld_sectors"] + c["gst_sectors"] for c in launched)
    assert len(launched) == launches, f"{what}: {len(launched)} launches"
    assert sectors <= ALLOWED * compelled / 32, f"{what}: {sectors} sectors, {sectors * 32 / compelled:.2f} times"
    assert all(c["gat_sectors"] == 0 for c in launched), f"{what}: no atomics"
    launched.clear()


@pytest.mark.parametrize(("name", "traffic"), TRAFFIC, ids=str)
def test_reads_and_writes_once(name, traffic, launched):
    op, case = OPS[name], traffic.case
    sizes = {letter: getattr(case, letter) for letter in "bknc"}
    args = testing.arguments(op, case, device="cuda")
    launched.clear()  # what prepared the arguments
    outs = testing._outputs(op(*args, backend="triton"))
    check(name, launched, traffic.launches[0], size_of([*args, *outs]) + traffic.more(**sizes))
    if op.backward is None or not traffic.launches[1]:
        return
    grads = [torch.ones_like(o) if o.is_floating_point() and o.numel() else None for o in outs]
    needs = traffic.needs or sum(1 << i for i, at in enumerate(op.differentiable) if args[at] is not None)
    sample = [*grads, *args, *(outs[i] for i in op.saves), needs]
    found = testing._outputs(op.backward(*sample, backend="triton"))
    read = [a for a, parameter in zip(sample, op.backward.parameters) if parameter not in traffic.unread]
    check(f"{name} backward", launched, traffic.launches[1], size_of([*read, *found]) + traffic.more_back(**sizes))


@pytest.mark.parametrize(("c", "allowed"), [(4, 1.9), (8, 1.4)])
def test_gradients_of_scores_read_edges_once_an_axis(c, allowed, launched):
    """A scan runs along each of the two axes of x' and of its gradient: four readings of as much. x' itself is gathered
    from x anew, which asks for whole sectors of 32 bytes even where a node pair has 16.
    """
    op, case = OPS["permute"], Case(**{**EDGES, "c": c, "soft": True})
    args = testing.arguments(op, case, device="cuda")
    grad = torch.ones_like(op(*args, backend="triton"))
    launched.clear()
    op.backward(grad, *args, 14, backend="triton")
    torch.cuda.synchronize()
    sectors = sum(counted["gld_sectors"] + counted["gst_sectors"] for counted in launched)
    assert len(launched) == 2  # rows are cut into parts where they are few, and those added up
    assert sectors <= allowed * 4 * size_of([grad]) / 32
