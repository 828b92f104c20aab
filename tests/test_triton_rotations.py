"""Rotation kernels in Triton, beyond what test_every_op.py asks of each backend: hard matrices, blocks, traffic."""

import dataclasses

import pytest
import torch

triton = pytest.importorskip("triton")

from test_gram_schmidt import gradient, hard_matrices, normals, relative_rms  # noqa: E402

from lps_kernels import testing  # noqa: E402
from lps_kernels.op import OPS  # noqa: E402
from lps_kernels.ops.gram_schmidt import _gram_schmidt  # noqa: E402
from lps_kernels.testing import Case  # noqa: E402

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device, nor a simulated one")

SHAPES = [(1, 1), (2, 2), (3, 3), (4, 4), (3, 2), (4, 1), (5, 5), (8, 8), (16, 16), (17, 6)]
COMPLEX_SHAPES = [(1, 1), (2, 2), (3, 3), (3, 1), (5, 4), (8, 8)]
# Sizes that are no block's, several blocks, channels in runs and entry by entry, more samples than a program turns.
BLOCKS = (
    Case(b=2, k=9, n=300, c=1),
    Case(b=2, k=9, n=130, c=3, d=2),
    Case(b=2, k=2, n=50, c=70),
    Case(b=1, k=2, n=3, c=300, d=4, ragged=False),
    Case(b=1, k=9, n=40, c=5, order=2, ragged=False),
    Case(b=1, k=2, n=9, c=65, order=2, d=2),
    Case(b=1, k=3, n=20, c=3, d=20, ragged=False),
    Case(b=1, k=2, n=5, c=1, d=70, ragged=False),
    Case(b=1, k=2, n=5, c=2, d=17, order=2, ragged=False),
)
EXAMPLES = ("rotate", "inverse_rotate_mean", "permute_rotate", "inverse_permute_rotate_mean")


def on_triton(v, special):
    return _gram_schmidt(v.cuda(), special, backend="triton")


def pairs(d: int, m: int) -> torch.Tensor:
    return torch.stack((hard_matrices(d, m), hard_matrices(d, m, seed=5)), -1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("d", "m"), SHAPES)
def test_hard_matrices_are_those_of_the_reference(d, m, dtype):
    v = hard_matrices(d, m).to(dtype)
    q, degenerate = (o.cpu() for o in on_triton(v, False))
    reference, flags = _gram_schmidt.reference(v, False)
    exact = _gram_schmidt.reference(v.double(), False)[0]
    assert torch.equal(degenerate, flags)
    assert (q.double().mT @ q.double() - torch.eye(m)).abs().max() < (5e-7 if dtype == torch.float32 else 1e-14)
    assert torch.equal(q[9], torch.eye(d, m, dtype=dtype)) and torch.equal(q[1], torch.eye(d, m, dtype=dtype))
    assert relative_rms(q, exact) <= 3 * relative_rms(reference, exact) + (1e-7 if dtype == torch.float32 else 1e-11)


@pytest.mark.parametrize("special", [False, True])
@pytest.mark.parametrize(("d", "m"), SHAPES)
def test_gradients_of_hard_matrices_are_those_of_the_reference(d, m, special):
    if special and d != m:
        return
    v, grad = hard_matrices(d, m), normals(24, d, m, seed=3)
    exact = gradient(_gram_schmidt.reference, v, special, grad)
    assert relative_rms(gradient(on_triton, v.cuda(), special, grad.cuda()).cpu(), exact) < 1e-11
    kernel = gradient(on_triton, v.float().cuda(), special, grad.float().cuda()).cpu()
    reference = gradient(_gram_schmidt.reference, v.float(), special, grad.float())
    assert kernel.isfinite().all()
    assert relative_rms(kernel, exact) <= 3 * relative_rms(reference, exact) + 1e-7


@pytest.mark.parametrize(("d", "m"), COMPLEX_SHAPES)
def test_complex_matrices_are_those_of_the_reference(d, m):
    v, grad = pairs(d, m), normals(24, d, m, 2, seed=3)
    q, degenerate = (o.cpu() for o in on_triton(v, False))
    exact, flags = _gram_schmidt.reference(v, False)
    assert torch.equal(degenerate, flags) and relative_rms(q, exact) < 1e-11
    exact = gradient(_gram_schmidt.reference, v, False, grad)
    assert relative_rms(gradient(on_triton, v.cuda(), False, grad.cuda()).cpu(), exact) < 1e-11


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("d", [3, 4, 8, 16, 33, 64])
def test_is_orthonormal_up_to_condition_1e6(d, dtype):
    """A tile that a matrix fills has sums over threads that must be the same in each of them."""
    left, right = torch.linalg.qr(normals(9, d, d))[0], torch.linalg.qr(normals(9, d, d, seed=1))[0]
    v = (left * torch.logspace(0, -6, d, dtype=torch.float64)) @ right
    q = on_triton(v.to(dtype), False)[0].cpu().double()
    assert (q.mT @ q - torch.eye(d)).abs().max() < (5e-7 if dtype == torch.float32 else 1e-14)


def test_draws_are_those_of_the_reference():
    draw = OPS["random_orthogonal"]
    seed = torch.tensor([-(2**62) - 12345])
    for d, special, unitary in ((3, True, False), (3, False, True), (6, True, False), (4, False, True)):
        sizes = (13, 11, d, special, unitary, True)
        error = (draw(seed.cuda(), *sizes, backend="triton").cpu() - draw.reference(seed, *sizes)).abs().max()
        assert error < 1e-12


def test_a_matrix_that_is_too_large_raises():
    with pytest.raises(ValueError, match=r"at most 4096 numbers.*'reference' has no limit"):
        on_triton(torch.randn(2, 65, 65), False)
    with pytest.raises(ValueError, match="65 x 65"):
        OPS["random_orthogonal"](
            torch.zeros(1, dtype=torch.int64).cuda(), 1, 1, 65, False, False, False, backend="triton"
        )


@pytest.mark.parametrize("case", BLOCKS, ids=str)
@pytest.mark.parametrize("name", EXAMPLES)
def test_many_blocks(name, case):
    op = OPS[name]
    args = testing.arguments(op, case, device="cuda")
    testing.assert_matches(op, "triton", args)
    testing.assert_gradients_match(op, "triton", args)


@pytest.mark.parametrize("d", [3, 6])
@pytest.mark.parametrize("name", EXAMPLES[:2])
def test_a_center_for_each_sample(name, d):
    op, case = OPS[name], Case(k=9, n=40, d=d, weighted=True)
    args = testing.arguments(op, case, torch.float64, "cuda")
    args[op.parameters.index("center")] = normals(case.b, case.k, d).cuda()
    testing.assert_matches(op, "triton", args)
    testing.assert_gradients_match(op, "triton", args)


@pytest.mark.parametrize("d", [3, 6])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("name", ["inverse_rotate_mean", "inverse_permute_rotate_mean"])
def test_no_samples(name, weighted, d):
    """Their mean is NaN, their weighted sum zero."""
    args = testing.arguments(OPS[name], Case(k=0, d=d, weighted=weighted), device="cuda")
    assert testing.same(OPS[name](*args, backend="triton"), OPS[name].reference(*args))


@pytest.mark.parametrize("bad", [-1, 7, 2**40])
@pytest.mark.parametrize("name", EXAMPLES[2:])
def test_an_order_that_is_none_reads_nothing_else(name, bad):
    """Accelerators do not look at perm's values; a simulated one reports every access out of bounds."""
    op = OPS[name]
    args = testing.arguments(op, Case(ragged=False), device="cuda")
    args[op.parameters.index("perm")][0, 0, 2] = bad
    assert op(*args, backend="triton").isfinite().all()
    assert all(g.isfinite().all() for g in testing.gradients(op, "triton", args).values())


def test_runs_on_the_current_stream():
    op = OPS["rotate"]
    args = testing.arguments(op, Case(n=100), torch.float64)
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        moved = [a.cuda() if isinstance(a, torch.Tensor) else a for a in args]
        y = op(*moved, backend="triton")
    stream.synchronize()
    assert (y.cpu() - op.reference(*args)).abs().max() < 1e-12


def test_sizes_do_not_compile_anew():
    from lps_kernels.triton.rotate import rotate_kernel

    def compiled():
        return sum(len(held[0]) for held in rotate_kernel.device_caches.values())

    op = OPS["rotate"]
    op(*testing.arguments(op, Case(n=128, c=1), device="cuda"), backend="triton")
    before = compiled()
    assert before > 0
    for n in range(65, 128, 9):
        op(*testing.arguments(op, Case(n=n, c=1, b=n // 20, k=n % 4 + 1), device="cuda"), backend="triton")
    assert compiled() <= before + 1  # rows begin within sectors or not


def test_compiles_without_a_graph_break():
    import lps_kernels as lk

    def loss(v, x):
        q = lk.gram_schmidt(v, special=True, backend="triton")
        return lk.inverse_rotate(lk.rotate(x, q, backend="triton").sin(), q, backend="triton").square().sum()

    v, x = normals(2, 3, 3, 3).cuda().requires_grad_(), normals(2, 5, 3, seed=1).cuda()
    want = torch.autograd.grad(loss(v, x), v)[0]
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    assert torch.allclose(torch.autograd.grad(compiled(v, x), v)[0], want)


TRAFFIC = (
    Case(b=2, k=8, n=256, c=1, ragged=False),
    Case(b=2, k=8, n=256, c=16, ragged=False),
    Case(b=2, k=8, n=16, c=128, ragged=False),
    Case(b=1, k=8, n=128, c=8, order=2, ragged=False),
)


@pytest.mark.parametrize("case", TRAFFIC, ids=str)
@pytest.mark.parametrize("name", EXAMPLES[:2])
def test_reads_and_writes_once(name, case):
    """Sectors asked for, counted by the simulator, are at most 1.15 times the different ones."""
    gpusim = pytest.importorskip("gpusim")
    op = OPS[name]
    args = testing.arguments(op, dataclasses.replace(case, weighted=name != "rotate"), device="cuda")
    op(*args, backend="triton")
    counted = gpusim.counters()
    asked = counted["gld_sectors"] + counted["gst_sectors"]
    assert asked <= 1.15 * (counted["unique_read_sectors"] + counted["unique_write_sectors"])
