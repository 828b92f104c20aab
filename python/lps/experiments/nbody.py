"""n-body: where will five charged particles be? Trained with learned (PS), uniform (GA) or canonical group elements."""

from __future__ import annotations

import sys
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from lps import data
from lps.experiments import task, training
from lps.experiments.build import build
from lps.experiments.config import choose

PAPER = {
    **task.SETTINGS,
    "epochs": 10000,
    "weight_decay": 1e-12,
    "samples": 20,
    "eval_samples": 20,
    "train_count": 3000,
    "valid_count": 2000,
    "test_count": 2000,
    "data_seed": 0,
    "backbone": "transformer",  # or gnn
    "hidden": 64,
    "layers": 8,
    "heads": 4,
    "dropout": 0.0,
    "order_out": "displacement",  # or point: what the model predicts is added to the positions or to their centroid
    "group": "prob",  # or uniform, canonical, frame
    "symmetry": "S_n x E(3)",
    "fixed_noise": False,
    "noise_scale": 1.0,
    "tau": 0.1,
    "score_hidden": 64,
    "neighbours": 4,
    "score_dropout": 0.08,
}
GNN = {"backbone": "gnn", "hidden": 60, "layers": 4, "symmetry": "E(3)", "order_out": "point"}
CANONICAL = {"group": "canonical", "samples": 1, "eval_samples": 1}
PRESETS: dict[str, dict[str, Any]] = {
    "paper": PAPER,
    "paper_uniform": {"group": "uniform"},
    "paper_canonical": CANONICAL,
    "paper_gnn": GNN,
    "paper_gnn_uniform": {**GNN, "group": "uniform"},
    "paper_gnn_canonical": {**GNN, **CANONICAL},
    "small": {**GNN, "epochs": 20, "samples": 4, "eval_samples": 4, "valid_count": 500, "test_count": 500},
}
BACKBONES = {"transformer": {}, "gnn": {}}  # whose settings are the run's
SIZES = {"data": "particles", "n": 5, "node_channels": 6, "edge_channels": 2, "out_channels": 3}


def splits(config: dict[str, Any]) -> dict[str, task.Split]:
    """Systems of each split; fewer than the published numbers are simulated anew."""
    found = {}
    for name in data.SPLITS:
        particles, target = data.nbody(name, config["data_seed"], config[f"{name}_count"])

        def batch(rows: Tensor, particles=particles, target=target) -> tuple[data.Particles, Tensor]:
            return particles[rows], target[rows]

        found[name] = task.Split(batch, torch.arange(len(particles)))
    return found


def score(prediction: Tensor, target: Tensor) -> dict[str, float]:
    return {"mse": F.mse_loss(prediction, target).item()}


def run(config: dict[str, Any]) -> dict[str, Any]:
    """Train, and test the epoch with the least validation error."""
    model = build(config, **SIZES, **choose("backbone", config["backbone"], BACKBONES))
    return training.Trainer(config, model, task.Task(**splits(config), loss=F.mse_loss, score=score)).run()


if __name__ == "__main__":
    from lps.experiments.run import main

    sys.exit(main("nbody"))
