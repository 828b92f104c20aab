"""Sample efficiency: how far is a k-sample estimate from what it estimates, and from the truth?

Reads trained n-body runs: one with learned and one with uniform group elements. Each is estimated with samples of its
own distribution, and the first also with uniform ones and with frames: what training the distribution buys.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lps import groups
from lps.experiments import checkpoint, nbody
from lps.experiments.build import build
from lps.experiments.config import ConfigError
from lps.experiments.processes import seed_all

PRESETS: dict[str, dict[str, Any]] = {
    "paper": {
        "seed": 1,
        "learned": "",  # the folder (out=) of an n-body run with group=prob
        "uniform": "",  # of one with group=uniform
        "count": 200,  # test systems
        "most_samples": 256,  # the mean of so many stands for the expectation
        "plot": "",
    },
    "small": {"count": 20, "most_samples": 32},
}


def run(config: dict[str, Any]) -> dict[str, Any]:
    """Errors of estimates, by k, of each model and distribution."""
    seed_all(config["seed"])
    learned, settings = load(config, "learned", "prob")
    uniform, _ = load(config, "uniform", "uniform")
    symmetry = settings["symmetry"]
    cases = {
        "PS: trained and estimated with p(g|x)": (learned, learned.distribution),
        "GA: trained and estimated with uniform g": (uniform, uniform.distribution),
        "trained with p(g|x), estimated with uniform g": (learned, groups.Uniform(symmetry)),
        "trained with p(g|x), estimated with frames": (learned, groups.ParticleFrames(symmetry)),
    }
    split = nbody.splits(settings)["test"]
    batch, target = split.batch(split.numbers[: config["count"]])
    curves = {}
    for name, (model, distribution) in cases.items():
        samples = draw(model, distribution, batch, config["most_samples"])
        curves[name] = errors(samples, target)
    if config["plot"]:
        plot(curves, config["plot"])
    return {"systems": len(batch), "curves": curves}


def load(config: dict[str, Any], kind: str, group: str) -> tuple[nn.Module, dict[str, Any]]:
    """The best model of a run with that group, and its settings."""
    folder = Path(config[kind])
    state = checkpoint.latest(folder) if config[kind] else None
    known = state["config"] if state else {}
    if "symmetry" not in known or known["group"] != group:
        wanted = f"the folder of a trained n-body run with group={group}"
        raise ConfigError(f"{kind}: expected {wanted}, got {config[kind]!r}")
    model = build(known, **nbody.SIZES)
    model.load_state_dict(checkpoint.read(folder / checkpoint.BEST)["model"])
    return model.eval(), known


@torch.no_grad()
def draw(model: nn.Module, distribution: nn.Module, batch: Any, count: int) -> Tensor:
    """(count, b, n, 3): what one sample each predicts. Frames are all there are, each once."""
    if isinstance(distribution, groups.ParticleFrames):
        g = distribution(batch, 1).g
        return torch.stack([model.predict(batch, g[i]) for i in range(len(g))])
    return torch.stack([model.predict(batch, distribution(batch, 1).g) for _ in range(count)])


def errors(samples: Tensor, target: Tensor) -> list[dict[str, float]]:
    """For k = 1, 2, 4, ...: rms distance of disjoint k-sample means from the mean of all, and their error."""
    limit, rows = samples.mean(0), []
    count = len(samples)
    for k in [2**i for i in range(count.bit_length()) if 2**i <= count]:
        means = samples[torch.randperm(count)[: count // k * k]].unflatten(0, (-1, k)).mean(1)
        rows.append(
            {
                "k": k,
                "rms_from_limit": (means - limit).square().mean().sqrt().item(),
                "mse": (means - target).square().mean().item(),
            }
        )
    return rows


def plot(curves: dict[str, list[dict[str, float]]], file: str) -> None:
    """Both errors against k."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(11, 4))
    names = {"rms_from_limit": "distance of a k-sample estimate from its limit (rms)", "mse": "mean squared error"}
    for axis, (key, title) in zip(axes, names.items()):
        for name, rows in curves.items():
            drawn = [row for row in rows if row[key] > 1e-9 and (key == "mse" or row["k"] < rows[-1]["k"])]
            axis.loglog([row["k"] for row in drawn], [row[key] for row in drawn], marker=".", label=name)
        axis.set_xlabel("samples k")
        axis.set_title(title, fontsize=9)
        axis.grid(alpha=0.3)
    axes[0].legend(fontsize=7)
    figure.tight_layout()
    figure.savefig(file, dpi=120)
    plt.close(figure)


if __name__ == "__main__":
    from lps.experiments.run import main

    sys.exit(main("sample_efficiency"))
