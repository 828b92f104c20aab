"""Layers on vectors: linear maps, nonlinearities and poolings that commute with every rotation and reflection.

Features are (..., 3, c): c vectors, with channels last, so that a linear map is one matrix product.
Source: Deng et al., "Vector Neurons", ICCV 2021.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

EPS = 1e-6
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

    def forward(self, x: Tensor) -> Tensor:
        """(..., 3, channels) -> (..., 3, out)."""
        y, d = self.features(x), self.directions(x)
        length = y.norm(dim=-2) + EPS
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
        largest = (x * (x @ self.directions.T)).sum(-2, keepdim=True).argmax(axis, keepdim=True)
        return x.gather(axis, largest.expand(*(1 if i == axis else s for i, s in enumerate(x.shape)))).squeeze(axis)


def neighbour_features(x: Tensor, neighbours: int) -> Tensor:
    """x (m, n, 3, c) -> (m, n, neighbours, 3, 2 c): differences to the nearest nodes, itself among them, and x."""
    distance = torch.cdist(x.detach().flatten(2), x.detach().flatten(2), compute_mode="donot_use_mm_for_euclid_dist")
    nearest = distance.topk(min(neighbours, x.shape[1]), largest=False).indices
    near = x[torch.arange(len(x), device=x.device)[:, None, None], nearest]
    own = x[:, :, None].expand_as(near)
    return torch.cat((near - own, own), -1)
