"""Triton's kernels compiled for four GPUs, without one: nothing is spilled and shared memory suffices.

A selection, in two minutes. LPS_LONG=1 takes every kernel, dtype and size of benchmarks/compiled_triton.py, in hours.
"""

import os

import pytest
import torch

from lps_kernels.op import INTERPRETS
from lps_kernels.testing import Case

triton = pytest.importorskip("triton")
pytestmark = pytest.mark.skipif(INTERPRETS, reason="the interpreter does not compile")
LONG = pytest.mark.skipif(os.environ.get("LPS_LONG") != "1", reason="takes hours: LPS_LONG=1")

CASES = {
    "random_permutation": Case(n=60),
    "soft_sort": Case(n=60),
    "permutation_entropy": Case(n=60),
    "permute": Case(n=60, c=16),
    "inverse_permute_mean": Case(n=60, c=1, order=2, soft=False, weighted=True),
    "gram_schmidt": Case(b=8),
    "random_orthogonal": Case(),
    "rotate": Case(n=60, c=1),
    "inverse_rotate_mean": Case(n=60, c=4, order=2, weighted=True),
    "sample_rotate": Case(n=60, c=1),
}
# What is tightest: long rows, double precision, many channels. Each takes some seconds.
TIGHT = [
    ("soft_sort", Case(n=188), torch.float32),
    ("soft_sort", Case(n=1000), torch.float32),
    ("permute", Case(n=188, c=4, order=2), torch.float32),
    ("permute", Case(n=100, c=8, order=2), torch.float32),
    ("permute", Case(n=444, c=4), torch.float64),
    ("permute", Case(n=188, c=4, order=2), torch.float16),
    ("permute", Case(n=444, c=64, soft=False), torch.float32),
    ("inverse_permute_mean", Case(n=188, weighted=True), torch.float16),
    ("rotate", Case(n=188, c=1), torch.float16),
    ("rotate", Case(n=64, c=8, order=2), torch.float32),
    ("inverse_rotate_mean", Case(n=188, c=16), torch.float16),
    ("permute_rotate", Case(n=188, c=1), torch.float16),
    ("sample_permute", Case(n=100, c=4), torch.float32),
    ("sample_permute", Case(n=188, c=4), torch.float32),
    ("gram_schmidt", Case(d=16, m=16), torch.float64),
    ("sample_rotate", Case(n=188, c=1), torch.float64),
    ("sample_rotate", Case(n=188, c=1, haar=True), torch.float64),
]
# The same elsewhere, where registers are said to the compiler or are fewer.
TIGHT_ELSEWHERE = [
    ("sm_100", "permutation_entropy", Case(n=444), torch.float32),
    ("sm_100", "permute", Case(n=444, c=16, soft=False), torch.float32),
    ("sm_100", "permute", Case(n=444, c=16, soft=False), torch.float64),
    ("gfx942", "permute", Case(n=1000, c=4), torch.float32),
    ("sm_80", "rotate", Case(n=64, c=4, d=70), torch.float32),
    ("sm_100", "sample_permute", Case(n=188, c=4, edges=False), torch.float32),
    ("sm_100", "gram_schmidt", Case(d=16, m=16), torch.float16),
    ("sm_80", "rotate", Case(n=188, c=1), torch.float32),
    ("sm_80", "permute_rotate", Case(n=188, c=1, soft=False), torch.float32),
    ("sm_80", "inverse_permute_rotate_mean", Case(n=188, c=1, soft=False), torch.float32),
]


def compiled(target, name, case, dtype=torch.float32):
    from benchmarks import compiled_triton

    for kernel, arguments, options in compiled_triton.launches(target, name, case, dtype):
        row = compiled_triton.compile_for(target, kernel, arguments, options)
        assert row["shared"] <= compiled_triton.SHARED[target], (kernel.__name__, row)
        yield kernel.__name__, row


@pytest.mark.parametrize("target", ["sm_90", "gfx942"])
@pytest.mark.parametrize("name", CASES)
def test_nothing_is_spilled(name, target):
    for kernel, row in compiled(target, name, CASES[name]):
        assert row["spilled"] == 0, (kernel, row)


@pytest.mark.parametrize(("name", "case", "dtype"), TIGHT, ids=str)
def test_nothing_is_spilled_where_it_is_tight(name, case, dtype):
    for kernel, row in compiled("sm_90", name, case, dtype):
        assert row["spilled"] == 0, (kernel, row)


@pytest.mark.parametrize(("target", "name", "case", "dtype"), TIGHT_ELSEWHERE, ids=str)
def test_nothing_is_spilled_elsewhere(target, name, case, dtype):
    for kernel, row in compiled(target, name, case, dtype):
        assert row["spilled"] == 0, (kernel, row)


@pytest.mark.parametrize("case", [Case(n=64, c=16, soft=False), Case(n=64, c=4, order=2, soft=False)], ids=str)
def test_aligned_features_move_in_128_bits(case):
    wide = {kernel: row["wide"] for kernel, row in compiled("sm_90", "permute", case)}
    assert len(wide) == 2 and all(wide.values()), wide


@LONG
@pytest.mark.parametrize("target", ["sm_80", "sm_90", "sm_100", "gfx942"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16], ids=str)
def test_no_kernel_spills_more_than_the_table_says(dtype, target):
    from benchmarks import compiled_triton

    known = {compiled_triton.name_of(row): row["spilled"] for row in compiled_triton.written()}
    for row in compiled_triton.table([target], list(compiled_triton.CASES), [dtype]):
        assert "error" not in row, row
        assert row["spilled"] <= known.get(compiled_triton.name_of(row), 0), row
