"""Triton's kernels compiled ahead of time, without a GPU: registers, spills, shared memory and instructions of each.

    python -m benchmarks.compiled_triton --write      # benchmarks/results/compiled_triton.json

The launchers run on the CPU with a recorder in place of Triton's launch, so that what is compiled has the argument
types and the alignments of real calls.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import tempfile
from collections import Counter
from pathlib import Path
from unittest import mock

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton.runtime.jit import JITFunction

from lps_kernels import testing
from lps_kernels.op import OPS

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
OPTIONS = ("num_warps", "num_stages", "num_ctas", "enable_fp_fusion", "maxnreg")
_TYPES = {
    torch.float32: "*fp32", torch.float64: "*fp64", torch.float16: "*fp16", torch.bfloat16: "*bf16",
    torch.int64: "*i64", torch.int32: "*i32", torch.int16: "*i16", torch.int8: "*i8",
}  # fmt: skip


def launches(name: str, case: testing.Case, dtype: torch.dtype) -> list[tuple[JITFunction, dict, dict]]:
    """The kernels that an op launches, forward and backward, with arguments and options."""
    found = []

    def record(kernel, *args, grid, warmup, **kwargs):
        options = {k: kwargs.pop(k) for k in OPTIONS if k in kwargs}
        found.append((kernel, {**dict(zip(kernel.arg_names, args)), **kwargs}, options))

    op = OPS[name]
    module = __import__(f"lps_kernels.triton.{name}", fromlist=[name])
    args = testing.arguments(op, case, dtype)
    with mock.patch.object(JITFunction, "run", record):
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
    assembly = compiled.asm["ptx" if "ptx" in compiled.asm else "amdgcn"]
    if target == "gfx942":
        row["registers"] = int(re.search(r"\.vgpr_count:\s+(\d+)", assembly)[1])
        row["spilled"] = int(re.search(r"\.vgpr_spill_count:\s+(\d+)", assembly)[1])
        return row
    row |= _resources(compiled.asm["cubin"])
    row["vectorized"] = len(re.findall(r"(?:ld|st)\.global[^;]*\.v[24]\.", assembly))
    counts = Counter(re.findall(r"^\s+(?:@!?%p\d+ )?([a-z0-9]+)", assembly, re.MULTILINE))
    row["ptx"] = {k: counts[k] for k in ("ld", "st", "shfl", "bar", "fma", "mul", "add", "ex2", "div") if counts[k]}
    by_registers = REGISTERS // (row["registers"] * 32 * row["warps"])
    row["programs_an_sm"] = min(by_registers, 32, SHARED[target] // max(row["shared"], 1))
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


CASES = {
    "random_permutation": [{"n": n} for n in (188, 444, 4096)],
    "soft_sort": [{"n": n} for n in (60, 188, 444, 1000, 4096)],
    "permutation_entropy": [{"n": n} for n in (188, 444, 4096)],
    "permute": [{"n": 188, "c": 16}, {"n": 188, "c": 4, "order": 2}, {"n": 444, "c": 1, "order": 2}],
    "inverse_permute_mean": [{"n": 188, "c": 16}, {"n": 188, "c": 4, "order": 2}],
    "gram_schmidt": [{"d": d, "m": d} for d in (2, 3, 4, 16)],
    "random_orthogonal": [{"d": d} for d in (3, 8)],
    "rotate": [{"n": 188, "c": 1}, {"n": 188, "c": 16}, {"n": 64, "c": 8, "order": 2}, {"n": 64, "c": 8, "d": 8}],
    "inverse_rotate_mean": [{"n": 188, "c": 1}, {"n": 188, "c": 16}, {"n": 64, "c": 8, "order": 2}],
}


def table(targets: list[str], names: list[str], dtypes: list[torch.dtype]) -> list[dict]:
    rows = []
    for name in names:
        for sizes in CASES[name]:
            for dtype in dtypes:
                case = testing.Case(b=1, k=1, ragged=True, **sizes)
                for kernel, arguments, options in launches(name, case, dtype):
                    for target in targets:
                        row = compile_for(target, kernel, arguments, options)
                        rows.append(
                            {"kernel": kernel.__name__, **sizes, "dtype": str(dtype)[6:], "target": target, **row}
                        )
                        print(rows[-1], flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help=f"write {RESULTS.name}")
    parser.add_argument("--target", nargs="*", default=list(TARGETS), choices=TARGETS)
    parser.add_argument("--op", nargs="*", default=list(CASES), choices=CASES)
    parser.add_argument("--dtype", nargs="*", default=["float32", "float64"])
    arguments = parser.parse_args()
    rows = table(arguments.target, arguments.op, [getattr(torch, d) for d in arguments.dtype])
    if arguments.write:
        unique = list({json.dumps(r): r for r in rows}.values())
        lines = ",\n".join(json.dumps(r) for r in unique)
        RESULTS.write_text(f'{{"triton": "{triton.__version__}", "kernels": [\n{lines}\n]}}\n')


if __name__ == "__main__":
    main()
