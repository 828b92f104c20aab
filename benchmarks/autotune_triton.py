"""Tables of blocks for Triton's kernels, printed anew: for maintainers, never at run time.

    python -m benchmarks.autotune_triton --op rotate         # on a device: medians of times
    python -m benchmarks.autotune_triton --op soft_sort      # on a simulated one: bounds from counted work, no times

Every candidate computes the same; the launcher's own table is replaced by it while it runs.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import statistics
from collections.abc import Iterator
from unittest import mock

import torch

from lps_kernels import testing
from lps_kernels.op import OPS

# By op: its table as module and name, the sizes that its keys stand for, and candidates for each key.
_POINTS = {1: {"n": 188, "c": 1}, 2: {"n": 64, "c": 8, "order": 2}}
TABLES = {
    "soft_sort": (
        "sinkhorn", "_LANES", {block: {"n": block - 4} for block in (64, 128, 256, 512, 1024)},
        lambda block: [(w, block // 32 // w) for w in (1, 2, 4, 8) if 1 <= block // 32 // w <= 8],
    ),
    "random_permutation": (
        "random_permutation", "_WARPS", {block: {"n": block - 4} for block in (64, 128, 256, 512, 1024)},
        lambda block: [w for w in (1, 2, 4, 8) if 32 * w <= block],
    ),
    "rotate": (
        "space", "LANES", _POINTS,
        lambda order: [(lanes, warps) for lanes in (128, 256, 512) for warps in (1, 2, 4, 8) if lanes >= 32 * warps],
    ),
}  # fmt: skip
TABLES["inverse_rotate_mean"] = TABLES["rotate"]


@contextlib.contextmanager
def table_of(module: str, name: str, key, value) -> Iterator[None]:
    """The launcher's table with one entry replaced."""
    with mock.patch.dict(getattr(importlib.import_module(f"lps_kernels.triton.{module}"), name), {key: value}):
        yield


def simulated() -> bool:
    with contextlib.suppress(ImportError):
        import gpusim

        return gpusim is not None
    return False


def cost(op, args) -> float:
    """Microseconds of a call: measured on a device; a bound from counted work on a simulated one."""
    testing._outputs(op(*args, backend="triton"))  # compiles
    torch.cuda.synchronize()
    if simulated():
        import gpusim

        return gpusim.bound(gpusim.counters())["seconds"] * 1e6
    times = []
    for _ in range(30):
        start, stop = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        op(*args, backend="triton")
        stop.record()
        stop.synchronize()
        times.append(start.elapsed_time(stop) * 1e3)
    return statistics.median(times)


def tune(name: str, rows: int) -> None:
    """Print each candidate's cost for each key, then the table of the least."""
    module, table, sizes, candidates = TABLES[name]
    found = {}
    for key, size in sizes.items():
        case = testing.Case(b=rows, k=1 if "n" in size and name != "rotate" else 4, ragged=False, tau=0.01, **size)
        args, costs = testing.arguments(OPS[name], case, device="cuda"), {}
        for value in candidates(key):
            with table_of(module, table, key, value):
                costs[value] = cost(OPS[name], args)
            print(f"{name} {size} {table}[{key}] = {value}: {costs[value]:.4g} us", flush=True)
        found[key] = min(costs, key=costs.get)
    print(f"lps_kernels/triton/{module}.py: {table} = {found}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--op", nargs="*", default=list(TABLES), choices=TABLES)
    parser.add_argument("--rows", type=int, default=0, help="inputs a call: 1024, and 8 on a simulated device")
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        parser.error("no CUDA device, nor a simulated one")
    print("bounds from counted work, which are no times" if simulated() else torch.cuda.get_device_name())
    for name in arguments.op:
        tune(name, arguments.rows or (8 if simulated() else 1024))


if __name__ == "__main__":
    main()
