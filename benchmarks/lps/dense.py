"""The published method as a distribution of `lps`: straight-through matrices (b, k, n, n), applied by products.

The networks are those of `lps`, so that a step differs in the symmetrization alone. "published" is the log-domain
Sinkhorn with the masks of padded graphs and three-operand einsums; "dense" is the best dense method that we know, the
kernel built once, its gradient written by hand, and plain matrix products.
"""

from __future__ import annotations

from typing import Any

import torch
from lps.data import Graphs, Particles
from lps.groups import ParticleDistribution, Sample
from torch import Tensor, nn

from benchmarks import rivals


class DenseElement:
    """A permutation and, for particles, a rotation about the centroid, as matrices: what `lk.symmetrize` asks for.

    Arguments:
        p: (b, k, n, n) or None, q: (b, k, 3, 3) or None, center: (b, 1, 1, 3) where there is q.
        einsum: whether edges going in are taken by an einsum of three operands, as published, or by two products; an
            einsum is the faster way out for both.
    """

    def __init__(self, p: Tensor | None, q: Tensor | None = None, center: Tensor | None = None, einsum: bool = True):
        self.p, self.q, self.center, self.einsum = p, q, center, einsum
        self.batch_size, self.n_samples = (p if q is None else q).shape[:2]
        if q is not None:
            self.motion = q  # by which `represent` knows a product of groups

    def __len__(self) -> int:
        return self.n_samples

    def transform_input(self, x: Tensor, order) -> Tensor:
        nodes, space = self._parts(order)
        y = x[:, None].expand(len(x), self.n_samples, *x.shape[1:])
        if space != 0:
            y = (y - self.center if space == "point" else y) @ self.q
        if self.p is None or nodes == 0:
            return y
        if nodes == 1:
            return (self.p.mT @ y.flatten(3)).view(y.shape)
        return rivals.edge_einsum(x, self.p) if self.einsum else rivals.edge_matmul(x, self.p)

    def transform_output(self, y: Tensor, order, weights=None, reduce: str | None = "mean") -> Tensor:
        nodes, space = self._parts(order)
        if self.p is not None and nodes == 1:
            y = self.p @ y
        if self.p is not None and nodes == 2:
            y = torch.einsum("bkri,bkijc,bksj->bkrsc", self.p, y, self.p)
        if space != 0:
            y = y @ self.q.mT
            y = y + self.center if space == "point" else y
        return y.mean(1) if reduce == "mean" else y

    def _parts(self, order) -> tuple[int, int | str]:
        """How many axes of nodes, and what space does to it."""
        if isinstance(order, tuple):
            return order
        return (0, order) if isinstance(order, str) else (order, 0)


class Dense(nn.Module):
    """A learned distribution of `lps`, with its network and its noise, whose samples are dense matrices.

    Arguments:
        distribution: a `GraphDistribution` or a `ParticleDistribution` with hard permutations and the tau of `rivals`.
        best: the best dense method instead of the published one.
    """

    def __init__(self, distribution: nn.Module, best: bool = False) -> None:
        super().__init__()
        if not distribution.hard or distribution.n_iter != rivals.N_ITER or distribution.tau != rivals.TAU:
            raise ValueError(f"distribution: expected hard samples, tau {rivals.TAU} and {rivals.N_ITER} iterations")
        self.distribution, self.best = distribution, best

    def forward(self, x: Graphs | Particles, k: int) -> Sample:
        if isinstance(self.distribution, ParticleDistribution):
            return self.sample(*self.distribution.pseudo(x, k), x)
        return self.sample(self.distribution.scores(x, k), x)

    def sample(self, scores: Tensor | None, *rest: Any) -> Sample:
        """scores (b, k, n) and, of particles, v (b, k, 3, 3), then the batch -> matrices and the penalty."""
        *v, x = rest
        v = v[0] if v else None
        p, q, center, entropy = None, None, None, x_like(x).new_zeros(())
        if scores is not None:
            num_nodes = x.num_nodes if isinstance(x, Graphs) and bool((x.num_nodes < scores.shape[-1]).any()) else None
            p, entropy = best(scores, num_nodes) if self.best else published(scores, num_nodes)
        if v is not None:
            q, center = rivals.eager_gram_schmidt(v), x.positions.mean(1)[:, None, None]
            if self.distribution.symmetry.special:
                q = torch.cat((q[..., :1] * torch.linalg.det(q)[..., None, None], q[..., 1:]), -1)
        return Sample(DenseElement(p, q, center, einsum=not self.best), entropy)


def x_like(x: Graphs | Particles) -> Tensor:
    return x.x if isinstance(x, Graphs) else x.positions


def published(scores: Tensor, num_nodes: Tensor | None) -> tuple[Tensor, Tensor]:
    """The straight-through matrix (b, k, n, n) and the penalty, as the public code computes them."""
    p, soft = rivals.published(scores, num_nodes)
    return p, rivals.published_entropy(soft, num_nodes)


def best(scores: Tensor, num_nodes: Tensor | None) -> tuple[Tensor, Tensor]:
    """The same from one kernel. Padding is put so far off that the kernel takes it for isolated nodes."""
    b, k, n = scores.shape
    real = torch.ones(b, 1, n, dtype=torch.bool) if num_nodes is None else torch.arange(n) < num_nodes[:, None, None]
    z = scores.masked_fill(~real, 0)
    t = z / z.square().sum(-1, keepdim=True).sqrt().clamp(min=1e-6)
    t, perm = torch.where(real, t, -10.0 * torch.arange(1, n + 1)).flatten(0, 1).sort(-1, descending=True)
    p = rivals.DenseSinkhorn.apply(t, True)
    count = n if num_nodes is None else num_nodes
    entropy = (rivals.DenseEntropy.apply(p).view(b, k, n).sum(-1).mean(1) / count).mean()
    p = (torch.eye(n) - p).detach() + p
    p = p.gather(-2, perm.argsort(-1)[..., None].expand(b * k, n, n)).view(b, k, n, n)
    return p * real[..., None], entropy
