"""Extra memory grows with n, not with its square; measured as the peak of a process of its own."""

import sys

import pytest
from test_processes import python

from lps_kernels import testing

NEEDED = ("soft_sort", "permute", "inverse_permute_mean", "permutation_entropy")
LIMIT = 400  # MB

# Everything is run once at a small size first, so that libraries, threads and allocators are there already.
SCRIPT = """
    import resource, sys, torch
    import lps_kernels as lk
    rows, n, n_iter, backend = *map(int, sys.argv[1:4]), sys.argv[4]

    def step(rows, n):
        scores, x = torch.randn(rows, 1, n, requires_grad=True), torch.randn(rows, n, 8, requires_grad=True)
        with lk.backend(backend):
            g = lk.Permutation.from_scores(scores, n_iter=n_iter)
            y = g.transform_output(g.transform_input(x).sin())
            (y.square().mean() + g.entropy()).backward()
        assert scores.grad.isfinite().all() and scores.grad.abs().max() > 0

    def peak():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1024 if sys.platform == "linux" else 2**20)

    step(rows, 64)
    before = peak()
    step(rows, n)
    print(peak() - before)
    """


def extra_memory(*arguments):
    return float(python(SCRIPT, *arguments))


@pytest.mark.skipif(sys.platform == "win32", reason="this system does not tell the peak of a process")
def test_memory_of_64_rows_of_4096():
    for name in NEEDED:
        testing.skip_without(testing.forward_ops()[name], "cpu")
    used = extra_memory(64, 4096, 20, "cpu")
    assert used < LIMIT, f"{used:.0f} MB"


@pytest.mark.skipif(sys.platform == "win32", reason="this system does not tell the peak of a process")
def test_the_bound_on_memory_would_be_seen_to_break():
    """The dense reference, with one iteration, takes several times the limit: measured at a 64th of the size."""
    used = 64 * extra_memory(4, 2048, 1, "reference")
    assert used > 3 * LIMIT, f"{used:.0f} MB"
