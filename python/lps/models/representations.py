"""What a base model is handed of a batch: tensors, and how the group acts on each."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

import lps_kernels as lk
from lps.data.batch import Graphs, Particles

GRAPH_OUT = {0: 0, 1: 1, 2: 2, "diagonal": 2}  # how many axes of nodes a base model's output has
PARTICLE_OUT = {"vector": "vector", "point": "point", "displacement": "vector"}


def inputs_of(order_in: Any, node_channels: int, edge_channels: int) -> list[tuple[int, int]]:
    """The order and the channels of each tensor that `represent` makes of graphs.

    >>> assert inputs_of((1, 2), 3, 1) == [(1, 3), (2, 1)] and inputs_of(2, 3, 1) == [(2, 4)]
    """
    nodes, edges = (1, node_channels), (2, edge_channels)
    known = {1: [nodes], 2: [(2, node_channels + edge_channels)], "edges": [edges], (1, 2): [nodes, edges]}
    order_in = tuple(order_in) if isinstance(order_in, list) else order_in
    if order_in not in known:
        raise ValueError(f"order_in: expected 1, 2, (1, 2) or 'edges', got {order_in!r}")
    return known[order_in]


def axes_of(order_out: int | str) -> int:
    """How many axes of nodes the output of a base model of graphs has."""
    if order_out not in GRAPH_OUT:
        raise ValueError(f"order_out: expected one of {list(GRAPH_OUT)}, got {order_out!r}")
    return GRAPH_OUT[order_out]


def represent(batch: Graphs | Particles, order_in: Any, g: lk.GroupElement) -> tuple[tuple[Tensor, ...], list]:
    """The tensors of a batch that a base model takes, and the orders of each under g.

    Graphs: order_in 1 is the features of nodes (b, n, c), "edges" those of edges (b, n, n, c_e), 2 the latter with
    the former on the diagonal (b, n, n, c_e + c), and (1, 2) the first and the second. Particles have no choice:
    positions, velocities (b, n, 3), and of each pair the product of charges and the squared distance (b, n, n, 2).
    """
    if isinstance(batch, Particles):
        pairs = particle_pairs(batch)
        orders = [order_under(g, 1, "point"), order_under(g, 1, "vector"), order_under(g, 2, 0)]
        return (batch.positions, batch.velocities, pairs), orders
    edges = batch.adjacency if batch.adjacency.dim() == 4 else batch.adjacency[..., None]
    if order_in == 1:
        return (batch.x,), [1]
    if order_in == "edges":
        return (edges,), [2]
    if order_in == 2:
        return (torch.cat((edges, on_diagonal(batch.x)), -1),), [2]
    return (batch.x, edges), [1, 2]


def order_under(g: lk.GroupElement, nodes: int, space: int | str) -> Any:
    """The order of something with so many axes of nodes, and scalars, vectors or points in space, under any group."""
    if isinstance(g, (lk.Orthogonal, lk.Euclidean)):
        return space
    return (nodes, space) if hasattr(g, "motion") else nodes


def particle_pairs(batch: Particles) -> Tensor:
    """(b, n, n, 2): products of charges and squared distances of pairs; zero for a particle with itself."""
    products = batch.charges[:, :, None] * batch.charges[:, None, :]
    difference = batch.positions[:, :, None] - batch.positions[:, None, :]
    pairs = torch.stack((products, difference.square().sum(-1)), -1)
    other = ~torch.eye(pairs.shape[1], dtype=torch.bool, device=pairs.device)
    return pairs * other[..., None]


def on_diagonal(x: Tensor) -> Tensor:
    """(b, n, c) -> (b, n, n, c), zero off the diagonal."""
    return torch.diag_embed(x.mT).permute(0, 2, 3, 1)
