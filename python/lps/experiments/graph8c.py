"""GRAPH8c: do random symmetrized networks tell all 11,117 connected graphs with 8 nodes apart?

All 61.8 million pairs are compared. A k-sample estimate is random, so graphs may be told apart by chance alone: the
same threshold is therefore applied to isomorphic copies as well, and how many of these are told apart stands beside.
"""

from __future__ import annotations

import sys
from typing import Any

from lps import data
from lps.experiments.build import build
from lps.experiments.config import choose
from lps.experiments.separation import SETTINGS, apart, confused, embed, relabelled, still_confused

PRESETS: dict[str, dict[str, Any]] = {
    "paper": {**SETTINGS, "repeats": 100},
    "small": {"repeats": 1},
}
SIZES = {"n": 8, "node_channels": 2, "out_channels": 10, "order_out": 0}
BACKBONES = {
    "mlp": {"hidden": (128, 64), "activation": "tanh", "last_activation": True, "order_in": "edges"},
    "gin_id": {"hidden": 64, "layers": 3, "activation": "tanh", "last_activation": True},
}


def run(config: dict[str, Any]) -> dict[str, Any]:
    """Numbers of pairs that are confused after each of the random models."""
    graphs = data.graph8c(config["data"])
    counts, pairs = [], None
    for seed in range(config["seed"], config["seed"] + config["repeats"]):
        model = build({**config, "seed": seed}, **SIZES, **choose("backbone", config["backbone"], BACKBONES))
        x = embed(model, graphs, config)
        pairs = confused(x) if pairs is None else still_confused(pairs, x)
        counts.append(len(pairs))
        if seed == config["seed"]:
            copies = apart(x, embed(model, relabelled(graphs, seed), config))
    n = len(graphs)
    return {
        "graphs": n,
        "pairs": n * (n - 1) // 2,
        "confused": counts[-1],
        "confused_after_each_model": counts,
        "isomorphic_copies_told_apart": int(copies.sum()),
    }


if __name__ == "__main__":
    from lps.experiments.run import main

    sys.exit(main("graph8c"))
