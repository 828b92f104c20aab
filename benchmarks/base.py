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

import lps_kernels as lk
from benchmarks.measure import OURS, TARGET, Case, device, paired_ratio, stretch, use
from lps_kernels import native

ROOT = Path(__file__).parents[1]


def command(*words: str | Path, **options) -> None:
    """Run it, or end with what it said."""
    done = subprocess.run([*map(str, words)], capture_output=True, text=True, **options)
    if done.returncode:
        raise SystemExit(f"{' '.join(map(str, words))}:\n{(done.stderr or done.stdout).strip()}")


def cmake_args(device: str) -> str:
    """Of what is not timed nothing is built, unless the environment says otherwise."""
    cuda = "" if device == "cuda" else "-DLPS_CUDA=OFF"
    return f"-DLPS_CPU_LEVELS={native.wanted()[0]} {cuda} {os.environ.get('CMAKE_ARGS', '')}"


@contextmanager
def checkout(ref: str, device: str) -> Iterator[Path]:
    """A folder whose `lps_kernels` is that of another commit, built."""
    with tempfile.TemporaryDirectory() as folder:
        tree, package = Path(folder, "tree"), Path(folder, "package")
        git = ["git", "-C", str(ROOT), "worktree"]
        command(*git, "add", "--detach", tree, ref)
        try:
            print(f"building {ref} ...", flush=True)
            build = [sys.executable, "setup.py", "-q", "build_ext", "--inplace"]
            command(*build, cwd=tree, env={**os.environ, "CMAKE_ARGS": cmake_args(device)})
            package.mkdir()
            (package / "lps_kernels").symlink_to(tree / "lps_kernels")
            yield package
        finally:
            command(*git, "remove", "--force", tree)


class Worker:
    """A process that imports `lps_kernels` from a folder and the cases from this one, and times them when asked."""

    def __init__(self, package: Path, threads: int, device: str, backend: str | None) -> None:
        path = os.pathsep.join([str(package), str(ROOT)])
        words = [sys.executable, "-c", f"from benchmarks.base import serve; serve({device!r}, {backend!r})"]
        environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": str(threads)}
        self.process = subprocess.Popen(
            words, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=package
        )

    def ask(self, *request) -> float:
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        if not answer:
            raise SystemExit("a process that measures has ended, its error is above")
        return json.loads(answer)

    def close(self) -> None:
        self.process.stdin.close()
        self.process.wait()


def serve(device: str, backend: str | None) -> None:
    """Answer ["prepare", op, label] with the seconds of one call and ["time", calls] with the mean of so many."""
    from benchmarks.run import tables

    use(device)
    run = None
    with lk.backend(backend):
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


def compare(ref: str, cases: list[tuple[object, Case]], rounds: int, backend: str | None = None) -> None:
    """Print for each case the time of this tree, that of the other commit, and their paired ratio."""
    from benchmarks.run import clock, figures

    how = (torch.get_num_threads(), device().type, backend)
    with checkout(ref, device().type) as package, ExitStack() as stack:
        here = stack.enter_context(_folder_of(ROOT))
        workers = {"here": Worker(here, *how), ref: Worker(package, *how)}
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
