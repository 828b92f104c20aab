"""VNDGCNN: scores of nodes and a 3 x 3 matrix from vectors of nodes, each with the symmetry that p(g|x) needs."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lps.networks.vector_neurons import VectorLinearLeakyReLU, VectorMaxPool, nearest


class VNDGCNN(nn.Module):
    """A vector-neuron DGCNN with up to two heads.

    Scores follow a permutation of the nodes and ignore a rotation or reflection of space; the matrix ignores the
    permutation and follows the motion, as vectors in its columns.

    >>> import torch
    >>> scores, v = VNDGCNN(2)(torch.randn(4, 5, 3, 2))
    >>> assert scores.shape == (4, 5) and v.shape == (4, 3, 3)

    Arguments:
        channels: vectors a node.
        hidden: width in numbers; a vector has three.
        neighbours: nodes that a node looks at, itself among them.
        dropout: of whole channels of vectors, so that it breaks no symmetry.
        scores, vectors: which heads are wanted; the other's result is None.
    Source: Deng et al., "Vector Neurons", ICCV 2021; the heads follow Kim et al., NeurIPS 2023, appendix.
    """

    def __init__(
        self,
        channels: int,
        hidden: int = 96,
        neighbours: int = 4,
        dropout: float = 0.0,
        scores: bool = True,
        vectors: bool = True,
    ) -> None:
        super().__init__()
        if hidden < 6:
            raise ValueError(f"hidden: expected 6 or more, got {hidden}")
        if neighbours < 1:
            raise ValueError(f"neighbours: expected 1 or more, got {neighbours}")
        width = hidden // 3
        self.neighbours, self.dropout = neighbours, dropout
        self.first, self.pool_first = VectorLinearLeakyReLU(2 * channels, width), VectorMaxPool(width)
        self.scores = _Scores(width, neighbours, dropout) if scores else None
        self.vectors = _Vectors(width) if vectors else None

    def forward(self, x: Tensor) -> tuple[Tensor | None, Tensor | None]:
        """x (m, n, 3, c) -> scores (m, n) and v (m, 3, 3)."""
        near = self.pool_first(self.first.of_neighbours(x, nearest(x, self.neighbours)), 2)
        scores = None if self.scores is None else self.scores(near)
        return scores, None if self.vectors is None else self.vectors(near)


class _Vectors(nn.Module):
    """Features (m, n, 3, width) -> (m, 3, 3), the same for every order of the nodes."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.pool, self.head = VectorMaxPool(width), nn.Linear(width, 3, bias=False)

    def forward(self, near: Tensor) -> Tensor:
        return self.head(self.pool(near, 1))


class _Scores(nn.Module):
    """Features (m, n, 3, width) -> (m, n), the same in every orientation."""

    def __init__(self, width: int, neighbours: int, dropout: float) -> None:
        super().__init__()
        self.neighbours, self.dropout = neighbours, dropout
        self.second, self.pool_second = VectorLinearLeakyReLU(2 * width, width), VectorMaxPool(width)
        self.third = VectorLinearLeakyReLU(2 * width, width, shared=True)
        self.axes = nn.Sequential(
            VectorLinearLeakyReLU(2 * width, width),
            VectorLinearLeakyReLU(width, width // 2),
            nn.Linear(width // 2, 3, bias=False),
        )
        self.head = nn.Linear(12 * width, 1)

    def forward(self, near: Tensor) -> Tensor:
        seen = self._drop(near)
        far = self.pool_second(self.second.of_neighbours(seen, nearest(seen, self.neighbours)), 2)
        both = torch.cat((near, self._drop(far)), -1)
        x = self.third(both)
        x = torch.cat((x, x.mean(1, keepdim=True).expand_as(x)), -1)
        axes = self.axes(x)  # three vectors a node, in which the others are read: that takes the orientation out
        whole = (x.mT @ axes).flatten(2).amax(1, keepdim=True).expand(-1, x.shape[1], -1)
        return self.head(torch.cat((whole, (both.mT @ axes).flatten(2)), -1))[..., 0]

    def _drop(self, x: Tensor) -> Tensor:
        """Dropout of whole vectors of all nodes."""
        return x * nn.functional.dropout(x.new_ones(x.shape[0], 1, 1, x.shape[-1]), self.dropout, self.training)
