"""Every preset of every experiment takes two steps on stand-in data; experiments measure what they say."""

import json

import pytest
import torch
from lps import data
from lps.data import particles
from lps.experiments import (
    automorphism,
    curves,
    pattern,
    pcqm_contact,
    peptides_func,
    peptides_struct,
    run,
    sample_efficiency,
    separation,
)
from torch import nn

pytest.importorskip("timm")
pytest.importorskip("torchmetrics")
pytest.importorskip("tensorboard")

SEPARATION = ("graph8c", "exp")
UNTRAINED = (*SEPARATION, "automorphism", "sample_efficiency")
TRAINED = [name for name in run.NAMES if name not in UNTRAINED]
# What is made small: the encoder, the sizes of batches and the number of samples; all else is the preset's.
SMALLER = {
    "exp_classify": ["stand_in=16", "batch_size=4"],
    "nbody": ["train_count=8", "valid_count=4", "test_count=4", "batch_size=4"],
}
VISION = ["stand_in=8", "batch_size=2", "encoder=vit_tiny_patch16_224", "pretrained=false", "precision=fp32"]


def cases():
    for name in TRAINED:
        for preset in run.find(name).PRESETS:
            yield name, preset


@pytest.fixture(autouse=True)
def quick(monkeypatch, tmp_path):
    monkeypatch.setenv("LPS_CACHE", str(tmp_path))
    monkeypatch.setattr(particles, "FRAME", 1)


@pytest.mark.parametrize(("name", "preset"), list(cases()))
def test_preset_takes_two_steps(name, preset):
    few = ["epochs=2", "max_steps=2", "samples=1", "eval_samples=1", "warmup_epochs=0"]
    result = run.run(name, [f"preset={preset}", *SMALLER.get(name, VISION), *few])
    assert result["steps"] == 2 and result["config"]["group"] in ("prob", "uniform", "canonical", "frame")
    assert all(torch.tensor(v).isfinite() for v in (*result["test"].values(), result["history"][-1]["train_loss"]))
    assert result["command"].startswith(f"python -m lps.experiments.{name} preset={preset}")


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_step_changes_the_distribution_too(precision):
    """One epoch with a large rate moves every parameter that a loss reaches, those of p(g|x) among them."""
    from lps.experiments import exp_classify, training
    from lps.experiments.build import build
    from lps.experiments.config import parse
    from lps.experiments.task import Task

    config = parse(
        ["preset=paper_gin", "stand_in=8", "samples=2", "batch_size=4", f"precision={precision}"], exp_classify.PRESETS
    )
    model = build(config, **exp_classify.SIZES, **exp_classify.BACKBONES["gin_id"])
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    config |= {"warmup_epochs": 0.0, "lr": 0.1, "entropy_weight": 0.0, "clip": 0.0}
    task = Task(**exp_classify.splits(config), loss=exp_classify.loss, score=exp_classify.score)
    training.Trainer(config, model, task)._step(torch.arange(4))
    moved = [name for name, p in model.named_parameters() if not torch.equal(p, before[name])]
    assert any(name.startswith("distribution.") for name in moved)
    assert any(name.startswith("backbone.") for name in moved)


@pytest.mark.parametrize("name", SEPARATION)
@pytest.mark.parametrize("backbone", ["mlp", "gin_id"])
@pytest.mark.parametrize("group", ["prob", "uniform", "canonical", "frame"])
def test_separation_runs_on_few_graphs(monkeypatch, name, backbone, group):
    ragged = data.exp_like(6)
    g = torch.Generator().manual_seed(0)
    upper = (torch.rand(12, 8, 8, generator=g) < 0.5).float().triu(1)
    few = separation_graphs(upper + upper.mT)
    monkeypatch.setattr(data, "exp", lambda folder: ragged)
    monkeypatch.setattr(data, "graph8c", lambda folder: few)
    result = run.run(name, [f"backbone={backbone}", f"group={group}", "repeats=2", "samples=2", "batch_size=5"])
    assert result["pairs"] == (66 if name == "graph8c" else 3)
    after = result["confused_after_each_model"]
    assert len(after) == 2 and result["pairs"] >= after[0] >= after[1] == result["confused"]


def separation_graphs(adjacency):
    degree = adjacency.sum(-1)
    sizes = torch.full((len(adjacency),), adjacency.shape[1])
    return data.Graphs(torch.stack((torch.ones_like(degree), degree), -1), adjacency, sizes)


def test_confused_pairs_are_those_of_a_plain_comparison():
    g = torch.Generator().manual_seed(0)
    x = torch.randint(0, 3, (200, 2), generator=g) * 1.0 + torch.rand(200, 2, generator=g) * 2e-4
    distance = (x[:, None] - x[None]).abs().sum(-1)
    expected = (distance <= separation.THRESHOLD).triu(1).nonzero()
    for chunk in (7, 64, 1000):
        assert torch.equal(separation.confused(x, chunk), expected)
    assert len(expected) > 100
    y = x.clone()
    y[::2] += 1
    rest = separation.still_confused(expected, y)
    assert torch.equal(rest, expected[(expected % 2).sum(1) != 1])


def test_relabelled_graphs_are_isomorphic():
    graphs, _ = data.exp_like(4).batch(range(4))
    copies = separation.relabelled(graphs, 0)
    assert not torch.equal(copies.adjacency, graphs.adjacency)
    for a, b in ((graphs.adjacency, copies.adjacency), (graphs.x, copies.x)):
        assert torch.equal(a.flatten(1).sum(1), b.flatten(1).sum(1))
    spectra = [torch.linalg.eigvalsh(g.adjacency.double()) for g in (graphs, copies)]
    assert torch.allclose(*spectra, atol=1e-9)
    real = torch.arange(64) < graphs.num_nodes[:, None]
    assert not copies.x[~real].any() and not copies.adjacency[~real].any()


def test_equivariant_outputs_have_no_spread_within_orbits():
    orbits = torch.tensor([0, 0, 1, 1, -1])
    assert automorphism.spread(torch.tensor([3.0, 3.0, 5.0, 5.0, 9.0]), orbits) == 0
    assert automorphism.spread(torch.tensor([3.0, 5.0, 5.0, 5.0, 9.0]), orbits) == pytest.approx(0.5**0.5)


def test_more_samples_break_symmetry_less(tmp_path):
    plot = tmp_path / "plot.png"
    result = run.run("automorphism", ["samples=10", "most_samples=1000", f"plot={plot}"])
    within = result["spread_within_orbits"]
    for graph in ("S6", "S3xS2", "D7", "D4"):
        assert within["ps, k = 1000"][graph] < 0.2 < within["canonical"][graph]
        assert within["ps, k = 1"][graph] > 0.2
    assert plot.stat().st_size > 10000


def test_pattern_loss_weighs_classes_alike():
    target = torch.tensor([[0, 0, 0, 1, data.IGNORED]])
    prediction = torch.zeros(1, 5, 2)
    prediction[0, 4] = float("nan")
    assert pattern.loss(prediction, target) == pytest.approx(torch.tensor(2.0).log().item())
    prediction = torch.tensor([[[9.0, 0]] * 5])
    assert pattern.score(prediction, target) == {"accuracy": 0.5}
    weight = torch.tensor([0.25, 0.75])
    expected = nn.functional.cross_entropy(prediction[0, :4], target[0, :4], weight)
    assert torch.allclose(pattern.loss(prediction, target), expected)


def test_peptides_scores():
    target = torch.tensor([[1.0, 0, 0], [0, 1, 0], [1, 1, 0]])
    assert peptides_func.score(target * 2 - 1, target) == {"average_precision": 1.0}  # the third never occurs
    reverse = peptides_func.score(-target, target)["average_precision"]
    assert reverse == pytest.approx((2 / 3 + 2 / 3) / 2, abs=0.1) and reverse < 0.8
    confident = peptides_func.score(torch.tensor([[20.0, 0], [30.0, 9]]), torch.tensor([[0.0, 1], [1, 1]]))
    assert confident == {"average_precision": 1.0}  # all have the second
    assert peptides_func.score(torch.zeros(4, 1), torch.tensor([[0.0], [1], [0], [0]])) == {"average_precision": 0.25}
    found = peptides_struct.score(target + 0.5, target)
    assert found["mae"] == pytest.approx(0.5)
    y = torch.randn(50, 2)
    assert peptides_struct.score(y.mean(0).expand(50, 2), y)["r2"] == pytest.approx(0, abs=1e-5)


def test_contact_score_ranks_among_other_atoms():
    target = torch.full((1, 5, 5), float(data.IGNORED))
    target[0, :4, :4] = data.UNLABELLED  # four atoms, one of padding
    target[0, 0, 2], target[0, 0, 3], target[0, 1, 3] = 1, 1, 0
    prediction = torch.zeros(1, 5, 5, 1)
    prediction[0, 0, :, 0] = torch.tensor([9.0, 3.0, 4.0, 2.0, 8.0])  # itself and padding do not count
    # 2 is first among the non-contacts {1}; 3 comes behind 1
    assert pcqm_contact.score(prediction, target) == {"mrr": pytest.approx((1 + 1 / 2) / 2)}
    better = prediction.clone()
    better[0, 0, 1] = -1
    assert pcqm_contact.score(better, target) == {"mrr": 1.0}
    loss = pcqm_contact.loss(prediction * 0, target)
    assert loss == pytest.approx(torch.tensor(2.0).log().item())


def test_contact_score_ranks_atoms_without_a_label_too():
    graphs = data.RaggedGraphs(
        *(torch.tensor([0, 6, 8]), torch.tensor([0, 0, 0]), torch.zeros(8, 1), torch.zeros(2, 0, dtype=torch.int64)),
        *(torch.ones(1), 7, "pair"),
        pair_ptr=torch.tensor([0, 1, 1]),
        pair_index=torch.tensor([[0], [1]]),
    )
    _, target = graphs.batch([0, 1])  # the second has no label at all
    prediction = torch.zeros(2, 7, 7, 1)
    prediction[0, 0, 1], prediction[0, 0, 5], prediction[0, 0, 6] = 1, 5, 9  # the last is padding
    assert pcqm_contact.score(prediction, target) == {"mrr": 0.5}
    assert pcqm_contact.score(prediction[1:], target[1:]) == {"mrr": 0.0}
    assert pcqm_contact.loss(prediction[1:], target[1:]) == 0


def test_errors_of_estimates_fall_with_the_samples():
    samples = torch.randn(256, 50, 5, 3)
    rows = sample_efficiency.errors(samples, torch.zeros(50, 5, 3))
    assert [row["k"] for row in rows] == [1, 2, 4, 8, 16, 32, 64, 128, 256]
    for row in rows[:5]:
        assert row["mse"] == pytest.approx(1 / row["k"], rel=0.1)
        assert row["rms_from_limit"] == pytest.approx((1 / row["k"] - 1 / 256) ** 0.5, rel=0.1)
    assert rows[-1]["rms_from_limit"] == pytest.approx(0, abs=1e-6)


def test_sample_efficiency_reads_trained_runs(tmp_path):
    few = ["epochs=1", "max_steps=1", "samples=1", "eval_samples=1", "layers=1", *SMALLER["nbody"]]
    folders = {}
    for kind, group in (("learned", "prob"), ("uniform", "uniform")):
        folders[kind] = tmp_path / kind
        run.run("nbody", [f"group={group}", f"out={folders[kind]}", *few])
    plot = tmp_path / "plot.png"
    named = [f"{kind}={folder}" for kind, folder in folders.items()]
    result = run.run("sample_efficiency", ["count=4", "most_samples=16", f"plot={plot}", *named])
    curves = list(result["curves"].values())
    assert [len(rows) for rows in curves] == [5, 5, 5, 4] and result["systems"] == 4 and plot.exists()
    other = tmp_path / "other"
    run.run("exp_classify", ["stand_in=8", "preset=small", "max_steps=1", f"out={other}"])
    for wrong in (tmp_path / "nowhere", folders["learned"], other):
        with pytest.raises(ValueError, match="uniform: expected the folder of a trained n-body run with group=uniform"):
            run.run("sample_efficiency", [named[0], f"uniform={wrong}"])
    with pytest.raises(ValueError, match="learned: expected the folder of a trained n-body run with group=prob"):
        run.run("sample_efficiency", [f"learned={folders['uniform']}", named[1]])


def test_learning_curves_are_drawn(tmp_path, capsys):
    few = ["epochs=2", "samples=1", "eval_samples=1", *SMALLER["exp_classify"]]
    result = run.run("exp_classify", ["preset=paper_gin", *few])
    file, picture = tmp_path / "results.jsonl", tmp_path / "curves.png"
    diverged = [{"epoch": 0, "train_loss": None, "valid_accuracy": None}]
    file.write_text("".join(json.dumps(each) + "\n" for each in (result, {**result, "history": diverged})))
    strange = tmp_path / "strange.jsonl"
    strange.write_text('{"history": []}\n')
    assert curves.main(["accuracy", str(file), str(picture)]) == 0 and picture.stat().st_size > 10000
    assert curves.main([]) == 2 and "python -m lps.experiments.curves" in capsys.readouterr().err
    said_of = {("mse", file): "SCORE: expected one", ("accuracy", tmp_path / "none"): "No such file"}
    for (score, path), said in {**said_of, ("accuracy", strange): "FILE: expected lines of results"}.items():
        assert curves.main([score, str(path), str(picture)]) == 2
        err = capsys.readouterr().err
        assert said in err and err.count("\n") == 1


def test_exp_compares_distances_of_pairs_with_those_of_copies(monkeypatch):
    ragged = data.exp_like(6)
    monkeypatch.setattr(data, "exp", lambda folder: ragged)
    invariant = nn.Module()
    invariant.forward = lambda graphs, k: separation_output(graphs)
    monkeypatch.setattr("lps.experiments.exp.build", lambda config, **sizes: invariant)
    result = run.run("exp", ["repeats=1"])
    assert result["median_distances"]["isomorphic_copies"] == 0 < result["median_distances"]["pairs"]
    assert result["isomorphic_copies_told_apart"] == 0 == result["confused"]


def separation_output(graphs):
    """The number of edges: equal for isomorphic graphs."""
    from lps.models.symmetrized import Output

    return Output(graphs.adjacency.sum((1, 2))[:, None], None)
