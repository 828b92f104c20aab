"""Small random batches, and the group acting on them."""

from collections.abc import Callable

import torch
from lps.data import Graphs, Particles
from torch import Tensor

import lps_kernels as lk


def random_graphs(b: int = 3, n: int = 7, c: int = 2, edge_channels: int = 0, dtype=torch.float64) -> Graphs:
    """Undirected graphs with padding in all but the first."""
    num_nodes = torch.tensor([n, n - 2, n - 3] * b)[:b]
    real = torch.arange(n) < num_nodes[:, None]
    upper = (torch.rand(b, n, n) < 0.5).triu(1) & real[:, :, None] & real[:, None]
    adjacency = (upper | upper.mT).to(dtype)
    if edge_channels:
        features = torch.rand(b, n, n, edge_channels, dtype=dtype) + 0.1
        adjacency = adjacency[..., None] * (features + features.transpose(1, 2))
    return Graphs(torch.randn(b, n, c, dtype=dtype) * real[..., None], adjacency, num_nodes)


def random_particles(b: int = 3, n: int = 5, dtype=torch.float64) -> Particles:
    positions, velocities = torch.randn(2, b, n, 3, dtype=dtype)
    return Particles(positions + 1, velocities, torch.randint(0, 2, (b, n)).to(dtype) * 2 - 1)


def relabelling(num_nodes: Tensor, n: int) -> Tensor:
    """(b, n) int64: new node i is old node s[i]; padding stays behind."""
    return lk.Permutation.uniform(len(num_nodes), 1, n, num_nodes).perm[:, 0]


def relabel(x: Tensor, s: Tensor, axes: tuple[int, ...]) -> Tensor:
    """x with old node s[b, i] at place i of each axis; the first axis is b."""
    for axis in axes:
        index = s.view(*s.shape[:1], *(s.shape[1] if a == axis else 1 for a in range(1, x.dim())))
        x = x.gather(axis, index.expand(x.shape))
    return x


def relabel_graphs(graphs: Graphs, s: Tensor) -> Graphs:
    return Graphs(relabel(graphs.x, s, (1,)), relabel(graphs.adjacency, s, (1, 2)), graphs.num_nodes)


def random_motion(special: bool = False) -> tuple[Tensor, Tensor]:
    """A matrix of O(3), with determinant -1 unless special, and a translation."""
    q = torch.linalg.qr(torch.randn(3, 3, dtype=torch.float64))[0]
    sign = torch.linalg.det(q) * (1 if special else -1)
    return q * sign, torch.randn(3, dtype=torch.float64)


def move(particles: Particles, q: Tensor, t: Tensor, s: Tensor | None = None) -> Particles:
    """Rotated by q, translated by t, and relabelled."""
    parts = (particles.positions @ q.T + t, particles.velocities @ q.T, particles.charges)
    return Particles(*(x if s is None else relabel(x, s, (1,)) for x in parts))


def directional(function: Callable[[], Tensor], parameters: list[Tensor], eps: float = 1e-8) -> tuple[float, float]:
    """The derivative along a random direction, by backward and by central differences.

    The step is small because maxima, nearest neighbours and ReLUs have kinks.
    """
    directions = [torch.randn_like(p) for p in parameters]
    grads = torch.autograd.grad(function(), parameters, allow_unused=True)
    analytic = sum((g * d).sum() for g, d in zip(grads, directions) if g is not None)
    values = []
    with torch.no_grad():
        for step in (eps, -2 * eps):
            for p, d in zip(parameters, directions):
                p += step * d
            values.append(function())
    return analytic.item(), ((values[0] - values[1]) / (2 * eps)).item()
