"""Distributions: shapes, laws, what they average over, and gradients of their parameters."""

import dataclasses

import pytest
import torch
from lps import groups
from lps.data import Graphs
from lps.groups import (
    Canonical,
    GraphDistribution,
    GraphFrames,
    ParticleDistribution,
    ParticleFrames,
    Symmetry,
    Uniform,
    learned,
)
from samples import (
    directional,
    move,
    random_graphs,
    random_motion,
    random_particles,
    relabel,
    relabel_graphs,
    relabelling,
)

import lps_kernels as lk

MOTIONS = ["O(3)", "SO(3)", "E(3)", "SE(3)"]
NAMES = ["S_n", *MOTIONS, *(f"S_n x {m}" for m in MOTIONS)]


def factors(g, name):
    """The permutation and the motion of an element, None where the group has none."""
    if isinstance(g, lk.Product):
        return g.permutation, g.motion
    return (g, None) if name == "S_n" else (None, g)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", [ParticleDistribution, Uniform])
def test_particles_get_elements_of_the_group(kind, name):
    particles = random_particles()
    g, entropy = (kind(name).double())(particles, 6)
    permutation, motion = factors(g, name)
    assert len(g) == 6 and entropy.shape == ()
    if permutation is not None:
        assert permutation.perm.sort(-1).values.equal(torch.arange(5).expand(3, 6, 5))
    if motion is not None:
        determinant = torch.linalg.det(motion.q)
        assert motion.q.dtype == torch.float64
        torch.testing.assert_close(determinant.abs(), torch.ones_like(determinant))
        assert (determinant > 0).all() or "S" not in name.split(" x ")[-1][0]
        assert isinstance(motion, lk.Euclidean if "E(" in name else lk.Orthogonal)
    assert (entropy > 0) == (kind is ParticleDistribution and permutation is not None)


def test_reflections_occur_only_in_groups_that_have_them():
    q = Uniform("E(3)")(random_particles(b=8), 20).g.q
    assert (torch.linalg.det(q) < 0).float().mean().sub(0.5).abs() < 0.2


@pytest.mark.parametrize("name", ["", "S_m", "O(2)", "S_n x", "S_n x S_n", "E(3) x S_n", None, 3])
def test_other_names_are_refused(name):
    with pytest.raises(ValueError, match="symmetry: expected"):
        Symmetry.parse(name)


def test_graphs_have_no_motions():
    with pytest.raises(ValueError, match="Graphs, which have no positions"):
        Uniform("E(3)")(random_graphs(), 2)


def test_build_makes_each_group():
    sizes = {"node_channels": 2}
    kinds = {"prob": GraphDistribution, "canonical": Canonical, "uniform": Uniform, "frame": GraphFrames}
    for name, kind in kinds.items():
        made = groups.build({"group": name, **sizes})
        assert isinstance(made, kind)
        g, entropy = made.double()(random_graphs(), 4)
        assert len(g) == (1 if name == "canonical" else 4) and entropy.isfinite()
    assert groups.build({"tau": 0.5, "score_hidden": 12, **sizes}).tau == 0.5
    assert isinstance(groups.build({"group": "frame", "symmetry": "SE(3)"}), ParticleFrames)
    with pytest.raises(ValueError, match="group: expected one of prob"):
        groups.build({"group": "average"})


def test_noise_spreads_a_learned_distribution():
    graphs = random_graphs()
    for scale, many in ((1.0, True), (0.0, False)):
        perm = GraphDistribution(2, noise_scale=scale).double().eval()(graphs, 30).g.perm[0]
        assert (perm.unique(dim=0).shape[0] > 1) == many


def test_canonical_has_no_noise_and_one_sample():
    graphs = random_graphs()
    learned = GraphDistribution(2).double().eval()
    canonical = Canonical(learned)
    first, again = canonical(graphs, 7).g, canonical(graphs, 1).g
    assert len(first) == 1 and first.perm.equal(again.perm)
    assert learned.noise_scale == 1 and not learned.scores(graphs, 1).equal(learned.scores(graphs, 1))
    assert [*canonical.parameters()] == [*learned.parameters()]


def test_fixed_noise_belongs_to_the_graph():
    graphs = dataclasses.replace(random_graphs(), index=torch.tensor([5, 9, 5]))
    made = GraphDistribution(2, fixed_noise=True).double().eval()
    scores = made.scores(graphs, 4)
    assert scores.equal(made.scores(graphs, 4))
    one = graphs[torch.tensor([1])]
    torch.testing.assert_close(made.scores(one, 4)[0], scores[1])
    same = Graphs(
        graphs.x[:1].expand(2, -1, -1), graphs.adjacency[:1].expand(2, -1, -1), graphs.num_nodes[:1].expand(2)
    )
    same = dataclasses.replace(same, index=torch.tensor([1, 2]))
    assert not torch.allclose(*made.scores(same, 4))
    with pytest.raises(ValueError, match="fixed_noise: expected a batch with the numbers"):
        made(dataclasses.replace(graphs, index=None), 2)


def transport(monkeypatch, z):
    """Makes learned distributions use the noise z, which the test moves with the input."""
    monkeypatch.setattr(learned, "noise", lambda draw, x, like, shape, fixed: z.reshape(shape))


@pytest.mark.parametrize("training", [True, False])
def test_learned_permutations_follow_the_graph(monkeypatch, training):
    """p(hg|hx) = p(g|x): with noise that moves along, the samples are the moved ones."""
    graphs = random_graphs()
    made = GraphDistribution(2).double().train(training)
    z, s = torch.rand(3, 7, 4, 2, dtype=torch.float64), relabelling(graphs.num_nodes, 7)
    transport(monkeypatch, z)
    g = made(graphs, 4).g
    transport(monkeypatch, relabel(z, s, (1,)))
    moved = made(relabel_graphs(graphs, s), 4).g
    old = s[:, None].expand(3, 4, 7).gather(-1, moved.perm)  # the old names of the nodes
    assert old.equal(g.perm)


@pytest.mark.parametrize("name", NAMES)
def test_learned_elements_follow_the_particles(monkeypatch, name):
    particles = random_particles()
    made = ParticleDistribution(name, score_hidden=24).double().eval()
    q, t = random_motion(special=name.split(" x ")[-1][0] == "S")
    s = torch.stack([torch.randperm(5) for _ in range(3)])
    z = torch.randn(3, 4, 5, 3, 2, dtype=torch.float64)
    transport(monkeypatch, z)
    g = factors(made(particles, 4).g, name)
    transport(monkeypatch, moved_noise(z, q, s))
    moved = factors(made(move(particles, q, t, s), 4).g, name)
    if g[0] is not None:
        assert s[:, None].expand(3, 4, 5).gather(-1, moved[0].perm).equal(g[0].perm)
    if g[1] is not None:
        torch.testing.assert_close(moved[1].q, q @ g[1].q)
    if g[1] is not None and "E(" in name:
        torch.testing.assert_close(moved[1].center, g[1].center @ q.T + t)


def moved_noise(z, q, s):
    z = torch.einsum("ij,bknjc->bknic", q, z)
    return torch.stack([sample[:, order] for sample, order in zip(z, s)])


@pytest.mark.parametrize("name", MOTIONS)
def test_frames_are_the_same_set_for_moved_particles(name):
    particles = random_particles()
    q, t = random_motion(special=name[0] == "S")
    frames = ParticleFrames(name)
    first = frames(particles, 1).g.q
    moved = frames(move(particles, q, t), 1).g.q
    assert first.shape[1] == (4 if name[0] == "S" else 8)
    if name.lstrip("S")[0] == "O":  # without centring, a translation is another cloud
        moved = frames(move(particles, q, t * 0), 1).g.q
    distance = (moved[:, :, None] - (q @ first)[:, None]).abs().amax((-1, -2))
    assert (distance.amin(-1) < 1e-8).all()


def test_graph_frames_sort_what_they_tell_apart():
    graphs = random_graphs(n=10, b=3)
    s = relabelling(graphs.num_nodes, 10)
    g, moved = GraphFrames()(graphs, 20).g, GraphFrames()(relabel_graphs(graphs, s), 20).g
    ranks = [GraphFrames()._ranks(a[:n, :n]) for a, n in zip(graphs.adjacency, graphs.num_nodes.tolist())]
    for b, n in enumerate(graphs.num_nodes.tolist()):
        old = s[b].expand(20, -1).gather(-1, moved.perm[b])
        assert ranks[b].unique().numel() > 2
        assert ranks[b][g.perm[b, :, :n]].equal(ranks[b][old[:, :n]])  # alike up to nodes with equal numbers
        assert (ranks[b][g.perm[b, :, :n]].diff(dim=-1) >= 0).all()


def test_graph_frames_order_equal_nodes_at_random():
    ring = torch.roll(torch.eye(4), 1, 1)
    graphs = Graphs(torch.zeros(1, 4, 1), (ring + ring.T)[None], torch.tensor([4]))
    perm = GraphFrames()(graphs, 2000).g.perm[0]
    counts = perm.unique(dim=0, return_counts=True)[1]
    assert len(counts) == 24 and counts.min() > 40  # 83 each if all orders are equally likely


@pytest.mark.parametrize("hub", range(7))
def test_graph_frames_respect_signs_and_bases(hub):
    """A star's Laplacian has an eigenspace of five dimensions, in which every basis has to give the same numbers."""
    a = torch.zeros(7, 7)
    a[hub] = a[:, hub] = 1
    a[hub, hub] = 0
    ranks = GraphFrames()._ranks(a)
    assert ranks.unique().numel() == 2 and (ranks == ranks[hub]).sum() == 1


@pytest.mark.parametrize("name", NAMES)
def test_gradients_reach_every_parameter(name):
    """Of a loss that uses g and the penalty; what a group lacks has no parameters."""
    particles = random_particles()
    made = ParticleDistribution(name, score_hidden=24).double()
    g, entropy = made(particles, 4)
    order = {"S_n": 1}.get(name, "point") if not isinstance(g, lk.Product) else (1, "point")
    seen = g.transform_input(particles.positions, order)
    (torch.randn_like(seen) * seen).sum().add(entropy).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in made.parameters())
    assert sum(p.grad.abs().sum() > 0 for p in made.parameters()) > 3


def test_penalty_has_the_gradient_of_its_differences(monkeypatch):
    graphs = random_graphs()
    made = GraphDistribution(2, score_hidden=8, tau=0.1).double()
    transport(monkeypatch, torch.rand(3, 7, 4, 2, dtype=torch.float64))
    got, expected = directional(lambda: made(graphs, 4).entropy, list(made.parameters()))
    assert abs(expected) > 1e-4 and got == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("name", ["E(3)", "SO(3)"])
def test_motions_have_the_gradient_of_their_differences(monkeypatch, name):
    particles = random_particles()
    made = ParticleDistribution(name, score_hidden=24).double()
    transport(monkeypatch, torch.randn(3, 4, 5, 3, 2, dtype=torch.float64))
    weights = torch.randn(3, 4, 5, 3, dtype=torch.float64)

    def loss():
        return (weights * made(particles, 4).g.transform_input(particles.positions, "point")).sum()

    got, expected = directional(loss, list(made.parameters()))
    assert abs(expected) > 1e-3 and got == pytest.approx(expected, rel=1e-4)


def test_scores_are_computed_in_full_precision_under_autocast():
    graphs = random_graphs(dtype=torch.float32)
    made = GraphDistribution(2).eval()
    with torch.autocast("cpu", torch.bfloat16):
        assert made.scores(graphs, 2).dtype == torch.float32
