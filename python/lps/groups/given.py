"""Distributions without parameters: the uniform one (group averaging) and frames (frame averaging)."""

from __future__ import annotations

import torch
from torch import Tensor

import lps_kernels as lk
from lps.data.batch import Graphs, Particles
from lps.groups.base import Distribution, Sample, Symmetry, nothing


class Uniform(Distribution):
    """Group averaging: every group element is as likely as any other.

    >>> import torch
    >>> x = Particles(torch.randn(2, 5, 3), torch.randn(2, 5, 3), torch.ones(2, 5))
    >>> assert len(Uniform("S_n x E(3)")(x, 7).g) == 7

    Arguments:
        symmetry: the group's name, see `Symmetry`.
    """

    def __init__(self, symmetry: str = "S_n") -> None:
        super().__init__()
        self.symmetry = Symmetry.parse(symmetry)

    def forward(self, x: Graphs | Particles, k: int) -> Sample:
        self.symmetry.check(x)
        g = self.symmetry.element(
            self._permutation(x, k) if self.symmetry.permutes else None,
            self._motion(x.positions, k) if self.symmetry.moves else None,
        )
        return Sample(g, nothing(x.x if isinstance(x, Graphs) else x.positions))

    def _permutation(self, x: Graphs | Particles, k: int) -> lk.Permutation:
        features = x.x if isinstance(x, Graphs) else x.positions
        num_nodes = x.num_nodes if isinstance(x, Graphs) else None
        return lk.Permutation.uniform(*(len(x), k, features.shape[1]), num_nodes, device=features.device)

    def _motion(self, points: Tensor, k: int) -> lk.Orthogonal | lk.Euclidean:
        if self.symmetry.centers:
            return lk.Euclidean.uniform(points, k, self.symmetry.special)
        kind = {"device": points.device, "dtype": points.dtype}
        return lk.Orthogonal.uniform(len(points), k, 3, self.symmetry.special, **kind)


class ParticleFrames(Distribution):
    """Frame averaging of particles: their principal axes with every choice of signs, and the order along them.

    All 8 frames (4 for a group without reflections) are returned, whatever k.

    >>> import torch
    >>> x = Particles(torch.randn(2, 5, 3), torch.randn(2, 5, 3), torch.ones(2, 5))
    >>> assert len(ParticleFrames("SE(3)")(x, 1).g) == 4

    Source: Puny et al., "Frame Averaging", ICLR 2022.
    """

    def __init__(self, symmetry: str = "S_n x E(3)") -> None:
        super().__init__()
        self.symmetry = Symmetry.parse(symmetry)
        if not self.symmetry.moves:
            raise ValueError(f"symmetry: expected a group that moves space, got {symmetry!r}")

    def forward(self, x: Particles, k: int) -> Sample:
        self.symmetry.check(x)
        motions = lk.Euclidean if self.symmetry.centers else lk.Orthogonal
        motion = motions.from_frames(x.positions, special=self.symmetry.special)
        permutation = None
        if self.symmetry.permutes:
            seen = motion.transform_input(x.positions, "point")  # (b, frames, n, 3)
            perm = lk.Permutation.from_sort(seen.flatten(0, 1)).perm
            permutation = lk.Permutation.from_indices(perm.view(seen.shape[:3]))
        return Sample(self.symmetry.element(permutation, motion), nothing(x.positions))


class GraphFrames(Distribution):
    """Frame averaging of graphs: nodes sorted by how much of them lies in each eigenspace of the Laplacian.

    Nodes that these numbers do not tell apart (nor any node of a symmetric graph) are ordered at random, anew for each
    of the k samples.

    >>> import torch
    >>> path = torch.diag(torch.ones(3), 1) + torch.diag(torch.ones(3), -1)
    >>> g = GraphFrames()(Graphs(torch.zeros(1, 4, 1), path[None], torch.tensor([4])), 5).g
    >>> assert {frozenset(p[:2].tolist()) for p in g.perm[0]} in ({frozenset({0, 3})}, {frozenset({1, 2})})

    Source: Puny et al., "Frame Averaging", ICLR 2022, section 3.2.
    """

    ROUNDED = 100  # numbers are compared to two decimals, and eigenvalues to ones nearer than TOLERANCE
    TOLERANCE = 1e-4

    @torch.no_grad()
    def forward(self, x: Graphs, k: int) -> Sample:
        ranks = torch.zeros(x.x.shape[:2], device=x.x.device)
        for rank, a, n in zip(ranks, edge_mask(x), x.num_nodes.tolist()):
            rank[:n] = self._ranks(a[:n, :n]) if n else rank[:n]
        scores = -ranks[:, None].expand(len(x), k, -1)  # equal ones are put in random order
        g = lk.Permutation.from_scores(scores.contiguous(), x.num_nodes, normalize=False)
        return Sample(lk.Permutation.from_indices(g.perm, x.num_nodes), nothing(x.x))

    def _ranks(self, adjacency: Tensor) -> Tensor:
        """(n, n) -> (n,) int64: places of the nodes, equal where nothing tells two apart."""
        a = adjacency.to(torch.float64)
        a = torch.maximum(a, a.T)
        values, vectors = torch.linalg.eigh(torch.diag(a.sum(1)) - a)
        space = torch.cat((values.new_zeros(1), (values.diff() > self.TOLERANCE).to(values))).cumsum(0).long()
        inside = torch.zeros_like(vectors).index_add(1, space, vectors.square()).sqrt()
        return torch.unique((inside * self.ROUNDED).round(), dim=0, return_inverse=True)[1]


def edge_mask(x: Graphs) -> Tensor:
    """(b, n, n): weights of edges; 1 where any of several features of a pair is not zero."""
    if x.adjacency.dim() == 3:
        return x.adjacency
    return (x.adjacency != 0).any(-1).to(x.adjacency.dtype)
