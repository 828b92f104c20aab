"""The plainest base model: everything in one vector."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lps.models.representations import axes_of, inputs_of

ACTIVATIONS = {"relu": nn.ReLU, "tanh": nn.Tanh, "gelu": nn.GELU, "silu": nn.SiLU}


def dense(sizes: Sequence[int], activation: str = "relu", last: bool = False) -> nn.Sequential:
    """Linear layers with activations between them, and after the last one too if `last`."""
    if activation not in ACTIVATIONS:
        raise ValueError(f"activation: expected one of {', '.join(ACTIVATIONS)}, got {activation!r}")
    layers: list[nn.Module] = []
    for c_in, c_out in itertools.pairwise(sizes):
        layers += [nn.Linear(c_in, c_out), ACTIVATIONS[activation]()]
    return nn.Sequential(*layers if last else layers[:-1])


def widths(name: str, sizes: Sequence[int]) -> tuple[int, ...]:
    """Those of several layers."""
    if isinstance(sizes, int):
        raise ValueError(f"{name}: expected the widths of layers, such as ({sizes},), got {sizes}")
    return tuple(sizes)


class MLP(nn.Module):
    """A multilayer perceptron of all features of all nodes and edges: no symmetry of its own.

    >>> net = MLP(n=4, node_channels=2, out_channels=3, hidden=(8,), order_out=1)
    >>> assert net(torch.zeros(5, 4, 2), torch.zeros(5, 4, 4, 1)).shape == (5, 4, 3)

    Arguments:
        n: nodes, padding among them.
        node_channels, edge_channels, out_channels: features in and out.
        order_in, order_out: see `SymmetrizedModel`.
        hidden: widths.
        activation: "relu", "tanh", "gelu" or "silu"; last_activation: after the last layer too.
    """

    def __init__(
        self,
        n: int,
        node_channels: int,
        out_channels: int,
        edge_channels: int = 1,
        order_in: Any = (1, 2),
        order_out: int | str = 0,
        hidden: Sequence[int] = (2048, 4096, 2048),
        activation: str = "relu",
        last_activation: bool = False,
    ) -> None:
        super().__init__()
        flat = sum(n**order * channels for order, channels in inputs_of(order_in, node_channels, edge_channels))
        self.shape = (*[n] * axes_of(order_out), out_channels)
        self.layers = dense((flat, *widths("hidden", hidden), math.prod(self.shape)), activation, last_activation)

    def forward(self, *inputs: Tensor) -> Tensor:
        """(m, n, c) and (m, n, n, c) in the order of order_in -> (m, ...)."""
        x = torch.cat([a.flatten(1) for a in inputs], 1)
        wanted = self.layers[0].in_features
        if x.shape[1] != wanted:
            got = ", ".join(str(tuple(a.shape)) for a in inputs)
            raise ValueError(f"inputs: expected {wanted} numbers a graph, got {x.shape[1]} in shapes {got}")
        return self.layers(x).view(x.shape[0], *self.shape)
