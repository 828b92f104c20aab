"""How many kernels an op launches, forward and backward, counted on a simulated device."""

import json
import os
import subprocess
import sys

import pytest

from lps_kernels import native, testing

pytest.importorskip("gpusim", reason="launches are counted by a simulated device")
pytestmark = pytest.mark.skipif(not native.cuda_loaded, reason=f"no CUDA kernels: {native.cuda_reason}")

# By op: the most launches of any of its cases in test_every_op.py, forward, and backward for all gradients at once.
# More than one where blocks need what others have found: inverses of permutations, sums over tiles or parts of a row.
MOST = {
    "gram_schmidt": (1, 1),
    "inverse_permute_mean": (2, 3),
    "inverse_permute_rotate_mean": (1, 3),
    "inverse_rotate_mean": (1, 2),
    "permutation_entropy": (2, 1),
    "permute": (1, 2),
    "permute_rotate": (1, 4),
    "random_orthogonal": (1, 0),
    "random_permutation": (1, 0),
    "rotate": (1, 2),
    "sample_permute": (2, 3),
    "sample_rotate": (1, 4),
    "soft_sort": (1, 1),
}
# The same of soft permutations themselves, whose edges are scanned along one axis after the other, and of matrices on
# space that no thread holds, whose tensors are turned on one axis after the other.
RARE = {
    "inverse_permute_mean": (4, 8),
    "inverse_permute_rotate_mean": (3, 9),
    "inverse_rotate_mean": (2, 7),
    "permute": (2, 7),
    "permute_rotate": (2, 11),
    "rotate": (2, 7),
    "sample_permute": (4, 11),
}

COUNT = """
import json, sys, torch, gpusim
from lps_kernels import testing
from lps_kernels.op import OPS
def launches():
    torch.cuda.synchronize()
    return len(gpusim.read_counters(sys.argv[1]))
for name, op in testing.forward_ops().items():
    for case in testing.cases(name):
        args = testing.arguments(op, case, device="cuda")
        for i in op.differentiable:
            args[i] = args[i].requires_grad_() if args[i] is not None else None
        start = launches()
        outs = op(*args, backend="cuda")
        outs = [o for o in (outs if isinstance(outs, tuple) else (outs,)) if o.requires_grad]
        middle = launches()
        if outs:
            sum(o.sum() for o in outs).backward()
        rare = not case.hard or "rotate" in name and not 2 <= case.d <= 4
        print(json.dumps([name, str(case), rare, middle - start, launches() - middle]))
"""


@pytest.fixture(scope="module")
def counted(tmp_path_factory):
    path = tmp_path_factory.mktemp("launches") / "counters"
    path.touch()
    environment = {**os.environ, "FAKECUDA_COUNTERS": str(path)}
    run = subprocess.run([sys.executable, "-c", COUNT, path], env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    return [json.loads(line) for line in run.stdout.splitlines()]


@pytest.mark.parametrize("name", testing.forward_ops())
def test_launches_few_kernels(name, counted):
    found = [row for row in counted if row[0] == name]
    assert len(found) == len(testing.cases(name))
    for _, case, is_rare, forward, backward in found:
        most = (RARE if is_rare else MOST)[name]
        assert forward <= most[0] and backward <= most[1], case
