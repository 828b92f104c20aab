"""The built CUDA kernels, read without a GPU: what is spilled, and for which GPUs there is code."""

import re

import pytest

from benchmarks import compiled_cuda as compiled
from lps_kernels import native

pytestmark = pytest.mark.skipif(
    compiled.cuobjdump() is None or not compiled.library().exists(), reason="no cuobjdump, or no CUDA build"
)
# Bytes of stack a thread. What calls of subroutines put aside, divisions of 64 bits for example, is on it too. Rows of
# more than 2,048 numbers in float64 are held by 512 threads with 128 registers each, and what they keep between scans
# fits neither there nor in the shared memory of every device: they spill.
FRAME, LONGEST, MOST = 48, re.compile(r"<double, BlockTeam<512, true>, 8>"), 768


def test_nothing_is_spilled_but_in_the_longest_rows():
    rows = list(compiled.kernels(compiled.library()))
    assert len(rows) >= 50
    for row in rows:
        assert row["stack"] <= (MOST if LONGEST.search(row["kernel"]) else FRAME), row
        assert row["registers"] <= (128 if "BlockTeam<512" in row["kernel"] else 255), row


def test_every_architecture_has_every_kernel():
    architectures, _ = native.cuda_build()
    by_target = {}
    for row in compiled.kernels(compiled.library()):
        by_target.setdefault(row["target"], set()).add(row["kernel"])
    assert set(by_target) == {f"sm_{a.partition('-')[0]}" for a in architectures if not a.endswith("virtual")}
    assert len({frozenset(kernels) for kernels in by_target.values()}) == 1


RUNS = (
    ("90", [(9, 0), (10, 0)], [(8, 9)]),
    ("80-real", [(8, 0), (8, 6)], [(9, 0), (7, 5)]),
    ("90a", [(9, 0)], [(10, 0)]),
)


@pytest.mark.parametrize(("architecture", "runs", "not_on"), RUNS)
def test_what_runs_where(architecture, runs, not_on):
    assert all(native.runs_on(architecture, c) for c in runs)
    assert not any(native.runs_on(architecture, c) for c in not_on)
