"""permute_rotate: S_n x O(3) on particles, from scores and vectors to features in and out, with all gradients."""

import torch

import lps_kernels as lk
from benchmarks import rivals
from benchmarks.measure import OURS, Case, Draw, Work

CASES = [
    Case("S_n x O(3) in and out with gradients, b=100 k=20 n=5", {"b": 100, "k": 20, "n": 5}, {"published": 10}),
    Case("S_n x O(3) in and out with gradients, b=10 k=20 n=5", {"b": 10, "k": 20, "n": 5}, quick=True),
    Case("S_n x O(3) in and out with gradients, b=20 k=20 n=64", {"b": 20, "k": 20, "n": 64}),
]


def ours(scores, v, x, y_k):
    permutation = lk.Permutation.from_scores(scores, tau=rivals.TAU, n_iter=rivals.N_ITER)
    g = lk.Product(permutation, lk.Orthogonal.from_vectors(v))
    return g.transform_input(x, (1, 1)), g.transform_output(y_k, (1, 1))


def published(scores, v, x, y_k):
    matrix, _ = rivals.published(scores)
    q = rivals.eager_gram_schmidt(v)
    x_k = torch.einsum("bkji,bjd->bkid", matrix, x) @ q
    return x_k, torch.einsum("bkij,bkjd->bkid", matrix, y_k @ q.mT).mean(1)


def build(b: int, k: int, n: int, d: int = 3) -> Work:
    draw = Draw()
    shapes = [(b, k, n), (b, k, d, d), (b, n, d), (b, k, n, d)]
    inputs = [draw(*s).requires_grad_() for s in shapes]
    grads = [draw(*s) for s in [(b, k, n, d), (b, n, d)]]

    def step(function):
        def run():
            outs = function(*inputs)
            return (*outs, *torch.autograd.grad(outs, inputs, grads))

        return run

    runs = {OURS: step(ours), "published": step(published)}
    compilable = {"published": lambda: step(torch.compile(published))}
    # Vectors that are nearly dependent leave few digits of a float32 gradient.
    moved = 2 * sum(4 * a.numel() for a in inputs) + 2 * sum(4 * a.numel() for a in grads)
    return Work(runs, moved, compilable, tolerance=None)
