"""Work that CUDA kernels of rotations ask for, counted on a simulated device: bounds from counted work, no times."""

import dataclasses

import pytest
import torch
from test_cuda_rotations import EXAMPLES, on_cuda
from test_gram_schmidt import normals

from lps_kernels import native, testing
from lps_kernels.op import OPS
from lps_kernels.testing import Case

gpusim = pytest.importorskip("gpusim", reason="counters come from a simulated device")
pytestmark = pytest.mark.skipif(not native.cuda_loaded, reason=f"no CUDA kernels: {native.cuda_reason}")

# Sectors asked for, counted by the simulator, against the different ones; and how often lanes meet a bank.
TRAFFIC = (
    Case(b=2, k=8, n=256, c=1),
    Case(b=2, k=20, n=188, c=1),
    Case(b=2, k=8, n=188, c=1, d=2),
    Case(b=2, k=8, n=60, c=5),
    Case(b=2, k=8, n=256, c=16),
    Case(b=2, k=8, n=16, c=128),
    Case(b=1, k=8, n=128, c=8, order=2),
)
# Where rows lie in shared memory, in few tiles and in more than a block has warps.
ROWS = (
    *(case for case in TRAFFIC if case.c == 1),
    Case(b=2, k=3, n=188, c=8),
    Case(b=2, k=4, n=188, c=7),
    Case(b=1, k=4, n=3000, c=1),
    Case(b=1, k=4, n=600, c=7),
    Case(b=1, k=4, n=444, c=16),
    Case(b=1, k=4, n=300, c=3, order=2),
)


def assert_reads_and_writes_once():
    torch.cuda.synchronize()
    got = gpusim.counters()
    assert got["gat_sectors"] == 0, "no atomics"
    assert got["local_ld_sectors"] + got["local_st_sectors"] == 0, "no array in local memory"
    asked = got["gld_sectors"] + got["gst_sectors"]
    assert asked <= 1.10 * (got["unique_read_sectors"] + got["unique_write_sectors"])
    requests, wavefronts = (got[f"sld_{w}"] + got[f"sst_{w}"] for w in ("requests", "wavefronts"))
    assert wavefronts <= 2.1 * requests


@pytest.mark.parametrize(
    ("name", "case"),
    [(name, case) for i, name in enumerate(EXAMPLES) for case in (TRAFFIC if i < 2 else ROWS)],
    ids=str,
)
def test_reads_and_writes_once(name, case):
    op = OPS[name]
    options = {"ragged": False, "soft": False, "weighted": name == "inverse_rotate_mean"}
    op(*testing.arguments(op, dataclasses.replace(case, **options), device="cuda"), backend="cuda")
    assert_reads_and_writes_once()


@pytest.mark.parametrize("mean", [True, False])
@pytest.mark.parametrize("case", ROWS, ids=str)
@pytest.mark.parametrize("name", EXAMPLES[2:])
def test_gradients_of_permuted_nodes_read_and_write_once(name, case, mean):
    if name == "permute_rotate" and not mean:
        return
    op = OPS[name]
    args = testing.arguments(op, dataclasses.replace(case, ragged=False, soft=False, mean=mean), device="cuda")
    testing.gradients(op, "cuda", args, [0])
    assert_reads_and_writes_once()


# Matrices that no thread holds: tiles of 8, 16 or 32 entries, enough of them that a block takes all samples of one.
LARGER = (
    Case(b=44, k=2, n=100, c=8, d=5),
    Case(b=270, k=2, n=10, c=40, d=5),
    Case(b=132, k=2, n=33, c=3, d=16),
)


@pytest.mark.parametrize("case", LARGER, ids=str)
@pytest.mark.parametrize("name", ["rotate", "inverse_rotate_mean"])
def test_larger_matrices_read_and_write_once(name, case):
    op = OPS[name]
    op(*testing.arguments(op, dataclasses.replace(case, ragged=False), device="cuda"), backend="cuda")
    torch.cuda.synchronize()
    got = gpusim.counters()
    assert got["gat_sectors"] + got["local_ld_sectors"] + got["local_st_sectors"] == 0
    asked = got["gld_sectors"] + got["gst_sectors"]
    assert asked <= 1.12 * (got["unique_read_sectors"] + got["unique_write_sectors"])
    requests, wavefronts = (got[f"sld_{w}"] + got[f"sst_{w}"] for w in ("requests", "wavefronts"))
    assert wavefronts <= 2 * requests


@pytest.mark.parametrize(("b", "d"), [(256, 2), (256, 3), (256, 4), (8, 8), (8, 32), (3, 40)])
def test_matrices_are_read_and_written_once(b, d):
    on_cuda(normals(b, d, d).float(), True)
    torch.cuda.synchronize()
    got = gpusim.counters()
    asked = got["gld_sectors"] + got["gst_sectors"]
    assert asked <= 1.10 * (got["unique_read_sectors"] + got["unique_write_sectors"])
    requests, wavefronts = (got[f"sld_{w}"] + got[f"sst_{w}"] for w in ("requests", "wavefronts"))
    assert wavefronts <= 2 * requests
