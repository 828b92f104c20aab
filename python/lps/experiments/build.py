"""The model of a run, from its settings."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from torch import nn

from lps import models
from lps.experiments.config import ConfigError
from lps.experiments.processes import seed_all
from lps.models.build import idle, known, plain_name


def build(config: dict[str, Any], **sizes: Any) -> nn.Module:
    """A model with random weights of the run's seed; sizes and more settings that no preset has to say."""
    seed_all(config["seed"])
    named = known() - {"data"}  # a run's data is a folder
    return models.build({**{k: v for k, v in config.items() if k in named and v != ""}, **sizes})


def settle(config: dict[str, Any], given: Iterable[str]) -> dict[str, Any]:
    """The settings of a run, of which the user has given some and a preset the others.

    Weights that lie in an encoder's folder are loaded, whatever the preset says of weights by name. Raises ConfigError
    for what is given and has no effect.
    """
    backbone = config.get("backbone")
    if backbone is None:
        return config
    if without := sorted(idle(backbone).intersection(given)):
        raise ConfigError(f"{without[0]}: expected none, backbone={backbone} has no use for it")
    if plain_name(backbone) == "language" and "pretrained" not in given and Path(config["encoder"]).is_dir():
        return {**config, "pretrained": True}
    return config
