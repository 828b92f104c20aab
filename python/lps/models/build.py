"""Models by name, from plain settings."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from lps import groups
from lps.groups.build import accepted, parameters
from lps.groups.learned import GraphDistribution, ParticleDistribution
from lps.models.encoders import LanguageEncoder, VisionEncoder
from lps.models.gin_id import GINID
from lps.models.mlp import MLP
from lps.models.pairs import GNN, PairTransformer
from lps.models.symmetrized import IdentifiedModel, SymmetrizedModel
from lps.models.tokens import TokenModel

BACKBONES: dict[str, Callable[..., nn.Module]] = {
    "mlp": MLP,
    "gin_id": GINID,
    "transformer": PairTransformer,
    "gnn": GNN,
}
ENCODERS: dict[str, Callable[..., nn.Module]] = {"vision": VisionEncoder, "language": LanguageEncoder}
PARTICLES = {"node_channels": 6, "edge_channels": 2, "out_channels": 3, "order_out": "displacement"}
ALIASES = {"vit": "vision", "beit": "vision", "bert": "language"}


def build(config: Mapping[str, Any]) -> SymmetrizedModel:
    """A symmetrized model from settings.

    >>> sizes = {"n": 6, "node_channels": 1, "out_channels": 2, "hidden": (8,)}
    >>> model = build({"backbone": "mlp", "group": "prob", "n_samples": 4, **sizes})
    >>> assert isinstance(model.backbone, MLP)

    Arguments:
        config: "backbone": "mlp", "gin_id", "transformer", "gnn", "vision" (or "vit", "beit") or "language" ("bert");
            "group": see `lps.groups.build`; "order_in", "order_out", "n_samples": see `SymmetrizedModel`; and
            arguments of the backbone (for "vision" and "language" of `TokenModel` and of the encoder) and of the
            distribution. A setting that another backbone or group would have a use for is left alone.
    Raises: ValueError for names that are none, and for settings that nothing has a use for.
    """
    unknown = sorted(set(config) - known())
    if unknown:
        raise ValueError(f"{unknown[0]}: unknown setting, known are {', '.join(sorted(known()))}")
    name = plain_name(config.get("backbone", "mlp"))
    data = "particles" if name in ("transformer", "gnn") else "graphs"
    if data == "particles":
        config = {**PARTICLES, **config}
        orders = config.get("order_in", (1, 2)), config["order_out"]
        if config.get("data") == "graphs" and orders not in (((1, 2), 1), ([1, 2], 1)):
            raise ValueError(f"backbone: {name} takes graphs with order_in, order_out (1, 2), 1 only, got {orders}")
    if name in ENCODERS:
        config = {**config, "order_in": config.get("order_in", 2)}
        config["encoder"] = accepted(ENCODERS[name], config)
        backbone = accepted(TokenModel, config)
    else:
        backbone = accepted(BACKBONES[name], config)
    # After the base model: with the same seed that has the same random weights, whatever the group.
    distribution = groups.build({"data": data, **config})
    model = IdentifiedModel if name == "gin_id" else SymmetrizedModel
    return accepted(model, {**config, "distribution": distribution, "backbone": backbone})


def plain_name(backbone: str) -> str:
    """The name of a base model that has several."""
    name = ALIASES.get(backbone, backbone)
    if name not in {**BACKBONES, **ENCODERS}:
        raise ValueError(f"backbone: expected one of {', '.join([*BACKBONES, *ENCODERS, *ALIASES])}, got {name!r}")
    return name


def known() -> set[str]:
    """Settings that something has a use for."""
    makers = (SymmetrizedModel, GraphDistribution, ParticleDistribution)
    of_backbones = map(settings_of, (*BACKBONES, *ENCODERS))
    return {"group", "data"}.union(*map(parameters, makers), *of_backbones) - {"distribution"}


def settings_of(backbone: str) -> set[str]:
    """Settings that a base model has a use for."""
    name = plain_name(backbone)
    return parameters(ENCODERS[name]) | parameters(TokenModel) if name in ENCODERS else parameters(BACKBONES[name])


def idle(backbone: str) -> set[str]:
    """Settings of other base models that this one has no use for."""
    of_all = set().union(*map(settings_of, (*BACKBONES, *ENCODERS)))
    return of_all - settings_of(backbone) - parameters(SymmetrizedModel)
