"""Peptides-func: which of ten functions does a peptide have? A pretrained ViT reads its adjacency as an image."""

from __future__ import annotations

import sys
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from lps import data
from lps.experiments import benchmark

# 50,000 steps, of which 5,000 warm up; 84 steps an epoch.
PAPER = {
    **benchmark.SETTINGS,
    **{"epochs": 596, "max_steps": 50000, "warmup_epochs": 59.5, "weight_decay": 0.1},
    **{"pretrained": True, "patch_dropout": 0.5, "pad": "reflect", "centred": True, "sparse": True},
}
PRESETS: dict[str, dict[str, Any]] = {
    "paper": PAPER,
    "small": {**benchmark.SMALL, "pretrained": False},
}


def loss(prediction: Tensor, target: Tensor) -> Tensor:
    """prediction, target (b, 10)."""
    return F.binary_cross_entropy_with_logits(prediction, target)


def score(prediction: Tensor, target: Tensor) -> dict[str, float]:
    """Average precision, averaged over the functions that some peptides have and others have not."""
    from torchmetrics.functional.classification import binary_average_precision

    each = []
    for y, t in zip(prediction.T, target.T.long()):
        if 0 < t.sum() < len(t):
            rank = y.unique(return_inverse=True)[1]  # torchmetrics would take a float32 sigmoid: 1 from 17 on
            each.append(binary_average_precision(rank / rank.max().clamp(min=1), t).item())
    return {"average_precision": sum(each) / max(1, len(each))}


def run(config: dict[str, Any]) -> dict[str, Any]:
    """Train, and test the epoch with the highest average precision."""
    measures = {"loss": loss, "score": score, "monitor": "average_precision", "maximize": True}
    return benchmark.run(
        config,
        "peptides_func",
        lambda count, seed: data.peptides_like(count, 10, seed),
        {"order_in": (1, 2), "order_out": 0, "out_channels": 10},
        **measures,
    )


if __name__ == "__main__":
    from lps.experiments.run import main

    sys.exit(main("peptides_func"))
