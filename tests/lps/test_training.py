"""The training loop: resumes bit for bit, refuses damaged checkpoints, learns, stops, and runs in several processes."""

import dataclasses
import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from lps.experiments import checkpoint, peptides_func
from lps.experiments.processes import seed_all
from lps.experiments.task import SETTINGS, Split, Task
from lps.experiments.training import Trainer
from torch import Tensor, nn

pytest.importorskip("tensorboard")
ENVIRONMENT = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}


class Output(NamedTuple):
    prediction: Tensor
    entropy: Tensor


class Rows(NamedTuple):
    x: Tensor

    def to(self, device):
        return Rows(self.x.to(device))


class Noisy(nn.Module):
    """Regression that draws random numbers in each call, as sampling does, and has batch statistics to keep."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(3, 16), nn.BatchNorm1d(16), nn.Dropout(0.2), nn.ReLU(), nn.Linear(16, 1))

    def forward(self, rows: Rows, k: int) -> Output:
        noise = torch.randn(k, *rows.x.shape).mean(0)
        prediction = self.net(rows.x + 0.1 * noise)[:, 0]
        return Output(prediction, prediction.square().mean())


class Spare(Noisy):
    """The same with a part that no prediction is read from, as the pooled token of many encoders."""

    def __init__(self) -> None:
        super().__init__()
        self.spare = nn.Linear(3, 3)


class Moved(Noisy):
    """The same with a p(g|x) of its own, as far as the loop can tell: a part of that name."""

    def __init__(self) -> None:
        super().__init__()
        self.distribution = nn.Linear(3, 3, bias=False)

    def forward(self, rows: Rows, k: int) -> Output:
        return super().forward(Rows(self.distribution(rows.x)), k)


def make(folder="", model: type[nn.Module] = Noisy, **changes) -> Trainer:
    g = torch.Generator().manual_seed(0)
    x = torch.randn(120, 3, generator=g)
    y = x.sum(1)

    def split(first: int, end: int) -> Split:
        return Split(lambda rows: (Rows(x[rows]), y[rows]), torch.arange(first, end))

    def score(prediction: Tensor, target: Tensor) -> dict[str, float]:
        return {"mae": (prediction - target).abs().mean().item()}

    task = Task(split(0, 80), split(80, 100), split(100, 120), nn.functional.mse_loss, score)
    config = {**SETTINGS, "epochs": 6, "batch_size": 16, "lr": 0.02, "samples": 2, "eval_samples": 2, "clip": 1.0}
    config |= {"entropy_weight": 0.01, "warmup_epochs": 1.0, "decay": True, "out": str(folder), **changes}
    seed_all(config["seed"])
    return Trainer(config, model(), task)


def timeless(result: dict) -> dict:
    history = [{k: v for k, v in row.items() if k != "seconds"} for row in result["history"]]
    return {**{k: result[k] for k in ("test", "best_valid", "epochs", "steps")}, "history": history}


class Stopped(Exception):
    pass


def stop_after(trainer: Trainer, steps: int) -> None:
    """Run until a step raises, as a killed run would end."""
    step = trainer._step

    def stopping(rows):
        if trainer.step == steps:
            raise Stopped
        return step(rows)

    trainer._step = stopping
    with pytest.raises(Stopped):
        trainer.run()


def test_learns_and_reports(tmp_path):
    result = make(tmp_path, epochs=40).run()
    assert result["history"][0]["valid_loss"] > 4 * result["test"]["loss"]
    assert result["best_valid"] == min(row["valid_loss"] for row in result["history"])
    line = json.loads((tmp_path / "results.jsonl").read_text().splitlines()[-1])
    assert line["test"] == result["test"] and line["config"]["lr"] == 0.02
    assert list((tmp_path / "tensorboard").iterdir())


@pytest.mark.parametrize("optimizer", ["adam", "adamw"])
@pytest.mark.parametrize("steps", [7, 10, 23])
def test_resumed_run_equals_uninterrupted_one(tmp_path, steps, optimizer):
    whole = make(tmp_path / "whole", optimizer=optimizer)
    expected = whole.run()
    stop_after(make(tmp_path / "parts", optimizer=optimizer), steps)
    again = make(tmp_path / "parts", optimizer=optimizer)
    result = again.run()
    assert timeless(result) == timeless(expected)
    for (name, a), b in zip(whole.model.state_dict().items(), again.model.state_dict().values()):
        assert torch.equal(a, b), name


def test_loses_at_most_one_epoch(tmp_path):
    stop_after(make(tmp_path), 14)  # 5 steps an epoch
    trainer = make(tmp_path)
    trainer._resume()
    assert (trainer.epoch, trainer.step) == (2, 10)


@pytest.mark.parametrize("damage", ["truncated", "changed", "empty"])
def test_damaged_checkpoint_is_refused_and_the_one_before_used(tmp_path, damage):
    expected = make().run()
    stop_after(make(tmp_path), 16)
    last = sorted(tmp_path.glob("checkpoint-*.pt"))[-1]
    held = last.read_bytes()
    half = len(held) // 2
    changed = {"truncated": held[:half], "changed": held[:half] + b"\0\1\2" + held[half + 3 :], "empty": b""}
    last.write_bytes(changed[damage])
    with pytest.raises(ValueError, match="whole file"):
        checkpoint.read(last)
    with pytest.warns(UserWarning, match="whole file.*using the one before"):
        result = make(tmp_path).run()
    assert timeless(result) == timeless(expected)


@pytest.mark.parametrize("missing", [True, False])
def test_a_run_goes_on_without_its_best_epoch(tmp_path, missing):
    stop_after(make(tmp_path), 16)
    best = tmp_path / "best.pt"
    best.unlink() if missing else best.write_bytes(best.read_bytes()[:-9])
    with pytest.warns(UserWarning, match="best.pt.*; the best epoch so far is lost"):
        result = make(tmp_path).run()
    assert result["best_valid"] == min(row["valid_loss"] for row in result["history"][3:])
    best.unlink()
    with pytest.warns(UserWarning, match="best.pt.*; the best epoch so far is lost"):
        assert make(tmp_path).run()["best_valid"] is None


def test_interrupted_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "a.pt"
    checkpoint.write(path, {"x": torch.ones(3)})

    def fails(_):
        raise OSError("disk full")

    monkeypatch.setattr(os, "fsync", fails)
    with pytest.raises(OSError, match="disk full"):
        checkpoint.write(path, {"x": torch.zeros(3)})
    assert torch.equal(checkpoint.read(path)["x"], torch.ones(3))


def test_only_two_checkpoints_are_kept(tmp_path):
    make(tmp_path).run()
    assert [p.name for p in sorted(tmp_path.glob("checkpoint-*.pt"))] == [
        "checkpoint-000005.pt",
        "checkpoint-000006.pt",
    ]


def test_killed_run_goes_on_and_a_second_one_at_once_is_refused(tmp_path):
    script = f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r}); import test_training as t; "
    command = [sys.executable, "-c", script + "t.make(sys.argv[1], epochs=4000).run()", str(tmp_path)]
    run = subprocess.Popen(command, env=ENVIRONMENT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while len(list(tmp_path.glob("checkpoint-*.pt"))) < 2 and time.monotonic() < deadline:
        time.sleep(0.05)
    with pytest.raises(ValueError, match=f"{tmp_path}: expected a folder that no other run is using"):
        make(tmp_path, epochs=4000).run()
    run.send_signal(signal.SIGKILL)
    run.wait()
    with checkpoint.claim(tmp_path):
        pass
    trainer = make(tmp_path, epochs=4000)
    trainer._resume()
    assert trainer.epoch >= 2 and trainer.step == 5 * trainer.epoch


def test_other_settings_are_not_resumed(tmp_path):
    make(tmp_path, epochs=1).run()
    with pytest.raises(ValueError, match=r"holds a run with other settings \(lr\)"):
        make(tmp_path, epochs=1, lr=0.5).run()


def test_finished_run_is_tested_with_more_samples(tmp_path):
    first = make(tmp_path, epochs=1).run()
    again = make(tmp_path, epochs=1, eval_samples=50)
    second = again.run()
    assert second["steps"] == first["steps"] and second["history"] == first["history"]
    assert second["test"] != first["test"] and second["config"]["eval_samples"] == 50
    with pytest.raises(ValueError, match=r"other settings \(epochs, eval_samples\)"):
        make(tmp_path, epochs=2, eval_samples=50).run()


def test_a_run_out_of_patience_is_tested_with_more_samples(tmp_path):
    few = {"folder": tmp_path, "lr": 0.0, "epochs": 50, "patience": 2}
    first, again = make(**few).run(), make(**few, eval_samples=50).run()
    assert again["epochs"] == first["epochs"] < 50 and again["test"] != first["test"]


def test_warms_up_and_decays():
    trainer = make(epochs=4, warmup_epochs=2.0)
    rates = [trainer._rate(step) for step in range(21)]
    assert rates[:11] == pytest.approx([i / 10 for i in range(11)]) and rates[10:] == pytest.approx(
        [1 - i / 10 for i in range(11)]
    )
    assert make(warmup_epochs=0.0, decay=False)._rate(999) == 1


def test_max_steps_ends_within_an_epoch():
    assert make(max_steps=7).run()["steps"] == 7


def test_stops_where_nothing_gets_better():
    result = make(lr=0.0, epochs=50, patience=3).run()
    assert result["epochs"] < 50
    scores = [row["valid_loss"] for row in result["history"]]
    assert scores[-4] == min(scores) or scores.index(min(scores)) == len(scores) - 4


@pytest.mark.parametrize("maximize", [False, True])
def test_a_diverged_epoch_is_never_the_best(maximize):
    trainer = make()
    trainer.task = dataclasses.replace(trainer.task, maximize=maximize)
    for value in (math.nan, 0.5, math.nan):
        trainer._keep_best({"loss": value})
    assert trainer.best == 0.5 and trainer.waited == 1


def test_a_diverged_epoch_has_no_score_and_is_not_the_best():
    trainer = make()
    trainer.task = dataclasses.replace(trainer.task, score=peptides_func.score, monitor="average_precision")
    target = torch.tensor([[0.0], [1.0]])
    scores = trainer.task.measure(torch.tensor([[math.nan], [2.0]]), target)
    assert scores.keys() == {"loss", "average_precision"} and all(map(math.isnan, scores.values()))
    trainer._keep_best(scores)
    assert trainer.best is None
    assert trainer.task.measure(target, target)["average_precision"] == 1


def test_patience_counts_epochs():
    result = make(lr=0.0, epochs=50, patience=4, eval_every=2).run()
    evaluated = [row["valid_loss"] for row in result["history"] if "valid_loss" in row]
    assert result["epochs"] < 50 and evaluated[-3] == min(evaluated)


def test_best_epoch_is_tested():
    trainer = make(lr=0.3, decay=False, epochs=12)
    trainer.run()
    for name, value in trainer.model.state_dict().items():
        assert torch.equal(value, trainer.weights[name])


def test_clipping_bounds_the_step():
    trainer = make(clip=1e-6, entropy_weight=0.0)
    trainer._step(torch.arange(16))
    norm = torch.stack([p.grad.norm() for p in trainer.model.parameters()]).norm()
    assert 0 < norm <= 1.01e-6


def test_bf16_keeps_float_parameters():
    trainer = make(precision="bf16", epochs=2)
    seen = []
    trainer.model.net[0].register_forward_hook(lambda *a: seen.append(a[-1].dtype))
    trainer.run()
    assert set(seen) == {torch.bfloat16} and trainer.model.net[0].weight.dtype == torch.float32


def test_runs_in_two_processes(tmp_path):
    script = tmp_path / "run.py"
    script.write_text(
        f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        "import test_training as t, torch\n"
        "trainer = t.make(sys.argv[1], t.Spare, epochs=3)\n"
        "trainer.run()\n"
        "from lps.experiments.processes import gather\n"
        "first, second = gather(list(trainer.model.state_dict().values()))\n"
        "assert all(map(torch.equal, first, second)), 'the processes went apart'\n"
        "a, b = gather(torch.rand(1))\n"
        "assert not torch.equal(a, b), 'the processes draw the same'\n"
        "assert trainer.step == 3 * 2\n"
    )
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    for _ in range(2):  # the second is resumed
        done = subprocess.run(
            [*command, str(script), str(tmp_path / "out")], capture_output=True, text=True, timeout=300
        )
        assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.parametrize("rate", [0.0, 0.1])
def test_the_group_learns_at_its_own_rate(rate):
    trainer = make(model=Moved, group_rate=rate)
    before = {name: p.detach().clone() for name, p in trainer.model.named_parameters()}
    for _ in range(2):  # the warm-up begins at zero
        trainer._step(torch.arange(16))
    first = 0.02 / 5  # Adam's first step is as long as its rate
    for name, expected in (("net.0.weight", first), ("distribution.weight", rate * first)):
        moved = (trainer.model.get_parameter(name) - before[name]).abs().max().item()
        assert moved == pytest.approx(expected, rel=0.2)


def test_a_run_goes_on_with_as_many_processes(tmp_path):
    make(tmp_path, epochs=1).run()
    trainer = make(tmp_path, epochs=1)
    trainer.world = 2
    with pytest.raises(ValueError, match="holds a run of 1 processes, not 2"):
        trainer.run()
