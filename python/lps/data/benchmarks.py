"""PATTERN, Peptides-func, Peptides-struct and PCQM-Contact, through torch_geometric's loaders."""

from __future__ import annotations

from collections.abc import Callable

from lps.data.files import DataError, alone, folder
from lps.data.ragged import RaggedGraphs
from lps.data.synthetic import CONTACT_EDGES, CONTACT_NODES, PEPTIDE_EDGES, PEPTIDE_NODES

_PEPTIDE = {"n": 444, "node_classes": PEPTIDE_NODES, "edge_classes": PEPTIDE_EDGES}
_CONTACT = {"n": 53, "level": "pair", "node_classes": CONTACT_NODES, "edge_classes": CONTACT_EDGES}
# torch_geometric's class and name of each, and how its graphs are padded and read.
BENCHMARKS: dict[str, tuple[str, str, dict]] = {
    "pattern": ("GNNBenchmarkDataset", "PATTERN", {"n": 188, "level": "node"}),
    "peptides_func": ("LRGBDataset", "Peptides-func", _PEPTIDE),
    "peptides_struct": ("LRGBDataset", "Peptides-struct", _PEPTIDE),
    "pcqm_contact": ("LRGBDataset", "PCQM-Contact", _CONTACT),
}


def benchmark(name: str, split: str, data: str | None = None) -> RaggedGraphs:
    """A split of a data set, "train", "valid" or "test". torch_geometric downloads what the folder does not hold."""
    loader, title, fields = BENCHMARKS[name]
    root = folder(data)

    def load():
        from torch_geometric import datasets

        with alone(root):
            return getattr(datasets, loader)(root, title, "val" if split == "valid" else split)

    return read(load, title, **fields)


def read(load: Callable, title: str, **fields) -> RaggedGraphs:
    """What an in-memory data set of torch_geometric holds."""
    try:
        held = load()
        parts, slices = held._data, held.slices
    except Exception as error:  # whatever a download or a file that is none of theirs makes torch_geometric raise
        raise DataError(f"{title}: torch_geometric could not load it: {type(error).__name__}: {error}") from error
    if fields.get("level") == "pair":
        pairs = {"pair_ptr": slices["edge_label_index"].long(), "pair_index": parts.edge_label_index}
        fields |= {**pairs, "target": parts.edge_label.float()}
    else:
        fields["target"] = parts.y
    attributes = parts.edge_attr if fields.get("edge_classes") else None
    nodes, edges = slices["x"].long(), slices["edge_index"].long()
    return RaggedGraphs(nodes, edges, parts.x, parts.edge_index, edge_attr=attributes, **fields)
