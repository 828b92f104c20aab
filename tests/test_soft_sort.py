"""soft_sort: sorts, is doubly stochastic, and survives every score that a float can hold."""

import math

import pytest
import torch

import lps_kernels as lk
from lps_kernels import testing
from lps_kernels.ops.permutation_entropy import permutation_entropy
from lps_kernels.ops.rows import soft_matrix, valid_nodes
from lps_kernels.ops.soft_sort import _soft_sort

INF, NAN = math.inf, math.nan
FAMILIES = ("normal", "tied", "clustered", "heavy", "spaced", "equal", "zero")
each_backend = pytest.mark.parametrize("backend", testing.backends())
SEED = torch.tensor([3], dtype=torch.int64)


def sort(scores, nodes=None, tau=0.1, n_iter=5, normalize=True, soft=True, backend="reference"):
    testing.skip_without(_soft_sort, backend)
    device = testing.device_of(backend)
    args = [a if a is None else a.to(device) for a in (scores, SEED, nodes)]
    return lk.SoftSort(*[o.cpu() for o in _soft_sort(*args, tau, n_iter, normalize, soft, backend=backend)])


@each_backend
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("n", [1, 2, 7, 16, 33, 130])
def test_sorts_and_leaves_padding(n, family, backend):
    z, nodes = testing.make_scores(family, (5, 3, n)).float(), testing.ragged_sizes(5, n)
    perm, t, row, col = sort(z, nodes, backend=backend)
    assert torch.equal(perm.sort(-1).values, torch.arange(n).expand(5, 3, n))
    valid = valid_nodes(nodes, n, z.device).expand(5, 3, n)
    assert torch.equal(perm[~valid], torch.arange(n).expand(5, 3, n)[~valid])
    ordered = z.gather(-1, perm)
    assert ((ordered[..., :-1] >= ordered[..., 1:]) | ~valid[..., 1:]).all()
    assert ((t[..., :-1] >= t[..., 1:]) | ~valid[..., 1:]).all()
    assert all((x[~valid] == 0).all() for x in (t, row, col))


@each_backend
@pytest.mark.parametrize("family", FAMILIES)
def test_matrix_is_doubly_stochastic(family, backend):
    z, nodes = testing.make_scores(family, (5, 3, 40)), testing.ragged_sizes(5, 40)
    _, t, row, col = sort(z, nodes, tau=0.3, n_iter=100, backend=backend)
    p, valid = soft_matrix(t, row, col, 0.3), valid_nodes(nodes, 40, z.device).expand(5, 3, 40).double()
    torch.testing.assert_close(p.sum(-2), valid)
    torch.testing.assert_close(p.sum(-1), valid, rtol=0, atol=1e-3)


@each_backend
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("tau", [1e-30, 1e-4, 0.01, 10.0, 1e30])
def test_scalings_stay_within_their_bounds(family, tau, backend):
    """row in [1/n, 1], col in [n^-1/2, n^1/2] for any scores and temperature: float32 can't overflow."""
    n = 200
    _, _, row, col = sort(testing.make_scores(family, (2, 2, n)).float(), tau=tau, n_iter=20, backend=backend)
    slack = 1 + 1e-5
    assert (row >= 1 / n / slack).all() and (row <= slack).all()
    assert (col >= n**-0.5 / slack).all() and (col <= n**0.5 * slack).all()


@each_backend
def test_limits_of_the_temperature(backend):
    z = testing.make_scores("spaced", (1, 1, 6))
    _, t, row, col = sort(z, tau=1e-9, backend=backend)
    assert torch.equal(soft_matrix(t, row, col, 1e-9)[0, 0], torch.eye(6, dtype=torch.float64))
    _, t, row, col = sort(z, tau=1e9, backend=backend)
    torch.testing.assert_close(soft_matrix(t, row, col, 1e9), torch.full((1, 1, 6, 6), 1 / 6, dtype=torch.float64))


@each_backend
def test_number_of_iterations_is_exact(backend):
    z = testing.make_scores("normal", (2, 2, 30))
    _, t, row, col = sort(z, tau=0.05, n_iter=0, backend=backend)
    assert (row == 1).all() and (col == 1).all()
    kernel = torch.exp((t[..., None] - t[..., None, :]).abs() / -0.05)
    for n_iter in (1, 2, 3):
        row = (kernel @ col[..., None])[..., 0].reciprocal()
        col = (kernel @ row[..., None])[..., 0].reciprocal()
        got = sort(z, tau=0.05, n_iter=n_iter, backend=backend)
        torch.testing.assert_close(got.row, row)
        torch.testing.assert_close(got.col, col)


@each_backend
def test_gradient_of_a_shift_is_zero(backend):
    """P does not change where all scores move together, without normalizing; with it, where all are scaled."""
    for normalize in (True, False):
        z = testing.make_scores("normal", (2, 3, 50)).requires_grad_()
        _, t, row, col = sort(z, tau=0.05, n_iter=20, normalize=normalize, backend=backend)
        weights = torch.randn(50, 50, dtype=torch.float64)
        (dz,) = torch.autograd.grad((soft_matrix(t, row, col, 0.05) * weights).sum(), z)
        moved = (dz * z).sum(-1) if normalize else dz.sum(-1)
        assert dz.abs().max() > 0.1 and moved.abs().max() < 1e-11 * dz.abs().max()


@each_backend
def test_without_the_soft_part_no_sinkhorn_runs(backend):
    z = testing.make_scores("tied", (2, 3, 20)).float()
    whole, hard = sort(z, backend=backend), sort(z, soft=False, backend=backend)
    assert torch.equal(hard.perm, whole.perm) and torch.equal(hard.t, whole.t)
    assert hard.row.shape == hard.col.shape == (2, 3, 0)


HOSTILE = {
    "nan": [1.0, NAN, 3.0, 2.0],
    "all nan": [NAN] * 4,
    "inf": [1.0, INF, 3.0, 2.0],
    "-inf": [-INF, 1.0, 3.0, 2.0],
    "all inf": [INF] * 4,
    "everything": [NAN, -INF, INF, 0.5],
}
ORDER = {
    "nan": [2, 3, 0, 1],
    "inf": [1, 2, 3, 0],
    "-inf": [2, 3, 1, 0],
    "everything": [2, 3, 1, 0],
}


@each_backend
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("kind", HOSTILE)
def test_a_row_that_is_not_finite(kind, normalize, dtype, backend):
    """A bijection, +inf first, -inf last, NaN after that; its soft part and gradient zero, other rows untouched."""
    sane = testing.make_scores("normal", (3, 3, 4)).to(dtype)
    bad = sane.clone()
    bad[1, 2] = torch.tensor(HOSTILE[kind], dtype=dtype)

    def run(z):
        z = z.detach().requires_grad_()
        out = sort(z, normalize=normalize, backend=backend)
        (dz,) = torch.autograd.grad(sum(x.sin().sum() for x in out[1:]), z)
        return (*(x.detach() for x in out), dz)

    got, want = run(bad), run(sane)
    assert torch.equal(got[0][1, 2].sort().values, torch.arange(4))
    assert kind not in ORDER or got[0][1, 2].tolist() == ORDER[kind]
    assert all((x[1, 2] == 0).all() for x in got[1:])
    other = torch.ones(3, 3, dtype=torch.bool)
    other[1, 2] = False
    assert all(torch.equal(a[other], b[other]) for a, b in zip(got[:-1], want[:-1]))
    close = {"rtol": 0.01, "atol": 0.01} if dtype.itemsize == 2 else {}
    torch.testing.assert_close(got[-1][other], want[-1][other], **close)


@each_backend
@pytest.mark.parametrize("kind", HOSTILE)
def test_what_is_not_finite_stays_in_its_row(kind, backend):
    """Through transforms and entropy too."""
    scores = torch.randn(2, 2, 4)
    scores[1, 1] = torch.tensor(HOSTILE[kind])
    scores.requires_grad_()
    testing.skip_without(_soft_sort, backend)
    g = lk.Permutation.from_scores(scores)
    x = torch.randn(2, 4, 3).requires_grad_()
    out = g.transform_output(g.transform_input(x).cumsum(2)).sum() + g.entropy()
    out.backward()
    assert out.isfinite() and x.grad.isfinite().all() and scores.grad.isfinite().all()
    assert (scores.grad[1, 1] == 0).all() and (scores.grad[0] != 0).any()


@each_backend
@pytest.mark.parametrize("bad", [NAN, INF, -INF, 1e30])
def test_padding_is_never_read(bad, backend):
    z, nodes = testing.make_scores("normal", (4, 2, 9)), torch.tensor([9, 4, 1, 0])
    dirty = z.masked_fill(~valid_nodes(nodes, 9, z.device), bad)
    clean = z.masked_fill(~valid_nodes(nodes, 9, z.device), 0.0)
    for a, b in zip(sort(dirty, nodes, backend=backend), sort(clean, nodes, backend=backend)):
        assert torch.equal(a, b)


@each_backend
@pytest.mark.parametrize("scale", [1e-45, 1e-38, 1e-30, 1e-22, 1e-7, 1e19, 1e30, 3e38])
def test_any_magnitude_of_scores(scale, backend):
    """Normalized scores and their gradient are those of the same numbers in float64."""
    z = (torch.tensor([0.9, -0.3, 0.5, 0.1, -1.0]) * scale).view(1, 1, 5).requires_grad_()
    out = sort(z, backend=backend)
    wide = sort(z.detach().double().requires_grad_())
    for got, want in zip(out[1:], wide[1:]):
        torch.testing.assert_close(got.double(), want.double(), rtol=1e-4, atol=1e-5)
    (dz,) = torch.autograd.grad(out.row.square().sum(), z)
    assert not dz.isnan().any()
    if 1e-30 <= scale <= 1e30:
        assert dz.isfinite().all()


@each_backend
@pytest.mark.parametrize("value", [0.0, -0.0, 1.0, -3.0, 1e30, 1e-30])
@pytest.mark.parametrize("normalize", [True, False])
def test_equal_scores_have_no_gradient(value, normalize, backend):
    z = torch.full((1, 2, 7), value, requires_grad=True)
    _, t, row, col = sort(z, normalize=normalize, backend=backend)
    torch.testing.assert_close(soft_matrix(t, row, col, 0.1), torch.full((1, 2, 7, 7), 1 / 7))
    (dz,) = torch.autograd.grad((soft_matrix(t, row, col, 0.1) * torch.randn(7, 7)).sum(), z)
    assert (dz == 0).all() if value == 0 else dz.isfinite().all()


def test_check_finite_names_the_first_bad_row():
    z = torch.randn(3, 2, 5)
    z[1, 1, 4] = NAN
    z[2, 0, 0] = INF
    lk.check_finite(True)
    with pytest.raises(ValueError, match=r"scores: .*row \[1, 1\]"):
        lk.softsort(z)
    lk.softsort(z, num_nodes=torch.tensor([5, 4, 0]))  # padding may be anything
    lk.check_finite(False)
    lk.softsort(z)


@each_backend
def test_entropy_of_scores_further_apart_than_numbers_reach(backend):
    testing.skip_without(permutation_entropy, backend)
    scores = torch.tensor([[[3e38, -3e38, 1.0, 1.5]]], requires_grad=True)
    with lk.backend(backend):
        placed = scores.to(testing.device_of(backend))
        entropy = lk.Permutation.from_scores(placed, tau=0.1, normalize=False).entropy()
        entropy.backward()
    assert entropy.isfinite() and entropy > 0 and scores.grad.isfinite().all()
