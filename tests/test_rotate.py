"""rotate and inverse_rotate_mean: equal to their definition, with its gradients, on every shape and dtype."""

import itertools

import pytest
import torch
from torch import Tensor

import lps_kernels as lk
from lps_kernels import testing
from lps_kernels.ops.inverse_rotate_mean import _inverse_rotate_mean
from lps_kernels.ops.rotate import _rotate

CASES = [
    (d, c, order, centers, nodes)
    for d, c, order, centers, nodes in itertools.product(
        (1, 2, 3, 4, 5, 9), (1, 2, 11), (1, 2), (None, 1, 3), (None, (0, 4))
    )
    if order == 1 or centers is None
]
TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 3e-2, torch.float16: 5e-3}


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def orthogonal(*shape: int, seed: int = 0) -> Tensor:
    return torch.linalg.qr(random(*shape, shape[-1], seed=seed))[0]


def run(op, arguments: list, backend: str | None) -> list[Tensor]:
    """The output and all gradients."""
    arguments = [
        a.detach().clone().requires_grad_() if i in op.differentiable and a is not None else a
        for i, a in enumerate(arguments)
    ]
    out = op(*arguments, backend=backend)
    wanted = [arguments[i] for i in op.differentiable if arguments[i] is not None]
    return [out.detach(), *torch.autograd.grad(out, wanted, random(*out.shape, seed=9).to(out.dtype))]


def assert_matches(op, arguments: list, dtype: torch.dtype) -> None:
    testing.skip_without(op, "cpu")
    for found, expected in zip(run(op, arguments, "cpu"), run(op, arguments, "reference")):
        assert found.shape == expected.shape and found.dtype == expected.dtype
        error = (found.double() - expected.double()).abs().max() if found.numel() else torch.zeros(())
        assert error <= TOLERANCE[dtype] * max(1.0, expected.abs().max() if expected.numel() else 1.0)


def rotation_arguments(dtype, d, order, centers, nodes):
    compute = torch.float64 if dtype == torch.float64 else torch.float32
    q = orthogonal(2, 3, d, seed=d).to(compute)
    center = None if centers is None else random(2, centers, d, seed=4).to(compute)
    return q, center, None if nodes is None else torch.tensor(nodes), compute


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize(("d", "c", "order", "centers", "nodes"), CASES)
def test_equals_its_definition(d: int, c: int, order: int, centers, nodes, dtype: torch.dtype) -> None:
    q, center, num_nodes, compute = rotation_arguments(dtype, d, order, centers, nodes)
    x = random(2, 4, *[d] * order, c).to(dtype)
    assert_matches(_rotate, [x, q, center, num_nodes, order], dtype)
    y, weights = random(2, 3, 4, *[d] * order, c).to(dtype), random(2, 3, seed=5).to(compute)
    for mean, w in [(True, None), (True, weights), (False, None)]:
        assert_matches(_inverse_rotate_mean, [y, q, center, num_nodes, w, order, mean], dtype)


@pytest.mark.parametrize("shape", [(0, 3, 4), (2, 3, 0), (1, 1, 1), (1, 2, 2000)])
def test_any_size(shape: tuple[int, int, int]) -> None:
    b, k, n = shape
    q = orthogonal(b, k, 3)
    assert_matches(_rotate, [random(b, n, 3, 1), q, random(b, 1, 3), None, 1], torch.float64)
    assert_matches(
        _inverse_rotate_mean, [random(b, k, n, 3, 1), q, random(b, 1, 3), None, None, 1, True], torch.float64
    )


def test_rotates_the_space_axis() -> None:
    x, q = random(2, 5, 3, 4, 2), orthogonal(2, 6, 3)
    assert torch.allclose(lk.rotate(x, q), torch.einsum("bkea,bnecf->bknacf", q, x))
    assert torch.allclose(lk.rotate(x[:, 0, :, 0, 0], q), torch.einsum("bkea,be->bka", q, x[:, 0, :, 0, 0]))
    t = random(2, 5, 3, 3)
    assert torch.allclose(lk.rotate(t, q, 2), torch.einsum("bkea,bnef,bkfg->bknag", q, t, q))
    assert torch.allclose(lk.rotate(t[:, 0], q, 2), torch.einsum("bkea,bef,bkfg->bkag", q, t[:, 0], q))


@pytest.mark.parametrize("backend", ["reference", "cpu"])
@pytest.mark.parametrize("unitary", [False, True])
@pytest.mark.parametrize("trailing", [(), (1,), (2,), (2, 3)], ids=str)
@pytest.mark.parametrize("order", [1, 2])
def test_complex_features(order: int, trailing: tuple, unitary: bool, backend: str) -> None:
    testing.skip_without(_rotate, backend)
    q = torch.linalg.qr(torch.complex(random(2, 6, 3, 3), random(2, 6, 3, 3, seed=1)))[0]
    q = q if unitary else orthogonal(2, 6, 3)
    shape = (2, 5, *[3] * order, *trailing)
    x = torch.complex(random(*shape), random(*shape, seed=1))
    pattern = "bkea,bne...->bkna..." if order == 1 else "bkea,bnef...,bkfg->bknag..."
    y = lk.rotate(x, q, order, backend=backend)
    assert torch.allclose(lk.inverse_rotate(y, q, order, backend=backend), x)
    assert lk.rotate(x[:0], q[:0], order, backend=backend).shape == (0, *y.shape[1:])
    q = q.to(x.dtype)
    assert torch.allclose(y, torch.einsum(pattern, q.conj(), x, *[q] * (order - 1)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("d", [1, 2, 3, 4, 5, 7, 8, 9, 17])
@pytest.mark.parametrize(("n", "c"), [(1, 1), (5, 1), (33, 1), (5, 2), (40, 2), (3, 4), (33, 4), (5, 3), (3, 8)])
def test_rows_and_planes_of_any_width(n: int, c: int, d: int, dtype: torch.dtype) -> None:
    q, nodes, weights = orthogonal(2, 13, d).to(dtype), torch.tensor([n, n - 1]), random(2, 13).to(dtype)
    for order in (1, 2) if d < 9 else (1,):
        x, y = random(2, n, *[d] * order, c).to(dtype), random(2, 13, n, *[d] * order, c).to(dtype)
        assert_matches(_rotate, [x, q, None, nodes, order], dtype)
        assert_matches(_inverse_rotate_mean, [y, q, None, nodes, weights, order, True], dtype)


def test_center_is_subtracted_and_added() -> None:
    x, q, center = random(2, 5, 3), orthogonal(2, 6, 3), random(2, 3, seed=2)
    y = lk.rotate(x, q, center=center)
    assert torch.allclose(y, torch.einsum("bkea,bne->bkna", q, x - center[:, None]))
    assert torch.allclose(lk.inverse_rotate(y, q, center=center), x)
    assert torch.allclose(lk.inverse_rotate(y, q, center=center, reduce=None), x[:, None].expand(y.shape))


def test_padding_is_zero_whatever_it_holds() -> None:
    x, q = random(2, 5, 3), orthogonal(2, 6, 3)
    x[0, 3:] = float("nan")
    y = lk.rotate(x, q, center=random(2, 3), num_nodes=torch.tensor([3, 5]))
    assert (y[0, :, 3:] == 0).all() and y.isfinite().all()
    y[0, :, 3:] = float("nan")
    x = lk.inverse_rotate(y, q, center=random(2, 3), num_nodes=torch.tensor([3, 5]))
    assert (x[0, 3:] == 0).all() and x.isfinite().all()


def test_weights_make_a_weighted_mean() -> None:
    y, q, weights = random(2, 6, 5, 3), orthogonal(2, 6, 3), random(2, 6).abs()
    each = lk.inverse_rotate(y, q, reduce=None)
    expected = torch.einsum("bk,bknd->bnd", weights / weights.sum(1, keepdim=True), each)
    assert torch.allclose(lk.inverse_rotate(y, q, weights=weights), expected)


def test_passes_gradcheck_twice() -> None:
    x, q, center = random(1, 2, 3, 1).requires_grad_(), orthogonal(1, 2, 3).requires_grad_(), random(1, 1, 3)
    function = lambda x, q, c: _rotate(x, q, c, None, 1)  # noqa: E731
    arguments = (x, q, center.requires_grad_())
    for check in (torch.autograd.gradcheck, torch.autograd.gradgradcheck):
        assert check(function, arguments, check_undefined_grad=False)
    y, weights = random(1, 2, 2, 3, 1).requires_grad_(), random(1, 2).requires_grad_()
    function = lambda y, q, c, w: _inverse_rotate_mean(y, q, c, None, w, 1, True)  # noqa: E731
    arguments = (y, q, center, weights)
    for check in (torch.autograd.gradcheck, torch.autograd.gradgradcheck):
        assert check(function, arguments, check_undefined_grad=False)


def test_compiles_and_transforms() -> None:
    testing.skip_without_compiler()
    x, q = random(2, 4, 3), orthogonal(2, 3, 3)
    loss = lambda x: (lk.inverse_rotate(lk.rotate(x, q).tanh(), q) ** 2).sum()  # noqa: E731
    expected = torch.autograd.grad(loss(w := x.clone().requires_grad_()), w)[0]
    assert torch.allclose(torch.func.grad(loss)(x), expected)
    y = w.clone().detach().requires_grad_()
    torch.compile(loss, fullgraph=True)(y).backward()
    assert torch.allclose(y.grad, expected)
    batched = torch.func.vmap(lambda x: lk.rotate(x, q))(torch.stack((x, 2 * x)))
    assert torch.allclose(batched[1], 2 * lk.rotate(x, q))


@pytest.mark.parametrize("order", [1, 2])
def test_passes_opcheck(order: int) -> None:
    testing.skip_without(_rotate, "cpu")
    x, q, center = random(2, 4, *[3] * order, 2), orthogonal(2, 3, 3), random(2, 1, 3) if order == 1 else None
    torch.library.opcheck(_rotate.kernel, (x, q, center, None, order))
    y = _rotate(x, q, center, None, order)
    torch.library.opcheck(_rotate.backward.kernel, (y, x, q, center, None, order, 3))
    torch.library.opcheck(_inverse_rotate_mean.kernel, (y, q, center, None, None, order, True))
    torch.library.opcheck(_inverse_rotate_mean.backward.kernel, (x, y, q, center, None, None, order, True, 3))


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"x": torch.zeros(2, 5, 4)}, ValueError, r"x: expected shape \(2, n, 3, ...\)"),
        ({"x": torch.zeros(3, 5, 3)}, ValueError, "x: expected shape"),
        ({"x": torch.zeros(2, 5, 3, dtype=torch.int64)}, TypeError, "x: expected float16"),
        ({"x": [1.0]}, TypeError, "x: expected a tensor"),
        ({"q": torch.zeros(2, 3, 3)}, ValueError, "q: expected shape"),
        ({"q": torch.zeros(2, 1, 3, 2)}, ValueError, "q: expected square"),
        ({"q": torch.zeros(2, 0, 3, 3)}, ValueError, "k: expected at least one"),
        ({"order": 3}, ValueError, "order: expected 1 or 2"),
        ({"center": torch.zeros(2, 4)}, ValueError, "center: expected shape"),
        ({"x": torch.zeros(2, 5, 3, 3), "order": 2, "center": torch.zeros(2, 3)}, ValueError, "center: expected none"),
        ({"num_nodes": torch.tensor([1, 6])}, ValueError, "num_nodes: expected values from 0 to n = 5"),
        ({"backend": "cuda"}, RuntimeError, "backend 'cuda'"),
    ],
)
def test_bad_arguments_raise(change: dict, error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        lk.rotate(**{"x": torch.zeros(2, 5, 3), "q": torch.eye(3).expand(2, 4, 3, 3), **change})
