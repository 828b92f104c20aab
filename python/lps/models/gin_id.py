"""GINID: message passing on nodes that carry identifiers."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from lps.data.batch import Graphs
from lps.groups.given import edge_mask
from lps.models.mlp import ACTIVATIONS, dense, widths


class GINID(nn.Module):
    """A GIN with one linear layer a round on features and identifiers, for `IdentifiedModel`.

    The identifiers are one-hot rows of a permutation, so the first layer's product with them is a row of its weight.

    >>> net = GINID(n=4, node_channels=2, out_channels=3)
    >>> graphs = Graphs(torch.zeros(5, 4, 2), torch.ones(5, 4, 4), torch.full((5,), 4))
    >>> assert net(graphs, torch.randn(5, 7, 4, 64)).shape == (5, 7, 3)

    Arguments:
        n: nodes, padding among them: as many identifiers are there.
        node_channels, out_channels: features in and out.
        order_out: 0, the sum over nodes, or 1.
        hidden, layers: width, and rounds of messages.
        head: widths of layers after the sum, before the last.
        activation: "relu", "tanh", "gelu" or "silu"; last_activation: after the last layer too.
    """

    def __init__(
        self,
        n: int,
        node_channels: int,
        out_channels: int,
        order_out: int = 0,
        hidden: int = 64,
        layers: int = 3,
        head: Sequence[int] = (),
        activation: str = "relu",
        last_activation: bool = False,
    ) -> None:
        super().__init__()
        if order_out not in (0, 1):
            raise ValueError(f"order_out: expected 0 or 1 for GIN with identifiers, got {order_out!r}")
        self.order_out = order_out
        first = nn.Linear(node_channels + n, hidden)  # for its initial values, those of a layer on both
        self.features = nn.Parameter(first.weight.detach()[:, :node_channels].T.clone())
        self.identifiers = nn.Parameter(first.weight.detach()[:, node_channels:].T.clone())
        self.bias = nn.Parameter(first.bias.detach().clone())
        self.eps = nn.Parameter(torch.rand(layers))
        self.rounds = nn.ModuleList(nn.Linear(hidden, hidden) for _ in range(layers - 1))
        self.head = dense((hidden, *widths("head", head), out_channels), activation, last_activation)
        self.activation = ACTIVATIONS[activation]()

    def forward(self, graphs: Graphs, identified: Tensor) -> Tensor:
        """identified (b, k, n, hidden), rows of the first weight -> (b, k, c) or, for order_out 1, (b, n, k, c)."""
        h = (graphs.x @ self.features)[:, :, None] + identified.transpose(1, 2)  # (b, n, k, hidden)
        adjacency = edge_mask(graphs).to(h.dtype)
        real = torch.arange(h.shape[1], device=h.device) < graphs.num_nodes[:, None]
        for i, eps in enumerate(self.eps):
            if i:
                h = h @ self.rounds[i - 1].weight.T
            h = (adjacency @ h.flatten(2)).view(h.shape) + (1 + eps) * h + (self.rounds[i - 1].bias if i else self.bias)
            h = self.activation(h)
        h = h * real[:, :, None, None]
        return self.head(h.sum(1)) if self.order_out == 0 else self.head(h) * real[:, :, None, None]
