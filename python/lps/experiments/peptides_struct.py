"""Peptides-struct: eleven lengths and moments of a peptide in space, from its graph alone."""

from __future__ import annotations

import sys
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from lps import data
from lps.experiments import benchmark, peptides_func

PRESETS: dict[str, dict[str, Any]] = {
    "paper": {**peptides_func.PAPER, "pad": "circular"},
    "small": peptides_func.PRESETS["small"],
}


def score(prediction: Tensor, target: Tensor) -> dict[str, float]:
    """Mean absolute error, the published measure, and R2 averaged over the targets."""
    rest = (prediction - target).square().sum(0) / (target - target.mean(0)).square().sum(0)
    return {"mae": F.l1_loss(prediction, target).item(), "r2": 1 - rest.mean().item()}


def run(config: dict[str, Any]) -> dict[str, Any]:
    """Train, and test the epoch with the least error."""
    return benchmark.run(
        config,
        "peptides_struct",
        lambda count, seed: data.peptides_like(count, 11, seed),
        {"order_in": (1, 2), "order_out": 0, "out_channels": 11},
        loss=F.l1_loss,
        score=score,
        monitor="mae",
    )


if __name__ == "__main__":
    from lps.experiments.run import main

    sys.exit(main("peptides_struct"))
