"""Automorphism: what do a random network's node outputs say of nodes that no permutation of the graph tells apart?

An equivariant model gives nodes of one orbit of the automorphism group equal outputs. A canonical order has to break
the tie between them and gives different ones; the mean over k samples of p(g|x) comes near equal ones as k grows, while
each of the samples breaks the symmetry. Reported per graph: the spread of the outputs within orbits, the root mean
square of the distance from the orbit's mean, in units of the canonical outputs' spread over all nodes.
"""

from __future__ import annotations

import sys
from typing import Any

import torch
from torch import Tensor

from lps import data
from lps.experiments.build import build
from lps.experiments.config import choose
from lps.groups import Canonical

PRESETS: dict[str, dict[str, Any]] = {
    "paper": {
        "seed": 777,
        "samples": 100,
        "most_samples": 3000,
        "backbone": "mlp",  # or gin_id
        "noise_scale": 1.0,
        "tau": 0.01,
        "score_layers": 3,
        "score_hidden": 64,
        "plot": "",  # a file for a picture of the outputs
    },
    "small": {"samples": 100, "most_samples": 300},
}
SIZES = {"n": 25, "node_channels": 1, "out_channels": 1, "order_in": "edges", "order_out": 1}
BACKBONES = {"mlp": {"hidden": (2048, 4096, 2048)}, "gin_id": {"hidden": 64}}


@torch.no_grad()
def run(config: dict[str, Any]) -> dict[str, Any]:
    """Spreads of the sampled, the well-sampled and the canonical outputs."""
    graphs, names, orbits = data.automorphic()
    model = build(config, **SIZES, **choose("backbone", config["backbone"], BACKBONES)).eval()
    outputs = {f"ps, k = {config['samples']}": model(graphs, k=config["samples"]).prediction}
    size = min(100, config["most_samples"])  # at a time
    chunks = [model(graphs, k=size).prediction for _ in range(config["most_samples"] // size)]
    outputs[f"ps, k = {size * len(chunks)}"] = torch.stack(chunks).mean(0)
    outputs["ps, k = 1"] = model(graphs, k=1).prediction
    model.distribution = Canonical(model.distribution)
    outputs["canonical"] = model(graphs, k=1).prediction
    values = {name: y[..., 0] for name, y in outputs.items()}
    if config["plot"]:
        plot(graphs, names, orbits, values, config["plot"])
    whole = [spread(y, (o >= 0).long() - 1) for y, o in zip(values["canonical"], orbits)]
    within = {name: [spread(y[i], orbits[i]) / whole[i] for i in range(len(names))] for name, y in values.items()}
    return {
        "spread_within_orbits": {name: dict(zip(names, each)) for name, each in within.items()},
        "outputs": {name: [row[o >= 0].tolist() for row, o in zip(y, orbits)] for name, y in values.items()},
    }


def spread(y: Tensor, orbits: Tensor) -> float:
    """Root mean square of how far y (n,) is from the means of orbits (n,); what has orbit -1 is left out."""
    y, orbits = y[orbits >= 0], orbits[orbits >= 0]
    means = torch.stack([y[orbits == o].mean() for o in orbits])
    return (y - means).square().mean().sqrt().item()


def plot(graphs: data.Graphs, names: list[str], orbits: Tensor, values: dict[str, Tensor], file: str) -> None:
    """One row of drawings a way to sample, nodes coloured by output; the first row shows the orbits."""
    import matplotlib.pyplot as plt
    import networkx

    rows = {"orbits": orbits.float(), **values}
    figure, axes = plt.subplots(len(rows), len(names), figsize=(2.4 * len(names), 2.2 * len(rows)))
    for i, graph in enumerate(names):
        m = int(graphs.num_nodes[i])
        drawn = networkx.from_numpy_array(graphs.adjacency[i, :m, :m].numpy())
        place = networkx.kamada_kawai_layout(drawn)
        drawn_values = torch.stack([y[i, :m] for y in values.values()])
        scale = {"vmin": drawn_values.min().item(), "vmax": drawn_values.max().item()}  # one for all ways to sample
        for row, (name, y) in zip(axes, rows.items()):
            colours = {"node_color": y[i, :m].tolist(), **(scale if name in values else {})}
            networkx.draw(drawn, place, row[i], node_size=90, edgecolors="black", **colours)
            row[i].set_title(f"{graph}: {name}", fontsize=8)
    figure.tight_layout()
    figure.savefig(file, dpi=120)
    plt.close(figure)


if __name__ == "__main__":
    from lps.experiments.run import main

    sys.exit(main("automorphism"))
