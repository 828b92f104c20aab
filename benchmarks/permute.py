"""permute: edges in, P^T A P, alone and with the gradients of edges and scores."""

import torch

import lps_kernels as lk
from benchmarks import rivals
from benchmarks.measure import OURS, Case, Draw, Work

CASES = [
    Case("edges forward, 16 graphs n=188 c=4", {"b": 16, "n": 188, "c": 4}, {"copy of the output": 0.8}, quick=True),
    Case("edges forward, 4 graphs n=444 c=8", {"b": 4, "n": 444, "c": 8}, {"copy of the output": 0.8}),
    Case("edges forward, 16 graphs n=444 c=8", {"b": 16, "n": 444, "c": 8}, {"copy of the output": 0.8}),
    Case(
        "edges and scores forward+backward, 8 graphs n=188 c=4",
        {"b": 8, "n": 188, "c": 4, "grad": True},
        {"einsum, from scores": 25},
    ),
    Case(
        "edges and scores forward+backward, 2 graphs n=444 c=8",
        {"b": 2, "n": 444, "c": 8, "grad": True},
        {"einsum, from scores": 25},
    ),
]


def build(b: int, n: int, c: int, grad: bool = False) -> Work:
    draw = Draw()
    edges = draw(b, n, n, c)
    scores = draw(b, 1, n)
    return _gradient(edges, scores, draw(b, 1, n, n, c)) if grad else _forward(edges, scores)


def _forward(edges, scores) -> Work:
    g = lk.Permutation.from_scores(scores)
    out = g.transform_input(edges, order=2)
    kept = torch.empty_like(out)
    runs = {
        OURS: lambda: g.transform_input(edges, order=2),
        "copy of the output": out.clone,
        "copy into a buffer": lambda: kept.copy_(out),
    }
    return Work(runs, edges.nbytes + out.nbytes)


def _gradient(edges, scores, grad) -> Work:
    """Ours goes from the scores to their gradient. So do rivals "from scores"; the others stop at a given matrix."""
    edges.requires_grad_()
    scores.requires_grad_()
    matrix = rivals.dense_matrix(scores).detach().requires_grad_()

    def ours():
        y = lk.Permutation.from_scores(scores, tau=rivals.TAU, n_iter=rivals.N_ITER).transform_input(edges, order=2)
        return torch.autograd.grad(y, (scores, edges), grad)

    def from_scores(function):
        return lambda: torch.autograd.grad(function(edges, rivals.dense_matrix(scores)), (scores, edges), grad)

    def from_matrix(function):
        # The gradient of edges alone is returned, to be compared; that of the matrix is computed with it.
        return lambda: torch.autograd.grad(function(edges, matrix), (matrix, edges), grad)[1:]

    functions = {"einsum": rivals.edge_einsum, "matmul": rivals.edge_matmul}
    runs = {OURS: ours, **{f"{name}, from scores": from_scores(f) for name, f in functions.items()}}
    runs |= {f"{name}, matrix given": from_matrix(f) for name, f in functions.items()}
    compilable = {f"{name}, matrix given": lambda f=f: from_matrix(torch.compile(f)) for name, f in functions.items()}
    return Work(runs, 4 * edges.nbytes + 3 * scores.nbytes, compilable)
