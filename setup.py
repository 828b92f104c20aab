"""Calls CMake for the kernels. Without a compiler, or without torch to build against, the install is pure PyTorch."""

import json
import os
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).parent.resolve()
UNWANTED = os.environ.get("LPS_KERNELS_BUILD") == "0"
FIND_TORCH = r"""
import importlib.util, pathlib, re
folder = importlib.util.find_spec("torch").submodule_search_locations[0]
version = re.search(r"__version__ = .(\d+)\.(\d+)", pathlib.Path(folder, "version.py").read_text())
if tuple(map(int, version.groups())) >= (2, 11):
    print(folder)
"""


@cache
def torch_root() -> str | None:
    """Where the torch lies that the kernels are built against: the interpreter's own, else one of a Python on PATH.

    An isolated build hides the first: pip by variables, which -I leaves out, uv and build by an environment of their
    own, from which only an activated environment is seen. Kernels serve every torch from 2.11 on, so any will do.
    """
    path = [shutil.which("python3", path=folder) for folder in os.environ.get("PATH", "").split(os.pathsep)]
    for python in [[sys.executable], [sys.executable, "-I"], *([p, "-I"] for p in dict.fromkeys(path) if p)]:
        found = subprocess.run([*python, "-c", FIND_TORCH], capture_output=True, text=True).stdout.strip()
        if found:
            return found
    return None


def missing() -> str:
    """What is missing for a build of the kernels and what to do, or nothing."""
    if UNWANTED:
        return "LPS_KERNELS_BUILD=0 was set: reinstall without it"
    compilers = [os.environ.get("CXX"), "c++", "g++", "clang++"]
    if not any(c and shutil.which(c.split()[0]) for c in compilers):
        return "no C++ compiler was on PATH: put g++ or clang++ there, then reinstall"
    if torch_root() is None:
        return (
            "the build found no torch >= 2.11: pip install torch 'setuptools>=77' cmake ninja, "
            "then reinstall with --no-build-isolation"
        )
    return ""


class BuildKernels(build_ext):
    """All of `csrc`, through CMake, into the package's folder; CMake knows the flags and the targets."""

    def run(self) -> None:
        target = ROOT / "lps_kernels" if self.inplace else Path(self.build_lib).resolve() / "lps_kernels"
        if self.inplace and UNWANTED:  # what a checkout has stays
            return
        no_cpu = missing()
        no_cuda = no_cpu or self.compile(target)
        made = ", ".join(sorted(p.name for p in target.glob("_*.so"))) or "pure PyTorch"
        for what, why in (("kernels", no_cpu), ("CUDA kernels", no_cuda)):
            made += f"; no {what}: {why}" if why else ""
        print(f"lps_kernels: {made}", file=sys.stderr)
        target.mkdir(parents=True, exist_ok=True)
        (target / "build.json").write_text(json.dumps({"cpu": no_cpu, "cuda": no_cuda}))  # for lps_kernels.info

    def compile(self, target: Path) -> str:
        """Put the kernels into a folder; return why those for CUDA are not among them, or nothing."""
        if shutil.which("cmake") is None:
            sys.exit("lps_kernels: no cmake on PATH: pip install cmake ninja, or set LPS_KERNELS_BUILD=0")
        build = Path(os.environ.get("LPS_KERNELS_BUILD_DIR", ROOT / "build" / "cmake"))
        # CMake remembers an earlier compiler, nvcc, torch, folder and options: forget them, but for the objects, which
        # cmake --fresh would remove too.
        (build / "CMakeCache.txt").unlink(missing_ok=True)
        for found in build.glob("CMakeFiles/[0-9]*.*.*"):
            shutil.rmtree(found)
        generator = ["-G", "Ninja"] if shutil.which("ninja") else []
        options = os.environ.get("CMAKE_ARGS", "").split()
        configure = ["cmake", "-S", ROOT, "-B", build, *generator, f"-DTORCH_ROOT={torch_root()}", *options]
        subprocess.run([*map(str, configure), "-DCMAKE_BUILD_TYPE=Release"], check=True)
        subprocess.run(["cmake", "--build", build, "--parallel", str(os.cpu_count())], check=True)
        for stale in target.glob("_*.so"):  # of an earlier build with other settings
            stale.unlink()
        subprocess.run(["cmake", "--install", build, "--prefix", target], check=True)
        return (build / "no_cuda.txt").read_text()

    def get_source_files(self) -> list[str]:
        return [str(p.relative_to(ROOT)) for p in (ROOT / "csrc").rglob("*.*")] + ["CMakeLists.txt"]

    def get_outputs(self) -> list[str]:
        made = Path(self.build_lib, "lps_kernels")
        return [str(made / "build.json"), *sorted(map(str, made.glob("_*.so")))]


class AnyPython(bdist_wheel):
    """The kernels know LibTorch's stable ABI and no Python: one wheel serves every version."""

    def run(self) -> None:
        for name in ("lps_kernels", "lps"):  # of an earlier build, with files that are no more
            shutil.rmtree(Path(self.get_finalized_command("build").build_lib, name), ignore_errors=True)
        super().run()

    def get_tag(self) -> tuple[str, str, str]:
        return "py3", "none", "any" if missing() else super().get_tag()[2]


setup(
    ext_modules=[Extension("lps_kernels._cpu", sources=[])],
    cmdclass={"build_ext": BuildKernels, "bdist_wheel": AnyPython},
)
