"""call_overhead: what a call costs where there is next to nothing to compute.

Beside the eager reference, and beside what PyTorch itself takes for the smallest op with the same inputs: a product of
a tensor with one, and its gradient.
"""

import torch

import lps_kernels as lk
from benchmarks.measure import OURS, Case, Draw, Work

CASES = [
    Case(f"{op}, 8 rows n=8, {way}", {"op": op, "grad": way != "forward"}, quick=op == "transform_input")
    for op in ("from_scores", "transform_input", "transform_output", "entropy")
    for way in ("forward", "forward+backward")
]


def build(op: str, grad: bool, b: int = 8, n: int = 8, c: int = 8) -> Work:
    draw = Draw()
    scores = draw(b, 1, n).requires_grad_(grad)
    x = draw(b, n, c).requires_grad_(grad)
    y_k = draw(b, 1, n, c).requires_grad_(grad)
    fixed = lk.Permutation.from_scores(scores)
    # Elements that start a graph of their own, so that backward is that of the op alone.
    g = lk.Permutation(fixed.perm, *(_leaf(s) for s in (fixed._t, fixed._row, fixed._col)), None)
    functions = {
        "from_scores": (lambda: lk.Permutation.from_scores(scores)._t, [scores]),
        "transform_input": (lambda: g.transform_input(x), [x, g._t]),
        "transform_output": (lambda: g.transform_output(y_k), [y_k, g._t]),
        "entropy": (lambda: g.entropy(), [g._t]),
    }
    forward, inputs = functions[op]
    ones = torch.ones_like(forward()) if grad else None

    def ours():
        return torch.autograd.grad(forward(), inputs, ones, allow_unused=True) if grad else forward()

    def reference():
        with lk.backend("reference"):
            return ours()

    def smallest():
        return torch.autograd.grad(x * 1.0, [x], x_ones) if grad else x * 1.0

    x_ones = torch.ones_like(x)
    runs = {OURS: ours, "reference": reference, "x * 1": smallest}
    return Work(runs, 4 * b * n * c, unlike=("x * 1",), tolerance=1e-4)


def _leaf(part):
    return None if part is None else part.detach().clone().requires_grad_(part.requires_grad)
