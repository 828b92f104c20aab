"""Work that CUDA kernels ask for, counted on a simulated device: bounds from counted work, no times.

Sectors of 32 bytes asked for against those that the shapes compel, conflicts of banks, and instructions of soft_sort.
"""

import pytest
import torch

from lps_kernels import native, testing
from lps_kernels.op import OPS

gpusim = pytest.importorskip("gpusim", reason="counters come from a simulated device")
pytestmark = pytest.mark.skipif(not native.cuda_loaded, reason=f"no CUDA kernels: {native.cuda_reason}")
B, K, N, C = 2, 4, 188, 8
PERM, VECTOR, NODES = B * K * N * 8, B * K * N * 4, B * K * N * C * 4  # bytes
EDGES = B * K * N * N * 4 * 4

# By op and order: the bytes of what its last launch reads and writes. Rows of x are read once a sample, from cache but
# for the first; the inverse of perm is a kernel of its own, which nodes read as int32.
COMPULSORY = {
    ("permute", 1): PERM + 2 * NODES,
    ("permute", 2): PERM + 2 * EDGES,
    ("inverse_permute_mean", 1): PERM // 2 + NODES + NODES // K,
    ("inverse_permute_mean", 2): PERM + EDGES + EDGES // K,
    ("random_permutation", 1): PERM,
    ("soft_sort", 1): PERM + 4 * VECTOR,
}


def counted(name, **sizes):
    """Counters of the last launch of an op."""
    op = OPS[name]
    case = testing.Case(**{"b": B, "k": K, "n": N, "c": C, "tau": 0.01, "ragged": False, **sizes})
    args = testing.arguments(op, case, device="cuda")
    op(*args, backend="cuda")
    torch.cuda.synchronize()
    return gpusim.counters()


@pytest.mark.parametrize(("name", "order"), COMPULSORY)
def test_reads_and_writes_once(name, order):
    got = counted(name, order=order, c=C if order == 1 else 4, soft=name == "soft_sort")
    assert got["gat_sectors"] == 0, "no atomics"
    assert got["local_ld_sectors"] + got["local_st_sectors"] == 0, "no array in local memory"
    assert got["gld_sectors"] + got["gst_sectors"] <= 1.10 * COMPULSORY[name, order] / 32


# Sizes, dtype, and the sectors asked for against those that u, v and the row compel. Lines may end within sectors, and
# of 188 lines of float32 those that do not fit in shared memory are read twice.
EDGE_GRADIENTS = (
    ({"n": 33, "c": 16, "k": 2}, torch.float32, 1.05),
    ({"n": 33, "c": 3, "k": 1}, torch.float32, 1.1),
    ({"n": 60, "c": 4, "k": 1}, torch.bfloat16, 1.05),
    ({"n": 188, "c": 1, "k": 1}, torch.float32, 1.3),
    ({"n": 188, "c": 1, "k": 1}, torch.bfloat16, 1.1),
)


@pytest.mark.parametrize(("sizes", "dtype", "most"), EDGE_GRADIENTS, ids=str)
@pytest.mark.parametrize("name", ["permute", "inverse_permute_mean"])
def test_the_score_gradient_of_edges_reads_lines_whole(name, sizes, dtype, most):
    op = OPS[name]
    case = testing.Case(**{"b": B, "order": 2, "tau": 0.01, "ragged": False, **sizes})
    args = testing.arguments(op, case, dtype, device="cuda")
    testing.gradients(op, "cuda", args, [op.parameters.index(name) for name in ("t", "row", "col")])
    torch.cuda.synchronize()
    got, size = gpusim.counters(), 2 if dtype == torch.bfloat16 else 4
    assert got["gat_sectors"] + got["local_ld_sectors"] + got["local_st_sectors"] == 0
    compulsory = case.b * case.k * case.n * (2 * case.n * case.c * size + 8 + 6 * 4)
    assert got["gld_sectors"] + got["gst_sectors"] <= most * compulsory / 32


@pytest.mark.parametrize("n", [60, 188, 444])
def test_soft_sort_meets_few_banks_twice(n):
    got = counted("soft_sort", n=n, n_iter=20)
    requests, wavefronts = (got[f"sld_{w}"] + got[f"sst_{w}"] for w in ("requests", "wavefronts"))
    assert wavefronts <= 2 * requests


# Warp instructions of PTX that one more iteration costs, a row: both half steps, 2 (log2(lanes) + 1) shuffles each.
@pytest.mark.parametrize(("n", "most"), [(60, 84), (188, 180), (444, 280)])
def test_an_iteration_costs_few_instructions(n, most):
    few, many = (counted("soft_sort", n=n, n_iter=i)["warp_instructions"] for i in (4, 8))
    assert (many - few) / (4 * B * K) <= most
