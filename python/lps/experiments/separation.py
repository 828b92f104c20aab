"""Which graphs do random networks tell apart? Shared by graph8c and exp."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from lps.data import Graphs
from lps.experiments.processes import pick_device

THRESHOLD = 1e-3  # as published: two graphs are told apart where their embeddings differ by more, in the 1-norm

# Defaults of the keys that both experiments read.
SETTINGS: dict[str, Any] = {
    "seed": 0,
    "repeats": 1,  # random models; a pair is confused where all of them confuse it
    "batch_size": 100,
    "samples": 10,
    "data": "",
    "device": "cpu",
    "backbone": "mlp",  # or gin_id
    "group": "prob",  # or uniform, canonical, frame
    "noise_scale": 1.0,
    "tau": 0.01,
    "score_layers": 3,
    "score_hidden": 64,
}


@torch.no_grad()
def embed(model: nn.Module, graphs: Graphs, config: dict[str, Any]) -> Tensor:
    """(graphs, c) predictions of a model that is not training."""
    device, size = pick_device(config["device"]), config["batch_size"]
    model = model.to(device).eval()
    parts = [graphs[i : i + size].to(device) for i in range(0, len(graphs), size)]
    return torch.cat([model(part, k=config["samples"]).prediction.flatten(1).cpu() for part in parts])


def relabelled(graphs: Graphs, seed: int) -> Graphs:
    """Isomorphic copies: each graph with its real nodes in a random order."""
    g = torch.Generator().manual_seed(seed)
    b, n, c = graphs.x.shape
    keys = torch.rand(b, n, generator=g) + (torch.arange(n) >= graphs.num_nodes[:, None])  # padding stays behind
    order = keys.argsort(-1)
    x = graphs.x.gather(1, order[..., None].expand(b, n, c))
    rows = graphs.adjacency.gather(1, order[..., None].expand(b, n, n))
    adjacency = rows.gather(2, order[:, None].expand(b, n, n))
    return Graphs(x, adjacency, graphs.num_nodes, graphs.index)


def apart(x: Tensor, y: Tensor) -> Tensor:
    """(rows,) bool: whether embeddings (rows, c) differ."""
    return (x - y).abs().sum(-1) > THRESHOLD


def median_distance(x: Tensor, y: Tensor) -> float:
    """Of embeddings (rows, c), row by row, in the 1-norm."""
    return (x - y).abs().sum(-1).median().item()


def confused(x: Tensor, chunk: int = 512) -> Tensor:
    """(pairs, 2): which of all pairs of embeddings (graphs, c) are not told apart."""
    found = []
    for start in range(0, len(x), chunk):
        near = (torch.cdist(x[start : start + chunk], x[start:], p=1.0) <= THRESHOLD).triu(1).nonzero()
        found.append(near + start)
    return torch.cat(found)


def still_confused(pairs: Tensor, x: Tensor) -> Tensor:
    """Those pairs that these embeddings do not tell apart either."""
    return pairs[~apart(x[pairs[:, 0]], x[pairs[:, 1]])]
