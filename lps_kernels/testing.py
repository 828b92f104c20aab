"""What the tests, fuzzing and benchmarks of every op share: cases as data, their tensors, and one way to compare.

An op needs no code here to be tested: its arguments are made by their names, which mean the same in every op.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import os
import shutil
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from lps_kernels import info
from lps_kernels.op import BACKENDS, Op
from lps_kernels.ops.rows import compute_dtype, valid_nodes
from lps_kernels.ops.soft_sort import _soft_sort

# What a result may err by where the reference happens to be exact, in units of the dtype's eps times the rms of the
# result times the square root of how many terms are added.
FLOOR = 4.0
EXACT = 1e-10  # of float64 results, relative to the largest entry


@dataclasses.dataclass(frozen=True)
class Case:
    """Sizes and options of one call; an op reads those that it has arguments for."""

    b: int = 2
    k: int = 3
    n: int = 7
    c: int = 4
    order: int = 1
    ragged: bool = True
    scores: str = "normal"
    tau: float = 0.1
    n_iter: int = 5
    normalize: bool = True
    hard: bool = True
    soft: bool = True
    mean: bool = True
    weighted: bool = False
    edges: bool = True
    layout: str = "contiguous"
    d: int = 3
    m: int = 3
    special: bool = False
    centered: bool = True
    haar: bool = False
    unitary: bool = False

    def __str__(self) -> str:
        default = Case()
        changed = {k: v for k, v in dataclasses.asdict(self).items() if v != getattr(default, k)}
        return ",".join(f"{k}={v}" for k, v in changed.items()) or "default"


_SCORES = (
    Case(),
    Case(n=33, tau=0.01, n_iter=20),
    Case(n=64, k=1, tau=1e-3, n_iter=20, scores="clustered"),
    Case(n=9, tau=1.0, scores="tied", normalize=False),
    Case(n=8, n_iter=0, scores="heavy", ragged=False),
    Case(n=70, b=5, k=2, scores="tied", tau=0.01, n_iter=20),
    Case(n=1, n_iter=1),
    Case(n=2, tau=10.0),
    Case(n=5, scores="zero"),
    Case(soft=False),
)
_FEATURES = (
    Case(),
    Case(order=2),
    Case(hard=False),
    Case(order=2, hard=False),
    Case(soft=False),
    Case(order=2, soft=False, ragged=False),
    Case(n=33, c=1, tau=0.01, scores="tied"),
    Case(n=20, c=3, order=2, tau=0.01, scores="tied"),
    Case(n=1, k=1),
    Case(n=2, order=2, k=1),
    Case(c=0),
)

_SPACE = (
    Case(),
    Case(c=1),
    Case(c=1, d=2, ragged=False),
    Case(d=4, k=1, centered=False),
    Case(d=5, c=9),
    Case(d=1),
    Case(order=2),
    Case(order=2, c=1, d=4),
    Case(order=2, d=6, n=1),
)
_PRODUCT = (*_SPACE, Case(soft=False), Case(n=33, c=1, tau=0.01, scores="tied"))


def _means(cases: Sequence[Case]) -> tuple[Case, ...]:
    return tuple(dataclasses.replace(c, **options) for c in cases for options in ({"weighted": True}, {"mean": False}))


CASES: dict[str, tuple[Case, ...]] = {
    "gram_schmidt": (
        *(Case(b=20, d=d, m=d, special=special) for d in (1, 2, 3, 4, 7) for special in (False, True)),
        *(Case(b=20, d=d, m=m) for d, m in ((3, 2), (4, 1), (9, 5))),
        *(Case(b=20, d=d, m=d, unitary=True) for d in (1, 2, 3, 5)),
    ),
    "random_orthogonal": tuple(Case(d=d, unitary=unitary) for d in (1, 2, 3, 4, 8) for unitary in (False, True)),
    "rotate": _SPACE,
    "inverse_rotate_mean": (*_SPACE, *_means(_SPACE)),
    "permute_rotate": _PRODUCT,
    "inverse_permute_rotate_mean": (*_PRODUCT, *_means(_PRODUCT)),
    "sample_rotate": (Case(), Case(special=True, d=4, m=4), Case(centered=False), Case(haar=True), Case(c=1, b=5)),
    "random_permutation": (Case(), Case(n=64, b=5), Case(n=1), Case(n=200, k=1), Case(n=33, ragged=False)),
    "soft_sort": _SCORES,
    "permutation_entropy": tuple(c for c in _SCORES if c.soft),
    "permute": _FEATURES,
    "inverse_permute_mean": tuple(
        case for f in _FEATURES for case in (dataclasses.replace(f, weighted=True), dataclasses.replace(f, mean=False))
    )
    + (Case(), Case(order=2, k=1)),
    "sample_permute": (
        Case(),
        Case(edges=False),
        Case(hard=False),
        Case(soft=False, ragged=False),
        Case(n=33, c=1, tau=0.01, n_iter=20, scores="tied"),
        Case(n=1, k=1),
    ),
}
# Sizes that leave nothing to compute.
EMPTY = (Case(b=0), Case(n=0), Case(b=0, order=2), Case(n=0, order=2), Case(c=0, order=2))


def forward_ops() -> dict[str, Op]:
    return {op.name: op for op in info.forward_ops()}


def backends() -> list[str]:
    """The reference and every backend whose device this machine has."""
    return ["reference", *(name for name, (device, _) in BACKENDS.items() if _has(device))]


def _has(device: str) -> bool:
    return device == "cpu" or getattr(torch, device).is_available()


def device_of(backend: str) -> str:
    return BACKENDS[backend][0] if backend in BACKENDS else "cpu"


def skip_without(op: Op, backend: str) -> None:
    """Skip the running test where the backend has no kernel for the op."""
    if backend != "reference" and not op.has_kernel(backend):
        import pytest

        pytest.skip(f"{op.name} has no {backend} kernel")


def skip_without_compiler() -> None:
    """Skip the running test where torch.compile's default has no C++ compiler to call."""
    if not any(c and shutil.which(c) for c in (os.environ.get("CXX"), "c++", "g++", "clang++")):
        import pytest

        pytest.skip("torch.compile has no C++ compiler here")


def cases(name: str) -> tuple[Case, ...]:
    return CASES.get(name, (Case(),))


def make_scores(family: str, shape: Sequence[int], generator: torch.Generator | None = None) -> Tensor:
    """Scores in float64 whose values are float32 ones, so that both dtypes sort them alike."""
    z = torch.randn(*shape, generator=generator, dtype=torch.float64)
    if family == "tied":
        z = (z * 2).round() / 2
    elif family == "clustered":
        z = z.sign() + 1e-3 * torch.randn(*shape, generator=generator, dtype=torch.float64)
    elif family == "heavy":
        z = torch.tan(3.0 * torch.rand(*shape, generator=generator, dtype=torch.float64) - 1.5) * z.exp()
    elif family == "spaced":
        z = torch.arange(shape[-1], dtype=torch.float64).expand(*shape)
    elif family in ("zero", "equal"):
        z = torch.full(tuple(shape), 0.0 if family == "zero" else 0.7, dtype=torch.float64)
    elif family != "normal":
        raise ValueError(f"scores: unknown family {family!r}")
    return z.float().double()


def ragged_sizes(b: int, n: int) -> Tensor:
    """Numbers of real nodes that differ: n, then 0, 1, and what lies between."""
    sizes = [n, max(n - 2, 0), min(1, n), n // 2, 0]
    return torch.tensor([sizes[i % len(sizes)] for i in range(b)], dtype=torch.int64)


def relayout(x: Tensor, layout: str) -> Tensor:
    """The same values, or for "expanded" those of the first batch entry, in another layout."""
    if layout == "contiguous" or x.dim() == 0:
        return x
    if layout == "strided":  # axes in reverse, each second element of a buffer
        held = x.new_empty([2 * s for s in reversed(x.shape)])
        view = held[tuple(slice(None, None, 2) for _ in x.shape)].permute(*reversed(range(x.dim())))
        return view.copy_(x)
    return x[:1].expand_as(x)


def arguments(op: Op, case: Case, dtype: torch.dtype = torch.float32, device: str = "cpu", seed: int = 0) -> list:
    """The op's arguments for a case, by their names. Features are NaN at padding, where nothing may read them."""
    g = torch.Generator().manual_seed(seed)
    b, k, n, c = case.b, case.k, case.n, case.c
    wide = compute_dtype(dtype)
    nodes = ragged_sizes(b, n) if case.ragged and "num_nodes" in op.parameters else None
    valid = valid_nodes(nodes, n, torch.device("cpu")).expand(b, 1, n)
    number = torch.randint(-(2**63), 2**63 - 1, (1,), generator=g)
    scores = make_scores(case.scores, (b, k, n), g).masked_fill(~valid, float("nan"))
    perm, t, row, col = _soft_sort.reference(scores, number, nodes, case.tau, case.n_iter, case.normalize, True)
    need_soft = case.soft or "entropy" in op.name

    in_space = "q" in op.parameters or op.name == "sample_rotate"
    rotation = torch.linalg.qr(torch.randn(b, k, case.d, case.d, generator=g, dtype=torch.float64))[0]
    center = rotation[:, :1, 0] if k else rotation.new_zeros(b, 1, case.d)
    shape = (b, k, case.d, case.d) if op.name == "sample_rotate" else (b, case.d, case.m, *[2] * case.unitary)
    v = torch.randn(shape, generator=g, dtype=torch.float64).to(wide if op.name == "sample_rotate" else dtype)

    def features(*lead: int, order: int, mask: Tensor) -> Tensor:
        if in_space:
            space = [case.d] * (1 if op.name == "sample_rotate" else case.order)
            x = torch.randn(*lead, n, *space, c, generator=g, dtype=torch.float64).to(dtype)
            return x.masked_fill(~mask.view(b, *[1] * (len(lead) - 1), n, *[1] * (len(space) + 1)), float("nan"))
        x = torch.randn(*lead, *[n] * order, c, generator=g, dtype=torch.float64).to(dtype)
        for axis in range(order):
            x = x.masked_fill(~mask.view(b, *[1] * (len(lead) - 1 + axis), n, *[1] * (order - axis)), float("nan"))
        return x

    values = {
        **{field.name: getattr(case, field.name) for field in dataclasses.fields(case)},
        "seed": number,
        "num_nodes": nodes,
        "scores": scores.to(dtype),
        "perm": perm,
        **{name: p.to(wide) if need_soft else None for name, p in (("t", t), ("row", row), ("col", col))},
        "x": features(b, order=1 if op.name.startswith("sample") else case.order, mask=valid),
        "y": features(b, k, order=case.order, mask=valid),
        "edges": features(b, order=2, mask=valid) if case.edges else None,
        "weights": torch.rand(b, k, generator=g, dtype=torch.float64).to(wide) if case.weighted else None,
        "hard": case.hard or not case.soft,
        "v": None if case.haar else v,
        "q": rotation.to(wide),
        "center": center.to(wide) if case.centered and case.order == 1 else None,
        "double": True,
    }
    made = [values[name] for name in op.parameters]
    return [
        relayout(a, case.layout if name != "seed" else "contiguous").to(device) if isinstance(a, Tensor) else a
        for name, a in zip(op.parameters, made)
    ]


def widen(args: Sequence) -> list:
    """The same arguments in float64."""
    return [a.double() if isinstance(a, Tensor) and a.is_floating_point() else a for a in args]


def assert_close(what: str, got: Tensor, want: Tensor, base: Tensor, terms: int = 1, scale: float = 1e-6) -> None:
    """got errs, against want in float64, at most three times as much as base does; float64 agrees to 1e-10.

    terms: how many numbers are added; scale: how large they are beyond the result, where they cancel.
    """
    assert got.shape == want.shape, f"{what}: expected shape {tuple(want.shape)}, got {tuple(got.shape)}"
    assert got.dtype == base.dtype, f"{what}: expected {base.dtype}, got {got.dtype}"
    if not got.numel():
        return
    if not got.is_floating_point():
        assert torch.equal(got, base), f"{what}: expected equal values"
        return
    want = want.double()
    if got.dtype == torch.float64:
        error, allowed = (got - want).abs().max(), EXACT * (want.abs().max() + 1e-3)
    else:
        floor = FLOOR * math.sqrt(terms) * torch.finfo(got.dtype).eps * (_rms(want) + scale)
        error, allowed = _rms(got.double() - want), 3 * _rms(base.double() - want) + floor
    assert bool(error <= allowed), f"{what}: error {error:.3e}, allowed {allowed:.3e}"


def _rms(x: Tensor) -> Tensor:
    return x.double().square().mean().sqrt()


def _outputs(out) -> tuple[Tensor, ...]:
    return out if isinstance(out, tuple) else (out,)


def assert_matches(op: Op, backend: str, args: Sequence, **tolerance) -> None:
    """Every output of the op on the backend is as right as the reference's."""
    kept = [a.clone() if isinstance(a, Tensor) else a for a in args]
    got = _outputs(op(*args, backend=backend))
    want, base = _outputs(op.reference(*widen(args))), _outputs(op.reference(*args))
    for name, g, w, r in zip(op.outputs, got, want, base, strict=True):
        assert_close(f"{op.name} {name}", g, w, r, **tolerance)
    for name, a, b in zip(op.parameters, args, kept):
        assert not isinstance(a, Tensor) or same(a, b), f"{op.name} modified its argument {name}"


def same(a: Tensor, b: Tensor) -> bool:
    """Equal bit for bit but for the payload of NaN."""
    return a.shape == b.shape and a.dtype == b.dtype and bool(((a == b) | ((a != a) & (b != b))).all())


def gradients(op: Op, backend: str, args: Sequence, wanted: Sequence[int] | None = None, layout="contiguous") -> dict:
    """Gradients, by argument's name, of a random linear function of all the op's outputs.

    Its coefficients are quarters of small integers, which every dtype holds exactly.
    """
    wanted = op.differentiable if wanted is None else wanted
    leaves = list(args)
    for i in wanted:
        if leaves[i] is not None:
            leaves[i] = leaves[i].detach().requires_grad_()
    chosen = [i for i in wanted if leaves[i] is not None]
    outs, grads = [], []
    for i, o in enumerate(_outputs(op(*leaves, backend=backend))):
        if o.is_floating_point() and o.requires_grad:
            g = torch.Generator().manual_seed(i)
            outs.append(o)
            grads.append(relayout((torch.randint(-9, 10, o.shape, generator=g) / 4).to(o), layout))
    found = torch.autograd.grad(outs, [leaves[i] for i in chosen], grads, allow_unused=True) if outs else chosen
    found = [f if isinstance(f, Tensor) else torch.zeros_like(leaves[i]) for i, f in zip(chosen, found)]
    return {op.parameters[i]: _only_valid(op, args, i, f) for i, f in zip(chosen, found)}


def _only_valid(op: Op, args: Sequence, i: int, gradient: Tensor) -> Tensor:
    """What a gradient of t, row or col says of padding is read by nobody."""
    nodes = args[op.parameters.index("num_nodes")] if "num_nodes" in op.parameters else None
    if nodes is None or op.parameters[i] not in ("t", "row", "col"):
        return gradient
    return gradient.masked_fill(~valid_nodes(nodes, gradient.shape[-1], gradient.device), 0)


def assert_gradients_match(
    op: Op,
    backend: str,
    args: Sequence,
    wanted: Sequence[int] | None = None,
    layout: str = "contiguous",
    **tolerance,
) -> None:
    """Every gradient of the op on the backend is as right as the reference's; layout is that of incoming gradients."""
    got = gradients(op, backend, args, wanted, layout)
    want = gradients(op, "reference", widen(args), wanted, layout)
    base = gradients(op, "reference", args, wanted, layout)
    for name, g in got.items():
        assert_close(f"{op.name} gradient of {name}", g, want[name], base[name], **tolerance)


@contextlib.contextmanager
def poisoned() -> Iterator[None]:
    """Fill what torch.empty returns with NaN, so that an entry that no kernel wrote is seen."""
    memory = torch.utils.deterministic
    before = torch.are_deterministic_algorithms_enabled(), memory.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True, warn_only=True)
    memory.fill_uninitialized_memory = True
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0])
        memory.fill_uninitialized_memory = before[1]
