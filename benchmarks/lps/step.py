"""python -m benchmarks.lps.step: whole training steps of the paper's settings, ours against the published method.

    python -m benchmarks.lps.step [--case TEXT] [--rounds N] [--threads N] [--small] [--json FILE]

Each row is one setting: seconds of a step (sampling, base model, loss, backward, optimizer) with this library, the
same with the published method and with the best dense one, ratios, and what share of its step each spends on the
symmetrization alone. Losses and gradients of the distribution are compared before anything is timed.
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
import json
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from lps import models
from lps.data import Graphs, Particles
from lps.experiments.run import versions
from torch import Tensor, nn

from benchmarks.lps.dense import Dense
from benchmarks.measure import paired_ratio

OURS, PUBLISHED, BEST = "lps_kernels", "published", "dense"
ENTROPY_WEIGHT = 0.1


class Setting(NamedTuple):
    """A batch and the model that takes it."""

    label: str
    config: dict[str, Any]
    b: int
    n: int
    real: tuple[int, int]  # nodes of the smallest and the largest graph
    degree: float = 3.0  # of a node, on average


VIT = {"backbone": "vit", "encoder": "vit_tiny_patch16_224", "tau": 0.01, "score_dropout": 0.1}
SETTINGS = [
    Setting(
        "PATTERN, ViT-tiny, n=188",
        {**VIT, "node_channels": 3, "edge_channels": 1, "out_channels": 2, "order_in": 2, "order_out": "diagonal"},
        *(8, 188, (44, 188), 50.0),
    ),
    Setting(
        "Peptides, ViT-tiny, n=444",
        {
            **{**VIT, "node_channels": 50, "edge_channels": 8, "out_channels": 10, "order_in": (1, 2)},
            **{"pad": "reflect", "centred": True, "sparse": True},
        },
        *(8, 444, (60, 444), 2.0),
    ),
    Setting(
        "EXP-classify, MLP, n=64, k=10",
        {
            **{"backbone": "mlp", "hidden": (2048, 4096, 2048, 10), "node_channels": 2, "out_channels": 1},
            **{"n_samples": 10, "tau": 0.01},
        },
        *(20, 64, (32, 64), 4.0),
    ),
    Setting(
        "EXP-classify, GIN-ID, n=64, k=10",
        {
            **{"backbone": "gin_id", "hidden": 64, "head": (10,), "node_channels": 2, "out_channels": 1},
            **{"n_samples": 10, "tau": 0.01},
        },
        *(100, 64, (32, 64), 4.0),
    ),
    Setting(
        "n-body, transformer, S_n x E(3), k=20",
        {"backbone": "transformer", "symmetry": "S_n x E(3)", "score_hidden": 64, "n_samples": 20, "tau": 0.01},
        *(100, 5, (5, 5)),
    ),
    Setting(
        "n-body, GNN, E(3), k=20",
        {"backbone": "gnn", "symmetry": "E(3)", "order_out": "point", "score_hidden": 64, "n_samples": 20},
        *(100, 5, (5, 5)),
    ),
]


def batch_of(setting: Setting) -> Graphs | Particles:
    """Random inputs of the setting's sizes; the same each time."""
    torch.manual_seed(0)
    b, n = setting.b, setting.n
    if "symmetry" in setting.config:
        return Particles(torch.randn(b, n, 3), torch.randn(b, n, 3), torch.randint(0, 2, (b, n)) * 2.0 - 1)
    num_nodes = torch.randint(setting.real[0], setting.real[1] + 1, (b,))
    num_nodes[0] = n
    real = torch.arange(n) < num_nodes[:, None]
    upper = (
        (torch.rand(b, n, n) < (setting.degree / num_nodes)[:, None, None]).triu(1) & real[:, :, None] & real[:, None]
    )
    adjacency = (upper | upper.mT).float()
    channels = setting.config.get("edge_channels", 1)
    if channels > 1:
        adjacency = adjacency[..., None] * torch.cat((torch.ones(b, n, n, 1), torch.rand(b, n, n, channels - 1)), -1)
    return Graphs(torch.rand(b, n, setting.config["node_channels"]) * real[..., None], adjacency, num_nodes)


def models_of(setting: Setting) -> dict[str, nn.Module]:
    """The same model three times, with the same weights."""
    torch.manual_seed(1)
    ours = models.build({"n": setting.n, **setting.config})
    found = {OURS: ours}
    for name, best in ((PUBLISHED, False), (BEST, True)):
        found[name] = copy.deepcopy(ours)
        found[name].distribution = Dense(found[name].distribution, best)
    return found


def loss_of(model: nn.Module, batch: Graphs | Particles) -> Tensor:
    out = model(batch)
    return out.prediction.square().mean() + ENTROPY_WEIGHT * out.entropy


def network(model: nn.Module) -> nn.Module:
    distribution = model.distribution
    return distribution.distribution.network if isinstance(distribution, Dense) else distribution.network


def compare(setting: Setting, batch: Graphs | Particles) -> None:
    """Raises where the rivals compute something else: the loss, or the gradient that reaches the distribution.

    In float64, because the scores of an untrained network are nearly ties, which float32 puts in another order.
    """
    torch.set_default_dtype(torch.float64)
    try:
        results = {}
        for name, model in models_of(setting).items():
            torch.manual_seed(2)
            loss = loss_of(model.double().eval(), in_double(batch))
            grads = torch.autograd.grad(loss, list(network(model).parameters()))
            results[name] = (loss.detach(), torch.cat([g.flatten() for g in grads]))
    finally:
        torch.set_default_dtype(torch.float32)
    expected = results.pop(OURS)
    for name, (loss, grad) in results.items():
        off = abs(loss / expected[0] - 1), (grad - expected[1]).norm() / expected[1].norm()
        if not max(off) < 1e-6:
            raise AssertionError(f"{name}: loss is off by {off[0]:.1e}, the distribution's gradient by {off[1]:.1e}")


def in_double(batch: Graphs | Particles) -> Graphs | Particles:
    parts = {f.name: getattr(batch, f.name) for f in dataclasses.fields(batch)}
    wide = {name: x.double() for name, x in parts.items() if x is not None and x.is_floating_point()}
    return dataclasses.replace(batch, **wide)


def step_of(model: nn.Module, batch: Graphs | Particles) -> Callable[[], None]:
    """One training step, as a function without arguments."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5)

    def step() -> None:
        optimizer.zero_grad()
        loss_of(model, batch).backward()
        optimizer.step()

    return step


class Recorder(nn.Module):
    """In the place of a base model: keeps what it is handed and returns what the base model returned once."""

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone, self.y, self.inputs = backbone, None, []
        if hasattr(backbone, "identifiers"):
            self.identifiers = backbone.identifiers

    def forward(self, *inputs: Any) -> Tensor:
        if self.y is None:
            with torch.no_grad():
                self.y = self.backbone(*inputs)
            self.y = self.y.detach().requires_grad_()
        self.inputs = [x for x in inputs if isinstance(x, Tensor)]
        return self.y


def symmetrization_of(model: nn.Module, batch: Graphs | Particles) -> Callable[[], None]:
    """What a step does between the scores and the base model, and after it, forward and backward."""
    distribution, k, backbone = model.distribution, model.n_samples, Recorder(model.backbone)
    learned = distribution.distribution if isinstance(distribution, Dense) else distribution
    with torch.no_grad():
        pseudo = learned.pseudo(batch, k) if isinstance(batch, Particles) else (learned.scores(batch, k),)
    leaves = [None if x is None else x.detach().requires_grad_() for x in pseudo]
    bare, grads = copy.copy(model), []
    bare._modules = {**model._modules, "backbone": backbone}

    def run() -> None:
        sample = distribution.sample(*leaves, batch)
        outs = [bare.predict(batch, sample.g), *backbone.inputs, sample.entropy]
        outs = [x for x in outs if x.requires_grad]
        if not grads:
            grads.extend(torch.randn_like(x) for x in outs)
        torch.autograd.backward(outs, grads)

    return run


def measure(setting: Setting, rounds: int, budget: float) -> dict[str, Any]:
    """Seconds and ratios, from rounds that take each in turn; fewer where `budget` seconds end."""
    batch = batch_of(setting)
    compare(setting, batch)
    found = models_of(setting)
    parts = {name: symmetrization_of(model, batch) for name, model in found.items()}
    steps = {name: step_of(model, batch) for name, model in found.items()}
    times: dict[str, list[float]] = {name: [] for name in found}
    shares: dict[str, list[float]] = {name: [] for name in found}
    begun = time.perf_counter()
    for i in range(rounds + 1):  # the first is a warm-up
        for name in found:
            whole, part = seconds(steps[name]), seconds(parts[name])
            if i:
                times[name].append(whole)
                shares[name].append(part / whole)
        if i >= 3 and time.perf_counter() - begun > budget:
            break
    return {
        "setting": setting.label,
        "rounds": len(times[OURS]),
        "seconds": {name: statistics.median(t) for name, t in times.items()},
        "ratio": {name: dataclasses.asdict(paired_ratio(t, times[OURS])) for name, t in times.items() if name != OURS},
        "share": {name: statistics.median(s) for name, s in shares.items()},
    }


def seconds(run: Callable[[], None]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def show(row: dict[str, Any]) -> None:
    print(f"\n{row['setting']}: {row['rounds']} rounds")
    for name, taken in row["seconds"].items():
        ratio = row["ratio"].get(name)
        against = f"  {ratio['median']:5.2f}x [{ratio['low']:.2f}, {ratio['high']:.2f}]" if ratio else " " * 22
        print(f"  {name:12} {taken:8.3f} s a step{against}  symmetrization {100 * row['share'][name]:5.1f} %")


def small(setting: Setting) -> Setting:
    """The same at sizes for a smoke test."""
    config = {**setting.config, "n_samples": min(2, setting.config.get("n_samples", 1))}
    if config["backbone"] == "vit":
        config["encoder_options"] = {"depth": 1, "img_size": 64}
    if config["backbone"] == "mlp":
        config["hidden"] = (16, 10)
    n = min(setting.n, 24)
    real = (n, n) if setting.real[0] == setting.n else (n // 2, n)
    return setting._replace(config=config, b=2, n=n, real=real)


def main(arguments: list[str] | None = None) -> list[dict[str, Any]]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", default="", help="only settings with this text in their name")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--budget", type=float, default=30.0, help="seconds a setting")
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--small", action="store_true", help="sizes for a smoke test")
    parser.add_argument("--json", default="", help="also written here")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads or torch.get_num_threads())
    chosen = [s for s in SETTINGS if options.case in s.label]
    if not chosen:
        parser.error(f"--case: none of {', '.join(s.label for s in SETTINGS)} has {options.case!r} in it")
    rows = []
    for setting in chosen:
        rows.append(measure(small(setting) if options.small else setting, options.rounds, options.budget))
        show(rows[-1])
    if options.json:
        with open(options.json, "w") as file:
            json.dump({"versions": versions(), "rows": rows}, file, indent=1)
    return rows


if __name__ == "__main__":
    sys.exit(0 if main() else 1)
