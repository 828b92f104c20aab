"""RaggedGraphs: many graphs of many sizes, kept as edge lists and padded a batch at a time."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch
from torch import Tensor

from lps.data.batch import Graphs
from lps.data.files import DataError

IGNORED = -100  # a target at padding: what losses ignore
UNLABELLED = -1  # the target of a pair of nodes without a label, which losses ignore too


@dataclasses.dataclass(frozen=True)
class RaggedGraphs:
    """Graphs with targets. `batch(numbers)` pads some of them to n nodes.

    Arguments:
        node_ptr, edge_ptr: (graphs + 1,), where the nodes and the edges of each graph begin.
        x: (nodes, c), floating, or integers that `classes` says how to write as one-hot vectors.
        edge_index: (2, edges), numbers of nodes within the graph.
        target: (graphs, ...), (nodes,), or (pairs,) by level.
        n: what batches are padded to.
        level: "graph", "node" or "pair".
        edge_attr: (edges, c_e) or None; integers as x.
        node_classes, edge_classes: the numbers of classes of integer columns.
        pair_ptr, pair_index: (graphs + 1,) and (2, pairs) where the level is "pair".
    """

    node_ptr: Tensor
    edge_ptr: Tensor
    x: Tensor
    edge_index: Tensor
    target: Tensor
    n: int
    level: str = "graph"
    edge_attr: Tensor | None = None
    node_classes: tuple[int, ...] = ()
    edge_classes: tuple[int, ...] = ()
    pair_ptr: Tensor | None = None
    pair_index: Tensor | None = None

    def __post_init__(self) -> None:
        sizes = self.node_ptr.diff()
        if len(self) and int(sizes.max()) > self.n:
            raise DataError(f"n: expected at least {int(sizes.max())}, the size of the largest graph, got {self.n}")
        if self.x.shape[0] != int(self.node_ptr[-1]) or self.edge_index.shape[1] != int(self.edge_ptr[-1]):
            raise DataError("node_ptr, edge_ptr: expected to end with the numbers of nodes and of edges")
        owner = torch.arange(len(self)).repeat_interleave(self.edge_ptr.diff())
        if self.edge_index.numel() and bool(((self.edge_index < 0) | (self.edge_index >= sizes[owner])).any()):
            raise DataError("edge_index: expected numbers of nodes within each graph")

    def __len__(self) -> int:
        return self.node_ptr.shape[0] - 1

    @property
    def channels(self) -> int:
        """c of the batches."""
        return sum(self.node_classes) or self.x.shape[1]

    @property
    def edge_channels(self) -> int:
        """c_e of the batches; 1 is an adjacency without a channel axis."""
        return 1 if self.edge_attr is None else 1 + (sum(self.edge_classes) or self.edge_attr.shape[1])

    def batch(self, numbers: Tensor | Sequence[int]) -> tuple[Graphs, Tensor]:
        """Some of the graphs, padded, and their targets: (b, ...), (b, n) or (b, n, n) by level.

        numbers: those of the graphs, negative ones from the end, or a mask (graphs,).
        With attributes, channel 0 of the adjacency says where an edge is and the others hold the attributes.
        """
        numbers = torch.as_tensor(numbers)
        numbers = torch.arange(len(self))[numbers if numbers.dtype == torch.bool else numbers.long()]
        owner, node = _rows(self.node_ptr, numbers)
        place = node - self.node_ptr[numbers][owner]
        b = numbers.numel()
        x = torch.zeros(b, self.n, self.channels)
        x[owner, place] = one_hot(self.x[node], self.node_classes)
        which, row = _rows(self.edge_ptr, numbers)
        ends = self.edge_index[:, row]
        if self.edge_attr is None:
            adjacency = torch.zeros(b, self.n, self.n)
            adjacency[which, ends[0], ends[1]] = 1.0
        else:
            adjacency = torch.zeros(b, self.n, self.n, self.edge_channels)
            attributes = one_hot(self.edge_attr[row], self.edge_classes)
            adjacency[which, ends[0], ends[1]] = torch.cat((torch.ones_like(attributes[:, :1]), attributes), 1)
        graphs = Graphs(x, adjacency, self.node_ptr.diff()[numbers], numbers)
        return graphs, self._targets(numbers, owner, node, place)

    def _targets(self, numbers: Tensor, owner: Tensor, node: Tensor, place: Tensor) -> Tensor:
        if self.level == "graph":
            return self.target[numbers]
        if self.level == "node":
            target = torch.full((numbers.numel(), self.n), IGNORED, dtype=torch.int64)
            target[owner, place] = self.target[node].long()
            return target
        which, row = _rows(self.pair_ptr, numbers)
        real = torch.arange(self.n) < self.node_ptr.diff()[numbers][:, None]
        target = torch.where(real[:, :, None] & real[:, None], float(UNLABELLED), float(IGNORED))
        target[which, self.pair_index[0, row], self.pair_index[1, row]] = self.target[row].float()
        return target


def one_hot(values: Tensor, classes: Sequence[int]) -> Tensor:
    """Integer columns (rows, columns) as one-hot vectors side by side; without classes as they are, in float32."""
    if not classes:
        return values.float()
    parts = [torch.nn.functional.one_hot(v.long(), c) for v, c in zip(values.unbind(-1), classes, strict=True)]
    return torch.cat(parts, -1).float()


def pointers(sizes: Sequence[int] | Tensor) -> Tensor:
    """Where each of the ragged rows begins, and where the last ends."""
    sizes = torch.as_tensor(sizes, dtype=torch.int64)
    return torch.cat((sizes.new_zeros(1), sizes.cumsum(0)))


def _rows(pointer: Tensor, numbers: Tensor) -> tuple[Tensor, Tensor]:
    """For every row of the chosen graphs: which of them it belongs to, and its number."""
    counts = pointer.diff()[numbers]
    owner = torch.arange(numbers.numel()).repeat_interleave(counts)
    first = pointers(counts)[:-1]
    return owner, torch.arange(owner.numel()) - first[owner] + pointer[numbers][owner]
