"""Calls CMake for the kernels. Without a compiler, or without torch to build against, the install is pure PyTorch."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).parent.resolve()


def torch_root() -> tuple[str | None, bool]:
    """Where the torch lies that the kernels will run with, the interpreter's own, and whether this build hides it."""
    find = "import importlib.util as u; s = u.find_spec('torch'); print(s.submodule_search_locations[0] if s else '')"
    for flags, isolated in (([], False), (["-I"], True)):  # -I leaves out the paths that an isolated build sets
        found = subprocess.run([sys.executable, *flags, "-c", find], capture_output=True, text=True).stdout.strip()
        if found:
            return found, isolated
    return None, False


def missing() -> str | None:
    """What is missing for a build of the kernels."""
    if os.environ.get("LPS_KERNELS_BUILD") == "0":
        return "LPS_KERNELS_BUILD=0"
    compilers = [os.environ.get("CXX"), "c++", "g++", "clang++"]
    if not any(c and shutil.which(c.split()[0]) for c in compilers):
        return "no C++ compiler on PATH"
    if torch_root()[0] is None:
        return "no torch in this environment: install torch, then build again"
    return None


class BuildKernels(build_ext):
    """All of `csrc`, through CMake, into the package's folder; CMake knows the flags and the targets."""

    def run(self) -> None:
        for stale in Path(self.build_lib, "lps_kernels").glob("_*.so"):  # of an earlier build with other settings
            stale.unlink()
        why_not = missing()
        if why_not:
            print(f"lps_kernels: pure PyTorch install, kernels are not built: {why_not}", file=sys.stderr)
            return
        torch, isolated = torch_root()
        # An isolated build's cmake and ninja vanish after it; CMake keeps their paths, so it gets a folder of its own.
        name = "isolated" if isolated else "cmake"
        build = Path(os.environ.get("LPS_KERNELS_BUILD_DIR", ROOT / "build" / name))
        target = ROOT / "lps_kernels" if self.inplace else Path(self.build_lib).resolve() / "lps_kernels"
        ninja = shutil.which("ninja")  # an isolated build's own lies elsewhere each time, so name it each time
        generator = ["-G", "Ninja", f"-DCMAKE_MAKE_PROGRAM={ninja}"] if ninja else []
        options = os.environ.get("CMAKE_ARGS", "").split()
        configure = ["cmake", "-S", ROOT, "-B", build, *generator, f"-DTORCH_ROOT={torch}", *options]
        subprocess.run([*map(str, configure), "-DCMAKE_BUILD_TYPE=Release"], check=True)
        subprocess.run(["cmake", "--build", build, "--parallel", str(os.cpu_count())], check=True)
        subprocess.run(["cmake", "--install", build, "--prefix", target], check=True)
        made = sorted(p.name for p in target.glob("_*.so"))
        cuda = "CUDA kernels are built" if "_cuda.so" in made else "no CUDA kernels: no nvcc on PATH that compiles"
        print(f"lps_kernels: {', '.join(made)}; {cuda}", file=sys.stderr)

    def get_source_files(self) -> list[str]:
        return [str(p.relative_to(ROOT)) for p in (ROOT / "csrc").rglob("*.*")] + ["CMakeLists.txt"]

    def get_outputs(self) -> list[str]:
        return sorted(map(str, Path(self.build_lib, "lps_kernels").glob("_*.so")))


class AnyPython(bdist_wheel):
    """The kernels know LibTorch's stable ABI and no Python: one wheel serves every version."""

    def get_tag(self) -> tuple[str, str, str]:
        return "py3", "none", super().get_tag()[2]


setup(
    ext_modules=[Extension("lps_kernels._cpu", sources=[])],
    cmdclass={"build_ext": BuildKernels, "bdist_wheel": AnyPython},
)
