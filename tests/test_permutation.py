"""Permutation: constructors, algebra, gradients that survive it, and being an ordinary Python and PyTorch object."""

import copy
import pickle

import pytest
import torch
from torch.utils import _pytree as pytree

import lps_kernels as lk
from lps_kernels import testing

B, K, N = 3, 4, 6
NODES = torch.tensor([6, 1, 4])


def from_scores(requires_grad=True, **options):
    scores = torch.randn(B, K, N, dtype=torch.float64).requires_grad_(requires_grad)
    return scores, lk.Permutation.from_scores(scores, NODES, tau=0.3, n_iter=3, **options)


MAKERS = {
    "scores": lambda: from_scores()[1],
    "soft": lambda: from_scores(hard=False)[1],
    "no gradient": lambda: from_scores(False)[1],
    "uniform": lambda: lk.Permutation.uniform(B, K, N, NODES),
    "identity": lambda: lk.Permutation.identity(B, K, N, NODES),
    "indices": lambda: lk.Permutation.from_indices(lk.Permutation.uniform(B, K, N, NODES).perm, NODES),
    "inverse": lambda: from_scores()[1].inverse(),
    "product": lambda: from_scores()[1] @ from_scores()[1],
    "uniform product": lambda: lk.Permutation.uniform(B, K, N, NODES) @ lk.Permutation.uniform(B, K, N, NODES),
}
each = pytest.mark.parametrize("maker", MAKERS)


def nodes_in(g, x=None):
    return g.transform_input(torch.arange(B * N * 2.0, dtype=torch.float64).view(B, N, 2) if x is None else x)


def same_action(a, b):
    x = torch.randn(B, N, 2, dtype=torch.float64)
    y = torch.randn(B, K, N, 2, dtype=torch.float64)
    torch.testing.assert_close(a.transform_input(x), b.transform_input(x))
    torch.testing.assert_close(a.transform_output(y), b.transform_output(y))


def mask(x, axis):
    """Zero at padding along an axis."""
    valid = torch.arange(N) < NODES[:, None]
    return x * valid.view(B, *[1] * (axis - 1), N, *[1] * (x.dim() - axis - 1))


@each
def test_acts_as_its_matrix(maker):
    g = MAKERS[maker]()
    p = g.matrix().double()
    x, a = torch.randn(B, N, 2, dtype=torch.float64), torch.randn(B, N, N, dtype=torch.float64)
    y, e = torch.randn(B, K, N, 2, dtype=torch.float64), torch.randn(B, K, N, N, dtype=torch.float64)
    torch.testing.assert_close(g.transform_input(x), torch.einsum("bkij,bic->bkjc", p, x))
    torch.testing.assert_close(g.transform_input(a, 2), torch.einsum("bkip,bkjq,bij->bkpq", p, p, a))
    torch.testing.assert_close(g.transform_output(y, reduce=None), torch.einsum("bkij,bkjc->bkic", p, y))
    torch.testing.assert_close(g.transform_output(y), torch.einsum("bkij,bkjc->bic", p, y) / K)
    torch.testing.assert_close(g.transform_output(e, 2), torch.einsum("bkip,bkjq,bkpq->bij", p, p, e) / K)
    weights = torch.rand(B, K, dtype=torch.float64)
    share = weights / weights.sum(1, keepdim=True)
    got = g.transform_output(y, weights=weights)
    torch.testing.assert_close(got, torch.einsum("bk,bkij,bkjc->bic", share, p, y))
    assert torch.equal(g.transform_input(x, 0), x[:, None].expand(B, K, N, 2))
    torch.testing.assert_close(g.transform_output(y, 0, weights), torch.einsum("bk,bknc->bnc", share, y))


@each
def test_matrix_is_that_of_perm(maker):
    g = MAKERS[maker]()
    if maker in ("soft", "product"):
        pytest.skip("its matrix is no permutation, or it has no perm")
    p = g.matrix()
    want = mask(torch.nn.functional.one_hot(g.perm, N).mT.to(p.dtype), 2)
    assert torch.equal(p, want)


@each
def test_inverse_undoes(maker):
    g, x = MAKERS[maker](), torch.randn(B, N, 2, dtype=torch.float64)
    if maker == "soft":
        pytest.skip("a relaxed matrix is not orthogonal")
    back = g.inverse().transform_output(g.inverse().transform_input(x), reduce=None)
    torch.testing.assert_close(back, mask(x, 1)[:, None].expand(B, K, N, 2))
    same_action(g.inverse().inverse(), g)


def test_product_acts_in_order():
    (_, g), (_, h) = from_scores(), from_scores()
    for a, b in ((g, h), (g.inverse(), h), (g, lk.Permutation.uniform(B, K, N, NODES)), (g.detach(), h.detach())):
        torch.testing.assert_close((a @ b).matrix().double(), a.matrix().double() @ b.matrix().double())
        y = torch.randn(B, K, N, dtype=torch.float64)
        want = a.transform_output(b.transform_output(y, reduce=None))
        torch.testing.assert_close((a @ b).transform_output(y), want)


def test_a_product_of_relaxed_permutations_is_known():
    num_nodes = torch.tensor([4, 5])
    g, h = (lk.Permutation.from_scores(torch.randn(2, 3, 5, requires_grad=True), num_nodes) for _ in range(2))
    product = g @ h
    values = torch.randn(2, 5, 1) * (torch.arange(5) < num_nodes[:, None])[..., None]
    x = lk.permute(values, product.perm, num_nodes=num_nodes)
    assert torch.equal(product.transform_input(values), x)
    assert torch.equal(product.num_nodes, num_nodes)
    assert torch.allclose(product.entropy(), g.entropy() + h.entropy())


@pytest.mark.parametrize(
    "make", [lambda g, h: g.inverse(), lambda g, h: g @ h, lambda g, h: (g @ h).inverse(), lambda g, h: g[1:3]]
)
def test_gradients_are_those_of_the_matrix(make):
    (z, g), (w, h) = from_scores(), from_scores()
    made = make(g, h)
    k = made.n_samples
    x, y = torch.randn(B, N, 2, dtype=torch.float64), torch.randn(B, k, N, 2, dtype=torch.float64)
    u, v = torch.randn(B, k, N, 2, dtype=torch.float64), torch.randn(B, N, 2, dtype=torch.float64)
    p = made.matrix()
    got = (made.transform_input(x) * u).sum() + (made.transform_output(y) * v).sum()
    want = (torch.einsum("bkij,bic->bkjc", p, x) * u).sum() + (torch.einsum("bkij,bkjc->bic", p, y) / k * v).sum()
    got = torch.autograd.grad(got, (z, w), allow_unused=True, retain_graph=True)
    want = torch.autograd.grad(want, (z, w), allow_unused=True)
    for a, b in zip(got, want, strict=True):
        assert (a is None) == (b is None)
        assert a is None or (a.abs().max() > 1e-6 and torch.allclose(a, b, atol=1e-12))


@each
def test_indexing_takes_samples(maker):
    g = MAKERS[maker]()
    whole = nodes_in(g)
    assert len(g) == g.n_samples == K and g.batch_size == B
    for index, at in (
        *((0, [0]), (-1, [3]), (torch.tensor(1), [1]), (slice(1, 3), [1, 2]), (slice(None, None, 2), [0, 2])),
        *(([2, 0], [2, 0]), (torch.tensor([3, 3]), [3, 3]), (torch.tensor([True, False, False, True]), [0, 3])),
    ):
        assert torch.equal(nodes_in(g[index]), whole[:, at])
    with pytest.raises(IndexError):
        g[K]
    for index in ("a", 1.0, None, (0, 1), torch.zeros(2, 2).long()):
        with pytest.raises(TypeError, match="index"):
            g[index]


@each
def test_detach_stops_gradients(maker):
    g = MAKERS[maker]().detach()
    assert not nodes_in(g).requires_grad and not g.matrix().requires_grad
    if maker not in ("product",):
        assert not g.entropy().requires_grad


@each
def test_to_changes_floating_dtype_only(maker):
    g = MAKERS[maker]().to(torch.float32)
    tensors = [x for x in pytree.tree_leaves(g) if isinstance(x, torch.Tensor)]
    assert all(x.dtype in (torch.float32, torch.int64) for x in tensors)
    assert all(x.device.type == "meta" for x in pytree.tree_leaves(g.to("meta")))


@each
def test_pytree_round_trip(maker):
    g = MAKERS[maker]()
    leaves, spec = pytree.tree_flatten(g)
    assert all(isinstance(x, torch.Tensor) for x in leaves)
    back = pytree.tree_unflatten(leaves, spec)
    assert type(back) is type(g) and torch.equal(nodes_in(back), nodes_in(g))


@each
@pytest.mark.parametrize(
    "clone", [copy.copy, copy.deepcopy, lambda g: pickle.loads(pickle.dumps(g))], ids=["copy", "deepcopy", "pickle"]
)
def test_copies(maker, clone):
    g = MAKERS[maker]().detach()
    back = clone(g)
    assert torch.equal(nodes_in(back), nodes_in(g)) and repr(back) == repr(g)


@each
def test_is_immutable(maker):
    g = MAKERS[maker]()
    with pytest.raises(AttributeError, match="immutable"):
        g.anything = 1


def test_saves_and_loads(tmp_path):
    g = from_scores()[1].detach()
    torch.save(g, tmp_path / "g.pt")
    same_action(torch.load(tmp_path / "g.pt", weights_only=False), g)


def test_matrix_has_the_dtype_of_the_scores_with_and_without_gradient():
    for requires_grad in (True, False):
        assert from_scores(requires_grad)[1].matrix().dtype == torch.float64


def test_no_gradient_wanted_means_no_sinkhorn():
    _, g = from_scores(False)
    assert g._row is None and g._col is None
    _, wanted = from_scores()
    with torch.no_grad():
        _, quiet = from_scores()
    assert wanted._row is not None and quiet._row is None


@pytest.mark.parametrize("scores", ["normal", "tied", "zero", "nan"])
def test_entropy_is_the_same_without_gradient(scores):
    z = testing.make_scores("normal" if scores == "nan" else scores, (B, K, N))
    z[0, 1, 2] = float("nan") if scores == "nan" else z[0, 1, 2]
    with_gradient = lk.Permutation.from_scores(z.clone().requires_grad_(), NODES, tau=0.3)
    without = lk.Permutation.from_scores(z, NODES, tau=0.3)
    torch.testing.assert_close(without.entropy(), with_gradient.entropy().detach())


def test_uniform_needs_no_scores_and_has_no_entropy():
    g = lk.Permutation.uniform(B, K, N, NODES)
    assert g.entropy() == 0 and g.num_nodes is NODES
    assert torch.equal(lk.Permutation.identity(B, K, N).perm, torch.arange(N).expand(B, K, N))


def test_repr_names_sizes():
    assert "b=3, k=4, n=6" in repr(lk.Permutation.uniform(B, K, N))


def test_all_of_no_nodes_is_one_permutation():
    assert lk.Permutation.all_of("S_n", B, 0).perm.shape == (B, 1, 0)


@pytest.mark.parametrize("c", [1, 4, 23, 64])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_numbers_of_16_bits_are_read_and_rounded_as_pytorch_does(dtype, c):
    n = 2**16 // c
    numbers = torch.arange(-(2**15), 2**15, dtype=torch.int16).view(dtype)  # all there are, infinite ones and NaN too
    samples = torch.stack((numbers, numbers.roll(12345)))[:, : n * c].reshape(1, 2, n, c)
    g = lk.Permutation.uniform(1, 2, n)
    halves = 0.5 * samples.float().gather(2, g.inverse().perm[..., None].expand_as(samples))
    found = g.transform_output(samples)
    assert torch.equal(found.isnan(), halves.sum(1).isnan())
    assert torch.equal(found.nan_to_num(), halves.sum(1).to(dtype).nan_to_num())
