"""Distributions by name, from plain settings."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from lps.groups.base import Distribution
from lps.groups.given import GraphFrames, ParticleFrames, Uniform
from lps.groups.learned import Canonical, GraphDistribution, ParticleDistribution

GROUPS = ("prob", "canonical", "uniform", "frame")


def build(config: Mapping[str, Any]) -> Distribution:
    """A distribution from settings; those that it has no use for are left alone.

    >>> assert isinstance(build({"group": "prob", "symmetry": "S_n x E(3)", "tau": 0.1}), ParticleDistribution)

    Arguments:
        config: "group": "prob", "canonical", "uniform" or "frame"; "symmetry": see `Symmetry`, by default "S_n";
            "data": "graphs" or "particles", by default what the symmetry suggests; and arguments of the distribution,
            see `GraphDistribution`, `ParticleDistribution`.
    Raises: ValueError for a group that is none of these.
    """
    group, symmetry = config.get("group", "prob"), config.get("symmetry", "S_n")
    graphs = config.get("data", "graphs" if symmetry == "S_n" else "particles") == "graphs"
    if group == "uniform":
        return Uniform(symmetry)
    if group == "frame":
        return GraphFrames() if graphs else ParticleFrames(symmetry)
    if group not in GROUPS:
        raise ValueError(f"group: expected one of {', '.join(GROUPS)}, got {group!r}")
    learned = accepted(GraphDistribution if graphs else ParticleDistribution, config)
    return Canonical(learned) if group == "canonical" else learned


def accepted(make: Callable[..., Any], config: Mapping[str, Any]) -> Any:
    """make(...) with those settings that it takes."""
    names = parameters(make)
    return make(**{name: value for name, value in config.items() if name in names})


def parameters(make: Callable[..., Any]) -> set[str]:
    """The names of the settings that a class or function takes."""
    return set(inspect.signature(make).parameters)
