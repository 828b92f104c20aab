"""Graphs that are hard to tell apart: GRAPH8c, EXP, and small graphs with automorphisms."""

from __future__ import annotations

import zipfile

import networkx
import numpy as np
import torch
from torch import Tensor

from lps.data.batch import Graphs
from lps.data.files import DataError, find
from lps.data.ragged import RaggedGraphs, pointers

GRAPH8C = ("graph8c.g6", "0002354f1ab3344a2706626a037ad15367bf23a2163aa68f552c3a169ca9a036")
EXP = ("exp_graphsat.npz", "989abcb4b2d0d154e215fdb866c9628b4539638587b1e759426f6295989805e1")


def graph8c(data: str | None = None) -> Graphs:
    """All 11,117 connected graphs with 8 nodes, features (1, degree)."""
    path = find(*GRAPH8C, data)
    lines = path.read_bytes().split()
    try:
        graphs = [networkx.from_graph6_bytes(line) for line in lines]
        adjacency = torch.tensor(np.stack([networkx.to_numpy_array(g, dtype=np.float32) for g in graphs]))
    except (networkx.NetworkXException, ValueError) as error:
        raise DataError(f"{path}: expected graph6, one graph of 8 nodes a line: {error}") from error
    return _with_degree(adjacency)


def exp(data: str | None = None) -> RaggedGraphs:
    """The EXP data set: 1,200 graphs, graph 2 i and graph 2 i + 1 a pair that 1-WL cannot tell apart.

    Features are (the given binary one, degree), padding goes to 64 nodes, targets (1200,) are 0 or 1.
    Source: Abboud et al., "The Surprising Power of Graph Neural Networks with Random Node Initialization", 2021.
    """
    path = find(*EXP, data)
    try:
        with np.load(path, allow_pickle=False) as held:
            parts = {name: torch.from_numpy(held[name].astype(np.int64)) for name in held.files}
        node_ptr, edge_ptr, edges = parts["node_ptr"], parts["edge_ptr"], parts["edge_index"]
    except (OSError, KeyError, ValueError, zipfile.BadZipFile) as error:
        raise DataError(f"{path}: expected the arrays node_ptr, edge_ptr, x, edge_index, y: {error}") from error
    owner = torch.arange(node_ptr.numel() - 1).repeat_interleave(edge_ptr.diff())
    degree = torch.bincount(edges[0] + node_ptr[owner], minlength=int(node_ptr[-1]))
    x = torch.stack((parts["x"], degree), -1).float()
    return RaggedGraphs(node_ptr, edge_ptr, x, edges, parts["y"].float(), n=64)


def exp_splits(data: str | None = None) -> dict[str, tuple[RaggedGraphs, Tensor]]:
    """EXP-classify: the published split, graphs 0-199 for validation, 200-399 for test, the others for training."""
    graphs = exp(data)
    ranges = {"valid": (0, 200), "test": (200, 400), "train": (400, 1200)}
    return {name: (graphs, torch.arange(*ends)) for name, ends in ranges.items()}


def exp_like(count: int = 16, n: int = 64, seed: int = 0) -> RaggedGraphs:
    """A stand-in for EXP with its shapes: random sparse graphs, with their class in their number of edges."""
    g = torch.Generator().manual_seed(seed)
    target = torch.arange(count) % 2
    sizes, ends, xs = [], [], []
    for label in target.tolist():
        m = int(torch.randint(n // 2, n + 1, (1,), generator=g))
        a = (torch.rand(m, m, generator=g) < (1 + label) * 2.0 / m).triu(1)
        e = (a | a.T).nonzero().T
        feature = torch.randint(0, 2, (m,), generator=g)
        xs.append(torch.stack((feature, torch.bincount(e[0], minlength=m)), -1).float())
        sizes.append(m)
        ends.append(e)
    edge_ptr = pointers([e.shape[1] for e in ends])
    return RaggedGraphs(pointers(sizes), edge_ptr, torch.cat(xs), torch.cat(ends, 1), target.float(), n=n)


def automorphic() -> tuple[Graphs, list[str], Tensor]:
    """Five graphs with known automorphisms, padded to 25 nodes, their names, and the orbits (5, 25) of their nodes.

    Trivial group, S_6 (a star), S_3 x S_2 (two hubs), D_7 (a ring) and D_4 (a 5 x 5 grid). Padding has orbit -1.
    """
    grid = networkx.convert_node_labels_to_integers(networkx.grid_2d_graph(5, 5), ordering="sorted")
    graphs = {
        "trivial": networkx.Graph([(0, 1), (1, 2), (2, 0), (2, 3), (1, 4), (4, 5), (2, 5), (5, 6)]),
        "S6": networkx.star_graph(6),
        "S3xS2": networkx.Graph([(0, 1), (0, 2), (0, 3), (4, 5), (4, 6), (0, 4)]),
        "D7": networkx.cycle_graph(7),
        "D4": grid,
    }
    n = 25
    adjacency, orbits = torch.zeros(len(graphs), n, n), torch.full((len(graphs), n), -1)
    for i, g in enumerate(graphs.values()):
        m = g.number_of_nodes()
        adjacency[i, :m, :m] = torch.tensor(networkx.to_numpy_array(g, nodelist=range(m)))
        matcher = networkx.algorithms.isomorphism.GraphMatcher(g, g)
        orbits[i, :m] = torch.tensor([list(map(f.get, range(m))) for f in matcher.isomorphisms_iter()]).amin(0)
    sizes = torch.tensor([g.number_of_nodes() for g in graphs.values()])
    index = torch.arange(len(graphs))
    return Graphs(torch.zeros(len(graphs), n, 1), adjacency, sizes, index), list(graphs), orbits


def _with_degree(adjacency: Tensor) -> Graphs:
    degree = adjacency.sum(-1)
    b, n = degree.shape
    return Graphs(torch.stack((torch.ones_like(degree), degree), -1), adjacency, torch.full((b,), n), torch.arange(b))
