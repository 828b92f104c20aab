"""random_orthogonal: Haar on O(d), SO(d) and U(d), the same matrices on every backend."""

import math

import pytest
import torch
from torch import Tensor

from lps_kernels.ops.random_orthogonal import random_orthogonal
from lps_kernels.random import normals

DIMENSIONS = [1, 2, 3, 4, 8, 32]


def seed_of(value: int) -> Tensor:
    return torch.tensor([value])


def haar(count: int, d: int, special: bool = False, seed: int = 7) -> Tensor:
    return random_orthogonal(seed_of(seed), 1, count, d, special, False, True)[0]


def kolmogorov(sample: Tensor, other: Tensor) -> float:
    """The two-sample statistic, scaled so that 1.95 is exceeded with probability 1e-3."""
    both = torch.cat((sample, other)).sort().values
    cdf = [torch.searchsorted(x.sort().values, both, right=True) / len(x) for x in (sample, other)]
    return float((cdf[0] - cdf[1]).abs().max()) * math.sqrt(len(sample) * len(other) / (len(sample) + len(other)))


def rotation_angle_cdf(angle: Tensor) -> Tensor:
    """Of Haar SO(3): density (1 - cos) / pi."""
    return (angle - angle.sin()) / math.pi


def kolmogorov_of_angles(q: Tensor) -> float:
    trace = q.diagonal(dim1=-2, dim2=-1).sum(-1)
    cdf = rotation_angle_cdf((((trace - 1) / 2).clamp(-1, 1)).acos()).sort().values
    steps = torch.arange(1, len(cdf) + 1) / len(cdf)
    return float((cdf - steps).abs().max()) * math.sqrt(len(cdf))


@pytest.mark.parametrize("unitary", [False, True])
@pytest.mark.parametrize("double", [False, True])
@pytest.mark.parametrize("d", [0, *DIMENSIONS])
def test_is_the_same_on_every_backend(d: int, double: bool, unitary: bool) -> None:
    arguments = (seed_of(-3), 3, 5, d, not unitary, unitary, double)
    q, expected = random_orthogonal(*arguments), random_orthogonal(*arguments, backend="reference")
    assert q.dtype == expected.dtype and q.shape == expected.shape
    error = (q - expected).abs()
    if d:
        bound = 1e-5 if double is False else 1e-12  # of a normal matrix's condition times eps
        assert error.flatten(2).amax(-1).median() < bound / 10 and error.max() < bound * 100


def test_normals_are_normal() -> None:
    x = normals(seed_of(1), 1000, 201, torch.float64)
    assert x.shape == (1000, 201)
    for power, moment in [(1, 0), (2, 1), (3, 0), (4, 3)]:
        assert abs(x.pow(power).mean() - moment) < 0.05
    assert torch.allclose(normals(seed_of(1), 10, 7, torch.float32).double(), x[:10, :7], atol=1e-3)


@pytest.mark.parametrize("special", [False, True])
@pytest.mark.parametrize("d", DIMENSIONS)
def test_is_orthogonal(d: int, special: bool) -> None:
    q = haar(200, d, special)
    assert torch.allclose(q.mT @ q, torch.eye(d, dtype=q.dtype), atol=1e-13)
    det = torch.linalg.det(q)
    assert torch.allclose(det.abs(), torch.ones_like(det))
    if special:
        assert (det > 0).all()
    elif d:
        assert 60 < (det > 0).sum() < 140


@pytest.mark.parametrize("special", [False, True])
@pytest.mark.parametrize("d", [2, 3, 4, 8])
def test_has_the_moments_of_haar(d: int, special: bool) -> None:
    q, count = haar(40000, d, special), 40000
    assert q.mean(0).abs().max() < 5 / math.sqrt(count * d)
    assert (q.square().mean(0) - 1 / d).abs().max() < 5 * math.sqrt(2 / count) / d
    trace = q.diagonal(dim1=-2, dim2=-1).sum(-1)
    if d > 2:
        assert abs(trace.square().mean() - 1) < 0.05


def test_angles_of_so3_are_haar() -> None:
    assert kolmogorov_of_angles(haar(20000, 3, special=True)) < 1.95


def test_columns_and_rows_of_o_d_are_alike() -> None:
    q = haar(20000, 4)
    assert kolmogorov(q[:, 0, 0], q[:, 3, 3]) < 2.2 and kolmogorov(q[:, 0, 3], q[:, 3, 0]) < 2.2


def test_a_sampler_that_is_not_haar_is_caught() -> None:
    v = torch.randn(20000, 3, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    q = torch.linalg.qr(v)[0]  # without the sign of the diagonal
    q = q * torch.linalg.det(q)[:, None, None]
    assert kolmogorov_of_angles(q) > 1.95


def test_unitary_is_unitary_with_haar_traces() -> None:
    q = torch.view_as_complex(random_orthogonal(seed_of(5), 1, 40000, 3, False, True, True)[0])
    assert torch.allclose(q.mH @ q, torch.eye(3, dtype=q.dtype), atol=1e-13)
    trace = q.diagonal(dim1=-2, dim2=-1).sum(-1)
    assert abs(trace.mean()) < 0.02 and abs(trace.abs().square().mean() - 1) < 0.03
    assert abs(trace.square().mean()) < 0.03


def test_a_row_depends_on_its_number_alone() -> None:
    one = random_orthogonal(seed_of(9), 1, 12, 3, False, False, False)
    assert torch.equal(one.reshape(3, 4, 3, 3), random_orthogonal(seed_of(9), 3, 4, 3, False, False, False))
    assert not torch.equal(one, random_orthogonal(seed_of(10), 1, 12, 3, False, False, False))


def test_passes_opcheck() -> None:
    torch.library.opcheck(random_orthogonal.kernel, (seed_of(1), 2, 3, 3, True, False, False))
