"""Triton's kernels in its interpreter, on the CPU: small shapes, no GPU, a process of its own (make test-triton)."""

import dataclasses

import pytest
import torch

from lps_kernels import testing
from lps_kernels.op import INTERPRETS

pytestmark = pytest.mark.skipif(not INTERPRETS, reason="TRITON_INTERPRET=1 is not set")
FORWARD = {name: op for name, op in testing.forward_ops().items() if op.has_kernel("triton")}
# The interpreter takes some ten milliseconds a scan: few rows and iterations. n = 35 is two elements a lane.
SMALL = {"b": 2, "k": 1, "n_iter": 2}
CASES = (
    testing.Case(**SMALL),
    testing.Case(**SMALL, n=35, scores="tied", tau=0.01),
    testing.Case(**SMALL, n=5, hard=False, weighted=True, order=2, c=3),
    testing.Case(**SMALL, n=6, mean=False, layout="strided", order=2, normalize=False),
    testing.Case(**SMALL, n=4, soft=False, ragged=False, edges=False),
    testing.Case(b=0),
)


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("name", FORWARD)
def test_value_and_gradient(name, case):
    op = FORWARD[name]
    case = dataclasses.replace(case, soft=True) if "entropy" in name else case
    args = testing.arguments(op, case)
    testing.assert_matches(op, "triton", args)
    testing.assert_gradients_match(op, "triton", args)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", FORWARD)
def test_dtypes(name, dtype):
    op = FORWARD[name]
    args = testing.arguments(op, CASES[0], dtype)
    testing.assert_matches(op, "triton", args)
    testing.assert_gradients_match(op, "triton", args)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_bad_scores(bad):
    op = FORWARD["soft_sort"]
    args = testing.arguments(op, testing.Case(**SMALL, n=6, ragged=False))
    args[0][0, 0, 2] = args[0][0, 0, 4] = bad
    testing.assert_matches(op, "triton", args)
    testing.assert_gradients_match(op, "triton", args)
