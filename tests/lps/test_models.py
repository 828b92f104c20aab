"""Models: values against dense ones, gradients against differences, patches, and settings."""

import pytest
import torch
from lps import models
from lps.data import Graphs
from lps.groups import Uniform, learned
from lps.models.mlp import MLP
from lps.models.pairs import GNN
from lps.models.patches import Layout, PatchIn, PatchOut
from lps.models.representations import particle_pairs
from samples import directional, random_graphs, random_particles
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import lps_kernels as lk

SIZES = {"n": 7, "node_channels": 2, "out_channels": 3, "score_hidden": 8}
GINID = {"backbone": "gin_id", "hidden": 8, "head": (5,), **SIZES}


def double(config):
    torch.manual_seed(2)
    return models.build(config).double()


def dense_gin_id(model, graphs, matrix):
    """The same with identifiers as an n x n matrix next to the features."""
    net = model.backbone
    x = torch.cat((graphs.x[:, None].expand(*matrix.shape[:2], *graphs.x.shape[1:]), matrix), -1)
    a = graphs.adjacency[:, None]
    for i, eps in enumerate(net.eps):
        x = a @ x + (1 + eps) * x
        weight = torch.cat((net.features, net.identifiers)) if i == 0 else net.rounds[i - 1].weight.T
        x = (x @ weight + (net.bias if i == 0 else net.rounds[i - 1].bias)).relu()
    real = torch.arange(x.shape[2]) < graphs.num_nodes[:, None]
    return net.head((x * real[:, None, :, None]).sum(2)).mean(1)


def test_identifiers_are_a_permuted_weight(monkeypatch):
    """Values and gradients of GIN on one-hot identifiers, straight-through ones of the scores among them."""
    graphs, model = random_graphs(), double(GINID)
    z = torch.rand(3, 7, 4, 2, dtype=torch.float64)
    monkeypatch.setattr(learned, "noise", lambda *_: z)
    parameters = list(model.parameters())
    results = []
    for dense in (False, True):
        g, entropy = model.distribution(graphs, 4)
        y = dense_gin_id(model, graphs, g.matrix()) if dense else model.predict(graphs, g)
        loss = y.square().sum() + entropy
        results.append((y, torch.autograd.grad(loss, parameters)))
    torch.testing.assert_close(results[0][0], results[1][0])
    for got, expected in zip(results[0][1], results[1][1]):
        torch.testing.assert_close(got, expected)
    assert all(grad.abs().sum() > 0 for grad in results[0][1][:3])


class Shapes(TorchDispatchMode):
    """Records the shape of every tensor that an operator returns."""

    def __init__(self):
        super().__init__()
        self.seen = set()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        self.seen |= {tuple(x.shape) for x in tree_leaves(out) if isinstance(x, torch.Tensor)}
        return out


def test_identifiers_make_no_matrix():
    """With a gradient too, nothing of a size like (b, k, n, n) is made: for n = 61 that is told by its elements."""
    b, k, n = 2, 3, 61
    graphs = random_graphs(b=b, n=n, dtype=torch.float32)
    model = models.build({**GINID, "n": n})
    with Shapes() as shapes:
        out = model(graphs, k=k)
        (out.prediction.sum() + out.entropy).backward()
    sizes = [torch.Size(shape).numel() for shape in shapes.seen]
    assert max(sizes) < b * k * n * n and max(sizes) >= b * n * n  # the graphs' own adjacency is there


RELAXED = {"hard": False, "tau": 0.1, **SIZES}
GRADIENTS = {
    "mlp nodes": {"backbone": "mlp", "hidden": (16,), "activation": "tanh", "order_in": 1, "order_out": 1, **RELAXED},
    "mlp edges": {"backbone": "mlp", "hidden": (16,), "activation": "tanh", "order_in": 2, "order_out": 2, **RELAXED},
    "mlp diagonal": {
        **{"backbone": "mlp", "hidden": (16,), "activation": "tanh", "order_out": "diagonal", **RELAXED},
    },
    "gin_id": {**GINID, **RELAXED, "activation": "tanh"},
    "gnn": {"backbone": "gnn", "symmetry": "E(3)", "hidden": 8, "score_hidden": 24, "order_out": "point"},
    "transformer": {
        **{"backbone": "transformer", "symmetry": "S_n x SE(3)", "n": 5, "hidden": 8, "heads": 2, "layers": 1},
        **{"score_hidden": 24, "hard": False, "tau": 0.1},
    },
}


@pytest.mark.parametrize("name", GRADIENTS)
def test_gradients_of_the_distribution_are_those_of_differences(monkeypatch, name):
    """Where the estimator is differentiable, that is relaxed permutations and any motion, backward is its gradient."""
    model = double(GRADIENTS[name])
    particles = name in ("gnn", "transformer")
    batch = random_particles() if particles else random_graphs()
    shape = (3, 4, 5, 3, 2) if particles else (3, 7, 4, 2)
    z = torch.rand(*shape, dtype=torch.float64)
    monkeypatch.setattr(learned, "noise", lambda *_: z)
    with torch.no_grad():
        target = torch.randn_like(model(batch, k=4).prediction)

    def loss():
        return (model(batch, k=4).prediction * target).sum()

    got, expected = directional(loss, list(model.distribution.parameters()))
    assert abs(expected) > 1e-6 and got == pytest.approx(expected, rel=2e-4, abs=1e-7)


def test_straight_through_gradient_is_that_of_the_dense_matrix(monkeypatch):
    graphs = random_graphs()
    model = double({"backbone": "mlp", "hidden": (16,), "order_in": (1, 2), "order_out": 0, **SIZES})
    z = torch.rand(3, 7, 4, 2, dtype=torch.float64)
    monkeypatch.setattr(learned, "noise", lambda *_: z)
    parameters = list(model.distribution.parameters())
    grads = []
    for dense in (False, True):
        g = model.distribution(graphs, 4).g
        if dense:
            p = g.matrix()
            x = torch.einsum("bkir,bic->bkrc", p, graphs.x)
            a = torch.einsum("bkir,bij,bkjs->bkrs", p, graphs.adjacency, p)[..., None]
            y = model.backbone(x.flatten(0, 1), a.flatten(0, 1)).unflatten(0, (3, 4)).mean(1)
        else:
            y = model.predict(graphs, g)
        grads.append((y, torch.autograd.grad(y.square().sum(), parameters)))
    torch.testing.assert_close(grads[0][0], grads[1][0])
    for got, expected in zip(grads[0][1], grads[1][1]):
        torch.testing.assert_close(got, expected)
    assert sum(g.abs().sum() for g in grads[0][1]) > 1e-6


def test_edge_features_reach_the_base_model():
    graphs = random_graphs(edge_channels=3)
    sizes = {**SIZES, "edge_channels": 3, "backbone": "mlp", "hidden": (4,)}
    seen = []
    for order_in, wanted in ((1, [(12, 7, 2)]), (2, [(12, 7, 7, 5)]), ("edges", [(12, 7, 7, 3)])):
        model = models.build({**sizes, "order_in": order_in}).double()
        model.backbone.register_forward_pre_hook(lambda _, args: seen.append([tuple(a.shape) for a in args]))
        model(graphs, k=4)
        assert seen[-1] == wanted
    two = models.build({**sizes, "order_in": 2}).double()
    diagonal = []
    two.backbone.register_forward_pre_hook(lambda _, args: diagonal.append(args[0]))
    two.predict(graphs, lk.Permutation.identity(3, 1, 7, graphs.num_nodes))
    torch.testing.assert_close(diagonal[0].diagonal(dim1=1, dim2=2).mT[..., 3:], graphs.x)
    torch.testing.assert_close(diagonal[0][..., :3], graphs.adjacency)


def test_a_diagonal_output_is_that_of_the_edges():
    """A base model that returns its image: off the edges' own channel, the diagonal holds the features of nodes."""
    graphs = random_graphs()
    model = models.SymmetrizedModel(Uniform(), lambda image: image, 2, "diagonal", n_samples=3)
    torch.testing.assert_close(model(graphs).prediction, torch.cat((torch.zeros(3, 7, 1), graphs.x), -1).double())


@pytest.mark.parametrize("centred", [False, True])
@pytest.mark.parametrize("pad", ["zero", "reflect", "replicate", "circular"])
@pytest.mark.parametrize("order, n, tokens", [(1, 10, 4), (1, 9, 12), (2, 10, 9), (2, 7, 16), (2, 8, 16), (2, 3, 16)])
def test_patches_go_there_and_back(order, n, tokens, pad, centred):
    """With a width of one patch and weights that copy it, tokens hold the patches, and the way back is exact."""
    layout = Layout(n, tokens, order, centred)
    if pad == "reflect" and max(layout.sides) > n - 1:
        with pytest.raises(ValueError, match="'reflect' can add at most"):
            PatchIn(layout, 2, 8, pad)
        return
    c, width = 2, 2 * layout.patch**order
    into, back = PatchIn(layout, c, width, pad), PatchOut(layout, c, width)
    for projection in (into.projection, back.projection):
        projection.weight.data = torch.eye(width).view(width, c, *[layout.patch] * order)
        projection.bias.data.zero_()
    x = torch.randn(3, *[n] * order, c)
    seen = into(x)
    assert seen.shape == (3, tokens, width)
    torch.testing.assert_close(back(seen), x)
    modes = {"zero": "constant"}
    wide = torch.nn.functional.pad(x.movedim(-1, 1), layout.sides * order, modes.get(pad, pad))
    first = wide[(slice(None), slice(None), *[slice(0, layout.patch)] * order)]
    torch.testing.assert_close(seen[:, 0], first.flatten(1))


@pytest.mark.parametrize("n, tokens, patch", [(188, 196, 14), (444, 196, 32), (53, 196, 4), (5, 196, 1)])
def test_patches_are_as_small_as_they_can_be(n, tokens, patch):
    layout = Layout(n, tokens, 2)
    assert layout.patch == patch and layout.patch * layout.grid - sum(layout.sides) == n


def test_patches_refuse_what_can_not_be():
    with pytest.raises(ValueError, match="square number"):
        Layout(10, 12, 2)
    with pytest.raises(ValueError, match="pad: expected one of"):
        PatchIn(Layout(10, 9, 2), 1, 4, "mirror")
    with pytest.raises(ValueError, match="channels: expected 1 or more"):
        PatchIn(Layout(10, 9, 1), 0, 4)


@pytest.mark.parametrize(
    "config, message",
    [
        ({"backbone": "resnet"}, "backbone: expected one of mlp"),
        ({"hiden": 3}, "hiden: unknown setting, known are"),
        ({"distribution": 3}, "distribution: unknown setting"),
        ({"activation": "sine"}, "activation: expected one of relu"),
        ({"order_in": 3}, "order_in: expected 1, 2"),
        ({"order_out": "edges"}, "order_out: expected one of"),
        ({"backbone": "gin_id", "hidden": 8, "order_out": 2}, "order_out: expected 0 or 1"),
        ({"backbone": "gin_id", "hidden": 8, "activation": "elu"}, "activation: expected one of relu"),
        ({"backbone": "gin_id", "hidden": 8, "head": 4}, r"head: expected the widths of layers, such as \(4,\), got 4"),
        ({"hidden": 64}, r"hidden: expected the widths of layers, such as \(64,\), got 64"),
        ({"backbone": "gnn", "hidden": 8, "data": "graphs", "order_in": 2, "order_out": 1}, "backbone: gnn takes"),
        ({"backbone": "gnn", "hidden": 8, "data": "graphs", "order_out": 0}, "backbone: gnn takes"),
        ({"n_samples": 0}, "n_samples: expected 1 or more"),
        ({"group": "all"}, "group: expected one of"),
    ],
)
def test_settings_that_can_not_be_are_refused(config, message):
    with pytest.raises(ValueError, match=message):
        models.build({"backbone": "mlp", "hidden": (4,), **SIZES, **config})


def test_a_graph_larger_than_the_identifiers_is_refused():
    with pytest.raises(ValueError, match="n: expected graphs of at most 7 nodes, got 9"):
        double(GINID)(random_graphs(n=9))


def test_an_mlp_names_inputs_of_another_size():
    net = MLP(n=4, node_channels=2, out_channels=3, hidden=(8,))
    with pytest.raises(ValueError, match=r"expected 24 numbers a graph, got 35 in shapes \(1, 5, 2\), \(1, 5, 5, 1\)"):
        net(torch.zeros(1, 5, 2), torch.zeros(1, 5, 5, 1))


def test_particles_have_no_graph_outputs():
    model = models.build({"backbone": "gnn", "symmetry": "E(3)", "hidden": 8, "order_out": 1}).double()
    with pytest.raises(ValueError, match="order_out: expected one of"):
        model(random_particles())


@pytest.mark.parametrize("backbone", ["mlp", "gin_id"])
@pytest.mark.parametrize("group", ["prob", "uniform", "canonical", "frame"])
@pytest.mark.parametrize("num_nodes", [[1], [4, 0], [0], []])
def test_graphs_without_edges_or_nodes(backbone, group, num_nodes):
    b, sizes = len(num_nodes), {"n": 4, "node_channels": 2, "out_channels": 3, "score_hidden": 8}
    hidden = {"mlp": {"hidden": (8,)}, "gin_id": {"hidden": 8, "head": (5,)}}[backbone]
    model = models.build({"backbone": backbone, "group": group, "n_samples": 3, **sizes, **hidden}).eval()
    out = model(Graphs(torch.zeros(b, 4, 2), torch.zeros(b, 4, 4), torch.tensor(num_nodes, dtype=torch.int64)))
    assert out.prediction.shape == (b, 3) and out.prediction.isfinite().all() and out.entropy.isfinite()
    (out.prediction.sum() + out.entropy).backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


def test_samples_are_as_many_as_asked():
    graphs, model = random_graphs(), double({**GINID, "n_samples": 3})
    counts = []
    model.backbone.register_forward_pre_hook(lambda _, args: counts.append(args[1].shape[1]))
    model(graphs), model(graphs, k=5)
    assert counts == [3, 5]
    with pytest.raises(ValueError, match="k: expected 1 or more, got 0"):
        model(graphs, k=0)


DEVICES = [
    {**GINID},
    {**SIZES, "backbone": "mlp", "hidden": (16,), "order_in": 2, "order_out": "diagonal"},
    {"backbone": "gnn", "symmetry": "E(3)", "hidden": 8, "score_hidden": 24},
    {
        "backbone": "transformer",
        "symmetry": "S_n x SE(3)",
        "n": 5,
        "hidden": 8,
        "heads": 2,
        "layers": 1,
        "score_hidden": 24,
    },
]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("config", DEVICES, ids=lambda config: config["backbone"])
def test_a_gpu_computes_what_the_cpu_does(monkeypatch, config):
    """Predictions, and gradients of all parameters, with the same noise."""
    batch = random_particles(dtype=torch.float32) if "symmetry" in config else random_graphs(dtype=torch.float32)
    z = torch.rand(3, 4, 5, 3, 2) if "symmetry" in config else torch.rand(3, 7, 4, 2)
    found = []
    for device in ("cpu", "cuda"):
        torch.manual_seed(2)
        model = models.build(config).to(device)
        monkeypatch.setattr(learned, "noise", lambda *_, device=device: z.to(device))
        out = model(batch.to(device), k=4)
        (out.prediction.square().mean() + out.entropy).backward()
        found.append((out.prediction.cpu(), [p.grad.cpu() for p in model.parameters()]))
    torch.testing.assert_close(found[1], found[0], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("sizes", [GINID, {"backbone": "mlp", "hidden": (4,), **SIZES}])
def test_a_seed_gives_the_same_base_model_under_every_group(sizes):
    groups = ("prob", "uniform", "canonical")
    one, *others = (double({**sizes, "group": group}).backbone.state_dict() for group in groups)
    assert all(torch.equal(one[name], other[name]) for other in others for name in one)


def test_a_round_of_the_gnn_sums_messages_of_the_others():
    torch.manual_seed(0)
    step = GNN(6, 2, 3, hidden=4, layers=1).double().rounds[0]
    h, pairs = torch.randn(2, 5, 4, dtype=torch.float64), torch.randn(2, 5, 5, 2, dtype=torch.float64)
    for i in range(5):
        others = [j for j in range(5) if j != i]
        ends = torch.cat((h[:, [i] * 4], h[:, others], pairs[:, i, others]), -1)
        expected = step.update(torch.cat((h[:, i], step.second(step.first(ends)).sum(1)), -1))
        torch.testing.assert_close(step(h, pairs)[:, i], expected)


def test_pairs_of_particles():
    """Products of charges and squared distances, and nothing for a particle with itself."""
    particles = random_particles(b=1)
    pairs = particle_pairs(particles)[0]
    q, x = particles.charges[0], particles.positions[0]
    assert pairs[1, 3].tolist() == pytest.approx([(q[1] * q[3]).item(), (x[1] - x[3]).square().sum().item()])
    assert (pairs.diagonal(dim1=0, dim2=1) == 0).all() and pairs.equal(pairs.transpose(0, 1))
