"""Loads the compiled kernels: of the builds of `_cpu` beside this file, the best that this processor runs."""

from __future__ import annotations

import os
from pathlib import Path

import torch

# From best to plainest; a processor that runs one runs those after it.
LEVELS = ("avx512", "avx2", "default")
_NAMES = {"AVX512": "avx512", "AVX512_VNNI": "avx512", "AMX": "avx512", "AVX10_2": "avx512", "AVX2": "avx2"}

# LPS_KERNELS_LIBRARY_DIR names another build of the same sources, one with sanitizers for example.
here = Path(os.environ.get("LPS_KERNELS_LIBRARY_DIR", Path(__file__).parent))
loaded: str | None = None
reason = ""


def library(level: str) -> Path:
    return here / f"_cpu_{level}.so"


def supported() -> tuple[str, ...]:
    """The levels that this processor runs, best first. LPS_KERNELS_CPU_LEVEL puts a lower one first."""
    best = _NAMES.get(torch.backends.cpu.get_cpu_capability(), "default")
    levels = LEVELS[LEVELS.index(best) :]
    forced = os.environ.get("LPS_KERNELS_CPU_LEVEL")
    if not forced:
        return levels
    if forced not in levels:
        raise ImportError(f"LPS_KERNELS_CPU_LEVEL: expected one of {', '.join(levels)} here, got {forced!r}")
    return (forced,)


def load() -> None:
    """Register the kernels; without a build say why, for `python -m lps_kernels.info`."""
    global loaded, reason
    for level in supported():
        if library(level).exists():
            torch.ops.load_library(str(library(level)))
            loaded = level
            return
    reason = (
        "no compiled CPU kernels were installed: put a C++17 compiler (g++ or clang++) on PATH, "
        "then reinstall with the torch that you use present"
    )


load()
