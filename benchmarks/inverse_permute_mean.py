"""inverse_permute_mean: nodes of k samples back to node order and averaged."""

import torch

import lps_kernels as lk
from benchmarks.measure import OURS, Case, Draw, Work, device

GOAL = {"reading the input": 0.8}
CASES = [
    Case("nodes forward, 16 graphs k=10 n=188 c=64", {"b": 16, "k": 10, "n": 188, "c": 64}, GOAL, quick=True),
    Case("nodes forward, 128 graphs k=10 n=188 c=64", {"b": 128, "k": 10, "n": 188, "c": 64}, GOAL),
    Case("nodes forward, 32 graphs k=10 n=444 c=64", {"b": 32, "k": 10, "n": 444, "c": 64}, GOAL),
]


def build(b: int, k: int, n: int, c: int) -> Work:
    """Reading once: torch's sum of all of it. The mean without a permutation writes what ours writes too."""
    y_k = Draw()(b, k, n, c)
    g = lk.Permutation.uniform(b, k, n, device=device())
    gather = g.perm.argsort(-1)[..., None].expand(y_k.shape)
    expected = torch.take_along_dim(y_k, gather, 2).mean(1)
    assert torch.allclose(g.transform_output(y_k), expected, atol=1e-5)
    runs = {
        OURS: lambda: g.transform_output(y_k),
        "reading the input": y_k.sum,
        "mean, not permuted": lambda: y_k.mean(1),
        "gather and mean": lambda: torch.take_along_dim(y_k, gather, 2).mean(1),
    }
    return Work(runs, y_k.nbytes + b * n * c * 4 + g.perm.nbytes, tolerance=None)
