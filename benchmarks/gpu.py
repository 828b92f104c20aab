"""python -m benchmarks.gpu: builds, tests and measures on this machine's NVIDIA GPU, in parts that can be resumed.

    python -m benchmarks.gpu [--small] [--minutes M] [--again]

Needs the Python of this process to have torch with CUDA, Triton, pytest, cmake and ninja, and needs no network. Parts
that were finished with the same sources are not run again. Times go to benchmarks/results/<device>.json, with a plot
beside it, after each table of cases, so that a run that is cut off has kept what it measured.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

ROOT = Path(__file__).parents[1]
STATE = ROOT / "build" / "gpu.json"
SOURCES = ("csrc/**/*.*", "lps_kernels/**/*.py", "tests/*.py", "benchmarks/*.py", "CMakeLists.txt", "setup.py")
LAUNCHES = sorted(str(path.relative_to(ROOT)) for path in ROOT.glob("tests/test_cuda_*.py"))
LAUNCHES += [f"tests/test_triton_{what}.py" for what in ("launch", "counters", "graphs")]
# What a device runs of the tests: every op on both backends, and what is true of launches only. SMALL is for a device
# that is simulated, where an instruction costs a microsecond.
TESTS = ["tests/test_every_op.py", *LAUNCHES, "tests/test_triton_rotations.py", "-k", "cuda or triton or launch"]
SMALL = [*LAUNCHES, "-m", "not long", "-k", "not reduced and not long"]
SANITIZED = ["tests/test_every_op.py", "-k", "test_gradient and cuda and default"]


def fingerprint() -> str:
    """Of all that the parts read."""
    digest = hashlib.sha256(torch.__version__.encode())
    for path in sorted({path for pattern in SOURCES for path in ROOT.glob(pattern) if path.is_file()}):
        if path.suffix != ".so":
            digest.update(path.read_bytes())
    return digest.hexdigest()


class Parts:
    """Named parts of a run, with those that are finished kept in a file until the sources change."""

    def __init__(self, again: bool) -> None:
        self.sources = fingerprint()
        self.finished: list[str] = []
        if STATE.exists() and not again:
            before = json.loads(STATE.read_text())
            self.finished = before["finished"] if before["sources"] == self.sources else []

    def run(self, name: str, part: Callable[[], None]) -> None:
        if name in self.finished:
            print(f"== {name}: finished before", flush=True)
            return
        print(f"== {name}", flush=True)
        start = time.perf_counter()
        part()
        print(f"== {name}: {time.perf_counter() - start:.0f} s", flush=True)
        self.finished.append(name)
        STATE.parent.mkdir(exist_ok=True)
        partial = STATE.with_suffix(".partial")
        partial.write_text(json.dumps({"sources": self.sources, "finished": self.finished}))
        partial.replace(STATE)


def command(*words: str, **environment: str) -> None:
    """Run it, or end with its exit status."""
    print("$", " ".join(words), flush=True)
    status = subprocess.run(words, cwd=ROOT, env={**os.environ, **environment}).returncode
    if status:
        raise SystemExit(status)


def build() -> None:
    """The kernels, those of CUDA for this device alone unless CUDAARCHS says otherwise."""
    major, minor = torch.cuda.get_device_capability()
    command(
        sys.executable,
        "setup.py",
        "-q",
        "build_ext",
        "--inplace",
        CUDAARCHS=os.environ.get("CUDAARCHS", f"{major}{minor}"),
        LPS_KERNELS_BUILD_DIR=str(ROOT / "build" / "gpu"),
    )


def test(selection: list[str]) -> None:
    command(sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-x", *selection)


def sanitize() -> None:
    """Memory and races of the kernels themselves, by the tool that comes with CUDA."""
    tool = shutil.which("compute-sanitizer")
    if tool is None:
        print("compute-sanitizer is not on PATH")
        return
    for check in ("memcheck", "racecheck"):
        words = [tool, "--tool", check, "--error-exitcode", "1", sys.executable, "-m", "pytest", *SANITIZED]
        command(*words, PYTORCH_NO_CUDA_MEMORY_CACHING="1")


def bench(table: str, deadline: float) -> None:
    """A table of cases in a process of its own, so that none leaves memory or compiled code to the next."""
    left = deadline - time.monotonic()
    if left < 20:
        raise SystemExit(f"out of time before {table}: start again to go on")
    words = ["-m", "benchmarks.run", "--device", "cuda", "--op", table, "--keep", "--budget", "3"]
    command(sys.executable, *words)


def arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__.splitlines()[0])
    parser.add_argument("--small", action="store_true", help="tests only, at sizes for a simulated device")
    parser.add_argument("--minutes", type=float, default=9, help="start no table of cases after so many")
    parser.add_argument("--again", action="store_true", help="run finished parts too")
    return parser


def main() -> None:
    options = arguments().parse_args()
    deadline = time.monotonic() + 60 * options.minutes
    if not torch.cuda.is_available():
        raise SystemExit("no CUDA device: torch.cuda.is_available() is False")
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}, Python {sys.version.split()[0]}", flush=True)
    parts = Parts(options.again)
    if options.small:
        parts.run("tests at small sizes", lambda: test(SMALL))
        return
    parts.run("build", build)
    parts.run("tests", lambda: test(TESTS))
    parts.run("compute-sanitizer", sanitize)
    from benchmarks.run import tables

    for table in tables():
        parts.run(f"benchmark {table}", lambda table=table: bench(table, deadline))


if __name__ == "__main__":
    main()
