"""What a build makes of a checkout, and what a package without kernels says about it."""

import json
import os
import re
import runpy
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
import torch
from test_processes import python

from lps_kernels import native

ROOT = Path(__file__).parents[1]
BUILD = [sys.executable, "setup.py", "build_ext", "--inplace"]
OPTIONS = "-DLPS_CPU_LEVELS=default -DLPS_CUDA=OFF"
builds = pytest.mark.skipif(
    not all(map(shutil.which, ("cmake", "ninja", "c++"))), reason="wants cmake, ninja and a C++ compiler"
)


def run(words, folder, **environment):
    env = {name: value for name, value in os.environ.items() if not name.startswith("LPS_KERNELS")}
    return subprocess.run(
        list(map(str, words)), cwd=folder, env=env | environment, capture_output=True, text=True, check=True
    )


def package(folder: Path) -> Path:
    """A copy of the package as it is without kernels."""
    ignored = shutil.ignore_patterns("*.so", "build.json", "__pycache__")
    return shutil.copytree(ROOT / "lps_kernels", folder / "lps_kernels", ignore=ignored)


def tree(folder: Path) -> Path:
    """A checkout whose only kernel says how it was built."""
    package(folder)
    for name in ("setup.py", "CMakeLists.txt", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder)
    shutil.copytree(ROOT / "python", folder / "python", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(ROOT / "csrc", folder / "csrc", ignore=shutil.ignore_patterns("cpu", "cuda"))
    return folder


def reasons(folder: Path, **environment) -> list[str]:
    script = "from lps_kernels import native; print(native.reason); print(native.cuda_reason)"
    return run([sys.executable, "-c", script], folder, **environment).stdout.splitlines()


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    folder = tree(tmp_path_factory.mktemp("built"))
    run(BUILD, folder, CMAKE_ARGS=OPTIONS)
    return folder


@builds
def test_an_unchanged_build_compiles_nothing(built):
    assert "no work to do" in run(BUILD, built, CMAKE_ARGS=OPTIONS).stdout


@builds
def test_a_build_remembers_no_settings(built, tmp_path):
    """Of the build before: neither its folder, nor its torch, nor its options."""
    moved, site = tmp_path / "moved", tmp_path / "site"
    shutil.copytree(built, moved)
    site.mkdir()
    (site / "torch").symlink_to(torch.__path__[0])
    run(BUILD, moved, CMAKE_ARGS=f"{OPTIONS} -DTORCH_ROOT={site / 'torch'} -DCMAKE_CXX_FLAGS=-DSETTING")
    (site / "torch").unlink()
    run(BUILD, moved, CMAKE_ARGS=OPTIONS)
    ninja = (moved / "build/cmake/build.ninja").read_text()
    assert "SETTING" not in ninja and str(built) not in ninja


@builds
def test_a_package_says_what_its_build_lacked(built, tmp_path):
    cuda = "no compiled CUDA kernels were installed: -DLPS_CUDA=OFF was set: reinstall without it"
    assert reasons(built) == ["", cuda]
    bare = tree(tmp_path)
    run(BUILD, bare, PATH="", CXX="")
    assert all("no C++ compiler was on PATH" in why for why in reasons(bare))


def test_torch_is_found_on_path_where_the_build_hides_it(monkeypatch, tmp_path):
    monkeypatch.setattr("setuptools.setup", lambda **_: None)
    setup = runpy.run_path(str(ROOT / "setup.py"))
    for name, text in (("c++", ""), ("blind", ""), ("python3", f'exec {sys.executable} "$@"')):
        (tmp_path / name).write_text(f"#!/bin/sh\n{text}\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "blind"))
    monkeypatch.setenv("PATH", f"/nowhere:{tmp_path}")
    assert setup["torch_root"]() == torch.__path__[0] and not setup["missing"]()
    old = tmp_path / "torch"
    old.mkdir()
    (old / "__init__.py").touch()
    (old / "version.py").write_text("__version__ = '2.10.1+cpu'\n")
    (tmp_path / "python3").write_text(f'#!/bin/sh\nshift; PYTHONPATH={tmp_path} exec {sys.executable} "$@"\n')
    setup["torch_root"].cache_clear()
    assert "no torch >= 2.11" in setup["missing"]()


def test_a_checkout_without_kernels_names_the_installed_copy(tmp_path):
    clone, site = tmp_path / "clone", tmp_path / "site"
    package(clone)
    assert "`pip install -e .` in the checkout" in reasons(clone, PYTHONPATH="")[0]
    package(site)
    (site / "lps_kernels-9.dist-info").mkdir()
    (site / "lps_kernels-9.dist-info/METADATA").write_text("Metadata-Version: 2.1\nName: lps_kernels\nVersion: 9\n")
    for why in reasons(clone, PYTHONPATH=str(site)):
        assert why.endswith(f"this is the checkout in {clone}, leave it to import the one in {site}")


def test_build_json_is_only_read_with_the_package(tmp_path):
    (package(tmp_path) / "build.json").write_text(json.dumps({"cpu": "no luck", "cuda": "nor here"}))
    assert [why.rpartition(": ")[2] for why in reasons(tmp_path)] == ["no luck", "nor here"]
    other = str(tmp_path / "other")
    assert all(why.endswith(f"{other} has none") for why in reasons(tmp_path, LPS_KERNELS_LIBRARY_DIR=other))


def test_a_wheel_without_kernels_is_for_any_platform_and_holds_what_the_tree_has(tmp_path):
    folder, wheel = tree(tmp_path), [sys.executable, "setup.py", "-q", "bdist_wheel"]
    (folder / "lps_kernels/gone.py").touch()
    run(wheel, folder, LPS_KERNELS_BUILD="0")
    (folder / "lps_kernels/gone.py").unlink()
    run(wheel, folder, LPS_KERNELS_BUILD="0")
    (made,) = (folder / "dist").iterdir()
    names = zipfile.ZipFile(made).namelist()
    assert made.name.endswith("-py3-none-any.whl")
    assert "lps_kernels/build.json" in names and "lps_kernels/gone.py" not in names


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="wants git")
def test_an_sdist_has_what_git_has(tmp_path):
    files = [name for name in run(["git", "ls-files"], ROOT).stdout.split() if (ROOT / name).exists()]
    for name in files:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    run([sys.executable, "setup.py", "-q", "sdist"], tmp_path)
    (made,) = (tmp_path / "dist").iterdir()
    with tarfile.open(made) as archive:
        assert set(files) <= {name.partition("/")[2] for name in archive.getnames()}


def test_a_build_without_cmake_says_what_to_do(tmp_path):
    folder, path = tree(tmp_path), tmp_path / "bin"
    path.mkdir()
    (path / "c++").symlink_to("/bin/true")
    with pytest.raises(subprocess.CalledProcessError) as error:
        run(BUILD, folder, PATH=str(path))
    assert error.value.stderr.endswith("no cmake on PATH: pip install cmake ninja, or set LPS_KERNELS_BUILD=0\n")


LEVELS = [level for level in native.supported() if native.library(level).exists()]


def test_a_level_that_does_not_load_leaves_the_next(tmp_path):
    (tmp_path / f"_cpu_{native.supported()[0]}.so").write_text("no library")
    report = [sys.executable, "-m", "lps_kernels.info"]
    if len(LEVELS) > 1:
        shutil.copy(native.library(LEVELS[1]), tmp_path)
    told = run(report, ROOT, LPS_KERNELS_LIBRARY_DIR=str(tmp_path)).stdout
    assert f"_cpu_{native.supported()[0]}.so does not load: " in told
    assert "cpu kernels " + (LEVELS[1] if len(LEVELS) > 1 else "none") in re.sub(" +", " ", told)
    with pytest.raises(subprocess.CalledProcessError) as error:
        run(report, ROOT, LPS_KERNELS_LIBRARY_DIR=str(tmp_path), LPS_KERNELS_CPU_LEVEL=native.supported()[0])
    assert "ImportError: LPS_KERNELS_CPU_LEVEL" in error.value.stderr and "does not load" in error.value.stderr


def test_a_forced_level_that_is_not_built_is_an_error(tmp_path):
    with pytest.raises(subprocess.CalledProcessError) as error:
        reasons(ROOT, LPS_KERNELS_LIBRARY_DIR=str(tmp_path), LPS_KERNELS_CPU_LEVEL="default")
    assert f"LPS_KERNELS_CPU_LEVEL=default: not built in {tmp_path}" in error.value.stderr


@pytest.mark.skipif("default" not in LEVELS, reason="wants kernels")
def test_a_forced_level_hides_no_other():
    forced = {"LPS_KERNELS_CPU_LEVEL": "default", "LPS_KERNELS_LIBRARY_DIR": ""}
    told = run([sys.executable, "-m", "lps_kernels.info"], ROOT, **forced).stdout
    assert re.search(r"cpu kernels +default .*forced", told)
    assert re.search(rf"levels this processor runs +{', '.join(native.supported())}\n", told)


def test_what_looks_like_a_module_and_is_none_is_an_import_error():
    python(
        """
        import importlib, pkgutil, pytest, lps_kernels
        for module in pkgutil.iter_modules(lps_kernels.__path__, "lps_kernels."):
            if "._c" in module.name:
                with pytest.raises(ImportError):
                    importlib.import_module(module.name)
        """
    )


OLD_NVCC = """#!/bin/sh
case "$*" in
  --list-gpu-arch) nvcc --list-gpu-arch | grep -v compute_100; exit ;;
  *_100*) echo "nvcc fatal: Unsupported gpu architecture" >&2; exit 1 ;;
esac
exec nvcc "$@"
"""


@builds
@pytest.mark.skipif(shutil.which("nvcc") is None, reason="wants nvcc")
def test_cuda_kernels_are_for_gpus_that_nvcc_knows(tmp_path):
    nvcc = tmp_path / "old-nvcc"
    nvcc.write_text(OLD_NVCC)
    nvcc.chmod(0o755)
    configure = ["cmake", "-S", ROOT, "-G", "Ninja", f"-DTORCH_ROOT={torch.__path__[0]}", "-DLPS_CPU_LEVELS=none"]

    def configured(name, compiler, **environment):
        done = run([*configure, "-B", tmp_path / name, f"-DCMAKE_CUDA_COMPILER={compiler}"], tmp_path, **environment)
        return done.stdout + (tmp_path / name / "build.ninja").read_text()

    told = configured("old", nvcc, CUDAARCHS="")
    assert "CUDA kernels for 80 90 by" in told and "[compute_80,sm_80,sm_90]" in told
    assert "CUDA kernels for 90 by" in configured("named", nvcc, CUDAARCHS="90")


@pytest.mark.skipif(shutil.which("make") is None, reason="wants make")
def test_make_builds_again_where_compilers_or_settings_changed(tmp_path):
    for name in ("Makefile", "setup.py", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    (tmp_path / ".venv/bin").mkdir(parents=True)
    (tmp_path / ".venv/bin/python").write_text("#!/bin/sh\n")
    (tmp_path / ".venv/bin/python").chmod(0o755)
    tools = tmp_path / "tools"
    tools.mkdir()
    for name in (".torch", ".packages"):
        (tmp_path / ".venv" / name).touch()
    (tmp_path / "CMakeLists.txt").touch()
    path = f"{tools}:{os.environ['PATH']}"

    def builds(**environment):
        return "build_ext" in run(["make", "build"], tmp_path, PATH=path, **environment).stdout

    assert builds() and not builds()
    assert builds(CUDAARCHS="90") and not builds(CUDAARCHS="90") and builds(CMAKE_ARGS="-DLPS_CUDA='OFF'") and builds()
    (tools / "nvcc").write_text("")
    (tools / "nvcc").chmod(0o755)
    assert builds() and not builds()


@pytest.mark.skipif(shutil.which("make") is None, reason="wants make")
def test_make_gpu_without_that_python_is_an_error():
    with pytest.raises(subprocess.CalledProcessError) as error:
        run(["make", "gpu", "PYTHON=nosuch"], ROOT)
    assert "no nosuch on PATH" in error.value.stderr
