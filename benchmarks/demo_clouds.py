"""The demo's point clouds: a plain MLP made SE(3)-equivariant, and how far from it k samples are."""

from __future__ import annotations

import networkx as nx
import torch
from torch import Tensor, nn

import lps_kernels as lk


def clouds() -> tuple[list[str], Tensor, Tensor]:
    """Names, points (b, n, 3) and num_nodes (b,): the demo's graphs and solids, laid out in space by springs."""
    found = {
        "karate club": nx.karate_club_graph(),
        "florentine families": nx.florentine_families_graph(),
        "davis southern women": nx.davis_southern_women_graph(),
        "dodecahedron": nx.dodecahedral_graph(),
        "truncated cube": nx.truncated_cube_graph(),
    }
    points = torch.zeros(len(found), max(map(len, found.values())), 3)
    for i, graph in enumerate(found.values()):
        layout = nx.spring_layout(graph, dim=3, seed=0)
        points[i, : len(graph)] = torch.tensor([layout[node].tolist() for node in graph])
    return list(found), points, torch.tensor([len(g) for g in found.values()])


class CloudMLP(nn.Module):
    """A cloud as one long vector: points (rows, n, 3) to velocities (rows, n, 3)."""

    def __init__(self, n: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(3 * n, 64), nn.GELU(), nn.Linear(64, 3 * n))

    def forward(self, points: Tensor) -> Tensor:
        return self.layers(points.flatten(1)).view_as(points)


def symmetrized(n: int) -> lk.Symmetrized:
    """Points in, about their centroid; velocities out, which a translation does not move."""
    return lk.Symmetrized(CloudMLP(n), "SE(3)", order_in="point", order_out="vector")


@torch.no_grad()
def errors(net: lk.Symmetrized, points: Tensor, num_nodes: Tensor, k: int, repeats: int) -> tuple[float, float]:
    """How far phi(h X) is from h phi(X) for random motions h: with fresh samples, and with samples moved along by h."""
    fresh, carried = [], []
    for _ in range(repeats):
        b = points.shape[0]
        q, shift = lk.Orthogonal.uniform(b, 1, 3, special=True).q, torch.randn(b, 1, 3)
        h = lk.Euclidean.from_matrix(q, shift, num_nodes)
        moved = h.transform_output(points[:, None], "point")
        g = net.sample(points, k, num_nodes=num_nodes)
        here = lk.symmetrize(net.f, points, g, net.order_in, net.order_out)
        expected = h.transform_output(here[:, None], "vector")
        fresh.append((net(moved, k, num_nodes=num_nodes) - expected).norm() / expected.norm())
        same = lk.Euclidean.from_matrix(q.expand(-1, k, -1, -1), shift.expand(-1, k, -1), num_nodes) @ g
        again = lk.symmetrize(net.f, moved, same, net.order_in, net.order_out)
        carried.append((again - expected).norm() / expected.norm())
    return torch.stack(fresh).mean().item(), torch.stack(carried).max().item()
