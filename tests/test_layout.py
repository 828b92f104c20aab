"""The house: what may be imported, what lies where, and an op added in one file as CONTRIBUTING.md says."""

import ast
import inspect
import re
import sys
from pathlib import Path

import pytest
import torch
from test_processes import python

import lps_kernels as lk
from lps_kernels import testing
from lps_kernels.op import NAMESPACE, OPS, Op

ROOT = Path(__file__).parents[1]
MODULES = sorted((ROOT / "lps_kernels").rglob("*.py"))
OPTIONAL = ("networkx", "matplotlib", "rich", "triton", "pytest", "hypothesis", "scipy", "lps")


def imported_at_load(tree):
    """The packages that a module imports when it is loaded: not those inside functions."""
    inside = {id(n) for f in ast.walk(tree) if isinstance(f, ast.FunctionDef) for n in ast.walk(f)}
    for node in ast.walk(tree):
        if id(node) in inside:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield node.module


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(ROOT)))
def test_modules_import_torch_and_the_standard_library(path):
    roots = {name.split(".")[0] for name in imported_at_load(ast.parse(path.read_text()))}
    optional = {"triton"} if path.parent.name == "triton" else set()
    assert roots <= {"torch", "numpy", "lps_kernels", *optional, *sys.stdlib_module_names}


def test_import_loads_nothing_optional():
    loaded = python(
        "import sys, torch; before = set(sys.modules); import lps_kernels; print(*set(sys.modules) - before)"
    )
    assert not {name.split(".")[0] for name in loaded.split()} & set(OPTIONAL)


def test_public_names():
    assert all(getattr(lk, name).__doc__ or name == "__version__" for name in lk.__all__)
    assert sorted(lk.__all__) == lk.__all__
    for name in ("Permutation", "symmetrize", "Symmetrized", "softsort", "permute", "inverse_permute", "backend"):
        assert name in lk.__all__


@pytest.mark.parametrize("name", OPS)
def test_every_op_has_a_schema(name):
    kernel = getattr(getattr(torch.ops, NAMESPACE), name).default
    assert [a.name for a in kernel._schema.arguments] == OPS[name].parameters
    assert len(kernel._schema.returns) == len(OPS[name].outputs)
    assert not any(a.alias_info for a in kernel._schema.arguments), "no op modifies an argument"


@pytest.mark.parametrize("op", testing.forward_ops().values(), ids=str)
def test_an_op_lives_in_the_file_of_its_name(op):
    assert op.reference.__module__ == f"lps_kernels.ops.{op.name}"
    assert op.__doc__


def test_kernels_are_files_named_like_ops():
    for path in (ROOT / "csrc" / "cpu").glob("*.cpp"):
        registered = re.findall(r'm\.impl\("(\w+)"', path.read_text())
        assert set(registered) <= {path.stem, f"{path.stem}_backward"} and path.stem in OPS, path.name


def test_launchers_have_the_schemas_of_their_ops():
    for path in (ROOT / "lps_kernels" / "triton").glob("*.py"):
        found = {
            f.name: [a.arg for a in f.args.args]
            for f in ast.parse(path.read_text()).body
            if isinstance(f, ast.FunctionDef)
        }
        if path.stem in OPS:
            for op in (OPS[path.stem], OPS[path.stem].backward):
                assert op is None or found[op.name] == op.parameters, path.name


def test_core_knows_no_torch():
    for path in (ROOT / "csrc" / "core").glob("*.h"):
        included = re.findall(r'#include [<"]([^>"]+)', path.read_text())
        assert not [name for name in included if "torch" in name or "cuda" in name], path.name


def example():
    """The op of CONTRIBUTING.md, as a file."""
    page = (ROOT / "CONTRIBUTING.md").read_text()
    (code,) = (block for block in re.findall(r"```python\n(.*?)```", page, re.DOTALL) if "@op(" in block)
    return code


def test_contributing_lists_the_options_of_an_op():
    listed = re.findall(r"^- `(\w+)`: ", (ROOT / "CONTRIBUTING.md").read_text(), re.MULTILINE)
    assert listed == [name for name, p in inspect.signature(Op).parameters.items() if p.kind == p.KEYWORD_ONLY]


CHECK = """
    import sys
    sys.path.insert(0, sys.argv[1])
    import torch
    from row_norm import row_norm
    from lps_kernels.op import OPS

    def plain(x):
        return x.square().sum(-1).sqrt()

    assert OPS["row_norm"] is row_norm and torch.ops.lps_kernels.row_norm.default is row_norm.kernel
    x = torch.randn(4, 5, 3, dtype=torch.float64).requires_grad_()
    assert torch.equal(row_norm(x), plain(x)) and torch.equal(row_norm.kernel(x.detach()), plain(x))
    assert torch.autograd.gradcheck(row_norm, (x,)) and torch.autograd.gradgradcheck(row_norm, (x,))
    assert torch.allclose(torch.func.grad(lambda x: row_norm(x).sum())(x), torch.func.grad(lambda x: plain(x).sum())(x))
    many = x.detach()[:, None].expand(4, 2, 5, 3)
    assert torch.equal(torch.vmap(row_norm, 1)(many), torch.stack([plain(x)] * 2))
    assert torch.equal(torch.vmap(row_norm.kernel, 1)(many), torch.stack([plain(x)] * 2))
    """
CHECK_COMPILED = """
    for function in (row_norm, row_norm.kernel):
        compiled = torch.compile(lambda x: function(x), fullgraph=True, backend="aot_eager")
        assert torch.equal(compiled(x.detach()), plain(x).detach())
    compiled = torch.compile(lambda x: row_norm(x), fullgraph=True, backend="aot_eager")
    (got,), (want,) = (torch.autograd.grad(f(x).sin().sum(), x) for f in (compiled, plain))
    assert torch.allclose(got, want)
    torch.library.opcheck(row_norm.kernel, (x.detach(),))
    """


def test_an_op_in_one_file_works_at_once(tmp_path):
    (tmp_path / "row_norm.py").write_text(example())
    python(CHECK, tmp_path)


def test_an_op_in_one_file_compiles(tmp_path):
    (tmp_path / "row_norm.py").write_text(example())
    python(CHECK + CHECK_COMPILED, tmp_path)


def test_an_op_in_one_file_is_tested_and_listed(tmp_path):
    """As tests/test_every_op.py does, though nothing imports it yet."""
    (tmp_path / "row_norm.py").write_text(example())
    python(
        """
        import sys
        from lps_kernels import info, ops, testing
        ops.__path__.append(sys.argv[1])
        op = testing.forward_ops()["row_norm"]
        assert op in info.forward_ops()
        args = testing.arguments(op, testing.Case())
        testing.assert_matches(op, "reference", args)
        testing.assert_gradients_match(op, "reference", args)
        """,
        tmp_path,
    )


AWKWARD = '''
from torch import Tensor
from lps_kernels.op import op

@op(outputs=("same", "turned", "twice"), differentiable=("x", "scale"))
def awkward(x: Tensor, scale: Tensor, power: int) -> tuple[Tensor, Tensor, Tensor]:
    """A view of an argument, a transposed one, and one output given twice."""
    y = (x * scale[:, None, None]) ** power
    return x, y.mT, y
'''


def test_outputs_that_are_views_become_tensors_of_their_own(tmp_path):
    (tmp_path / "awkward.py").write_text(AWKWARD)
    python(
        """
        import sys
        sys.path.insert(0, sys.argv[1])
        import torch
        from awkward import awkward
        x, scale = torch.randn(2, 3, 4), torch.randn(2)
        outs = awkward.kernel(x, scale, 2)
        assert all(o.is_contiguous() for o in outs)
        assert len({o.data_ptr() for o in (x, *outs)}) == 4
        torch.library.opcheck(awkward.kernel, (x, scale, 2), test_utils=("test_schema", "test_faketensor"))
        """,
        tmp_path,
    )


def test_a_wrong_number_of_outputs_is_an_error(tmp_path):
    (tmp_path / "awkward.py").write_text(AWKWARD.replace('"same", "turned", "twice"', '"same", "turned"'))
    with pytest.raises(AssertionError, match="awkward: expected a name for each of 3 outputs"):
        python("import sys; sys.path.insert(0, sys.argv[1]); import awkward", tmp_path)
