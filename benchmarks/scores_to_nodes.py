"""scores_to_nodes: scores to nodes in and out with the straight-through gradient, and the entropy penalty."""

import functools

import torch

import lps_kernels as lk
from benchmarks import rivals
from benchmarks.measure import OURS, Case, Draw, Work, device

SWEEP = [(256, 16), (256, 32), (128, 64), (64, 128), (32, 256), (8, 512), (2, 1024)]
CPU, CUDA, TWO = ("cpu",), ("cuda",), {"one thread": 1.7}
CASES = [
    Case("64 rows n=188", {"b": 64, "n": 188}, {"published": 1500, "dense": 250}, sweep=True),
    Case("16 rows n=444", {"b": 16, "n": 444}, {"published": 3000, "dense": 500}, sweep=True),
    *[Case(f"{b} rows n={n}", {"b": b, "n": n}, quick=n == 64, sweep=True, compiled=False) for b, n in SWEEP],
    *[
        Case(f"two threads against one, {b} rows n=188", {"b": b, "n": 188, "one": True}, TWO, devices=CPU)
        for b in (64, 1024)
    ],
    Case(
        "growth from n=256, 16 rows",
        {"b": 16, "n": 256, "grow": (4096, 16384)},
        {"n=4096": 1.1, "n=16384": 1.1},
        devices=CPU,
    ),
    Case("128 graphs k=10 n=188", {"b": 128, "k": 10, "n": 188}, devices=CUDA),
    Case("16 graphs k=10 n=444", {"b": 16, "k": 10, "n": 444}, devices=CUDA),
    Case("growth from n=256, 512 rows", {"b": 512, "n": 256, "grow": (4096,)}, {"n=4096": 1.1}, devices=CUDA),
]


def ours(scores, x, y_k, num_nodes):
    g = lk.Permutation.from_scores(scores, num_nodes, tau=rivals.TAU, n_iter=rivals.N_ITER)
    return g.transform_input(x), g.transform_output(y_k), g.entropy()


def moved(b: int, k: int, n: int, c: int) -> int:
    """Scores, x and y_k in, x_k and y out; their gradients the other way; and perm, written once."""
    return 2 * 4 * b * n * (k + 2 * c + 2 * k * c) + 8 * b * k * n


def step(function, b: int, k: int, n: int, c: int):
    """Values and the gradients of scores, x and y_k, without a loss that would be timed with them."""
    draw = Draw()
    shapes = [(b, k, n), (b, n, c), (b, k, n, c)]
    inputs = [draw(*s).requires_grad_() for s in shapes]
    grads = [draw(*s) for s in [(b, k, n, c), (b, n, c), ()]]

    def run():
        outs = function(*inputs)
        return (*outs, *torch.autograd.grad(outs, inputs, grads))

    return run


def build(b: int, n: int, k: int = 1, c: int = 8, grow: tuple[int, ...] = (), one: bool = False) -> Work:
    def mine(n):
        return step(functools.partial(ours, num_nodes=torch.full((b,), n, device=device())), b, k, n, c)

    if grow:
        runs = {OURS: mine(n), **{f"n={m}": mine(m) for m in grow}}
        return Work(runs, moved(b, k, n, c), factors={f"n={m}": m / n for m in grow}, tolerance=None)
    if one:
        return Work({OURS: mine(n), "one thread": mine(n)}, moved(b, k, n, c), threads={"one thread": 1})
    functions = {
        "published": functools.partial(rivals.published_step, num_nodes=torch.full((b,), n, device=device())),
        "published, no masks": rivals.published_step,
        "dense": rivals.dense_step,
    }
    if device().type == "cpu":  # elsewhere a launch for each row and half iteration
        functions["dense by rows"] = functools.partial(rivals.dense_step, by_rows=True)
    runs = {name: step(f, b, k, n, c) for name, f in functions.items()}
    compilable = {name: lambda f=f: step(torch.compile(f), b, k, n, c) for name, f in functions.items()}
    return Work({OURS: mine(n), **runs}, moved(b, k, n, c), compilable)
