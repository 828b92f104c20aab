"""Layers on vectors: linear maps, nonlinearities and poolings that commute with every rotation and reflection.

Features are (..., 3, c): c vectors, with channels last, so that a linear map is one matrix product.
Source: Deng et al., "Vector Neurons", ICCV 2021.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

EPS = 1e-6
TINY = 1e-24  # of a squared length: the gradient of a zero vector is zero, not NaN
SLOPE = 0.2


class VectorLinearLeakyReLU(nn.Module):
    """A linear map, batch norm of lengths, and a leaky ReLU along learned directions.

    >>> import torch
    >>> assert VectorLinearLeakyReLU(2, 8)(torch.randn(5, 4, 3, 2)).shape == (5, 4, 3, 8)

    Arguments:
        channels, out: vectors in and out.
        shared: one direction for all channels.
    """

    def __init__(self, channels: int, out: int, shared: bool = False) -> None:
        super().__init__()
        self.features = nn.Linear(channels, out, bias=False)
        self.directions = nn.Linear(channels, 1 if shared else out, bias=False)
        self.norm = nn.BatchNorm1d(out)

    @property
    def weight(self) -> Tensor:
        """(out + directions, channels): of both maps, so that they are one product."""
        return torch.cat((self.features.weight, self.directions.weight))

    def forward(self, x: Tensor) -> Tensor:
        """(..., 3, channels) -> (..., 3, out)."""
        return self._activate(x @ self.weight.T)

    def of_neighbours(self, x: Tensor, nearest: Tensor) -> Tensor:
        """x (m, n, 3, channels / 2), nearest (m, n, neighbours) -> (m, n, neighbours, 3, out).

        What `forward` makes of the differences to the neighbours beside x itself. The map is linear, so it takes n
        products instead of n * neighbours: W (near - own, own) = A near + (B - A) own.
        """
        a, b = self.weight.chunk(2, 1)
        m, n, count = nearest.shape
        rows = (nearest + n * torch.arange(m, device=x.device)[:, None, None]).flatten()
        near = (x @ a.T).flatten(0, 1).index_select(0, rows).unflatten(0, (m, n, count))
        return self._activate(near + (x @ (b - a).T)[:, :, None])

    def _activate(self, mapped: Tensor) -> Tensor:
        y, d = mapped.split((self.features.out_features, self.directions.out_features), -1)
        length = y.square().sum(-2).clamp(min=TINY).sqrt() + EPS  # norm() over an inner axis takes 12 times as long
        scale = self.norm(length.flatten(0, -2)).view_as(length) / length
        y = y * scale.unsqueeze(-2)
        along = (y * d).sum(-2, keepdim=True)
        against = along.clamp(max=0) / (d.square().sum(-2, keepdim=True) + EPS)  # zero in the half space of d
        return y - (1 - SLOPE) * against * d


class VectorMaxPool(nn.Module):
    """Of the vectors of a channel over an axis, the one that lies furthest along a direction, a random mix of all.

    >>> import torch
    >>> assert VectorMaxPool(2)(torch.randn(5, 4, 3, 2), 1).shape == (5, 3, 2)
    """

    directions: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        # A buffer: an argmax passes no gradient on, and a parameter without one would stop distributed training.
        self.register_buffer("directions", nn.Linear(channels, channels, bias=False).weight.detach())

    def forward(self, x: Tensor, axis: int) -> Tensor:
        """(..., 3, c) without the axis, which is counted from the front."""
        along = (x * (x @ self.directions.T)).sum(-2, keepdim=True)
        largest = along.max(axis, keepdim=True).indices  # argmax() over an inner axis takes 14 times as long
        return x.gather(axis, largest.expand(*(1 if i == axis else s for i, s in enumerate(x.shape)))).squeeze(axis)


def nearest(x: Tensor, neighbours: int) -> Tensor:
    """x (m, n, 3, c) -> (m, n, neighbours) int64: the nodes nearest to each, itself among them."""
    x = x.detach().flatten(2)
    distance = torch.cdist(x, x, compute_mode="donot_use_mm_for_euclid_dist")
    return distance.topk(min(neighbours, x.shape[1]), largest=False).indices
