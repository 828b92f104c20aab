"""gram_schmidt: many small matrices, with their gradient, and larger ones against linalg.qr."""

import torch

import lps_kernels as lk
from benchmarks import rivals
from benchmarks.measure import OURS, Case, Draw, Work

SMALL = {"published": 100, "eager, ours in PyTorch": 100, "linalg.qr": 50}
CASES = [
    Case("100,000 matrices 3x3 forward", {"b": 100_000, "d": 3}, SMALL),
    Case("10,000 matrices 3x3 forward", {"b": 10_000, "d": 3}, quick=True, compiled=False),
    Case("100,000 matrices 3x3 forward+backward", {"b": 100_000, "d": 3, "grad": True}, {"published": 50}),
    *[
        Case(f"{b:,} matrices {d}x{d} forward", {"b": b, "d": d}, {"linalg.qr": goal})
        for b, d, goal in ((5_000, 16, 0.7), (2_000, 32, 0.7), (1_000, 64, 1.0), (100, 128, 0.7), (20, 256, 0.7))
    ],
]


def build(b: int, d: int, grad: bool = False) -> Work:
    draw = Draw()
    v = draw(b, d, d).requires_grad_(grad)
    upstream = draw(b, d, d)

    def step(function):
        if not grad:
            return lambda: function(v)
        return lambda: torch.autograd.grad(function(v), v, upstream)

    functions = {
        "published": rivals.published_gram_schmidt,
        "eager": rivals.eager_gram_schmidt,
        "eager, ours in PyTorch": _reference,
    }
    functions = functions if d <= 4 else {}
    runs = {OURS: step(lk.gram_schmidt), **{name: step(f) for name, f in functions.items()}}
    runs["linalg.qr"] = step(lambda v: torch.linalg.qr(v).Q)
    compilable = {"eager": lambda: step(torch.compile(rivals.eager_gram_schmidt))} if functions else {}
    # Signs of linalg.qr's columns are its own. A random matrix that is nearly singular leaves few digits in float32.
    # The published method adds noise.
    unlike = ("linalg.qr", "published", *(("eager", "eager, compiled") if b > 1000 else ()))
    return Work(runs, (4 if grad else 2) * v.nbytes, compilable, unlike=unlike)


def _reference(v):
    with lk.backend("reference"):
        return lk.gram_schmidt(v)
