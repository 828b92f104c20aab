"""scores_to_nodes: scores to nodes in and out with the straight-through gradient, and the entropy penalty."""

import functools

import torch

import lps_kernels as lk
from benchmarks import rivals
from benchmarks.measure import OURS, Case, Work

SWEEP = [(256, 16), (256, 32), (128, 64), (64, 128), (32, 256), (8, 512), (2, 1024)]
CASES = [
    Case("64 rows n=188", {"b": 64, "n": 188}, {"published": 1500, "dense": 250}, sweep=True),
    Case("16 rows n=444", {"b": 16, "n": 444}, {"published": 3000, "dense": 500}, sweep=True),
    *[Case(f"{b} rows n={n}", {"b": b, "n": n}, quick=n == 64, sweep=True, compiled=False) for b, n in SWEEP],
    Case("two threads against one, 64 rows n=188", {"b": 64, "n": 188, "one": True}, {"one thread": 1.7}),
    Case("growth from n=256, 16 rows", {"b": 16, "n": 256, "grow": (4096, 16384)}, {"n=4096": 1.1, "n=16384": 1.1}),
]


def ours(scores, x, y_k, num_nodes):
    g = lk.Permutation.from_scores(scores, num_nodes, tau=rivals.TAU, n_iter=rivals.N_ITER)
    return g.transform_input(x), g.transform_output(y_k), g.entropy()


def moved(b: int, n: int, c: int) -> int:
    """Scores, x and y_k in, x_k and y out; their gradients the other way; and perm, written once."""
    return 2 * 4 * b * n * (1 + 4 * c) + 8 * b * n


def step(function, b: int, n: int, c: int):
    """Values and the gradients of scores, x and y_k, without a loss that would be timed with them."""
    generator = torch.Generator().manual_seed(0)
    shapes = [(b, 1, n), (b, n, c), (b, 1, n, c)]
    inputs = [torch.randn(s, generator=generator).requires_grad_() for s in shapes]
    grads = [torch.randn(s, generator=generator) for s in [(b, 1, n, c), (b, n, c), ()]]

    def run():
        outs = function(*inputs)
        return (*outs, *torch.autograd.grad(outs, inputs, grads))

    return run


def build(b: int, n: int, c: int = 8, grow: tuple[int, ...] = (), one: bool = False) -> Work:
    def mine(n):
        return step(functools.partial(ours, num_nodes=torch.full((b,), n)), b, n, c)

    if grow:
        runs = {OURS: mine(n), **{f"n={m}": mine(m) for m in grow}}
        return Work(runs, moved(b, n, c), factors={f"n={m}": m / n for m in grow}, tolerance=None)
    if one:
        return Work({OURS: mine(n), "one thread": mine(n)}, moved(b, n, c), threads={"one thread": 1})
    functions = {
        "published": functools.partial(rivals.published_step, num_nodes=torch.full((b,), n)),
        "published, no masks": rivals.published_step,
        "dense": rivals.dense_step,
        "dense by rows": functools.partial(rivals.dense_step, by_rows=True),
    }
    runs = {name: step(f, b, n, c) for name, f in functions.items()}
    compilable = {name: lambda f=f: step(torch.compile(f), b, n, c) for name, f in functions.items()}
    return Work({OURS: mine(n), **runs}, moved(b, n, c), compilable)
