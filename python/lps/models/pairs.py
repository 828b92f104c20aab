"""Base models of small systems in which every pair of nodes counts: a transformer over pairs, and a GNN."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lps.models.representations import on_diagonal


class PairTransformer(nn.Module):
    """A transformer with one token a pair of nodes, with learned positions: no symmetry of its own.

    The features of a node lie on the token of its pair with itself, and so does its output.

    >>> net = PairTransformer(n=5, node_channels=6, edge_channels=2, out_channels=3, hidden=8)
    >>> assert net(torch.randn(7, 5, 3), torch.randn(7, 5, 3), torch.randn(7, 5, 5, 2)).shape == (7, 5, 3)

    Arguments:
        n: nodes.
        node_channels: of all tensors of nodes together; edge_channels, out_channels.
        hidden, layers, heads, dropout: of the encoder, whose layers normalize first.
    """

    def __init__(
        self,
        n: int,
        node_channels: int,
        edge_channels: int,
        out_channels: int,
        hidden: int = 64,
        layers: int = 8,
        heads: int = 4,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if heads < 1 or hidden % heads:
            raise ValueError(f"heads: expected a divisor of hidden, {hidden}, got {heads}")
        self.input = nn.Sequential(nn.Linear(node_channels + edge_channels, hidden), nn.Dropout(dropout))
        self.positions = nn.Parameter(torch.randn(n * n, hidden))
        self.dropout = nn.Dropout(dropout)
        layer = nn.TransformerEncoderLayer(
            hidden, heads, hidden, dropout, nn.functional.gelu, batch_first=True, norm_first=True
        )
        self.encoder = nn.TransformerEncoder(layer, layers, nn.LayerNorm(hidden), enable_nested_tensor=False)
        self.output = nn.Sequential(
            nn.ReLU(), nn.Dropout(dropout), nn.Linear(hidden, hidden), nn.ReLU(), nn.Dropout(dropout),
            nn.Linear(hidden, out_channels),
        )  # fmt: skip

    def forward(self, *inputs: Tensor) -> Tensor:
        """Features of nodes (m, n, c) and, last, of pairs (m, n, n, c) -> (m, n, out_channels)."""
        *nodes, pairs = inputs
        n = pairs.shape[1]
        tokens = torch.cat((on_diagonal(torch.cat(nodes, -1)), pairs), -1).flatten(1, 2)
        y = self.encoder(self.dropout(self.input(tokens) + self.positions))
        return self.output(y[:, :: n + 1])  # every n + 1st token is a node's


class GNN(nn.Module):
    """Messages between all pairs of nodes: follows permutations by itself, but no motion of space.

    >>> net = GNN(node_channels=6, edge_channels=2, out_channels=3, hidden=8)
    >>> assert net(torch.randn(7, 5, 3), torch.randn(7, 5, 3), torch.randn(7, 5, 5, 2)).shape == (7, 5, 3)

    Arguments:
        node_channels: of all tensors of nodes together; edge_channels, out_channels.
        hidden, layers: width, and rounds of messages.
    """

    def __init__(
        self, node_channels: int, edge_channels: int, out_channels: int, hidden: int = 60, layers: int = 4
    ) -> None:
        super().__init__()
        self.embedding = nn.Linear(node_channels, hidden)
        self.rounds = nn.ModuleList(_Round(hidden, edge_channels) for _ in range(layers))
        self.output = nn.Sequential(nn.Linear(hidden, hidden), nn.SiLU(), nn.Linear(hidden, out_channels))

    def forward(self, *inputs: Tensor) -> Tensor:
        """Features of nodes (m, n, c) and, last, of pairs (m, n, n, c) -> (m, n, out_channels)."""
        *nodes, pairs = inputs
        h = self.embedding(torch.cat(nodes, -1))
        for step in self.rounds:
            h = step(h, pairs)
        return self.output(h)


class _Round(nn.Module):
    def __init__(self, hidden: int, edge_channels: int) -> None:
        super().__init__()
        self.first = nn.Linear(2 * hidden + edge_channels, hidden)
        self.second = nn.Sequential(nn.SiLU(), nn.Linear(hidden, hidden), nn.SiLU())
        self.update = nn.Sequential(nn.Linear(2 * hidden, hidden), nn.SiLU(), nn.Linear(hidden, hidden))

    def forward(self, h: Tensor, pairs: Tensor) -> Tensor:
        c = h.shape[-1]
        to, of, edge = self.first.weight.split((c, c, pairs.shape[-1]), 1)
        # W (h_i, h_j, e_ij), with n products of h instead of n * n.
        mapped = (h @ to.T)[:, :, None] + (h @ of.T)[:, None] + nn.functional.linear(pairs, edge, self.first.bias)
        messages = self.second(mapped)
        others = messages.sum(2) - messages.diagonal(dim1=1, dim2=2).mT
        return self.update(torch.cat((h, others), -1))
