"""make demo: networks that are not equivariant, made so on real graphs and point clouds, checked and timed here."""

from __future__ import annotations

import functools
import time

import networkx as nx
import torch
from rich.console import Console
from rich.progress import Progress
from torch import Tensor, nn

import lps_kernels as lk
from benchmarks import demo_clouds, rivals, run, scores_to_nodes
from benchmarks.demo_plot import save_figure
from benchmarks.measure import Case

SAMPLES = (1, 4, 16, 64, 256)
FEATURES, WIDTH = 3, 32
console = Console(width=100, highlight=False)


def graphs() -> tuple[list[str], Tensor, Tensor, Tensor, Tensor]:
    """Names, node features (b, n, 3), adjacency (b, n, n), num_nodes (b,) and a target (b, n): betweenness."""
    found = {
        "karate club": nx.karate_club_graph(),
        "les miserables": nx.les_miserables_graph(),
        "florentine families": nx.florentine_families_graph(),
        "davis southern women": nx.davis_southern_women_graph(),
    }
    n = max(map(len, found.values()))
    x, edges, target = torch.zeros(4, n, FEATURES), torch.zeros(4, n, n), torch.zeros(4, n)
    for i, graph in enumerate(found.values()):
        size = len(graph)
        adjacency = torch.from_numpy(nx.to_numpy_array(graph, weight=None)).float()
        edges[i, :size, :size] = adjacency
        degree = adjacency.sum(1)
        clustering = torch.tensor(list(nx.clustering(graph).values()))
        x[i, :size] = torch.stack([torch.ones(size), degree.log1p(), clustering], -1)
        target[i, :size] = torch.tensor(list(nx.betweenness_centrality(graph).values()))
    return list(found), x, edges, torch.tensor([len(g) for g in found.values()]), target


class Transformer(nn.Module):
    """Nodes in the order they come, told apart by a learned position: (rows, n, 3), (rows, n, n) -> (rows, n)."""

    def __init__(self, n: int) -> None:
        super().__init__()
        self.embed = nn.Linear(FEATURES + n, WIDTH)
        self.position = nn.Parameter(0.3 * torch.randn(n, WIDTH))
        layer = nn.TransformerEncoderLayer(WIDTH, 4, 2 * WIDTH, dropout=0.0, batch_first=True, norm_first=True)
        self.encode = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.read = nn.Linear(WIDTH, 1)

    def forward(self, x: Tensor, edges: Tensor) -> Tensor:
        return self.read(self.encode(self.embed(torch.cat([x, edges], -1)) + self.position))[..., 0]


class MLP(nn.Module):
    """A graph as one long vector: (rows, n, 3), (rows, n, n) -> (rows, 8)."""

    def __init__(self, n: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(n * (n + FEATURES), 64), nn.GELU(), nn.Linear(64, 8))

    def forward(self, x: Tensor, edges: Tensor) -> Tensor:
        return self.layers(torch.cat([x, edges], -1).flatten(1))


class Scores(nn.Module):
    """A learned distribution over permutations: a small graph network on noisy features gives scores (b, k, n)."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(FEATURES + 1, WIDTH), nn.Linear(WIDTH, WIDTH)
        self.read = nn.Linear(WIDTH, 1)

    def scores(self, inputs: tuple[Tensor, Tensor], k: int) -> Tensor:
        x, edges = inputs
        noise = torch.rand(x.shape[0], k, x.shape[1], 1)
        h = torch.cat([x[:, None].expand(-1, k, -1, -1), noise], -1)
        spread = (edges / edges.sum(-1, keepdim=True).clamp(min=1))[:, None]
        h = torch.tanh(self.first(h) + spread @ self.first(h))
        h = torch.tanh(self.second(h) + spread @ self.second(h))
        return self.read(h)[..., 0] + noise[..., 0]

    def forward(self, inputs: tuple[Tensor, Tensor], k: int, num_nodes: Tensor) -> lk.Permutation:
        return lk.Permutation.from_scores(self.scores(inputs, k), num_nodes, tau=rivals.TAU)


def train(net: lk.Symmetrized, inputs, num_nodes: Tensor, target: Tensor, progress: Progress, steps: int = 60) -> None:
    """Fit betweenness, so that the distribution is one that gradients through its permutations have shaped."""
    optimizer = torch.optim.Adam(net.parameters(), lr=3e-3)
    task = progress.add_task("training a symmetrized transformer", total=steps)
    losses = []
    for _ in range(steps):
        g = net.sample(inputs, 8, num_nodes=num_nodes)
        found = lk.symmetrize(net.f, inputs, g, net.order_in, net.order_out)
        loss = (found - target).square().sum() / num_nodes.sum() + 1e-3 * g.entropy()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(((found - target).square().sum() / target.square().sum()).item())
        progress.advance(task)
    console.print(
        f"squared error of betweenness: {losses[0]:.2f} of its size before, {losses[-1]:.3f} after {steps} steps"
    )


def permuted(inputs, num_nodes: Tensor) -> tuple[lk.Permutation, tuple[Tensor, Tensor]]:
    """A random relabelling of every graph, and the graphs under it."""
    pi = lk.Permutation.uniform(*inputs[0].shape[:1], 1, inputs[0].shape[1], num_nodes)
    return pi, tuple(pi.transform_output(a[:, None], o) for a, o in zip(inputs, (1, 2)))


def relative(a: Tensor, b: Tensor) -> float:
    return ((a - b).norm() / b.norm()).item()


@torch.no_grad()
def errors(net: lk.Symmetrized, inputs, num_nodes: Tensor, k: int, repeats: int) -> tuple[float, float]:
    """How far phi(pi G) is from pi phi(G): with fresh samples for each, and with samples carried along by pi."""
    fresh, carried = [], []
    for _ in range(repeats):
        pi, moved = permuted(inputs, num_nodes)
        g = net.sample(inputs, k, num_nodes=num_nodes).detach()
        there = lk.Permutation.from_indices(pi.perm.expand(-1, k, -1), num_nodes)
        expected = lk.symmetrize(net.f, inputs, g, net.order_in, net.order_out)
        if net.order_out == 1:
            expected = pi.transform_output(expected[:, None])
        fresh.append(relative(net(moved, k, num_nodes=num_nodes), expected))
        same = there @ lk.Permutation.from_indices(g.perm, num_nodes)
        carried.append(relative(lk.symmetrize(net.f, moved, same, net.order_in, net.order_out), expected))
    return sum(fresh) / repeats, max(carried)


def against_dense(distribution: Scores, inputs, num_nodes: Tensor, k: int = 4) -> tuple[float, float]:
    """Relative differences from matrices in float64: of nodes and edges in and out, and of the scores' gradient."""
    x, edges = (a.double() for a in inputs)
    scores = distribution.scores(inputs, k).detach().double().requires_grad_()
    g = lk.Permutation.from_scores(scores, num_nodes, tau=rivals.TAU)
    matrix, soft = rivals.published(scores, num_nodes)
    torch.manual_seed(1)
    y_k = torch.randn(*scores.shape, 5, dtype=torch.float64)
    mine = (g.transform_input(x), g.transform_input(edges, 2), g.transform_output(y_k), g.entropy())
    dense = (
        matrix.mT @ x[:, None],
        matrix.mT @ edges[:, None] @ matrix,
        (matrix @ y_k).mean(1),
        rivals.published_entropy(soft, num_nodes),
    )
    grads = [torch.randn_like(a) for a in mine]
    gradients = [torch.autograd.grad(outs, scores, grads)[0] for outs in (mine, dense)]
    return max(relative(a, b) for a, b in zip(mine, dense)), relative(*gradients)


def main() -> None:
    start = time.perf_counter()
    torch.manual_seed(0)
    console.rule("lps_kernels")
    console.print(f"cpu kernels: {lk.native.loaded or 'none, ' + lk.native.reason}; {torch.get_num_threads()} threads")
    names, x, edges, num_nodes, target = graphs()
    inputs, n = (x, edges), x.shape[1]
    console.print("graphs: " + ", ".join(f"{name} ({size})" for name, size in zip(names, num_nodes.tolist())))
    make = functools.partial(lk.Symmetrized, order_in=(1, 2))
    learned = Scores()
    transformer, mlp = Transformer(n), MLP(n)
    nets = {
        "transformer, learned": make(transformer, learned, order_out=1),
        "transformer, uniform S_n": make(transformer, "S_n", order_out=1),
        "MLP, learned": make(mlp, learned, order_out=0),
        "MLP, uniform S_n": make(mlp, "S_n", order_out=0),
    }
    with Progress(console=console) as progress:
        train(nets["transformer, learned"], inputs, num_nodes, target, progress)
        task = progress.add_task("equivariance against k", total=(len(nets) + 1) * len(SAMPLES))
        found = {}
        for name, net in nets.items():
            for k in SAMPLES:
                found[name, k] = errors(net, inputs, num_nodes, k, repeats=max(1, min(8, 64 // k)))
                progress.advance(task)
        shapes, points, sizes = demo_clouds.clouds()
        net = demo_clouds.symmetrized(points.shape[1])
        for k in SAMPLES:
            found["MLP on points, SE(3)", k] = demo_clouds.errors(
                net, points, sizes, k, repeats=max(1, min(8, 64 // k))
            )
            progress.advance(task)
        task = progress.add_task("timing", total=1)
        case = Case(f"64 rows n={n}", {"b": 64, "n": n})
        rows = run.measure(scores_to_nodes, case, rounds=7, compiled=False, budget=15)
        progress.advance(task)
    console.print("point clouds: " + ", ".join(f"{name} ({size})" for name, size in zip(shapes, sizes.tolist())))
    console.print("\nrelative difference of phi(h X) and h phi(X), k samples each:")
    console.print(f"{'':26s}" + "".join(f"{f'k={k}':>9s}" for k in SAMPLES) + "   same samples, moved by h")
    for name in dict.fromkeys(name for name, _ in found):
        line = "".join(f"{found[name, k][0]:9.4f}" for k in SAMPLES)
        console.print(f"{name:26s}{line}   {max(found[name, k][1] for k in SAMPLES):.1e}")
    value, gradient = against_dense(learned, inputs, num_nodes)
    console.print(f"\nagainst dense matrices in float64: values {value:.1e}, gradient of the scores {gradient:.1e}\n")
    console.print("\n".join(run.lines(rows)))
    save_figure("demo.png", SAMPLES, found, rows)
    console.print(f"\nsaved demo.png; {time.perf_counter() - start:.0f} s")
    if not (value < 1e-9 and gradient < 1e-8 and max(e[1] for e in found.values()) < 1e-3):
        raise SystemExit("demo: expected agreement with the dense matrices and equivariance to rounding")


if __name__ == "__main__":
    main()
