"""Triton's kernels compiled ahead of time, without a GPU: registers, spills, shared memory and instructions of each.

    python -m benchmarks.compiled_triton --write      # benchmarks/results/compiled_triton.json, which takes hours
    python -m benchmarks.compiled_triton --op permute --target sm_90 --write    # anew, these rows alone

The launchers run on the CPU with a recorder in place of Triton's launch, so that what is compiled has the argument
types and the alignments of real calls.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import os
import re
import subprocess
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton.runtime.jit import JITFunction, KernelInterface

from lps_kernels import testing
from lps_kernels.op import OPS
from lps_kernels.triton import sample_permute, sinkhorn, soft
from lps_kernels.triton.entry import Entry

RESULTS = Path(__file__).parent / "results" / "compiled_triton.json"
TARGETS = {
    "sm_80": GPUTarget("cuda", 80, 32),
    "sm_90": GPUTarget("cuda", 90, 32),
    "sm_100": GPUTarget("cuda", 100, 32),
    "gfx942": GPUTarget("hip", "gfx942", 64),
}
# Shared memory a program may have, and registers of a multiprocessor for its threads.
SHARED = {"sm_80": 163 << 10, "sm_90": 227 << 10, "sm_100": 227 << 10, "gfx942": 64 << 10}
REGISTERS = 65536
# Classes of instructions: of PTX, and of AMD's assembly by the first two words of a name.
_CLASSES = {
    **dict.fromkeys(("ld", "st"), "memory"), "shfl": "shuffle", "bar": "barrier", "ex2": "special", "lg2": "special",
    **dict.fromkeys(("rcp", "div", "sqrt", "rsqrt", "sin", "cos"), "special"), "mma": "matrix", "wgmma": "matrix",
    **dict.fromkeys(("add", "sub", "mul", "fma", "mad", "min", "max", "abs", "neg"), "arithmetic"),
}  # fmt: skip
_CLASSES_AMD = {
    **dict.fromkeys(("global_load", "global_store", "buffer_load", "buffer_store", "ds_read", "ds_write"), "memory"),
    **dict.fromkeys(("ds_bpermute", "ds_swizzle"), "shuffle"), "s_barrier": "barrier", "v_mfma": "matrix",
    **dict.fromkeys(("v_exp", "v_log", "v_rcp", "v_sqrt", "v_div"), "special"),
    **dict.fromkeys(("v_add", "v_sub", "v_mul", "v_fma", "v_fmac", "v_mad", "v_min", "v_max", "v_pk"), "arithmetic"),
}  # fmt: skip
OPTIONS = ("num_warps", "num_stages", "num_ctas", "enable_fp_fusion", "maxnreg")
_TYPES = {
    torch.float32: "*fp32", torch.float64: "*fp64", torch.float16: "*fp16", torch.bfloat16: "*bf16",
    torch.int64: "*i64", torch.int32: "*i32", torch.int16: "*i16", torch.int8: "*i8",
}  # fmt: skip


@contextlib.contextmanager
def launchers_of(target: str) -> Iterator[None]:
    """What launchers know of the device: how many threads a warp has."""
    held = sinkhorn.row_sizes, soft._gradient_tiles, sample_permute._shape
    for each in held:
        each.cache_clear()
    with mock.patch.object(sinkhorn, "WARP", TARGETS[target].warp_size):
        yield
    for each in held:
        each.cache_clear()


def launches(target: str, name: str, case: testing.Case, dtype: torch.dtype) -> list[tuple[JITFunction, dict, dict]]:
    """The kernels that an op launches, forward and backward, with arguments and options."""
    found = []

    def record(kernel, _grid):
        def launch(*args, **kwargs):
            options = {k: kwargs.pop(k) for k in OPTIONS if k in kwargs}
            found.append((kernel, {**dict(zip(kernel.arg_names, args)), **kwargs}, options))

        return launch

    op = OPS[name]
    module = __import__(f"lps_kernels.triton.{name}", fromlist=[name])
    args = testing.arguments(op, case, dtype)
    with (
        launchers_of(target),
        mock.patch.object(KernelInterface, "__getitem__", record),
        mock.patch.object(Entry, "__getitem__", record),
    ):
        outs = testing._outputs(getattr(module, name)(*args))
        if op.backward is not None:
            grads = [o if o.is_floating_point() else None for o in outs]
            needs = sum(1 << i for i, at in enumerate(op.differentiable) if args[at] is not None)
            getattr(module, op.backward.name)(*grads, *args, *[outs[i] for i in op.saves], needs)
    return found


def source(kernel: JITFunction, arguments: dict) -> ASTSource:
    """What Triton's launch would compile for these arguments."""
    signature, constants, attributes = {}, {}, {}
    for i, parameter in enumerate(kernel.params):
        value, name = arguments[parameter.name], parameter.name
        if parameter.is_constexpr or value is None or (_specialized(parameter, value) and value == 1):
            signature[name], constants[(i,)] = "constexpr", value
        elif isinstance(value, torch.Tensor):
            signature[name] = _TYPES[value.dtype]
            attributes[(i,)] = [["tt.divisibility", 16]]  # as PyTorch allocates
        elif isinstance(value, tuple):
            signature[name] = tuple(_TYPES[each.dtype] for each in value)
            attributes |= {(i, j): [["tt.divisibility", 16]] for j in range(len(value))}
        elif parameter.annotation_type:
            signature[name] = parameter.annotation_type
        else:
            signature[name] = "i32" if -(2**31) <= value < 2**31 else "i64"
            if _specialized(parameter, value) and value % 16 == 0:
                attributes[(i,)] = [["tt.divisibility", 16]]
    return ASTSource(fn=kernel, signature=signature, constexprs=constants, attrs=attributes)


def _specialized(parameter, value) -> bool:
    return isinstance(value, int) and not parameter.do_not_specialize and not parameter.annotation_type


def compile_for(target: str, kernel: JITFunction, arguments: dict, options: dict) -> dict:
    """One row of the table."""
    compiled = triton.compile(source(kernel, arguments), target=TARGETS[target], options=options)
    row = {"shared": compiled.metadata.shared, "warps": options["num_warps"]}
    if target == "gfx942":
        assembly = compiled.asm["amdgcn"]
        row["registers"] = int(re.search(r"\.vgpr_count:\s+(\d+)", assembly)[1])
        row["spilled"] = 4 * int(re.search(r"\.vgpr_spill_count:\s+(\d+)", assembly)[1])
        row["wide"] = len(re.findall(r"^\s+(?:global|buffer)_(?:load|store)_dwordx4", assembly, re.MULTILINE))
        counts = Counter(
            _CLASSES_AMD.get(m, "other") for m in re.findall(r"^\t([vsdbg][a-z]*_[a-z]+)", assembly, re.MULTILINE)
        )
        row["instructions"] = dict(sorted(counts.items()))
        waves = 512 // max(row["registers"], 1) * 4 // row["warps"]
        row["programs_a_multiprocessor"] = min(waves, SHARED[target] // max(row["shared"], 1), 40 // row["warps"])
        return row
    assembly = compiled.asm["ptx"]
    row |= _resources(compiled.asm["cubin"])
    row["wide"] = len(re.findall(r"(?:ld|st)\.global[^;]*(?:v4\.b32|v2\.b64)", assembly))
    counts = Counter(
        _CLASSES.get(m, "other") for m in re.findall(r"^\s+(?:@!?%p\d+ )?([a-z0-9]+)\.", assembly, re.MULTILINE)
    )
    row["instructions"] = dict(sorted(counts.items()))
    by_registers = REGISTERS // (row["registers"] * 32 * row["warps"])
    by_shared = SHARED[target] // max(row["shared"] + 1024, 1)  # a kilobyte of each program is the system's
    row["programs_a_multiprocessor"] = min(by_registers, 32, 64 // row["warps"], by_shared)
    return row


def _resources(cubin: bytes) -> dict:
    """Registers and bytes of stack a thread, which is where a kernel without arrays spills to."""
    import triton.backends.nvidia

    tool = os.path.join(os.path.dirname(triton.backends.nvidia.__file__), "bin", "cuobjdump")
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        text = subprocess.run([tool, "-res-usage", file.name], capture_output=True, text=True, check=True).stdout
    registers, stack = re.search(r"REG:(\d+) STACK:(\d+)", text).groups()
    return {"registers": int(registers), "spilled": int(stack)}


_ORDER_2 = [{"n": 188, "c": 4, "order": 2}, {"n": 444, "c": 1, "order": 2}, {"n": 60, "c": 16, "order": 2}]
_NODES = [{"n": 188, "c": 1}, {"n": 188, "c": 16}, {"n": 444, "c": 16}]
_POINTS = [{"n": 188, "c": 1}, {"n": 188, "c": 16}, {"n": 64, "c": 8, "order": 2}, {"n": 64, "c": 8, "d": 8}]
_ROWS = [{"n": n} for n in (32, 60, 100, 188, 444, 1000, 2048, 4096)]
# By op: a size of each block, row length, tile or number of lanes that its launchers tell apart.
CASES = {
    "random_permutation": _ROWS,
    "soft_sort": _ROWS,
    "permutation_entropy": _ROWS,
    "permute": [*_NODES, *_ORDER_2, {"n": 188, "c": 16, "hard": False}, {"n": 1000, "c": 4}],
    "inverse_permute_mean": [*_NODES, *_ORDER_2, {"n": 188, "c": 16, "hard": False}, {"n": 188, "weighted": True}],
    "sample_permute": [{"n": 100, "c": 4}, {"n": 188, "c": 4}],
    "gram_schmidt": [{"d": d, "m": d} for d in (1, 2, 3, 4, 8, 16, 32, 64)] + [{"d": 3, "m": 3, "unitary": True}],
    "random_orthogonal": [{"d": d} for d in (2, 3, 4, 8, 64)] + [{"d": 3, "unitary": True}],
    "rotate": [*_POINTS, {"n": 64, "c": 4, "d": 70}],
    "inverse_rotate_mean": [*_POINTS, {"n": 188, "c": 1, "weighted": True}],
    "permute_rotate": [{"n": 188, "c": 1}, {"n": 188, "c": 16}],
    "inverse_permute_rotate_mean": [{"n": 188, "c": 1}, {"n": 188, "c": 16}],
    "sample_rotate": [{"n": 188, "c": 1}, {"n": 188, "c": 1, "haar": True}],
}


def table(targets: list[str], names: list[str], dtypes: list[torch.dtype]) -> Iterator[dict]:
    """Each version of a kernel once, at the first op and size that launches it."""
    seen = set()
    for target, name, dtype in itertools.product(targets, names, dtypes):
        for sizes in CASES[name]:
            case = testing.Case(b=1, k=1, ragged=True, **sizes)
            for kernel, arguments, options in launches(target, name, case, dtype):
                key = (target, kernel.__name__, source(kernel, arguments).hash(), str(options))
                if key in seen:
                    continue
                seen.add(key)
                row = {"kernel": kernel.__name__, "op": name, **sizes, "dtype": str(dtype)[6:], "target": target}
                try:
                    yield {**row, **compile_for(target, kernel, arguments, options)}
                except triton.runtime.errors.OutOfResources as error:  # more shared memory than there is
                    yield {**row, "error": str(error)}


_RESULTS = {
    "registers", "spilled", "shared", "warps", "wide", "instructions", "programs_a_multiprocessor", "error", "triton",
    "commit",
}  # fmt: skip


def name_of(row: dict) -> str:
    """What a row is about."""
    return json.dumps({k: v for k, v in row.items() if k not in _RESULTS}, sort_keys=True)


def written() -> list[dict]:
    """The table on disk."""
    return json.loads(RESULTS.read_text())["kernels"] if RESULTS.exists() else []


def write(rows: list[dict]) -> None:
    """The table on disk, with these rows for those of their names."""
    commit = subprocess.run(["git", "describe", "--always", "--dirty"], capture_output=True, text=True).stdout.strip()
    new = ({**r, "triton": triton.__version__, "commit": commit} for r in rows)
    all_rows = {name_of(r): r for r in (*written(), *new)}
    lines = ",\n".join(json.dumps(all_rows[name]) for name in sorted(all_rows))
    RESULTS.write_text(f'{{"kernels": [\n{lines}\n]}}\n')


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help=f"write {RESULTS.name}")
    parser.add_argument("--target", nargs="*", default=list(TARGETS), choices=TARGETS)
    parser.add_argument("--op", nargs="*", default=list(CASES), choices=CASES)
    parser.add_argument("--dtype", nargs="*", default=["float32", "float64", "float16", "bfloat16"])
    arguments = parser.parse_args()
    for row in table(arguments.target, arguments.op, [getattr(torch, d) for d in arguments.dtype]):
        print(json.dumps(row), flush=True)
        if arguments.write:
            write([row])


if __name__ == "__main__":
    main()
