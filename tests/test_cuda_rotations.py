"""CUDA kernels of rotations, beyond what test_every_op.py asks of each backend: hard matrices, tiles and launches."""

import dataclasses

import pytest
import torch
from test_gram_schmidt import gradient, hard_matrices, normals, relative_rms

import lps_kernels as lk
from lps_kernels import native, testing
from lps_kernels.op import OPS
from lps_kernels.ops.gram_schmidt import _gram_schmidt
from lps_kernels.testing import Case

pytestmark = pytest.mark.skipif(not native.cuda_loaded, reason=f"no CUDA kernels: {native.cuda_reason}")

# A thread, a warp or a block a matrix.
SHAPES = [(1, 1), (2, 2), (3, 3), (4, 4), (3, 2), (4, 1), (5, 5), (17, 6), (32, 32), (33, 33)]
COMPLEX_SHAPES = [(1, 1), (3, 3), (3, 1), (4, 4), (5, 4), (33, 3)]
# Sizes that are no tile's, several tiles, channels in runs and read directly, more samples than a block takes, more
# tiles than a block has warps, and a row that is too long for shared memory.
TILES = (
    Case(b=2, k=18, n=300, c=1),
    Case(b=2, k=3, n=130, c=3, d=2),
    Case(b=2, k=2, n=50, c=70),
    Case(b=1, k=2, n=40, c=31),
    Case(b=1, k=2, n=3, c=300, d=4, ragged=False),
    Case(b=1, k=18, n=40, c=5, order=2, ragged=False),
    Case(b=1, k=2, n=9, c=65, order=2, d=2),
    Case(b=1, k=3, n=70, c=1, order=2, d=4),
    Case(b=1, k=3, n=40, c=3, d=20),
    Case(b=1, k=2, n=5, c=1, d=70, ragged=False),
    Case(b=1, k=2, n=5, c=2, d=17, order=2, ragged=False),
    Case(b=280, k=2, n=5, c=2, d=6),
    Case(b=1, k=2, n=9, c=150, d=5),
    Case(b=2, k=3, n=2100, c=1, soft=False),
    Case(b=1, k=3, n=110, c=20, soft=False),
    Case(b=1, k=2, n=1400, c=13, soft=False),
)
EXAMPLES = ("rotate", "inverse_rotate_mean", "permute_rotate", "inverse_permute_rotate_mean")
DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)


def on_cuda(v, special):
    return _gram_schmidt(v.cuda(), special, backend="cuda")


def pairs(d, m):
    return torch.stack((hard_matrices(d, m), hard_matrices(d, m, seed=5)), -1)


def check(name, case, dtype=torch.float32):
    op = OPS[name]
    args = testing.arguments(op, case, dtype, "cuda")
    testing.assert_matches(op, "cuda", args)
    testing.assert_gradients_match(op, "cuda", args)


@DTYPES
@pytest.mark.parametrize(("d", "m"), SHAPES)
def test_hard_matrices_are_those_of_the_reference(d, m, dtype):
    v = hard_matrices(d, m).to(dtype)
    q, degenerate = (o.cpu() for o in on_cuda(v, False))
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
    assert relative_rms(gradient(on_cuda, v.cuda(), special, grad.cuda()).cpu(), exact) < 1e-11
    kernel = gradient(on_cuda, v.float().cuda(), special, grad.float().cuda()).cpu()
    reference = gradient(_gram_schmidt.reference, v.float(), special, grad.float())
    assert kernel.isfinite().all()
    assert relative_rms(kernel, exact) <= 3 * relative_rms(reference, exact) + 1e-7


@pytest.mark.parametrize(("d", "m"), COMPLEX_SHAPES)
def test_complex_matrices_are_those_of_the_reference(d, m):
    v, grad = pairs(d, m), normals(24, d, m, 2, seed=3)
    q, degenerate = (o.cpu() for o in on_cuda(v, False))
    exact, flags = _gram_schmidt.reference(v, False)
    assert torch.equal(degenerate, flags) and relative_rms(q, exact) < 1e-11
    exact = gradient(_gram_schmidt.reference, v, False, grad)
    assert relative_rms(gradient(on_cuda, v.cuda(), False, grad.cuda()).cpu(), exact) < 1e-11


@DTYPES
@pytest.mark.parametrize("d", [3, 4, 8, 32, 33, 64])
def test_is_orthonormal_up_to_condition_1e6(d, dtype):
    left, right = torch.linalg.qr(normals(9, d, d))[0], torch.linalg.qr(normals(9, d, d, seed=1))[0]
    v = (left * torch.logspace(0, -6, d, dtype=torch.float64)) @ right
    q = on_cuda(v.to(dtype), False)[0].cpu().double()
    assert (q.mT @ q - torch.eye(d)).abs().max() < (5e-7 if dtype == torch.float32 else 1e-14)


@pytest.mark.long
@pytest.mark.parametrize(("d", "m"), [(256, 3), (170, 170), (600, 2)])
def test_large_matrices(d, m):
    """Those whose gradient does not fit in shared memory too, and more rows than threads."""
    v, grad = normals(2, d, m), normals(2, d, m, seed=3)
    special = d == m
    q = on_cuda(v, special)[0].cpu()
    assert (q.mT @ q - torch.eye(m)).abs().max() < 1e-13
    assert not special or (torch.linalg.det(q) - 1).abs().max() < 1e-11
    exact = gradient(_gram_schmidt.reference, v, special, grad)
    assert relative_rms(gradient(on_cuda, v.cuda(), special, grad.cuda()).cpu(), exact) < 1e-10


def test_draws_are_those_of_the_reference():
    draw = OPS["random_orthogonal"]
    seed = torch.tensor([-(2**62) - 12345])
    kinds = ((3, True, False), (3, False, True), (6, True, False), (4, False, True), (40, True, False))
    for d, special, unitary in kinds:
        sizes = (7, 11, d, special, unitary, True)
        error = (draw(seed.cuda(), *sizes, backend="cuda").cpu() - draw.reference(seed, *sizes)).abs().max()
        assert error < 1e-12


@pytest.mark.parametrize("case", TILES, ids=str)
@pytest.mark.parametrize("name", EXAMPLES)
def test_many_tiles(name, case):
    check(name, case)


@pytest.mark.long
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("case", TILES, ids=str)
@pytest.mark.parametrize("name", EXAMPLES)
def test_many_tiles_of_other_dtypes(name, case, dtype):
    check(name, dataclasses.replace(case, weighted=True), dtype)


@pytest.mark.parametrize("d", [3, 6])
@pytest.mark.parametrize("name", EXAMPLES[:2])
def test_a_center_for_each_sample(name, d):
    op, case = OPS[name], Case(k=18, n=40, d=d, weighted=True)
    args = testing.arguments(op, case, torch.float64, "cuda")
    args[op.parameters.index("center")] = normals(case.b, case.k, d).cuda()
    testing.assert_matches(op, "cuda", args)
    testing.assert_gradients_match(op, "cuda", args)


def test_the_gradient_of_a_center_of_many_samples():
    op = OPS["inverse_rotate_mean"]
    args = testing.arguments(op, Case(b=1, k=9000, n=2, c=1, ragged=False), device="cuda")
    center = op.parameters.index("center")
    got = testing.gradients(op, "cuda", args, [center])["center"].cpu()
    want = testing.gradients(op, "reference", testing.widen(args), [center])["center"].cpu()
    assert (got - want).norm() < 2e-7 * want.norm()


@pytest.mark.parametrize("shape", [(3, 1, 3, 1), (2, 40, 2, 200), (2, 3, 20, 13), (1, 700, 3, 2)], ids=str)
def test_centroid_of_any_shape(shape):
    b, _, d, _ = shape
    op, x = OPS["sample_rotate"], normals(*shape)
    args = [normals(b, 2, d, d, seed=1), torch.zeros(1, dtype=torch.int64), x, None, 2, False, True]
    moved = [a.cuda() if isinstance(a, torch.Tensor) else a for a in args]
    testing.assert_matches(op, "cuda", moved)
    testing.assert_gradients_match(op, "cuda", moved)


@pytest.mark.parametrize("bad", [-1, 7, 2**40])
@pytest.mark.parametrize("name", EXAMPLES[2:])
def test_an_order_that_is_none_reads_nothing_else(name, bad):
    """Accelerators do not look at perm's values; a simulated one reports every access out of bounds."""
    op = OPS[name]
    args = testing.arguments(op, Case(ragged=False), device="cuda")
    args[op.parameters.index("perm")][0, 0, 2] = bad
    assert op(*args, backend="cuda").isfinite().all()
    assert all(g.isfinite().all() for g in testing.gradients(op, "cuda", args).values())


@pytest.mark.parametrize("d", [3, 5])
def test_the_mean_of_no_samples(d):
    q, y = torch.empty(2, 0, d, d, device="cuda"), torch.empty(2, 0, 5, d, 1, device="cuda")
    nodes = torch.tensor([5, 2], device="cuda")
    mean = OPS["inverse_rotate_mean"](y, q, None, nodes, None, 1, True, backend="cuda")
    assert mean.shape == (2, 5, d, 1) and mean.isnan().all()


def test_features_that_begin_anywhere_in_a_sector():
    buffer, q = normals(2 * 12 * 3 + 1).cuda(), torch.linalg.qr(normals(2, 3, 3, 3))[0].cuda()
    x = buffer[1:].view(2, 12, 3, 1)
    want = OPS["rotate"].reference(x.cpu(), q.cpu(), None, None, 1)
    assert (OPS["rotate"](x, q, None, None, 1, backend="cuda").cpu() - want).abs().max() < 1e-13


def training_step(v, x):
    g, x_k = lk.sample_rotate(v, x, special=True, backend="cuda")
    return g.transform_output(x_k.tanh(), order=1).square().sum()


def inputs(device="cuda", requires_grad=True):
    v, x = normals(2, 3, 3, 3).to(device), normals(2, 50, 3, seed=1).to(device)
    return v.requires_grad_(requires_grad), x.requires_grad_(requires_grad)


def test_runs_on_the_current_stream():
    v, x = inputs()
    want = torch.autograd.grad(training_step(v, x), (v, x))
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        got = torch.autograd.grad(training_step(v, x), (v, x))
    stream.synchronize()
    assert all(torch.equal(g, w) for g, w in zip(got, want))


def test_a_graph_replays_on_new_points_and_seeds():
    v, x = inputs(requires_grad=False)
    seed = torch.tensor([5], device="cuda")

    def step():
        drawn = OPS["random_orthogonal"](seed, 2, 3, 3, False, False, True)
        q, _, center, x_k = OPS["sample_rotate"](v, seed, x[..., None], None, 3, True, True)
        return drawn, q, x_k, OPS["inverse_rotate_mean"](x_k, drawn, center, None, None, 1, True)

    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        step()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        got = step()
    graph.replay()
    torch.cuda.synchronize()
    before = [g.clone() for g in got]
    seed.fill_(6)
    v.copy_(normals(2, 3, 3, 3, seed=7))
    x.copy_(normals(2, 50, 3, seed=8))
    graph.replay()
    torch.cuda.synchronize()
    assert all(torch.equal(g, w) for g, w in zip(got, step()))
    assert not any(torch.equal(g, b) for g, b in zip(got, before))


@pytest.mark.skipif(not torch.cuda.is_available() or torch.cuda.device_count() < 2, reason="one device")
def test_runs_where_its_tensors_are():
    there, here = inputs("cuda:1"), inputs("cuda:0")
    loss = training_step(*there)
    assert torch.cuda.current_device() == 0
    got, want = torch.autograd.grad(loss, there), torch.autograd.grad(training_step(*here), here)
    assert all(torch.equal(g.cpu(), w.cpu()) for g, w in zip(got, want))
    with pytest.raises(RuntimeError, match="one CUDA device"):
        OPS["rotate"](here[1].detach()[..., None], there[0].detach(), None, None, 1, backend="cuda")


def test_compiles_without_a_graph_break():
    torch._dynamo.reset()
    v, x = inputs()
    want = torch.autograd.grad(training_step(v, x), v)[0]
    compiled = torch.compile(training_step, fullgraph=True, backend="aot_eager")
    assert torch.allclose(torch.autograd.grad(compiled(v, x), v)[0], want)


def test_chosen_before_triton():
    assert all(OPS[name].choose("cuda") == "cuda" for name in (*EXAMPLES, "gram_schmidt", "sample_rotate"))
