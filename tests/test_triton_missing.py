"""Where Triton is missing or too old, nothing breaks, and who asks for it by name is told what to do."""

import os
import subprocess
import sys

import pytest

ASK = """
import torch, lps_kernels as lk
from lps_kernels import info
from lps_kernels.op import OPS
perm = lk.permute(torch.arange(3.0)[None, :, None], torch.tensor([[[2, 0, 1]]]))
assert perm.flatten().tolist() == [2.0, 0.0, 1.0]
print(info.unavailable("triton"))
try:
    OPS["permute"].choose("cuda", "triton")
except RuntimeError as error:
    print(error)
"""


def answers(folder) -> list[str]:
    path = os.pathsep.join([str(folder), os.getcwd(), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": path, "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run([sys.executable, "-c", ASK], env=environment, capture_output=True, text=True, check=True)
    return done.stdout.splitlines()


@pytest.mark.parametrize("version", ["2.3.1", "3.5.1+git"])
def test_too_old(tmp_path, version):
    (tmp_path / "triton").mkdir()
    (tmp_path / "triton" / "__init__.py").write_text(f"__version__ = '{version}'\n")
    told = f"triton {version} is too old: pip install -U 'triton>=3.6'"
    assert answers(tmp_path) == [told, f"backend 'triton': permute is not available: {told}"]


@pytest.mark.parametrize("how", ["nothing", "a stand-in"])
def test_missing(tmp_path, how):
    (tmp_path / "triton").mkdir()  # a folder of that name, in front of a package, is none
    blocker = (
        "import importlib.util as u; f = u.find_spec; u.find_spec = lambda n, *a: None if n == 'triton' else f(n, *a)"
    )
    stand_in = "import sys, types; sys.modules['triton'] = types.ModuleType('triton')"  # as some documentation tools do
    (tmp_path / "sitecustomize.py").write_text(stand_in if how == "a stand-in" else blocker)
    told = "triton is not installed: pip install 'triton>=3.6'"
    assert answers(tmp_path) == [told, f"backend 'triton': permute is not available: {told}"]
