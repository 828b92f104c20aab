"""EXP-classify: learn to tell satisfiable EXP graphs from others, half of which 1-WL confuses with their partner."""

from __future__ import annotations

import sys
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from lps import data
from lps.experiments import task, training
from lps.experiments.build import build
from lps.experiments.config import ConfigError, choose

PAPER = {
    **task.SETTINGS,
    "epochs": 2000,
    "warmup_epochs": 200.0,
    "clip": 0.1,
    "data": "",
    "stand_in": 0,  # graphs of a stand-in of the same shapes instead of the data
    "backbone": "mlp",  # or gin_id
    "group": "prob",  # or uniform, canonical, frame
    "fixed_noise": False,
    "noise_scale": 1.0,
    "tau": 0.01,
    "score_layers": 3,
    "score_hidden": 64,
}
PRESETS: dict[str, dict[str, Any]] = {
    "paper": PAPER,
    "paper_gin": {"backbone": "gin_id", "epochs": 1000},
    "paper_canonical": {"group": "canonical", "samples": 1, "eval_samples": 1},
    "paper_gin_canonical": {
        **{"backbone": "gin_id", "epochs": 1000, "group": "canonical", "samples": 1, "eval_samples": 1}
    },
    "paper_fixed_noise": {"fixed_noise": True},
    "paper_uniform": {"group": "uniform"},
    "small": {"backbone": "gin_id", "epochs": 60, "batch_size": 50, "samples": 2, "warmup_epochs": 5.0, "decay": True},
}
SIZES = {"n": 64, "node_channels": 2, "out_channels": 1, "order_out": 0}
BACKBONES = {
    "mlp": {"hidden": (2048, 4096, 2048, 10), "activation": "relu"},
    "gin_id": {"hidden": 64, "layers": 3, "head": (10,), "activation": "relu"},
}


def splits(config: dict[str, Any]) -> dict[str, task.Split]:
    """The published splits, or half, a quarter and a quarter of a stand-in."""
    if config["stand_in"]:
        graphs = data.exp_like(config["stand_in"])
        if graphs.n != SIZES["n"]:
            raise ConfigError(f"stand_in: expected graphs padded to {SIZES['n']} nodes, got {graphs.n}")
        return dict(zip(("train", "valid", "test"), task.split(graphs.batch, len(graphs))))
    return {name: task.Split(graphs.batch, rows) for name, (graphs, rows) in data.exp_splits(config["data"]).items()}


def loss(prediction: Tensor, target: Tensor) -> Tensor:
    """prediction (b, 1), target (b,)."""
    return F.binary_cross_entropy_with_logits(prediction[:, 0], target)


def score(prediction: Tensor, target: Tensor) -> dict[str, float]:
    return {"accuracy": ((prediction[:, 0] > 0) == (target > 0.5)).float().mean().item()}


def run(config: dict[str, Any]) -> dict[str, Any]:
    """Train, and test the epoch with the least validation loss."""
    model = build(config, **SIZES, **choose("backbone", config["backbone"], BACKBONES))
    return training.Trainer(config, model, task.Task(**splits(config), loss=loss, score=score)).run()


if __name__ == "__main__":
    from lps.experiments.run import main

    sys.exit(main("exp_classify"))
