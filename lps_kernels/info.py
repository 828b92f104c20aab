"""python -m lps_kernels.info: versions, devices, and which backend of which op is available and why not."""

from __future__ import annotations

import argparse
import importlib
import os
import pkgutil
import platform
import re
import sys
from pathlib import Path

import torch

import lps_kernels
from lps_kernels import native, ops
from lps_kernels.op import BACKENDS, INTERPRETS, NAMESPACE, NO_TRITON, OPS, TRITON_VERSION, BackwardOp, Op

# Where a checkout keeps the kernels of a backend, and what names the op there: a registration or a launcher.
_REGISTRATION, _LAUNCHER = re.compile(r'm\.impl\("(\w+)"'), re.compile(r"^def (\w+)\(", re.MULTILINE)
SOURCES = {
    "cpu": ("csrc/cpu/*.cpp", _REGISTRATION),
    "cuda": ("csrc/cuda/*.cu", _REGISTRATION),
    "triton": ("lps_kernels/triton/*.py", _LAUNCHER),
}


def forward_ops() -> list[Op]:
    for module in pkgutil.iter_modules(ops.__path__):  # an op that nothing imports yet is one too
        importlib.import_module(f"{ops.__name__}.{module.name}")
    return sorted((op for op in OPS.values() if not isinstance(op, BackwardOp)), key=lambda op: op.name)


def cpu_name() -> str:
    """The processor's own name for itself, as far as the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def versions() -> dict[str, str]:
    """What a report of a problem, or of a time, has to name."""
    return {
        "lps_kernels": lps_kernels.__version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "triton": TRITON_VERSION,
        "platform": f"{platform.system()} {platform.machine()}",
    }


def unavailable(backend: str) -> str:
    """Why no op can run on this backend here; empty where ops can."""
    if backend in ("cpu", "cuda"):
        return native.reason if backend == "cpu" else native.cuda_reason
    if backend == "triton" and NO_TRITON:
        return NO_TRITON
    if not any(op.has_kernel(backend) for op in OPS.values()):
        return f"no {backend} kernels in this build"
    if not torch.cuda.is_available() and not (backend == "triton" and INTERPRETS):
        return "torch finds no CUDA device"
    return ""


def _cells(op: Op, has_kernel) -> list[str]:
    """For one backend: what runs forward and what computes the gradient."""
    forward = "kernel" if has_kernel(op.name) else "reference"
    if op.backward is None:
        return [forward, "-"]
    return [forward, "kernel" if has_kernel(op.backward.name) else "reference"]


def table() -> list[list[str]]:
    """Rows of cells, the first the heading: every op, and for every backend what runs here in each direction."""
    rows = [["op", *(f"{backend} {way}" for backend in BACKENDS for way in ("forward", "backward"))]]
    for op in forward_ops():
        rows.append([op.name])
        for backend in BACKENDS:
            rows[-1] += _cells(op, lambda name, backend=backend: OPS[name].has_kernel(backend))
    return rows


def markdown(root: Path | None = None) -> str:
    """The same table as markdown, from the kernels that the sources in `root` hold, built here or not."""
    root = root or Path(__file__).parents[1]
    found = {}
    for backend, (pattern, names) in SOURCES.items():
        text = "".join(path.read_text() for path in sorted(root.glob(pattern)))
        if text:
            found[backend] = set(names.findall(text))
    heading = ["op", "what it does", *(f"{backend} {way}" for backend in found for way in ("forward", "backward"))]
    rows = [heading, ["---"] * len(heading)]
    for op in forward_ops():
        about = (sys.modules[op.reference.__module__].__doc__ or "").strip().splitlines()[0]
        about = about.removeprefix(f"{op.name}: ").rstrip(".")
        rows.append([f"`{op.name}`", about])
        for names in found.values():
            rows[-1] += _cells(op, names.__contains__)
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def aligned(rows: list[list[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(*rows)]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in rows)


def cpu_lines() -> list[list[str]]:
    built = [level for level in native.LEVELS if native.library(level).exists()]
    chosen = "none"
    if native.loaded:
        chosen = f"{native.loaded} ({getattr(torch.ops, NAMESPACE).build_info()})"
    forced = os.environ.get("LPS_KERNELS_CPU_LEVEL")
    return [
        ["processor", f"{cpu_name()}, {torch.backends.cpu.get_cpu_capability()}, {os.cpu_count()} cores"],
        ["threads", f"{torch.get_num_threads()}"],
        ["cpu kernels", chosen + (", forced by LPS_KERNELS_CPU_LEVEL" if forced else "")],
        ["levels built", f"{', '.join(built) or 'none'}, in {native.here}"],
        *([f"level {level}", why] for level, why in native.broken.items()),
        ["levels this processor runs", ", ".join(native.supported())],
    ]


def cuda_lines() -> list[list[str]]:
    build = native.cuda_build()
    if build is None:
        return [["cuda kernels", "not built"]]
    state = "loaded" if native.cuda_loaded else f"not loaded: {native.cuda_reason}"
    return [["cuda kernels", f"built for {', '.join(build[0])} by {build[1]}, {state}"]]


def device_lines() -> list[list[str]]:
    if not torch.cuda.is_available():
        return [["cuda devices", "none"]]
    names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    capabilities = [".".join(map(str, torch.cuda.get_device_capability(i))) for i in range(len(names))]
    return [["cuda devices", "; ".join(f"{n} (compute {c})" for n, c in zip(names, capabilities))]]


def report() -> str:
    """All of it as text."""
    parts = [aligned([*map(list, versions().items()), *cpu_lines(), *cuda_lines(), *device_lines()]), aligned(table())]
    why = [[backend, reason] for backend in BACKENDS if (reason := unavailable(backend))]
    if why:
        parts.append("Not available here, so that the PyTorch reference runs instead:\n" + aligned(why))
    return "\n\n".join(parts)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m lps_kernels.info", description=__doc__)
    parser.add_argument("--markdown", action="store_true", help="print the table of ops of this checkout as markdown")
    print(markdown() if parser.parse_args().markdown else report())


if __name__ == "__main__":
    main()
