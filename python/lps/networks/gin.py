"""GIN: one score a node, by sums over neighbours, with a virtual node that every node sees."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Aggregate = Callable[[Tensor], Tensor]


class GIN(nn.Module):
    """A graph isomorphism network for k noisy copies of each graph: permuting the nodes permutes the scores.

    Nodes are packed, so that neither time nor batch statistics are spent on padding.

    >>> import torch
    >>> scores = GIN(2)(torch.randn(3, 5, 4, 2), torch.ones(3, 5, 5), torch.tensor([5, 2, 1]))
    >>> assert scores.shape == (3, 4, 5) and scores[2, 0, 1] == 0

    Arguments:
        channels: of a node's features.
        hidden: width.
        layers: rounds of messages.
        dropout: in the MLP of each round.
        sparse: sum along edges instead of multiplying by the adjacency; faster where few pairs are edges.
    Source: Xu et al., "How powerful are graph neural networks?", ICLR 2019; the virtual node is that of Kim et al.,
        NeurIPS 2023, appendix.
    """

    def __init__(
        self, channels: int, hidden: int = 64, layers: int = 3, dropout: float = 0.0, sparse: bool = False
    ) -> None:
        super().__init__()
        self.sparse = sparse
        self.virtual_node = nn.Parameter(torch.randn(channels))
        self.eps = nn.Parameter(torch.rand(layers))
        self.rounds = nn.ModuleList(_mlp(channels if i == 0 else hidden, hidden, dropout) for i in range(layers))
        self.head = nn.Linear(hidden, 1)

    def forward(self, x: Tensor, adjacency: Tensor, num_nodes: Tensor) -> Tensor:
        """x (b, n, k, c), adjacency (b, n, n), num_nodes (b,) -> scores (b, k, n), zero for padding."""
        b, n, k, c = x.shape
        x = torch.cat((self.virtual_node.expand(b, 1, k, c), x), 1)
        real = (torch.arange(n + 1, device=x.device) <= num_nodes[:, None]).flatten().nonzero()[:, 0]
        aggregate = (_along_edges if self.sparse else _by_product)(with_virtual_node(adjacency, num_nodes), real)
        h = x.flatten(0, 1)[real]
        for eps, mlp in zip(self.eps, self.rounds):
            h = aggregate(h) + (1 + eps) * h
            h = mlp(h.flatten(0, 1)).unflatten(0, (-1, k))
        scores = h.new_zeros(b * (n + 1), k).index_copy(0, real, self.head(h)[..., 0])
        return scores.view(b, n + 1, k)[:, 1:].transpose(1, 2)


def with_virtual_node(adjacency: Tensor, num_nodes: Tensor) -> Tensor:
    """(b, n, n) -> (b, n + 1, n + 1): a first node that sees itself and every real node, and is seen by them."""
    adjacency = F.pad(adjacency, (1, 0, 1, 0))
    seen = torch.arange(adjacency.shape[1], device=adjacency.device) <= num_nodes[:, None]
    adjacency[:, 0] = adjacency[:, :, 0] = seen.to(adjacency.dtype)
    return adjacency


def _by_product(adjacency: Tensor, real: Tensor) -> Aggregate:
    """Sums over neighbours of packed nodes (nodes, k, c), by one product with the padded adjacency a graph."""
    b, n, _ = adjacency.shape

    def aggregate(h: Tensor) -> Tensor:
        padded = h.new_zeros(b * n, h.shape[1] * h.shape[2]).index_copy(0, real, h.flatten(1))
        return (adjacency.to(h.dtype) @ padded.view(b, n, padded.shape[1])).flatten(0, 1)[real].view(h.shape)

    return aggregate


def _along_edges(adjacency: Tensor, real: Tensor) -> Aggregate:
    """The same sums, edge by edge."""
    b, n, _ = adjacency.shape
    graph, to, of = adjacency.nonzero(as_tuple=True)
    place = torch.full((b * n,), -1, device=real.device)
    place[real] = torch.arange(len(real), device=real.device)
    edges = (place[graph * n + to], place[graph * n + of], adjacency[graph, to, of])
    inside = (edges[0] >= 0) & (edges[1] >= 0)  # not at padding
    to, of, weight = (part[inside] for part in edges)

    def aggregate(h: Tensor) -> Tensor:
        return torch.zeros_like(h).index_add(0, to, h[of] * weight.to(h.dtype)[:, None, None])

    return aggregate


def _mlp(channels: int, hidden: int, dropout: float) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(channels, hidden),
        nn.BatchNorm1d(hidden),
        nn.ReLU(),
        nn.Dropout(dropout),
        nn.Linear(hidden, hidden),
        nn.BatchNorm1d(hidden),
        nn.ReLU(),
    )
