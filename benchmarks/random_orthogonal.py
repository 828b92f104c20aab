"""random_orthogonal: Haar samples."""

import torch

import lps_kernels as lk
from benchmarks.measure import OURS, Case, Work, device

CASES = [
    Case("O(3), 100,000", {"b": 100_000, "d": 3}, {"QR of randn, signs fixed": 40}),
    Case("O(3), 10,000", {"b": 10_000, "d": 3}, quick=True),
    Case("O(32), 1,000", {"b": 1_000, "d": 32}),
]


def build(b: int, d: int) -> Work:
    where = device()

    def of_qr():
        q, r = torch.linalg.qr(torch.randn(b, 1, d, d, device=where))
        return q * r.diagonal(dim1=-2, dim2=-1).sign()[..., None, :]

    runs = {OURS: lambda: lk.Orthogonal.uniform(b, 1, d, device=where).q, "QR of randn, signs fixed": of_qr}
    return Work(runs, 4 * b * d * d, tolerance=None)
