"""symmetrize and Symmetrized: exactly equivariant under transported samples, and what they accept."""

import copy
import io
import pickle

import pytest
import torch
from torch import nn

import lps_kernels as lk

B, K, N, C = 2, 5, 6, 3


class Backbone(nn.Module):
    """Not equivariant in the least: looks at positions."""

    def __init__(self, orders_in, orders_out):
        super().__init__()
        self.orders_in, self.orders_out = orders_in, orders_out
        size = sum(C * N**o for o in orders_in)
        self.layers = nn.ModuleList(nn.Linear(size, 2 * N**o) for o in orders_out)

    def forward(self, *inputs):
        flat = torch.cat([x.flatten(1) for x in inputs], 1)
        outs = tuple(f(flat).tanh().view(-1, *[N] * o, 2) for f, o in zip(self.layers, self.orders_out))
        return outs if len(outs) > 1 else outs[0]


def act(g, x, order):
    """The group acting on a batch through the first sample of g."""
    for axis in range(1, 1 + order):
        index = g.perm[:, 0].argsort(-1).view(-1, *[N if a == axis else 1 for a in range(1, x.dim())])
        x = x.gather(axis, index.expand(x.shape))
    return x


ORDERS = [((1,), (0,)), ((1,), (1,)), ((2,), (2,)), ((1, 2), (1,)), ((1, 2), (0, 1, 2)), ((0, 1), (1,)), ((2,), (0,))]


@pytest.mark.parametrize(("orders_in", "orders_out"), ORDERS)
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("scored", [False, True])
def test_is_equivariant_under_transported_samples(orders_in, orders_out, weighted, scored):
    """phi(h x; h g) = h phi(x; g), for each draw of samples g."""
    f = Backbone(orders_in, orders_out).double()
    x = tuple(torch.randn(B, *[N] * o, C, dtype=torch.float64) for o in orders_in)
    g = lk.Permutation.uniform(B, K, N)
    if scored:
        g = lk.Permutation.from_scores(torch.randn(B, K, N, dtype=torch.float64).requires_grad_())
    h = lk.Permutation.uniform(B, 1, N)
    transported = lk.Permutation.from_indices(h.perm.expand(B, K, N).contiguous()) @ g
    weights = torch.rand(B, K, dtype=torch.float64) if weighted else None
    moved = tuple(act(h, a, o) for a, o in zip(x, orders_in))
    got = lk.symmetrize(f, moved, transported, orders_in, orders_out if len(orders_out) > 1 else orders_out[0], weights)
    want = lk.symmetrize(f, x, g, orders_in, orders_out if len(orders_out) > 1 else orders_out[0], weights)
    got, want = (y if isinstance(y, tuple) else (y,) for y in (got, want))
    assert len(got) == len(want) == len(orders_out)
    for a, b, order in zip(got, want, orders_out):
        torch.testing.assert_close(a, act(h, b, order))
    assert not torch.allclose(f(*moved)[0], f(*x)[0]), "the test would pass with an equivariant backbone"


def test_all_permutations_average_exactly():
    """With every permutation as a sample the average is equivariant without transport."""
    from itertools import permutations

    n = 4
    perm = torch.tensor(list(permutations(range(n))))[None].expand(1, 24, n)
    g, f = lk.Permutation.from_indices(perm), nn.Linear(n, n).double()
    x = torch.randn(1, n, dtype=torch.float64)
    move = torch.tensor([2, 0, 3, 1])
    got = lk.symmetrize(lambda x: f(x).sin(), x[:, move], g, 1, 1)
    torch.testing.assert_close(got, lk.symmetrize(lambda x: f(x).sin(), x, g, 1, 1)[:, move])


def test_is_equivariant_with_scores_of_the_input():
    """Scores that move with the nodes make the whole map equivariant, sample by sample."""
    f = Backbone((1,), (1,)).double()
    x, move = torch.randn(B, N, C, dtype=torch.float64), torch.randperm(N)

    def phi(x):
        scores = torch.stack([x[..., 0], x[..., 1] * x[..., 2]], 1)
        return lk.symmetrize(f, x, lk.Permutation.from_scores(scores), 1, 1)

    torch.testing.assert_close(phi(x[:, move]), phi(x)[:, move])


def test_padding_changes_nothing():
    x, scores = torch.randn(B, N, C), torch.randn(B, K, N)
    wide_x, wide_scores = torch.full((B, N + 3, C), 7.0), torch.full((B, K, N + 3), 7.0)
    wide_x[:, :N], wide_scores[:, :, :N] = x, scores
    want = lk.symmetrize(lambda x: x.cumsum(1).sin(), x, lk.Permutation.from_scores(scores), 1, 1)
    g = lk.Permutation.from_scores(wide_scores, torch.full((B,), N))
    got = lk.symmetrize(lambda x: x.cumsum(1).sin(), wide_x, g, 1, 1)
    torch.testing.assert_close(got[:, :N], want)
    assert (got[:, N:] == 0).all()


def test_gradients_reach_scores_backbone_and_input():
    f = Backbone((1, 2), (1,))
    scores = torch.randn(B, K, N).requires_grad_()
    x, a = torch.randn(B, N, C).requires_grad_(), torch.randn(B, N, N, C).requires_grad_()
    g = lk.Permutation.from_scores(scores, tau=0.1)
    lk.symmetrize(f, (x, a), g, (1, 2), 1).square().sum().backward()
    for leaf in (scores, x, a, *f.parameters()):
        assert leaf.grad.isfinite().all() and leaf.grad.abs().max() > 0


def test_module_draws_anew_and_by_seed():
    net, x = lk.Symmetrized(Backbone((1,), (1,)), "S_n", 1, 1, n_samples=2), torch.randn(B, N, C)
    torch.manual_seed(3)
    a, b = net(x), net(x)
    torch.manual_seed(3)
    assert torch.equal(net(x), a) and not torch.equal(a, b)
    assert net.sample(x).n_samples == 2 and net.sample(x, 7).n_samples == 7
    assert net(x, n_samples=4).shape == a.shape


def test_module_passes_what_is_given_to_the_distribution():
    nodes = torch.tensor([N, 2])
    net = lk.Symmetrized(lambda x: x.cumsum(1), "S_n", 1, 1)
    out = net(torch.ones(B, N, C), num_nodes=nodes)
    assert (out[1, 2:] == 0).all() and (out[0] != 0).all()


class Distribution(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(C, 1)

    def forward(self, x, k):
        scores = self.layer(x)[:, None, :, 0] + torch.randn(x.shape[0], k, x.shape[1])
        return lk.Permutation.from_scores(scores)


@pytest.mark.parametrize(
    "clone", [copy.deepcopy, lambda net: pickle.loads(pickle.dumps(net))], ids=["deepcopy", "pickle"]
)
def test_module_can_be_copied(clone):
    net, x = lk.Symmetrized(Backbone((1,), (0,)), Distribution(), n_samples=3), torch.randn(B, N, C)
    torch.manual_seed(0)
    want = net(x)
    want.sum().backward()
    other = clone(net)
    torch.manual_seed(0)
    assert torch.equal(other(x), want)
    assert all(p is not q for p, q in zip(net.parameters(), other.parameters()))


def test_state_dict_is_that_of_its_parts():
    net = lk.Symmetrized(Backbone((1,), (0,)), Distribution())
    held = io.BytesIO()
    torch.save(net.state_dict(), held)
    held.seek(0)
    again = lk.Symmetrized(Backbone((1,), (0,)), Distribution())
    again.load_state_dict(torch.load(held))
    assert {name.split(".")[0] for name in net.state_dict()} == {"f", "distribution"}
    assert "n_samples=1" in repr(net)


BAD = [
    ("order", {"order_in": [1, 1]}),
    ("order", {"order_out": [0, 1]}),
    ("order_in", {"order_in": [1, 1], "x": (torch.randn(B, N, C),)}),
    ("order_out", {"order_out": [0, 1], "f": lambda x: (x.sum(1),)}),
    ("order", {"order_in": 3}),
    ("weights", {"weights": torch.ones(B, K + 1)}),
    ("f", {"f": lambda x: x[:-1]}),
    ("f", {"f": lambda x: None}),
    ("f", {"f": 3}),
    ("g", {"g": torch.arange(N).expand(B, K, N)}),
    ("g", {"g": "S_n"}),
    ("x", {"x": torch.randn(B, N + 1, C)}),
    ("x", {"x": torch.randn(B + 1, N, C)}),
    ("y", {"f": lambda x: x[:, 1:], "order_out": 1}),
]


@pytest.mark.parametrize(("name", "given"), BAD)
def test_errors_name_the_argument(name, given):
    options = {"f": lambda x: x.sum(1), "x": torch.randn(B, N, C), "g": lk.Permutation.uniform(B, K, N), "order_in": 1}
    with pytest.raises((ValueError, TypeError), match=rf"^{name}\b"):
        lk.symmetrize(**(options | given))


def test_unknown_group_is_an_error():
    for distribution in ("SO(n)", 3, None):
        with pytest.raises(ValueError, match="distribution"):
            lk.Symmetrized(nn.Identity(), distribution)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_weighted_mean_in_half_precision_is_rounded_once(dtype):
    y, weights = torch.randn(2, 64, 500).to(dtype), torch.rand(2, 64)
    got = lk.Permutation.identity(2, 64, 500).transform_output(y, 0, weights)
    want = (y.double() * (weights / weights.sum(1, keepdim=True))[..., None]).sum(1)
    assert (got != want.float().to(dtype)).double().mean() < 0.05  # but for ties


@pytest.mark.parametrize("k", [1, 2])
@pytest.mark.parametrize("order", [0, 1])
def test_a_function_may_write_to_what_it_gets(k, order):
    x = torch.randn(1, N, C)
    before = x.clone()
    lk.symmetrize(lambda x: x.zero_(), x, lk.Permutation.uniform(1, k, N), order, order)
    assert torch.equal(x, before)


@pytest.mark.parametrize("name", ["O(3)", "SE(3)", "S_n x SO(3)"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_groups_by_name_have_matrices_that_are_not_rounded(name, dtype):
    order = (1, 1) if " x " in name else 1
    g = lk.Symmetrized(nn.Identity(), name, order, order, n_samples=3).sample(torch.randn(B, N, 3).to(dtype))
    q = getattr(g, "motion", g).q.double()
    assert (q.mT @ q - torch.eye(3)).abs().max() < (1e-12 if dtype == torch.float64 else 1e-6)


@pytest.mark.parametrize("name", ["S_n", "C_n", "O(3)", "SE(3)", "U(3)", "S_n x SE(3)"])
@pytest.mark.parametrize("x", [torch.randn(3), torch.tensor(1.0), [1.0], (), None])
def test_groups_by_name_want_a_batch(name, x):
    with pytest.raises((ValueError, TypeError), match=r"^x: expected a tensor"):
        lk.Symmetrized(nn.Identity(), name)(x)
