"""Verdicts of sentryward, a static verifier of PTX, on the built CUDA kernels: benchmarks/results/race_freedom.json.

    pip install sentryward
    python -m benchmarks.race_freedom --write

A verdict holds for one launch: its grid, threads and scalar arguments, whatever the memory behind pointers holds. It
says race_free, names a finding, or says why the analysis stopped; `checks` has its parts. No GPU takes part, and the
simulator's race check, which runs launches, is apart from this.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib.metadata
import json
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from benchmarks.compiled_cuda import cuobjdump, library, short
from lps_kernels import native

RESULTS = Path(__file__).parent / "results" / "race_freedom.json"
SECONDS = 60  # for each kernel
Value = tuple[int, int, str, int]  # parameter, offset in it, type, value


@dataclasses.dataclass(frozen=True)
class Launch:
    """kernel: a pattern of the whole name. Pointers that `values` leaves out point to memory of their own."""

    kernel: str
    grid: int
    threads: int
    values: tuple[Value, ...]
    shared: int = 0


def u64(parameter: int, value: int, offset: int = 0) -> Value:
    return parameter, offset, "u64", value


def u32(parameter: int, value: int, offset: int = 0) -> Value:
    return parameter, offset, "u32", value


def memory(parameter: int, offset: int = 0) -> Value:
    """An address inside of a struct: each its own 64 GiB."""
    return u64(parameter, (parameter * 16 + offset // 8 + 1) << 36, offset)


def numbers(parameter: int) -> tuple[Value, ...]:
    """struct Numbers (cuda/numbers.cuh): address, dtype of the computation."""
    return memory(parameter), u32(parameter, 0, 8)


def turn(n: int, k: int, c: int, tiles: int) -> tuple[Value, ...]:
    """struct Turn (cuda/rotation.cuh) as parameter 0: q and sizes; no center, weights, order and num_nodes."""
    nothing = tuple(u64(0, 0, offset) for offset in (8, 16, 24, 32, 40))
    sizes = (n, k, c, 1, tiles, tiles, 1, k)
    return memory(0), *nothing, *(u64(0, s, 48 + 8 * i) for i, s in enumerate(sizes))


def soft_gradient(parameter: int) -> tuple[Value, ...]:
    """struct SoftGradient (cuda/soft_gradient.cuh): gradients of t, row and col, without additions or inverse."""
    return *(memory(parameter, 8 * i) for i in range(3)), *(u64(parameter, 0, 8 * i) for i in range(3, 7))


LAUNCHES = (
    Launch(r"gram_schmidt_small_kernel<.*, Given>", 2, 128, (u32(0, 0, 8), u64(1, 200), (2, 0, "u8", 1))),
    Launch(r"gram_schmidt_backward_small_kernel<.*>", 2, 128, (u32(1, 0, 8), u64(4, 200), u32(5, 0, 8))),
    Launch(r"gram_schmidt_small_kernel<.*, Drawn>", 2, 128, (u64(1, 200), (2, 0, "u8", 1), u64(4, 0))),
    Launch(r"rotate_kernel<float, 3, 1>", 2, 64, (*turn(200, 2, 1, 2), *numbers(1), *numbers(2))),
    Launch(
        r"rotate_backward_kernel<float, 3, 1>",
        2,
        64,
        (*turn(200, 2, 1, 2), *numbers(1), memory(2), *numbers(3), *numbers(4)),
    ),
    Launch(
        r"inverse_rotate_mean_kernel<float, 3, 1>",
        2,
        64,
        (*turn(200, 2, 1, 2), *numbers(1), *numbers(2), (3, 0, "u8", 1)),
    ),
    Launch(r"centroid_kernel<float>", 2, 256, (*numbers(1), u64(2, 0), u64(3, 100), u64(4, 3), u64(5, 2))),
    Launch(
        r"centroid_backward_kernel<float>",
        2,
        256,
        (*numbers(0), memory(1), u64(2, 0), u64(3, 0), u64(4, 50), u64(5, 3), u64(6, 1), u64(7, 1)),
    ),
    Launch(
        r"random_permutation_kernel<WarpTeam<8>, 8>",
        2,
        128,
        (u64(1, 0), u64(3, 32), u64(4, 4), u32(5, 50), u64(6, 63)),
        16 * 72 * 4,
    ),
    Launch(
        r"random_permutation_kernel<WarpTeam<32>, 8>",
        2,
        128,
        (u64(1, 0), u64(3, 8), u64(4, 4), u32(5, 188), u64(6, 255)),
        4 * 288 * 4,
    ),
    Launch(r"inverse_kernel<true>", 3, 256, (u32(2, 100), u64(3, 600), u32(4, 2)), 800),
    Launch(r"add_kernel<(float|double)>", 4, 256, (u64(3, 1000),)),
    Launch(
        r"sum_parts_kernel<(float|double)>",
        4,
        256,
        (*soft_gradient(0), *soft_gradient(1), u32(2, 3), u32(3, 50), u64(4, 1000)),
    ),
)


def entries(folder: Path) -> Iterator[tuple[str, Path, str]]:
    """Name, PTX file and mangled name of every kernel, of the first architecture in the build."""
    subprocess.run([cuobjdump(), "-xptx", "all", library().resolve()], cwd=folder, check=True, capture_output=True)
    architecture = f"sm_{native.cuda_build()[0][0].partition('-')[0]}"
    found = []
    for path in sorted(folder.glob(f"*.{architecture}.ptx")):
        head, *parts = re.split(r"^(?=(?:\.visible |\.weak )?\.(?:entry|func)\b)", path.read_text(), flags=re.M)
        # Functions are declared and defined: to sentryward that is twice. What follows a declaration stays.
        functions = [p if "{" in p else p.partition(";")[2] for p in parts if ".func" in p.partition("(")[0]]
        for part in parts:
            if match := re.search(r"\.entry (\w+)", part):
                found.append((path.with_name(f"{match[1]}.ptx"), match[1]))
                found[-1][0].write_text("".join((head, *functions, part)))
    yield from ((name, path, entry) for (path, entry), name in zip(found, short([e for _, e in found])))


def verdict(path: Path, entry: str, launch: Launch) -> dict:
    """What sentryward says of one kernel."""
    given = [{"parameter": p, "offset": o, "type": t, "value": v} for p, o, t, v in launch.values]
    whole = [g if g["offset"] or _is_struct(path, entry, g["parameter"]) else _without_offset(g) for g in given]
    shape = {"grid_dim": [launch.grid, 1, 1], "block_dim": [launch.threads, 1, 1], "cluster_dim": [1, 1, 1]}
    question = {
        "schema": "spverify.kernel-input/v1",
        "entry": entry,
        "launch": {**shape, "dynamic_shared_bytes": launch.shared},
        "arguments": whole,
    }
    file = path.parent / "input.json"
    file.write_text(json.dumps(question))
    tool = shutil.which("sentryward") or str(Path(sys.executable).with_name("sentryward"))
    run = subprocess.run([tool, path, "--input", file, "--timeout", str(SECONDS)], capture_output=True, text=True)
    answer = json.loads(run.stdout)
    reasons = [d["code"] for d in answer.get("diagnostics") or ()]
    return {"result": answer["result"], "checks": answer.get("checks"), "reasons": reasons}


def _is_struct(path: Path, entry: str, parameter: int) -> bool:
    return bool(re.search(rf"\.b8 {entry}_param_{parameter}\[", path.read_text()))


def _without_offset(given: dict) -> dict:
    return {key: value for key, value in given.items() if key != "offset"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help=f"write {RESULTS.name}")
    arguments = parser.parse_args()
    if cuobjdump() is None or not library().exists():
        parser.error("no cuobjdump, or no lps_kernels/_cuda.so")
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        every = list(entries(Path(folder)))
        for launch in LAUNCHES:
            matching = [e for e in every if re.fullmatch(launch.kernel, e[0])]
            if not matching:
                parser.error(f"no kernel in this build is called {launch.kernel}")
            for name, path, entry in matching:
                shape = {"grid": launch.grid, "threads": launch.threads, "dynamic_shared": launch.shared}
                rows.append({"kernel": name, **shape, **verdict(path, entry, launch)})
                print(rows[-1], flush=True)
    if arguments.write:
        lines = ",\n".join(map(json.dumps, rows))
        version = importlib.metadata.version("sentryward")
        RESULTS.write_text(f'{{"sentryward": "{version}", "kernels": [\n{lines}\n]}}\n')


if __name__ == "__main__":
    main()
