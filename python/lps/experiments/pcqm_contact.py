"""PCQM-Contact: which pairs of atoms, far apart in the molecule's graph, are near in space?"""

from __future__ import annotations

import sys
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from lps import data
from lps.experiments import benchmark

# 50,000 steps, of which 5,000 warm up; 3,664 steps an epoch of 469,085 molecules.
PAPER = {
    **benchmark.SETTINGS,
    **{"epochs": 14, "max_steps": 50000, "warmup_epochs": 1.365, "lr": 5e-5, "samples": 10},
    **{"pretrained": True, "score_dropout": 0.0},
}
PRESETS: dict[str, dict[str, Any]] = {
    "paper": PAPER,
    "small": {**benchmark.SMALL, "pretrained": False, "samples": 1},
}


def loss(prediction: Tensor, target: Tensor) -> Tensor:
    """prediction (b, n, n, 1), target (b, n, n): cross entropy of the pairs that have a label, 0 where none has."""
    labelled = target >= 0
    total = F.binary_cross_entropy_with_logits(prediction[..., 0][labelled], target[labelled], reduction="sum")
    return total / labelled.sum().clamp(min=1)


def score(prediction: Tensor, target: Tensor) -> dict[str, float]:
    """Mean reciprocal rank of an atom's contact among the other atoms that are none of its contacts, a molecule's mean.

    That is LRGB's filtered measure without self-loops. Molecules without contacts are left out.
    """
    ranks = []
    for y, t in zip(prediction[..., 0], target):
        contact = t == 1
        m = int((t.diagonal() != data.IGNORED).sum())
        others = ~(contact[:m, :m] | torch.eye(m, dtype=torch.bool))
        of, to = contact.nonzero(as_tuple=True)
        better = ((y[of, :m] >= y[of, to][:, None]) & others[of]).sum(1)
        ranks += [(1 / (1.0 + better)).mean()] if of.numel() else []
    return {"mrr": torch.stack(ranks).mean().item() if ranks else 0.0}


def run(config: dict[str, Any]) -> dict[str, Any]:
    """Train, and test the epoch with the least validation loss."""
    shapes = {"order_in": (1, 2), "order_out": 2, "out_channels": 1}
    return benchmark.run(config, "pcqm_contact", data.contact_like, shapes, loss=loss, score=score)


if __name__ == "__main__":
    from lps.experiments.run import main

    sys.exit(main("pcqm_contact"))
