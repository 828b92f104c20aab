"""Data sets: what they hold, what their stand-ins hold, and what is said where a file is wrong."""

import os
import shutil
import threading
import time

import networkx
import numpy as np
import pytest
import torch
from lps import data
from lps.data import files, separation
from lps.data.benchmarks import read
from lps.data.ragged import one_hot, pointers

needs_data = pytest.mark.skipif(not os.environ.get("LPS_DATA"), reason="LPS_DATA names no folder with the data sets")


@needs_data
def test_graph8c_holds_all_connected_graphs():
    graphs = data.graph8c()
    assert graphs.adjacency.shape == (11117, 8, 8)
    assert torch.equal(graphs.adjacency, graphs.adjacency.mT) and not graphs.adjacency.diagonal(dim1=1, dim2=2).any()
    reach = torch.matrix_power(graphs.adjacency + torch.eye(8), 7) > 0
    assert reach.all(), "a graph is not connected"
    assert torch.equal(graphs.x[..., 1], graphs.adjacency.sum(-1))
    spectra = torch.linalg.eigvalsh(graphs.adjacency.double()).mul(1e6).round().unique(dim=0)
    assert len(spectra) == 10423  # graphs with a cospectral mate aside, each is there once


@needs_data
def test_exp_pairs_have_the_same_sizes_and_other_classes():
    graphs = data.exp()
    assert len(graphs) == 1200
    batch, target = graphs.batch(range(100, 108))
    assert torch.equal(batch.num_nodes[0::2], batch.num_nodes[1::2])
    assert torch.equal(target[0::2] + target[1::2], torch.ones(4))
    assert torch.equal(batch.adjacency, batch.adjacency.mT)
    assert torch.equal(batch.adjacency.sum(-1), batch.x[..., 1])
    assert batch.index.tolist() == list(range(100, 108))


@needs_data
def test_exp_splits_share_no_graph():
    rows = torch.cat([rows for _, rows in data.exp_splits().values()])
    assert torch.equal(rows.sort().values, torch.arange(1200))


@needs_data
@pytest.mark.parametrize("name", [separation.GRAPH8C[0], separation.EXP[0]])
@pytest.mark.parametrize("damage", ["truncated", "changed", "empty"])
def test_damaged_file_is_refused(tmp_path, name, damage):
    path = tmp_path / name
    shutil.copyfile(files.folder() / name, path)
    held = path.read_bytes()
    changed = {"truncated": held[:-7], "changed": held[:50] + bytes([held[50] ^ 1]) + held[51:], "empty": b""}
    path.write_bytes(changed[damage])
    load = data.graph8c if name == separation.GRAPH8C[0] else data.exp
    with pytest.raises(data.DataError, match=f"{name}: expected sha256 .* got .*truncated"):
        load(str(tmp_path))


def test_missing_file_or_folder_is_named(tmp_path, monkeypatch):
    with pytest.raises(data.DataError, match=r"expected graph8c\.g6 in .*no such file"):
        data.graph8c(str(tmp_path))
    with pytest.raises(data.DataError, match=r"expected a folder, .*none"):
        data.graph8c(str(tmp_path / "nowhere"))
    monkeypatch.delenv("LPS_DATA", raising=False)
    with pytest.raises(data.DataError, match="LPS_DATA"):
        data.exp()


@pytest.mark.parametrize("content", [b"not graph6 \xff\n", b"G???F{\nF???w\n"])
def test_file_that_is_no_graph6_is_named(tmp_path, monkeypatch, content):
    import hashlib

    (tmp_path / "graph8c.g6").write_bytes(content)
    monkeypatch.setattr(separation, "GRAPH8C", ("graph8c.g6", hashlib.sha256(content).hexdigest()))
    with pytest.raises(data.DataError, match="graph6"):
        data.graph8c(str(tmp_path))


def test_orbits_are_those_of_the_automorphism_group():
    graphs, names, orbits = data.automorphic()
    sizes = {name: sorted((orbits[i][orbits[i] >= 0]).bincount().tolist()) for i, name in enumerate(names)}
    assert [s for s in sizes["trivial"] if s] == [1] * 7
    assert [s for s in sizes["S6"] if s] == [1, 6] and [s for s in sizes["S3xS2"] if s] == [1, 1, 2, 3]
    assert [s for s in sizes["D7"] if s] == [7] and [s for s in sizes["D4"] if s] == [1, 4, 4, 4, 4, 8]
    assert graphs.num_nodes.tolist() == [7, 7, 7, 7, 25]


def test_ragged_batch_holds_each_graph_as_given():
    x = [torch.randint(0, 3, (m, 1)) for m in (4, 2, 5)]
    edges = [torch.tensor([[0, 1], [3, 2]]), torch.zeros(2, 0, dtype=torch.int64), torch.tensor([[4], [4]])]
    graphs = data.RaggedGraphs(
        pointers([4, 2, 5]),
        pointers([2, 0, 1]),
        torch.cat(x),
        torch.cat(edges, 1),
        torch.arange(11) % 2,
        n=6,
        level="node",
        edge_attr=torch.tensor([[1], [0], [2]]),
        node_classes=(3,),
        edge_classes=(3,),
    )
    batch, target = graphs.batch([2, 0, 1])
    assert batch.num_nodes.tolist() == [5, 4, 2] and batch.x.shape == (3, 6, 3)
    for row, i in enumerate((2, 0, 1)):
        m = len(x[i])
        assert torch.equal(batch.x[row, :m].argmax(-1), x[i][:, 0]) and not batch.x[row, m:].any()
        assert (target[row, m:] == data.IGNORED).all() and (target[row, :m] >= 0).all()
        assert batch.adjacency[row, ..., 0].nonzero().T.tolist() == edges[i].tolist()
    assert batch.adjacency[1, 0, 3].tolist() == [1, 0, 1, 0] and batch.adjacency[0, 4, 4].tolist() == [1, 0, 0, 1]
    assert target[1, :4].tolist() == [0, 1, 0, 1]


def test_ragged_batches_are_picked_as_pytorch_does():
    graphs = data.exp_like(8)
    for numbers in ([-3], torch.tensor([-1, 0]), torch.arange(8) % 3 == 0, [True] + [False] * 7, [], range(2)):
        batch, target = graphs.batch(numbers)
        expected = torch.arange(8)[numbers if torch.is_tensor(numbers) else list(numbers)]
        assert torch.equal(batch.index, expected) and torch.equal(target, expected % 2.0)
        everything = graphs.batch(range(8))[0]
        assert torch.equal(batch.adjacency, everything.adjacency[expected])
        assert torch.equal(batch.num_nodes, everything.num_nodes[expected])
    with pytest.raises(IndexError):
        graphs.batch([8])


def test_ragged_refuses_edges_out_of_their_graph():
    fields = {"x": torch.zeros(3, 1), "target": torch.zeros(2), "n": 4}
    with pytest.raises(data.DataError, match="edge_index"):
        data.RaggedGraphs(pointers([2, 1]), pointers([1, 1]), edge_index=torch.tensor([[0, 1], [1, 0]]), **fields)
    with pytest.raises(data.DataError, match="expected at least 3"):
        one = {**fields, "n": 2}
        data.RaggedGraphs(pointers([3]), pointers([0]), edge_index=torch.zeros(2, 0, dtype=torch.int64), **one)


def test_one_hot_columns_stand_side_by_side():
    assert one_hot(torch.tensor([[1, 0], [0, 2]]), (2, 3)).tolist() == [[0, 1, 1, 0, 0], [1, 0, 0, 0, 1]]


def test_pattern_like_has_the_described_densities():
    graphs = data.pattern_like(60)
    sizes = graphs.node_ptr.diff()
    assert sizes.min() >= 45 and sizes.max() <= 188
    batch, target = graphs.batch(range(60))
    assert ((target == 1).sum(1) == 20).all()
    inside = (target == 1).float()
    both = torch.einsum("bi,bij,bj->", inside, batch.adjacency, inside) / (60 * 20 * 19)
    joint = torch.einsum("bi,bij,bj->", inside, batch.adjacency, (target == 0).float()) / (20 * (sizes - 20).sum())
    assert abs(both - 0.5) < 0.02 and abs(joint - 0.5) < 0.02
    assert abs(target[:, 0].float().mean() - 20 / 117) < 0.17, "a pattern's nodes have places of their own"
    other = (target == 0).float()
    rest = torch.einsum("bi,bij,bj->b", other, batch.adjacency, other) / ((sizes - 20) * (sizes - 21))
    assert 0.36 < rest.mean() < 0.42  # 0.35 between communities, 0.5 within


@pytest.mark.parametrize("outputs", [10, 11])
def test_peptides_like_are_trees_of_peptide_size(outputs):
    graphs = data.peptides_like(30, outputs)
    batch, target = graphs.batch(range(30))
    assert batch.x.shape == (30, 444, 50) and batch.adjacency.shape == (30, 444, 444, 8)
    assert target.shape == (30, outputs) and 100 < batch.num_nodes.float().mean() < 200
    for i in range(3):
        m = int(batch.num_nodes[i])
        assert networkx.is_tree(networkx.from_numpy_array(batch.adjacency[i, :m, :m, 0].numpy()))
    assert torch.equal(batch.adjacency, batch.adjacency.transpose(1, 2))


def test_contact_like_labels_pairs_four_bonds_apart():
    graphs = data.contact_like(5)
    batch, target = graphs.batch(range(5))
    assert batch.adjacency.shape == (5, 53, 53, 7) and target.shape == (5, 53, 53)
    for i in range(5):
        m = int(batch.num_nodes[i])
        steps = networkx.floyd_warshall_numpy(networkx.from_numpy_array(batch.adjacency[i, :m, :m, 0].numpy()))
        contacts = (target[i, :m, :m] == 1).numpy()
        assert np.array_equal(contacts, np.triu(steps == 4)) and not (target[i].tril() > 0).any()
        assert ((target[i] != data.IGNORED).sum(), (target[i].diagonal() != data.IGNORED).sum()) == (m * m, m)
    assert 1.5 < (target == 0).sum() / (target == 1).sum() < 2.5


@pytest.mark.parametrize("level", ["graph", "node", "pair"])
def test_reads_what_torch_geometric_holds(level):
    geometric = pytest.importorskip("torch_geometric.data")
    torch.manual_seed(0)
    items = []
    for m in (3, 5):
        item = geometric.Data(
            torch.randint(0, 2, (m, 1)), torch.tensor([[0, 1, 2], [1, 0, 0]]), torch.ones(3, 1).long()
        )
        if level == "pair":
            item.edge_label_index, item.edge_label = torch.tensor([[0, 2], [1, 1]]), torch.tensor([1, 0])
        else:
            item.y = torch.rand(1, 4) if level == "graph" else torch.randint(0, 2, (m,))
        items.append(item)
    held = geometric.InMemoryDataset()
    held.data, held.slices = held.collate(items)
    graphs = read(lambda: held, "small", n=6, level=level, node_classes=(2,), edge_classes=(2,))
    batch, target = graphs.batch([1, 0])
    assert batch.num_nodes.tolist() == [5, 3] and batch.adjacency.shape == (2, 6, 6, 3)
    assert torch.equal(batch.x[0, :5].argmax(-1), items[1].x[:, 0])
    assert batch.adjacency[0, ..., 0].nonzero().tolist() == [[0, 1], [1, 0], [2, 0]]
    if level == "pair":
        assert target[0, 0, 1] == 1 and target[0, 2, 1] == 0 and (target >= 0).sum() == 4
        assert (target != data.IGNORED).sum((1, 2)).tolist() == [25, 9]
    elif level == "graph":
        assert torch.equal(target[0], items[1].y[0])
    else:
        assert torch.equal(target[1, :3], items[0].y) and (target[1, 3:] == data.IGNORED).all()


def test_what_torch_geometric_cannot_load_is_one_error():
    def fails():
        raise OSError("no network\nat all")

    with pytest.raises(data.DataError, match="PATTERN: torch_geometric could not load it: OSError"):
        read(fails, "PATTERN", n=188)


def test_processes_load_one_at_a_time(tmp_path, monkeypatch):
    datasets, inside, most = pytest.importorskip("torch_geometric.datasets"), [], []

    def slow(root, title, split):
        inside.append(title)
        most.append(len(inside))
        time.sleep(0.1)
        inside.pop()
        raise OSError("loaded")

    monkeypatch.setattr(datasets, "GNNBenchmarkDataset", slow)

    def load():
        with pytest.raises(data.DataError, match="loaded"):
            data.benchmark("pattern", "train", str(tmp_path))

    threads = [threading.Thread(target=load) for _ in range(3)]
    for call in (threading.Thread.start, threading.Thread.join):
        for thread in threads:
            call(thread)
    assert most == [1, 1, 1] and not list(tmp_path.iterdir())


@pytest.mark.parametrize("edges", [[[0, 3], [3, 0]], [[0, -1], [1, 0]], [[0, 1], [1, 2], [2, 0]]])
def test_edge_lists_stay_within_their_graph(edges):
    with pytest.raises(ValueError, match=r"edges: expected numbers \(2, e\) below 3, the nodes of graph 0"):
        data.Graphs.from_edges([torch.tensor(edges)], [torch.ones(3, 1)], n=8)


def test_edge_lists_of_no_graph_are_refused():
    with pytest.raises(ValueError, match="features: expected those of one graph or more"):
        data.Graphs.from_edges([], [])


def test_batches_refuse_wrong_shapes():
    with pytest.raises(ValueError, match="adjacency: expected shape"):
        data.Graphs(torch.zeros(2, 3, 1), torch.zeros(2, 3, 4), torch.tensor([3, 3]))
    with pytest.raises(ValueError, match="charges: expected shape"):
        data.Particles(torch.zeros(2, 5, 3), torch.zeros(2, 5, 3), torch.zeros(2, 4))
