"""The model of a run, from its settings."""

from __future__ import annotations

from typing import Any

from torch import nn

from lps import models
from lps.experiments.processes import seed_all
from lps.models.build import known


def build(config: dict[str, Any], **sizes: Any) -> nn.Module:
    """A model with random weights of the run's seed; sizes and more settings that no preset has to say."""
    seed_all(config["seed"])
    named = known() - {"data"}  # a run's data is a folder
    return models.build({**{k: v for k, v in config.items() if k in named and v != ""}, **sizes})
