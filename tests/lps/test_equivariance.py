"""Every model follows its group: with samples that move with the input, the prediction moves with it, to rounding."""

import pytest
import torch
from lps import models
from lps.groups import learned
from samples import move, random_graphs, random_motion, random_particles, relabel, relabel_graphs, relabelling

import lps_kernels as lk

SIZES = {"n": 7, "node_channels": 2, "out_channels": 3}
VISION = {"encoder": "vit_tiny_patch16_224", "encoder_options": {"depth": 1, "img_size": 64}}
GRAPH_MODELS = {
    "mlp_0": {"backbone": "mlp", "hidden": (16,), "order_out": 0},
    "mlp_1": {"backbone": "mlp", "hidden": (16,), "order_in": 1, "order_out": 1},
    "mlp_2": {"backbone": "mlp", "hidden": (16,), "order_in": 2, "order_out": 2},
    "mlp_edges": {"backbone": "mlp", "hidden": (16,), "order_in": "edges", "order_out": 0},
    "mlp_diagonal": {"backbone": "mlp", "hidden": (16,), "order_in": 2, "order_out": "diagonal"},
    "gin_id_0": {"backbone": "gin_id", "hidden": 8, "head": (5,), "order_out": 0},
    "gin_id_1": {"backbone": "gin_id", "hidden": 8, "order_out": 1},
    "vit_0": {"backbone": "vit", **VISION, "order_in": (1, 2), "order_out": 0},
    "vit_1": {"backbone": "vit", **VISION, "order_in": 1, "order_out": 1, "pad": "replicate"},
    "vit_diagonal": {"backbone": "vit", **VISION, "order_in": 2, "order_out": "diagonal", "centred": True},
}
MOTIONS = ["O(3)", "SO(3)", "E(3)", "SE(3)"]
PARTICLE_MODELS = {
    **{f"transformer {s}": {"backbone": "transformer", "symmetry": s} for s in ["S_n", "S_n x E(3)", "S_n x SO(3)"]},
    **{f"gnn {s}": {"backbone": "gnn", "symmetry": s, "order_out": "point"} for s in MOTIONS if "E" in s},
    **{f"gnn displacement {s}": {"backbone": "gnn", "symmetry": s} for s in MOTIONS},
    "gnn vector": {"backbone": "gnn", "symmetry": "E(3)", "order_out": "vector"},
}


@pytest.fixture(autouse=True)
def double():
    torch.set_default_dtype(torch.float64)


def graph_model(name: str, **options):
    config = GRAPH_MODELS[name]
    if config["backbone"] == "vit":
        pytest.importorskip("timm")
    torch.manual_seed(2)
    return models.build({**SIZES, **config, "score_hidden": 32, **options})


def particle_model(name: str, **options):
    torch.manual_seed(2)
    config = {"n": 5, "hidden": 8, "heads": 2, "layers": 2, "score_hidden": 24, "tau": 0.1}
    return models.build({**config, **PARTICLE_MODELS[name], **options})


def moved_prediction(y, s, order_out):
    axes = {0: (), 1: (1,), "diagonal": (1,), 2: (1, 2)}[order_out]
    return relabel(y, s, axes)


@pytest.mark.parametrize("group", ["prob", "uniform", "frame", "canonical"])
@pytest.mark.parametrize("name", GRAPH_MODELS)
def test_graph_models_follow_relabelling_of_graph_and_samples(name, group):
    graphs, model = random_graphs(), graph_model(name, group=group).eval()
    s = relabelling(graphs.num_nodes, 7)
    g = model.distribution(graphs, 4).g
    inverse = s.argsort(-1)[:, None].expand(-1, len(g), -1)
    moved = lk.Permutation.from_indices(inverse.gather(-1, g.perm), graphs.num_nodes)
    y, y_moved = model.predict(graphs, g), model.predict(relabel_graphs(graphs, s), moved)
    torch.testing.assert_close(y_moved, moved_prediction(y, s, model.order_out))
    assert y.std() > 1e-6


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", GRAPH_MODELS)
def test_graph_models_follow_relabelling_with_their_noise(monkeypatch, name, training):
    """The whole model, distribution and all: only the noise is moved along with the graph."""
    graphs, model = random_graphs(), graph_model(name).train(training)
    s, z = relabelling(graphs.num_nodes, 7), torch.rand(3, 7, 4, 2)
    monkeypatch.setattr(learned, "noise", lambda *_: z)
    y = model(graphs, k=4)
    monkeypatch.setattr(learned, "noise", lambda *_: relabel(z, s, (1,)))
    moved = model(relabel_graphs(graphs, s), k=4)
    torch.testing.assert_close(moved.prediction, moved_prediction(y.prediction, s, model.order_out))
    torch.testing.assert_close(moved.entropy, y.entropy)


@pytest.mark.parametrize("name", PARTICLE_MODELS)
def test_particle_models_follow_both_groups(monkeypatch, name):
    particles, model = random_particles(), particle_model(name).eval()
    symmetry = model.distribution.symmetry
    q, t = random_motion(symmetry.special) if symmetry.moves else (torch.eye(3), torch.zeros(3))
    t = t if symmetry.centers else torch.zeros(3)
    s = torch.stack([torch.randperm(5) for _ in range(3)]) if symmetry.permutes or "gnn" in name else None
    z = torch.randn(3, 4, 5, 3, 2)
    monkeypatch.setattr(learned, "noise", lambda *_: z)
    y = model(particles, k=4)
    moved_z = torch.einsum("ij,bknjc->bknic", q, z)
    moved_z = moved_z if s is None else torch.stack([a[:, order] for a, order in zip(moved_z, s)])
    monkeypatch.setattr(learned, "noise", lambda *_: moved_z)
    moved = model(move(particles, q, t, s), k=4)
    expected = y.prediction if s is None else relabel(y.prediction, s, (1,))
    expected = expected @ q.T + (0 if name == "gnn vector" else t)
    torch.testing.assert_close(moved.prediction, expected)
    torch.testing.assert_close(moved.entropy, y.entropy)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("name", [*GRAPH_MODELS, *PARTICLE_MODELS])
def test_every_parameter_gets_a_gradient(name, precision):
    """Which distributed training waits for; under autocast too."""
    torch.set_default_dtype(torch.float32)
    graphs = name in GRAPH_MODELS
    batch = (random_graphs if graphs else random_particles)(dtype=torch.float32)
    model = graph_model(name) if graphs else particle_model(name)
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
        out = model(batch, k=4)
    (out.prediction.float().square().mean() + 0.1 * out.entropy).backward()
    assert out.prediction.isfinite().all()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    assert sum(p.grad.abs().sum() > 0 for p in model.distribution.parameters()) > 3


@pytest.mark.parametrize("name", ["transformer S_n x E(3)", "gnn E(3)", "gnn displacement SE(3)"])
def test_frame_averages_need_no_noise(name):
    """A whole frame is averaged over, so the prediction itself is equivariant."""
    particles, model = random_particles(), particle_model(name, group="frame").eval()
    special = model.distribution.symmetry.special
    q, t = random_motion(special)
    s = torch.stack([torch.randperm(5) for _ in range(3)])
    y, moved = model(particles).prediction, model(move(particles, q, t, s)).prediction
    torch.testing.assert_close(moved, relabel(y, s, (1,)) @ q.T + t)


def test_a_model_of_rotations_does_not_follow_reflections(monkeypatch):
    """The comparison can fail: SE(3) models tell left from right."""
    particles, model = random_particles(), particle_model("gnn displacement SE(3)").eval()
    q, t = random_motion(special=False)
    z = torch.randn(3, 4, 5, 3, 2)
    monkeypatch.setattr(learned, "noise", lambda *_: z)
    y = model(particles, k=4).prediction
    monkeypatch.setattr(learned, "noise", lambda *_: torch.einsum("ij,bknjc->bknic", q, z))
    assert not torch.allclose(model(move(particles, q, t), k=4).prediction, y @ q.T + t, atol=1e-3)


def test_base_models_alone_follow_nothing():
    """Without symmetrization the MLP sees the order of the nodes."""
    graphs, model = random_graphs(), graph_model("mlp_0").eval()
    s = relabelling(graphs.num_nodes, 7)
    f = model.backbone
    moved = relabel_graphs(graphs, s)
    assert not torch.allclose(f(graphs.x, graphs.adjacency[..., None]), f(moved.x, moved.adjacency[..., None]))


def test_uniform_average_over_many_samples_is_invariant_nearly():
    """The law itself: averages of 4,000 samples of two relabelled graphs agree to the error of the mean."""
    graphs, model = random_graphs(b=1), graph_model("mlp_0", group="uniform")
    moved = relabel_graphs(graphs, relabelling(graphs.num_nodes, 7))
    with torch.no_grad():
        each = torch.stack([model(graphs, k=1).prediction[0] for _ in range(200)])
        first, second = model(graphs, k=4000).prediction, model(moved, k=4000).prediction
    error = each.std(0) * (2 / 4000) ** 0.5
    assert ((first - second).abs() < 5 * error).all() and (error > 0).all()
