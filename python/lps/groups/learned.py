"""Probabilistic symmetrization: p(g|x) is an equivariant network of x and noise."""

from __future__ import annotations

import copy

import torch
from torch import Tensor

import lps_kernels as lk
from lps.data.batch import Graphs, Particles
from lps.groups.base import Distribution, Sample, Symmetry, full_precision, nothing
from lps.groups.given import edge_mask
from lps.networks import GIN, VNDGCNN


class GraphDistribution(Distribution):
    """Permutations of a graph's nodes, sorted by the scores of a GIN on features with uniform noise.

    >>> import torch
    >>> graphs = Graphs(torch.zeros(2, 6, 1), torch.ones(2, 6, 6), torch.tensor([6, 4]))
    >>> g, entropy = GraphDistribution(1)(graphs, 3)
    >>> assert g.perm.shape == (2, 3, 6) and entropy > 0

    Arguments:
        node_channels: of a node's features.
        score_hidden, score_layers, score_dropout, sparse: of the GIN.
        noise_scale: noise is uniform in [0, noise_scale).
        fixed_noise: the noise of a graph depends on its number in the data set, `Graphs.index`, alone.
        tau, hard, n_iter: of the relaxation, see `lk.Permutation.from_scores`.
    """

    def __init__(
        self,
        node_channels: int,
        score_hidden: int = 64,
        score_layers: int = 3,
        score_dropout: float = 0.0,
        sparse: bool = False,
        noise_scale: float = 1.0,
        fixed_noise: bool = False,
        tau: float = 0.01,
        hard: bool = True,
        n_iter: int = 20,
    ) -> None:
        super().__init__()
        self.network = GIN(node_channels, score_hidden, score_layers, score_dropout, sparse)
        self.noise_scale, self.fixed_noise = noise_scale, fixed_noise
        self.tau, self.hard, self.n_iter = tau, hard, n_iter

    def scores(self, x: Graphs, k: int) -> Tensor:
        """(b, k, n)."""
        with full_precision(x.x.device):
            shape = (*x.x.shape[:2], k, x.x.shape[2])
            noisy = x.x[:, :, None] + self.noise_scale * noise(torch.rand, x, x.x, shape, self.fixed_noise)
            return self.network(noisy, edge_mask(x), x.num_nodes)

    def sample(self, scores: Tensor, x: Graphs) -> Sample:
        """Permutations that sort scores (b, k, n)."""
        g = lk.Permutation.from_scores(scores, x.num_nodes, self.tau, self.n_iter, hard=self.hard)
        return Sample(g, g.entropy())

    def forward(self, x: Graphs, k: int) -> Sample:
        return self.sample(self.scores(x, k), x)


class ParticleDistribution(Distribution):
    """Permutations and motions of particles, from a vector-neuron network of positions, velocities and noise.

    >>> import torch
    >>> x = Particles(torch.randn(2, 5, 3), torch.randn(2, 5, 3), torch.ones(2, 5))
    >>> g, entropy = ParticleDistribution("S_n x SE(3)")(x, 4)
    >>> assert g.permutation.perm.shape == (2, 4, 5) and g.motion.q.shape == (2, 4, 3, 3)

    Arguments:
        symmetry: the group's name, see `Symmetry`.
        score_hidden, neighbours, score_dropout: of the `VNDGCNN`.
        noise_scale: standard deviation of the noise that is added to each vector.
        fixed_noise: the noise of a system depends on its number in the data set, `Particles.index`, alone.
        tau, hard, n_iter: of the relaxation, see `lk.Permutation.from_scores`.
    """

    def __init__(
        self,
        symmetry: str = "S_n x E(3)",
        score_hidden: int = 96,
        neighbours: int = 4,
        score_dropout: float = 0.0,
        noise_scale: float = 1.0,
        fixed_noise: bool = False,
        tau: float = 0.01,
        hard: bool = True,
        n_iter: int = 20,
    ) -> None:
        super().__init__()
        self.symmetry = Symmetry.parse(symmetry)
        heads = {"scores": self.symmetry.permutes, "vectors": self.symmetry.moves}
        self.network = VNDGCNN(2, score_hidden, neighbours, score_dropout, **heads)
        self.noise_scale, self.fixed_noise = noise_scale, fixed_noise
        self.tau, self.hard, self.n_iter = tau, hard, n_iter

    def pseudo(self, x: Particles, k: int) -> tuple[Tensor | None, Tensor | None]:
        """Scores (b, k, n) and vectors (b, k, 3, 3); None where the group has no such factor."""
        with full_precision(x.positions.device):
            vectors = torch.stack((x.positions - x.positions.mean(1, keepdim=True), x.velocities), -1)
            shape = (len(x), k, *vectors.shape[1:])
            noisy = vectors[:, None] + self.noise_scale * noise(torch.randn, x, vectors, shape, self.fixed_noise)
            scores, v = self.network(noisy.flatten(0, 1))
        return tuple(None if y is None else y.unflatten(0, (len(x), k)) for y in (scores, v))

    def sample(self, scores: Tensor | None, v: Tensor | None, x: Particles) -> Sample:
        """Permutations that sort scores (b, k, n), and motions whose matrices are v (b, k, 3, 3) made orthonormal."""
        permutation = motion = None
        entropy = nothing(x.positions)
        if scores is not None:
            permutation = lk.Permutation.from_scores(scores, None, self.tau, self.n_iter, hard=self.hard)
            entropy = permutation.entropy()
        if v is not None and self.symmetry.centers:
            motion = lk.Euclidean.from_vectors(v, x.positions, self.symmetry.special)
        elif v is not None:
            motion = lk.Orthogonal.from_vectors(v, self.symmetry.special)
        return Sample(self.symmetry.element(permutation, motion), entropy)

    def forward(self, x: Particles, k: int) -> Sample:
        return self.sample(*self.pseudo(x, k), x)


class Canonical(Distribution):
    """Canonicalization: one group element from the same network without noise, whatever k.

    Nodes that it cannot tell apart are ordered at random.

    Arguments:
        distribution: whose network is used; its own noise stays on.
    """

    def __init__(self, distribution: GraphDistribution | ParticleDistribution) -> None:
        super().__init__()
        self.distribution = copy.copy(distribution)  # with the same network
        self.distribution.noise_scale = 0.0

    def forward(self, x: Graphs | Particles, k: int) -> Sample:
        return self.distribution(x, 1)


def noise(draw, x: Graphs | Particles, like: Tensor, shape: tuple[int, ...], fixed: bool) -> Tensor:
    """Random numbers (b, ...), fixed: that depend on the numbers of the inputs in the data set and on nothing else."""
    if not fixed:
        return draw(shape, device=like.device, dtype=like.dtype)
    index = getattr(x, "index", None)
    if index is None:
        raise ValueError("fixed_noise: expected a batch with the numbers of its inputs in the data set, index (b,)")
    each = [draw(shape[1:], generator=torch.Generator().manual_seed(i), dtype=like.dtype) for i in index.tolist()]
    return torch.stack(each).to(like.device)
