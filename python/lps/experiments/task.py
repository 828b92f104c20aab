"""What an experiment hands to the training loop: settings, splits, a loss and scores."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

# Defaults of the keys that the loop reads; experiments add theirs.
SETTINGS: dict[str, Any] = {
    "seed": 1,
    "epochs": 100,
    "max_steps": 0,  # training ends there too, unless it is 0
    "batch_size": 100,
    "optimizer": "adam",  # or adamw
    "lr": 1e-3,
    "group_rate": 1.0,  # the learning rate of p(g|x) in units of lr
    "weight_decay": 0.0,
    "clip": 0.0,  # largest norm of a gradient, 0 for none
    "warmup_epochs": 0.0,
    "decay": False,  # linearly, to 0 at the last step
    "patience": 0,  # epochs without a better validation score before training stops, 0 for no limit
    "eval_every": 1,
    "samples": 10,
    "eval_samples": 10,
    "entropy_weight": 0.1,
    "precision": "fp32",  # or bf16: autocast
    "device": "auto",
    "out": "",  # a folder for checkpoints, logs and results; a run found there is resumed
}


@dataclasses.dataclass(frozen=True)
class Split:
    """The rows of a data set that a split consists of; batch(numbers) gives what the model takes, and targets."""

    batch: Callable[[Tensor], tuple[Any, Tensor]]
    numbers: Tensor


@dataclasses.dataclass(frozen=True)
class Task:
    """What is learned: three splits, a loss of (prediction, target), and scores of all predictions of a split.

    monitor: the score that chooses the best epoch, larger is better where `maximize`.
    """

    train: Split
    valid: Split
    test: Split
    loss: Callable[[Tensor, Tensor], Tensor]
    score: Callable[[Tensor, Tensor], dict[str, float]]
    monitor: str = "loss"
    maximize: bool = False

    def measure(self, prediction: Tensor, target: Tensor) -> dict[str, float]:
        """The loss and the scores, all NaN where a prediction is: ranks and comparisons would hide it."""
        found = {"loss": self.loss(prediction, target).item(), **self.score(prediction, target)}
        return dict.fromkeys(found, math.nan) if prediction.isnan().any() else found


def split(batch: Callable[[Tensor], tuple[Any, Tensor]], count: int) -> tuple[Split, Split, Split]:
    """Half of the rows for training, a quarter each for validation and test."""
    rows = torch.arange(count)
    return tuple(Split(batch, part) for part in rows.tensor_split([count // 2, 3 * count // 4]))
