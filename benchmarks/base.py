"""This tree against another commit: both in processes of their own, which time the same cases in turn."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import torch

from benchmarks.measure import OURS, TARGET, Case, paired_ratio, stretch
from lps_kernels import native

ROOT = Path(__file__).parents[1]


@contextmanager
def checkout(ref: str) -> Iterator[Path]:
    """A folder whose `lps_kernels` is that of another commit, built."""
    with tempfile.TemporaryDirectory() as folder:
        tree, package = Path(folder, "tree"), Path(folder, "package")
        git = ["git", "-C", str(ROOT), "worktree"]
        subprocess.run([*git, "add", "--detach", str(tree), ref], check=True, capture_output=True)
        try:
            print(f"building {ref} ...", flush=True)
            build = [sys.executable, "setup.py", "-q", "build_ext", "--inplace"]
            level = {"CMAKE_ARGS": f"-DLPS_CPU_LEVELS={native.supported()[0]}"}
            subprocess.run(build, cwd=tree, env={**os.environ, **level}, check=True, capture_output=True)
            package.mkdir()
            (package / "lps_kernels").symlink_to(tree / "lps_kernels")
            yield package
        finally:
            subprocess.run([*git, "remove", "--force", str(tree)], check=True)


class Worker:
    """A process that imports `lps_kernels` from a folder and the cases from this one, and times them when asked."""

    def __init__(self, package: Path, threads: int) -> None:
        path = os.pathsep.join([str(package), str(ROOT)])
        # -P: the current folder, which holds this tree's lps_kernels, is not searched first.
        command = [sys.executable, "-P", "-c", "from benchmarks.base import serve; serve()"]
        environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": str(threads)}
        self.process = subprocess.Popen(
            command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=package
        )

    def ask(self, *request) -> float:
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def close(self) -> None:
        self.process.stdin.close()
        self.process.wait()


def serve() -> None:
    """Answer ["prepare", op, label] with the seconds of one call and ["time", calls] with the mean of so many."""
    from benchmarks.run import tables

    run = None
    for line in sys.stdin:
        what, *rest = json.loads(line)
        if what == "prepare":
            (module,) = tables(rest[0]).values()
            case = next(c for c in module.CASES if c.label == rest[1])
            torch.manual_seed(0)
            run = module.build(**case.sizes).runs[OURS]
            run()
            answer = stretch(run, 3)
        else:
            answer = stretch(run, rest[0])
        print(json.dumps(answer), flush=True)


def compare(ref: str, cases: list[tuple[object, Case]], rounds: int) -> None:
    """Print for each case the time of this tree, that of the other commit, and their paired ratio."""
    from benchmarks.run import clock, figures

    with checkout(ref) as package, ExitStack() as stack:
        here = stack.enter_context(_folder_of(ROOT))
        workers = {"here": Worker(here, torch.get_num_threads()), ref: Worker(package, torch.get_num_threads())}
        for worker in workers.values():
            stack.callback(worker.close)
        for module, case in cases:
            op = module.__name__.rpartition(".")[2]
            once = [worker.ask("prepare", op, case.label) for worker in workers.values()]
            calls = [max(1, int(TARGET / t)) for t in once]
            times = {name: [] for name in workers}
            for _ in range(rounds):
                for (name, worker), count in zip(workers.items(), calls):
                    times[name].append(worker.ask("time", count))
            ratio = paired_ratio(times[ref], times["here"])
            mine, other = (sorted(t)[len(t) // 2] for t in times.values())
            interval = f"[{figures(ratio.low)}, {figures(ratio.high)}]"
            print(f"{op}: {case.label}: {clock(mine)}, {ref} {clock(other)}, {figures(ratio.median)}x {interval}")


@contextmanager
def _folder_of(root: Path) -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "lps_kernels").symlink_to(root / "lps_kernels")
        yield Path(folder)
