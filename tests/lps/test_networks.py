"""The networks that scores and vectors come from have the symmetry that p(g|x) needs."""

import pytest
import torch
from lps.networks import GIN, VNDGCNN
from lps.networks.vector_neurons import VectorLinearLeakyReLU, VectorMaxPool, nearest
from samples import random_graphs, random_motion, relabel, relabel_graphs, relabelling


def gin(sparse: bool = False, **options) -> GIN:
    torch.manual_seed(1)
    return GIN(2, hidden=8, sparse=sparse, **options).double()


def noisy(graphs, k: int = 3):
    return graphs.x[:, :, None] + torch.rand(*graphs.x.shape[:2], k, graphs.x.shape[2], dtype=graphs.x.dtype)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("sparse", [False, True])
def test_gin_follows_relabelling(sparse, training):
    graphs, network = random_graphs(), gin(sparse).train(training)
    x, s = noisy(graphs), relabelling(graphs.num_nodes, 7)
    moved = relabel_graphs(graphs, s)
    scores = network(x, graphs.adjacency, graphs.num_nodes)
    expected = network(relabel(x, s, (1,)), moved.adjacency, moved.num_nodes)
    torch.testing.assert_close(relabel(scores.transpose(1, 2), s, (1,)).transpose(1, 2), expected)
    real = (torch.arange(7) < graphs.num_nodes[:, None])[:, None].expand_as(scores)
    assert scores[real].std() > 1e-3 and (scores[~real] == 0).all()


def test_gin_does_not_see_padding():
    """More padding changes nothing, not even the statistics of batch norm."""
    graphs, network = random_graphs(), gin()
    x = noisy(graphs)
    scores = network(x, graphs.adjacency, graphs.num_nodes)
    wide = torch.nn.functional.pad(x, (0, 0, 0, 0, 0, 4))
    adjacency = torch.nn.functional.pad(graphs.adjacency, (0, 4, 0, 4))
    torch.testing.assert_close(network(wide, adjacency, graphs.num_nodes)[..., :7], scores)
    garbage = x + (torch.arange(7) >= graphs.num_nodes[:, None])[..., None, None] * 100.0
    torch.testing.assert_close(network(garbage, graphs.adjacency, graphs.num_nodes), scores)


def test_gin_sums_alike_along_edges_and_by_product():
    graphs = random_graphs(c=2)
    x = noisy(graphs)
    for adjacency in (graphs.adjacency, graphs.adjacency + 1):  # the second has edges of padding
        dense, sparse = (gin(s)(x, adjacency, graphs.num_nodes) for s in (False, True))
        torch.testing.assert_close(dense, sparse)


def test_gin_is_that_of_torch_geometric():
    """An independent implementation, on one graph with the virtual node as a node of it."""
    nn = pytest.importorskip("torch_geometric.nn")
    graphs, network = random_graphs(b=1), gin().eval()
    x = noisy(graphs, k=1)
    edges = graphs.adjacency[0].nonzero().T + 1
    everyone = torch.arange(8)
    star = torch.stack((torch.zeros_like(everyone), everyone))
    edges = torch.cat((edges, star, star.flip(0)[:, 1:]), 1)
    h = torch.cat((network.virtual_node.detach()[None], x[0, :, 0]))
    for eps, mlp in zip(network.eps, network.rounds):
        h = nn.GINConv(mlp, eps=eps.item()).double()(h, edges)
    expected = network.head(h)[1:, 0]
    torch.testing.assert_close(network(x, graphs.adjacency, graphs.num_nodes)[0, 0], expected)


def test_gin_takes_empty_graphs():
    graphs = random_graphs()
    num_nodes = torch.tensor([7, 0, 1])
    scores = gin()(noisy(graphs), graphs.adjacency, num_nodes)
    assert scores.isfinite().all() and (scores[1] == 0).all() and (scores[2, :, 1:] == 0).all()


def vectors(m: int = 4, n: int = 6, c: int = 2) -> torch.Tensor:
    return torch.randn(m, n, 3, c, dtype=torch.float64)


def rotate(x: torch.Tensor, q: torch.Tensor) -> torch.Tensor:
    return torch.einsum("ij,...jc->...ic", q, x)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("special", [True, False])
def test_vn_dgcnn_follows_both_groups(special, training):
    torch.manual_seed(0)
    network, x = VNDGCNN(2, hidden=24, neighbours=4).double().train(training), vectors()
    scores, v = network(x)
    q, _ = random_motion(special)
    s = torch.stack([torch.randperm(6) for _ in x])
    moved_scores, moved_v = network(relabel(rotate(x, q), s, (1,)))
    torch.testing.assert_close(moved_scores, relabel(scores, s, (1,)))
    torch.testing.assert_close(moved_v, rotate(v, q))
    assert scores.std(1).min() > 1e-6 and torch.linalg.matrix_rank(v).min() == 3


def test_vn_dgcnn_has_the_heads_that_are_asked_for():
    scores, v = VNDGCNN(2, 24, scores=True, vectors=False)(vectors().float())
    assert scores.shape == (4, 6) and v is None
    network = VNDGCNN(2, 24, scores=False)
    scores, v = network(vectors().float())
    assert scores is None and v.shape == (4, 3, 3)
    v.sum().backward()
    assert all(p.grad is not None for p in network.parameters())  # nothing that distributed training would wait for


def test_vn_dropout_breaks_no_symmetry():
    network, x = VNDGCNN(2, hidden=24, dropout=0.5).double(), vectors()
    q, _ = random_motion()
    found = []
    for points in (x, rotate(x, q)):
        torch.manual_seed(3)
        found.append(network(points))
    torch.testing.assert_close(found[1][0], found[0][0])
    torch.testing.assert_close(found[1][1], rotate(found[0][1], q))
    assert not torch.allclose(network(x)[0], found[0][0])


def test_vector_layers():
    torch.manual_seed(0)
    layer, x = VectorLinearLeakyReLU(2, 5).double(), vectors()
    q, _ = random_motion()
    torch.testing.assert_close(layer(rotate(x, q)), rotate(layer(x), q))
    pool = VectorMaxPool(2).double()
    y = pool(x, 1)
    assert (y[:, None] == x).all(2).any(1).all()  # each channel's vector is one of those that went in
    torch.testing.assert_close(pool(rotate(x, q), 1), rotate(y, q))


def test_neighbours_are_the_nearest_and_the_node_itself():
    x = torch.tensor([0.0, 1.0, 3.0, 7.0])[None, :, None, None] * torch.ones(1, 4, 3, 1)
    assert nearest(x, 2)[0].sort().values.tolist() == [[0, 1], [0, 1], [1, 2], [2, 3]]
    assert nearest(x, 9).shape == (1, 4, 4)


def test_a_layer_of_neighbours_sees_differences_and_the_node():
    torch.manual_seed(0)
    layer, x = VectorLinearLeakyReLU(4, 5).double(), vectors().requires_grad_()
    found = nearest(x, 3)
    near = x[torch.arange(len(x))[:, None, None], found]
    own = x[:, :, None].expand_as(near)
    expected, y = layer(torch.cat((near - own, own), -1)), layer.of_neighbours(x, found)
    torch.testing.assert_close(y, expected)
    weights = torch.randn_like(y)
    got, wanted = (torch.autograd.grad(z, (x, layer.features.weight), weights) for z in (y, expected))
    torch.testing.assert_close(got, wanted)


def test_a_vector_layer_of_zeros_has_finite_gradients():
    layer, x = VectorLinearLeakyReLU(2, 5), torch.zeros(4, 6, 3, 2, requires_grad=True)
    layer(x).sum().backward()
    assert x.grad.isfinite().all()
