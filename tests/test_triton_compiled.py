"""Triton's kernels compiled for four GPUs, without one: nothing is spilled and shared memory suffices."""

import pytest
import torch

from lps_kernels import testing
from lps_kernels.op import INTERPRETS

pytest.importorskip("triton")
pytestmark = pytest.mark.skipif(INTERPRETS, reason="the interpreter does not compile")

CASES = {
    "random_permutation": testing.Case(n=60),
    "soft_sort": testing.Case(n=60),
    "permutation_entropy": testing.Case(n=60),
    "permute": testing.Case(n=60, c=16),
    "inverse_permute_mean": testing.Case(n=60, c=16, weighted=True),
    "gram_schmidt": testing.Case(b=8),
    "random_orthogonal": testing.Case(),
    "rotate": testing.Case(n=60, c=1),
    "inverse_rotate_mean": testing.Case(n=60, c=4, order=2, weighted=True),
    "sample_rotate": testing.Case(n=60, c=1),
    "permute_rotate": testing.Case(n=60, c=1, soft=False),
    "inverse_permute_rotate_mean": testing.Case(n=60, c=1, soft=False),
}


@pytest.mark.parametrize("target", ["sm_80", "sm_90", "sm_100", "gfx942"])
@pytest.mark.parametrize("name", CASES)
def test_nothing_is_spilled(name, target):
    from benchmarks import compiled_triton as compiled

    for kernel, arguments, options in compiled.launches(name, CASES[name], torch.float32):
        row = compiled.compile_for(target, kernel, arguments, options)
        assert row["spilled"] == 0, (kernel.__name__, row)
        assert row["shared"] <= compiled.SHARED[target], (kernel.__name__, row)
        if "gather" in kernel.__name__ and target.startswith("sm"):
            assert row["vectorized"], f"{kernel.__name__} reads and writes runs of 16 numbers in vectors"
