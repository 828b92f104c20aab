"""The paper's system uses public names of the library alone, and the library knows nothing of it."""

import ast
from pathlib import Path

import lps

import lps_kernels

LIBRARY, SYSTEM = Path(lps_kernels.__file__).parent, Path(lps.__file__).parent


def imports(path: Path):
    """(module, name or None) of every import in a file."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from ((alias.name, None) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from ((("." * node.level) + (node.module or ""), alias.name) for alias in node.names)


def attributes(path: Path) -> set[str]:
    """Names that a file takes from `lk` or `lps_kernels`."""
    nodes = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Attribute)]
    return {n.attr for n in nodes if isinstance(n.value, ast.Name) and n.value.id in ("lk", "lps_kernels")}


def test_lps_imports_public_names_only():
    files = sorted(SYSTEM.rglob("*.py"))
    assert len(files) > 20
    used = set()
    for path in files:
        for module, name in imports(path):
            assert not module.startswith("lps_kernels."), f"{path}: {module}"
            assert not module.startswith("."), f"{path}: imports are absolute"
            if module == "lps_kernels" and name is not None:
                used.add(name)
        used |= attributes(path)
    assert {"Permutation", "Euclidean", "symmetrize"} <= used <= set(lps_kernels.__all__), used


def test_the_library_never_imports_lps():
    for path in LIBRARY.rglob("*.py"):
        for module, _ in imports(path):
            assert module.split(".")[0] != "lps", f"{path}: {module}"
