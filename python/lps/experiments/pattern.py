"""PATTERN: which nodes of a graph of communities belong to a planted pattern? A ViT reads the adjacency as an image."""

from __future__ import annotations

import sys
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from lps import data
from lps.experiments import benchmark

PRETRAINED = {"pretrained": True}
PRESETS: dict[str, dict[str, Any]] = {
    "paper": benchmark.SETTINGS,
    "paper_uniform": {"group": "uniform"},
    "paper_frame": {"group": "frame"},
    "paper_canonical": {"group": "canonical", "eval_samples": 1},
    "paper_pretrained": PRETRAINED,
    "paper_pretrained_uniform": {**PRETRAINED, "group": "uniform"},
    "paper_pretrained_frame": {**PRETRAINED, "group": "frame"},
    "paper_pretrained_canonical": {**PRETRAINED, "group": "canonical", "eval_samples": 1},
    "small": benchmark.SMALL,
}


def loss(prediction: Tensor, target: Tensor) -> Tensor:
    """prediction (b, n, 2), target (b, n): cross entropy in which both classes weigh alike."""
    real = target != data.IGNORED
    share = F.one_hot(target[real], prediction.shape[-1]).float().mean(0)
    weight = (1 - share) * (share > 0)  # that of LRGB: the share of the other classes
    return F.cross_entropy(prediction.flatten(0, 1), target.flatten(), weight, ignore_index=data.IGNORED)


def score(prediction: Tensor, target: Tensor) -> dict[str, float]:
    """Accuracy of the classes, averaged: the published measure."""
    from torchmetrics.functional.classification import multiclass_accuracy

    real, classes = target != data.IGNORED, prediction.shape[-1]
    found = multiclass_accuracy(prediction.argmax(-1)[real], target[real], classes, average="macro")
    return {"accuracy": found.item()}


def run(config: dict[str, Any]) -> dict[str, Any]:
    """Train, and test the epoch with the least validation loss."""
    shapes = {"order_in": 2, "order_out": "diagonal", "out_channels": 2}
    return benchmark.run(config, "pattern", data.pattern_like, shapes, loss=loss, score=score)


if __name__ == "__main__":
    from lps.experiments.run import main

    sys.exit(main("pattern"))
