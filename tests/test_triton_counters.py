"""Memory that kernels ask for, counted on a simulated device: each input is read once and each output written once.

Sectors of 32 bytes asked for against those that the shapes compel: bounds from counted work, no times.
"""

import pytest
import torch

from lps_kernels import testing
from lps_kernels.op import OPS

gpusim = pytest.importorskip("gpusim", reason="counters come from a simulated device")
pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
B, K, N, C = 2, 4, 188, 8
PERM, VECTOR, NODES = B * K * N * 8, B * K * N * 4, B * K * N * C * 4  # bytes

# By op: the bytes of what is read and written. Rows of x, 32 bytes each, are read once a sample, from cache but for the
# first; the inverse of perm is a kernel of its own, counted apart.
COMPULSORY = {"permute": PERM + 2 * NODES, "random_permutation": PERM, "soft_sort": PERM + 4 * VECTOR}


@pytest.mark.parametrize("name", COMPULSORY)
def test_reads_and_writes_once(name):
    op = OPS[name]
    case = testing.Case(b=B, k=K, n=N, c=C, tau=0.01, ragged=False, soft=name == "soft_sort")
    args = testing.arguments(op, case, device="cuda")
    op(*args, backend="triton")
    torch.cuda.synchronize()
    counted = gpusim.counters()
    sectors = counted["gld_sectors"] + counted["gst_sectors"]
    assert sectors <= 1.15 * COMPULSORY[name] / 32
    assert counted["gat_sectors"] == 0, "no atomics"


def test_a_sum_over_samples_reads_each_once():
    args = testing.arguments(
        OPS["inverse_permute_mean"], testing.Case(b=B, k=K, n=N, c=C, soft=False, ragged=False), device="cuda"
    )
    OPS["inverse_permute_mean"](*args, backend="triton")
    torch.cuda.synchronize()
    counted = gpusim.counters()  # of the last launch, which reads the inverse as int32
    assert counted["gld_sectors"] + counted["gst_sectors"] <= 1.15 * (PERM / 2 + NODES + NODES / K) / 32
