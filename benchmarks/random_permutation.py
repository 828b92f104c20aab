"""random_permutation: uniform permutations."""

import torch

import lps_kernels as lk
from benchmarks.measure import OURS, Case, Work, device

CASES = [
    Case("1,000 x 188", {"b": 1000, "n": 188}, {"rand().argsort()": 10}, quick=True),
    Case("16 x 4,096", {"b": 16, "n": 4096}),
]


def build(b: int, n: int) -> Work:
    where = device()
    runs = {
        OURS: lambda: lk.Permutation.uniform(b, 1, n, device=where).perm,
        "rand().argsort()": lambda: torch.rand(b, 1, n, device=where).argsort(),
    }
    if where.type == "cpu":  # elsewhere b launches
        runs["one randperm a row"] = lambda: torch.stack([torch.randperm(n) for _ in range(b)])
    return Work(runs, 8 * b * n, tolerance=None)
