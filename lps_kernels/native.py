"""Loads the compiled kernels: of the builds of `_cpu` beside this file the best that this processor runs, and `_cuda`
where there is a GPU."""

from __future__ import annotations

import importlib.metadata
import json
import os
import re
import sys
from pathlib import Path

import torch

# From best to plainest; a processor that runs one runs those after it.
LEVELS = ("avx512", "avx2", "default")
_NAMES = {"AVX512": "avx512", "AVX512_VNNI": "avx512", "AMX": "avx512", "AVX10_2": "avx512", "AVX2": "avx2"}

# LPS_KERNELS_LIBRARY_DIR names another build of the same sources, one with sanitizers for example.
here = Path(os.environ.get("LPS_KERNELS_LIBRARY_DIR") or Path(__file__).parent)
loaded: str | None = None
reason = ""
broken: dict[str, str] = {}  # levels that were built and do not load, and why
cuda_loaded = False
cuda_reason = ""


def library(level: str) -> Path:
    return here / f"_cpu_{level}.so"


def supported() -> tuple[str, ...]:
    """The levels that this processor runs, best first."""
    return LEVELS[LEVELS.index(_NAMES.get(torch.backends.cpu.get_cpu_capability(), "default")) :]


def wanted() -> tuple[str, ...]:
    """The levels to try, best first: those that run here, or the one that LPS_KERNELS_CPU_LEVEL names."""
    forced = os.environ.get("LPS_KERNELS_CPU_LEVEL")
    if forced and forced not in supported():
        raise ImportError(f"LPS_KERNELS_CPU_LEVEL: expected one of {', '.join(supported())} here, got {forced!r}")
    return (forced,) if forced else supported()


def not_built(backend: str) -> str:
    """Why there are no compiled kernels for a backend: of the build, by what it wrote down, or of this folder."""
    package = Path(__file__).parent
    if here.resolve() != package.resolve():
        return f"{here} has none"
    build = package / "build.json"
    if build.exists() and (why := json.loads(build.read_text())[backend]):
        return why
    for copy in importlib.metadata.distributions(name="lps_kernels"):
        installed = Path(str(copy.locate_file("lps_kernels")))
        if (installed / "__init__.py").exists() and not installed.samefile(package):
            return f"this is the checkout in {package.parent}, leave it to import the one in {installed.parent}"
    return "`pip install -e .` in the checkout builds them"


def load() -> None:
    """Register the kernels; without a build that loads say why, for `python -m lps_kernels.info`."""
    global loaded, reason
    levels = wanted()
    for level in levels:
        if not library(level).exists():
            continue
        try:
            torch.ops.load_library(str(library(level)))
            loaded = level
            return
        except OSError as error:  # of a newer system's libraries, for example
            broken[level] = f"{library(level).name} does not load: {error}"
    reason = "; ".join(broken.values()) or f"no compiled CPU kernels were installed: {not_built('cpu')}"
    if os.environ.get("LPS_KERNELS_CPU_LEVEL"):
        raise ImportError(f"LPS_KERNELS_CPU_LEVEL={levels[0]}: {broken.get(levels[0]) or f'not built in {here}'}")


def cuda_build() -> tuple[tuple[str, ...], str] | None:
    """The architectures that `_cuda` was built for, as CMake names them, and the compiler; None without a build."""
    path = here / "_cuda.so"
    found = re.search(rb"lps_kernels CUDA build: ([^,\0]*), ([^\0]*)", path.read_bytes()) if path.exists() else None
    return (tuple(found[1].decode().split()), found[2].decode()) if found else None


def runs_on(architecture: str, capability: tuple[int, int]) -> bool:
    """Whether code for an architecture ("90", "90-real", "90-virtual", "90a-real") runs on a GPU of this capability."""
    number, _, kind = architecture.partition("-")
    digits = number.rstrip("af")
    built = (int(digits[:-1]), int(digits[-1]))
    if number != digits:
        return built == capability
    return built <= capability and (kind != "real" or built[0] == capability[0])  # later ones compile the PTX


def load_cuda() -> None:
    """Register the CUDA kernels where there is a GPU, else say why not.

    CUDA is not initialized by it: a process that only imports this package can fork and use a GPU afterwards.
    """
    global cuda_loaded, cuda_reason
    file = here / "_cuda.so"
    if not file.exists():
        cuda_reason = f"no compiled CUDA kernels were installed: {not_built('cuda')}"
    elif torch.cuda.device_count() == 0:
        cuda_reason = "torch finds no CUDA device"
    else:
        try:
            torch.ops.load_library(str(file))
            cuda_loaded = True
        except OSError as error:  # of another CUDA than torch's, for example
            cuda_reason = f"{file.name} does not load with this torch: {error}"


def cuda_runs() -> bool:
    """Whether a device can run the loaded CUDA kernels, else say why not; asked once CUDA is initialized."""
    global cuda_loaded, cuda_reason
    build = cuda_build()
    if not cuda_loaded or build is None:
        return False
    capabilities = [torch.cuda.get_device_capability(i) for i in range(torch.cuda.device_count())]
    cuda_loaded = any(runs_on(architecture, c) for architecture in build[0] for c in capabilities)
    if not cuda_loaded:
        cuda_reason = (
            f"the devices have compute capability {', '.join(f'{a}.{b}' for a, b in capabilities)}, the kernels were "
            f"built for {', '.join(build[0])}: reinstall with CUDAARCHS set"
        )
    return cuda_loaded


# Libraries look like modules of Python: who imports all that a package has would register kernels twice, which ends the
# process. None makes it an ImportError.
sys.modules.update({f"{__package__}.{path.stem}": None for path in Path(__file__).parent.glob("_*.so")})
load()
load_cuda()
