"""The built CUDA kernels, read from lps_kernels/_cuda.so without a GPU: registers, stack, shared memory, occupancy.

    python -m benchmarks.compiled_cuda --write      # benchmarks/results/compiled_cuda.json

By cuobjdump, of the CUDA toolkit or of Triton's package. What a launch adds to the shared memory is not in the file;
`stack` holds spills and what calls of subroutines put aside, in bytes a thread.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

from lps_kernels import native

RESULTS = Path(__file__).parent / "results" / "compiled_cuda.json"
# Registers and warps of a multiprocessor, and how many registers a warp gets at a time.
REGISTERS, WARPS, UNIT = 65536, 64, 256


def library() -> Path:
    return native.here / "_cuda.so"


def cuobjdump() -> str | None:
    """The tool's path, or None where there is none."""
    spec = importlib.util.find_spec("triton")
    own = Path(spec.origin).parent / "backends" / "nvidia" / "bin" / "cuobjdump" if spec and spec.origin else None
    return shutil.which("cuobjdump") or (str(own) if own and own.exists() else None)


def short(names: list[str]) -> list[str]:
    """Kernels' names as their sources have them, without arguments and the library's namespaces."""
    filt = shutil.which("c++filt")
    if filt:
        names = subprocess.run([filt], input="\n".join(names), capture_output=True, text=True, check=True).stdout
        names = [n.split("(")[0] if ">(" not in n else n[: n.index(">(") + 1] for n in names.splitlines()]
    return [re.sub(r"^void |lps::(cuda::)?", "", n) for n in names]


def kernels(path: Path) -> Iterator[dict]:
    """A row for each kernel and architecture."""
    text = subprocess.run([cuobjdump(), "-res-usage", path], capture_output=True, text=True, check=True).stdout
    found, architecture, name = [], "", ""
    for line in text.splitlines():
        if match := re.search(r"arch = (sm_\w+)", line):
            architecture = match[1]
        elif match := re.search(r"Function (\S+):", line):
            name = match[1]
        elif match := re.search(r"REG:(\d+) STACK:(\d+) SHARED:(\d+) LOCAL:(\d+)", line):
            registers, stack, shared, local = map(int, match.groups())
            found.append((name, architecture, registers, stack + local, shared))
    for (_, architecture, registers, stack, shared), name in zip(found, short([f[0] for f in found])):
        of_warp = -(-registers * 32 // UNIT) * UNIT
        yield {
            "kernel": name,
            "target": architecture,
            "registers": registers,
            "stack": stack,
            "static_shared": shared,
            "warps_by_registers": min(WARPS, REGISTERS // of_warp),
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help=f"write {RESULTS.name}")
    arguments = parser.parse_args()
    if cuobjdump() is None or not library().exists():
        parser.error("no cuobjdump, or no lps_kernels/_cuda.so")
    rows = sorted(kernels(library()), key=lambda row: (row["kernel"], int(row["target"][3:])))
    print(*rows, sep="\n")
    if arguments.write:
        _, compiler = native.cuda_build()
        lines = ",\n".join(map(json.dumps, rows))
        RESULTS.write_text(f'{{"compiler": "{compiler}", "kernels": [\n{lines}\n]}}\n')


if __name__ == "__main__":
    main()
