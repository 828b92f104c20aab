"""What models take: batches of graphs and of particles, padded to one size."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import torch
from torch import Tensor


@dataclasses.dataclass(frozen=True)
class Graphs:
    """b graphs padded to n nodes. Padding holds zeros.

    >>> import torch
    >>> graphs = Graphs.from_edges([torch.tensor([[0, 1], [1, 0]])], [torch.ones(3, 2)], n=4)
    >>> assert graphs.x.shape == (1, 4, 2) and graphs.adjacency.sum() == 2 and graphs.num_nodes.tolist() == [3]

    Arguments:
        x: (b, n, c) features of nodes.
        adjacency: (b, n, n) or (b, n, n, c_e): zero where there is no edge.
        num_nodes: (b,) int64, the first num_nodes[i] nodes of graph i are real.
        index: (b,) int64, the numbers of the graphs in their data set, if they are of one.
    """

    x: Tensor
    adjacency: Tensor
    num_nodes: Tensor
    index: Tensor | None = None

    def __post_init__(self) -> None:
        b, n = _leading("x", self.x, 3, "(b, n, c)")
        if self.adjacency.dim() not in (3, 4) or tuple(self.adjacency.shape[:3]) != (b, n, n):
            raise ValueError(
                f"adjacency: expected shape ({b}, {n}, {n}) or ({b}, {n}, {n}, c), got {tuple(self.adjacency.shape)}"
            )
        if tuple(self.num_nodes.shape) != (b,):
            raise ValueError(f"num_nodes: expected shape ({b},), got {tuple(self.num_nodes.shape)}")

    def __len__(self) -> int:
        return self.x.shape[0]

    def __getitem__(self, index: slice | Tensor) -> Graphs:
        """Some of the graphs, by a slice or by a tensor of numbers."""
        return _each(self, lambda part: part[index])

    def to(self, device: torch.device | str) -> Graphs:
        """The same graphs on a device."""
        return _each(self, lambda part: part.to(device))

    @classmethod
    def from_edges(
        cls,
        edges: Sequence[Tensor],
        features: Sequence[Tensor],
        n: int | None = None,
        attributes: Sequence[Tensor] | None = None,
    ) -> Graphs:
        """Pad graphs given as edge lists (2, e), features of nodes (m, c) and of edges (e, c_e), if any.

        Every edge is written as given, so an undirected one is listed twice. Without attributes the adjacency is 0 or
        1 of shape (b, n, n).
        """
        if not features:
            raise ValueError("features: expected those of one graph or more, got none")
        sizes = torch.tensor([f.shape[0] for f in features], dtype=torch.int64)
        n = int(sizes.max()) if n is None else n
        if int(sizes.max()) > n:
            raise ValueError(f"n: expected at least {int(sizes.max())}, the size of the largest graph, got {n}")
        b = len(features)
        x = torch.zeros(b, n, features[0].shape[1])
        adjacency = torch.zeros(b, n, n, *([] if attributes is None else [attributes[0].shape[1]]))
        for i, (e, f) in enumerate(zip(edges, features, strict=True)):
            if e.dim() != 2 or e.shape[0] != 2 or bool(((e < 0) | (e >= f.shape[0])).any()):
                raise ValueError(f"edges: expected numbers (2, e) below {f.shape[0]}, the nodes of graph {i}")
            x[i, : f.shape[0]] = f
            adjacency[i, e[0], e[1]] = 1.0 if attributes is None else attributes[i].to(adjacency)
        return cls(x, adjacency, sizes)


@dataclasses.dataclass(frozen=True)
class Particles:
    """b systems of n charged particles.

    Arguments:
        positions: (b, n, 3).
        velocities: (b, n, 3).
        charges: (b, n).
        index: (b,) int64, the numbers of the systems in their data set, if they are of one.
    """

    positions: Tensor
    velocities: Tensor
    charges: Tensor
    index: Tensor | None = None

    def __post_init__(self) -> None:
        b, n = _leading("positions", self.positions, 3, "(b, n, 3)")
        if self.velocities.shape != self.positions.shape:
            raise ValueError(
                f"velocities: expected shape {tuple(self.positions.shape)}, got {tuple(self.velocities.shape)}"
            )
        if tuple(self.charges.shape) != (b, n):
            raise ValueError(f"charges: expected shape ({b}, {n}), got {tuple(self.charges.shape)}")

    def __len__(self) -> int:
        return self.positions.shape[0]

    def __getitem__(self, index: slice | Tensor) -> Particles:
        """Some of the systems, by a slice or by a tensor of numbers."""
        return _each(self, lambda part: part[index])

    def to(self, device: torch.device | str) -> Particles:
        """The same systems on a device."""
        return _each(self, lambda part: part.to(device))


def _each(batch, change: Callable[[Tensor], Tensor]):
    """The batch with each of its tensors changed."""
    parts = [getattr(batch, field.name) for field in dataclasses.fields(batch)]
    return type(batch)(*(part if part is None else change(part) for part in parts))


def _leading(name: str, x: Tensor, dim: int, wanted: str) -> tuple[int, int]:
    if x.dim() != dim:
        raise ValueError(f"{name}: expected shape {wanted}, got {tuple(x.shape)}")
    return x.shape[0], x.shape[1]
