"""gram_schmidt: orthonormal for any input, equal to QR, with the gradient of its reference."""

import pytest
import torch
from torch import Tensor

import lps_kernels as lk
from lps_kernels import testing
from lps_kernels.ops.gram_schmidt import _gram_schmidt

SHAPES = [(1, 1), (2, 2), (3, 3), (4, 4), (3, 2), (4, 1), (5, 5), (16, 16), (17, 6), (64, 64)]
COMPLEX_SHAPES = [(1, 1), (2, 2), (3, 3), (3, 1), (5, 4)]


def normals(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def hard_matrices(d: int, m: int, seed: int = 0) -> Tensor:
    """Ordinary matrices and every kind that a plain Gram-Schmidt fails on."""
    v = normals(24, d, m, seed=seed)
    v[1] = 0
    v[2, :, 0] = 0
    v[3, :, -1] = v[3, :, 0]
    v[4, :, -1] = -2 * v[4, :, 0]
    v[5] = 1
    v[6] *= 1e-30
    v[7] *= 1e30
    v[8, :, 0] *= 1e-30
    v[9, 0, 0], v[10, -1, -1] = float("nan"), float("inf")
    v[11] = normals(d, 1, seed=seed + 1) * normals(1, m, seed=seed + 2)
    if m > 2:
        v[12, :, 1] = 0
        v[13, :, 2] = v[13, :, 0] + v[13, :, 1]
    return v


def relative_rms(x: Tensor, exact: Tensor) -> float:
    """Of all matrices together, each with its own scale."""
    scale = exact.flatten(1).abs().amax(1).clamp(min=1e-200).view(-1, *[1] * (exact.dim() - 1))
    return float(((x.double() - exact) / scale).square().mean().sqrt())


def qr_with_positive_diagonal(v: Tensor) -> Tensor:
    q, r = torch.linalg.qr(v)
    diagonal = r.diagonal(dim1=-2, dim2=-1)
    return q * (diagonal / diagonal.abs())[..., None, :]


def gradient(function, v: Tensor, special: bool, grad: Tensor) -> Tensor:
    v = v.detach().requires_grad_()
    q, _ = function(v, special)
    return torch.autograd.grad(q, v, grad)[0]


@pytest.mark.parametrize(("d", "m"), SHAPES)
def test_is_qr_with_a_positive_diagonal(d: int, m: int) -> None:
    v = normals(50, d, m)
    q = lk.gram_schmidt(v)
    assert (q - qr_with_positive_diagonal(v)).abs().max() < 1e-9  # up to the condition of a normal matrix
    assert (q - _gram_schmidt.reference(v, False)[0]).abs().max() < 1e-11


@pytest.mark.parametrize(("d", "m"), COMPLEX_SHAPES)
def test_is_complex_qr_with_a_positive_diagonal(d: int, m: int) -> None:
    v = torch.complex(normals(50, d, m), normals(50, d, m, seed=1))
    assert (lk.gram_schmidt(v) - qr_with_positive_diagonal(v)).abs().max() < 1e-11


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("d", "m"), SHAPES)
def test_is_orthonormal_up_to_condition_1e6(d: int, m: int, dtype: torch.dtype) -> None:
    left, right = torch.linalg.qr(normals(40, d, d))[0], torch.linalg.qr(normals(40, m, m, seed=1))[0]
    v = (left[..., :m] * torch.logspace(0, -6, m, dtype=torch.float64)) @ right
    q = lk.gram_schmidt(v.to(dtype)).double()
    bound = 5e-7 if dtype == torch.float32 else 1e-14
    assert (q.mT @ q - torch.eye(m)).abs().max() < bound


@pytest.mark.parametrize("backend", [None, "reference"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("d", "m"), SHAPES)
def test_hard_matrices_are_completed_and_flagged(d: int, m: int, dtype: torch.dtype, backend: str | None) -> None:
    v = hard_matrices(d, m).to(dtype)
    q, degenerate = _gram_schmidt(v, False, backend=backend)
    bound = 5e-7 if dtype == torch.float32 else 1e-14
    gram = q.double().mT @ q.double()
    assert (gram - torch.eye(m)).abs().max() < bound
    assert degenerate[1].all() and degenerate[2, 0] and degenerate[9].all() and degenerate[10].all()
    assert torch.equal(q[9], torch.eye(d, m, dtype=dtype)) and torch.equal(q[1], torch.eye(d, m, dtype=dtype))
    assert not degenerate[0].any() and not degenerate[6:9].any()
    if m > 1:
        assert degenerate[[3, 4, 5, 11], -1].all() and not degenerate[[3, 4, 5, 11], 0].any()
    if m > 2:
        assert degenerate[12, 1] and degenerate[13, 2] and degenerate[11, 1:].all()


@pytest.mark.parametrize(("d", "m"), SHAPES[:-1])
@pytest.mark.parametrize("special", [False, True])
def test_gradient_is_that_of_the_reference(d: int, m: int, special: bool) -> None:
    if special and d != m:
        return
    v, grad = hard_matrices(d, m), normals(24, d, m, seed=3)
    exact = gradient(_gram_schmidt.reference, v, special, grad)
    assert relative_rms(gradient(_gram_schmidt, v, special, grad), exact) < 1e-11
    kernel = gradient(_gram_schmidt, v.float(), special, grad.float())
    reference = gradient(_gram_schmidt.reference, v.float(), special, grad.float())
    assert kernel.isfinite().all()
    assert relative_rms(kernel, exact) <= 3 * relative_rms(reference, exact) + 1e-7


@pytest.mark.parametrize(("d", "m"), SHAPES[:-1])
def test_error_is_that_of_the_float32_reference(d: int, m: int) -> None:
    v = hard_matrices(d, m)
    exact = _gram_schmidt.reference(v.float().double(), False)[0]
    kernel, reference = _gram_schmidt(v.float(), False)[0], _gram_schmidt.reference(v.float(), False)[0]
    assert relative_rms(kernel, exact) <= 3 * relative_rms(reference, exact) + 1e-7


@pytest.mark.parametrize(("d", "m"), COMPLEX_SHAPES)
def test_complex_gradient_is_that_of_the_reference(d: int, m: int) -> None:
    v, grad = torch.stack((hard_matrices(d, m), hard_matrices(d, m, seed=5)), -1), normals(24, d, m, 2, seed=3)
    exact = gradient(_gram_schmidt.reference, v, False, grad)
    assert relative_rms(gradient(_gram_schmidt, v, False, grad), exact) < 1e-11


@pytest.mark.parametrize("special", [False, True])
@pytest.mark.parametrize("d", [2, 3, 5])
def test_passes_gradcheck_twice(d: int, special: bool) -> None:
    v = normals(3, d, d).requires_grad_()
    function = lambda v: lk.gram_schmidt(v, special)  # noqa: E731
    assert torch.autograd.gradcheck(function, v)
    assert torch.autograd.gradgradcheck(function, v)


def test_completed_directions_have_no_gradient() -> None:
    v = torch.zeros(1, 3, 3)
    v[0, :, 0] = torch.tensor([1.0, 2.0, 3.0])
    found = gradient(_gram_schmidt, v, False, normals(1, 3, 3, dtype=torch.float32))
    assert (found[..., 1:] == 0).all() and found[..., 0].abs().sum() > 0


@pytest.mark.parametrize("d", [1, 2, 3, 4, 5, 16])
def test_special_has_determinant_one(d: int) -> None:
    v = normals(100, d, d)
    q, special = lk.gram_schmidt(v), lk.gram_schmidt(v, special=True)
    assert torch.allclose(torch.linalg.det(special), torch.ones((), dtype=torch.float64))
    assert torch.equal(special[..., 1:], q[..., 1:])
    assert torch.allclose(special[..., 0], q[..., 0] * torch.linalg.det(q).sign()[:, None])


@pytest.mark.parametrize("d", [2, 3, 4, 9])
def test_is_equivariant(d: int) -> None:
    v, h = normals(20, d, d), torch.linalg.qr(normals(20, d, d, seed=1))[0]
    assert torch.allclose(lk.gram_schmidt(h @ v), h @ lk.gram_schmidt(v))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(dtype: torch.dtype) -> None:
    v = normals(10, 3, 3).to(dtype).requires_grad_()
    q = lk.gram_schmidt(v)
    assert q.dtype == torch.float32 and torch.equal(q, lk.gram_schmidt(v.float()))
    q.sum().backward()
    assert v.grad.dtype == dtype


@pytest.mark.parametrize("shape", [(0, 3, 3), (3, 3), (2, 0, 3, 2), (2, 5, 3, 3), (4, 0, 0), (2, 3, 0)])
def test_any_leading_axes(shape: tuple[int, ...]) -> None:
    v = normals(*shape)
    q = lk.gram_schmidt(v)
    assert q.shape == v.shape and torch.allclose(q, lk.gram_schmidt(v, backend="reference"))


def test_strides_do_not_matter() -> None:
    v = normals(6, 3, 7)[:, :, ::2].mT[:, :3]
    assert torch.equal(lk.gram_schmidt(v), lk.gram_schmidt(v.contiguous()))


def test_compiles_and_transforms() -> None:
    testing.skip_without_compiler()
    v = normals(4, 3, 3)
    loss = lambda v: lk.gram_schmidt(v, True)[..., :2].exp().sum()  # noqa: E731
    expected = torch.autograd.grad(loss(w := v.clone().requires_grad_()), w)[0]
    assert torch.allclose(torch.func.grad(loss)(v), expected)
    assert torch.allclose(torch.func.vmap(torch.func.grad(loss))(v), expected)
    x = v.clone().requires_grad_()
    torch.compile(loss, fullgraph=True)(x).backward()
    assert torch.allclose(x.grad, expected)


@pytest.mark.parametrize("complex_", [False, True])
def test_passes_opcheck(complex_: bool) -> None:
    testing.skip_without(_gram_schmidt, "cpu")
    v = normals(4, 3, 3, *[2] * complex_)
    torch.library.opcheck(_gram_schmidt.kernel, (v, False))
    q, degenerate = _gram_schmidt(v, False)
    torch.library.opcheck(_gram_schmidt.backward.kernel, (v, None, v, False, q, degenerate, 1))


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (([1.0],), TypeError, "v: expected a tensor"),
        ((torch.zeros(3),), ValueError, "v: expected shape"),
        ((torch.zeros(2, 2, 3),), ValueError, "no more than d = 2 columns, got 3"),
        ((torch.zeros(2, 3, 3, dtype=torch.int64),), TypeError, "v: expected float16"),
        ((torch.zeros(2, 3, 2), True), ValueError, "special: expected square"),
        ((torch.zeros(2, 3, 3), 1), TypeError, "special: expected a bool"),
        ((torch.zeros(2, 3, 3, dtype=torch.complex64), True), ValueError, "special: expected real"),
    ],
)
def test_bad_arguments_raise(arguments: tuple, error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        lk.gram_schmidt(*arguments)
