"""What pattern, peptides_func, peptides_struct and pcqm_contact share: a ViT that sees a graph as an image."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from lps import data
from lps.data import RaggedGraphs
from lps.experiments import task, training
from lps.experiments.build import build

# Defaults of the keys that these experiments read, those of PATTERN with a ViT from scratch.
SETTINGS: dict[str, Any] = {
    **task.SETTINGS,
    "seed": 42,
    "epochs": 320,
    "max_steps": 25000,
    "batch_size": 128,
    "optimizer": "adamw",
    "lr": 1e-5,
    "weight_decay": 0.01,
    "warmup_epochs": 64.0,  # 5000 steps
    "decay": True,
    "patience": 100,
    "samples": 1,
    "eval_samples": 10,
    "precision": "bf16",
    "data": "",
    "stand_in": 0,  # training graphs of a stand-in of the same shapes, a quarter of them each to validate and to test
    "backbone": "vit",
    "encoder": "vit_base_patch16_224.augreg_in21k",  # timm's; for backbone=bert a name or a folder of transformers
    "pretrained": False,  # weights by the encoder's name; those in its folder are taken unless false is given
    "weights": "",  # a file of pretrained weights, instead of timm's hub
    "patch_dropout": 0.0,
    "pad": "zero",  # of the patch projection: zero, reflect, replicate, circular
    "centred": False,
    "group": "prob",  # or uniform, canonical, frame
    "fixed_noise": False,
    "noise_scale": 1.0,
    "tau": 0.01,
    "score_layers": 3,
    "score_hidden": 64,
    "score_dropout": 0.1,
    "sparse": False,  # the sums of the scores' network run along edges: faster where few pairs are edges
}
SMALL = {"encoder": "vit_tiny_patch16_224", "batch_size": 8, "epochs": 1, "max_steps": 8, "stand_in": 64}
SMALL |= {"lr": 1e-4, "warmup_epochs": 0.0, "eval_samples": 1, "precision": "fp32"}


def run(
    config: dict[str, Any],
    name: str,
    stand_in: Callable[[int, int], RaggedGraphs],
    shapes: dict[str, Any],
    **fields: Any,
) -> dict[str, Any]:
    """Train a ViT on a data set of torch_geometric, or on stand_in(count, seed).

    shapes: settings of what the model takes and returns, order_in, order_out and out_channels.
    fields: the loss and the scores, see `Task`.
    """
    splits, graphs = {}, None
    for seed, part in enumerate(("test", "valid", "train")):
        if config["stand_in"]:
            graphs = stand_in(config["stand_in"] // (1 if part == "train" else 4), seed)
        else:
            graphs = data.benchmark(name, part, config["data"])
        splits[part] = task.Split(graphs.batch, _rows(graphs))
    sizes = {"n": graphs.n, "node_channels": graphs.channels, "edge_channels": graphs.edge_channels}
    model = build(config, **sizes, **shapes, data="graphs")
    return training.Trainer(config, model, task.Task(**splits, **fields)).run()


def _rows(graphs: RaggedGraphs) -> Tensor:
    return graphs.node_ptr.new_tensor(range(len(graphs)))
