"""rotate: point clouds in by q^T and out by q with the mean over samples."""

import torch

import lps_kernels as lk
from benchmarks.measure import OURS, Case, Draw, Work, device

GOAL = {"three eager steps": 4}
CASES = [
    Case("in and out, 2,000 clouds x 5 points k=20", {"b": 2_000, "k": 20, "n": 5}, GOAL),
    Case("in and out, 20,000 clouds x 5 points k=20", {"b": 20_000, "k": 20, "n": 5}, GOAL),
    Case("in and out, 200 clouds x 5 points k=20", {"b": 200, "k": 20, "n": 5}, quick=True, compiled=False),
    Case("in and out, 200 clouds x 188 points k=20", {"b": 200, "k": 20, "n": 188}, GOAL),
]


def build(b: int, k: int, n: int, d: int = 3) -> Work:
    draw = Draw()
    x = draw(b, n, d)
    g = lk.Orthogonal.uniform(b, k, d, device=device())
    y_k = draw(b, k, n, d)

    def eager(x, q, y_k):
        return x[:, None] @ q, (y_k @ q.mT).mean(1)

    def einsums(x, q, y_k):
        return torch.einsum("bkde,bnd->bkne", q, x), torch.einsum("bkde,bkne->bknd", q, y_k).mean(1)

    compiled = torch.compile(eager)
    runs = {
        OURS: lambda: (g.transform_input(x), g.transform_output(y_k)),
        "three eager steps": lambda: eager(x, g.q, y_k),
        "three einsum steps": lambda: einsums(x, g.q, y_k),
    }
    compilable = {"three eager steps": lambda: lambda: compiled(x, g.q, y_k)}
    return Work(runs, 2 * x.nbytes + 2 * y_k.nbytes + 2 * g.q.nbytes, compilable)
