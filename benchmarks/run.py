"""python -m benchmarks.run: times this library and its rivals in one run, and prints ratios.

    python -m benchmarks.run [--op NAME] [--case TEXT] [--device D] [--backend B] [--threads N] [--quick] [--base REF]

Each row is one rival: its time, the median of the paired ratios rival / ours with a 95 % bootstrap interval, and the
goal. Bytes are those that the work has to move; "of copy" is the time of a plain copy that moves as many, over ours.
On a GPU this library's Triton kernels are one of the rivals of its CUDA kernels.
"""

from __future__ import annotations

import argparse
import importlib
import math
import pkgutil
import statistics
import time
from collections.abc import Callable, Iterator

import torch

import benchmarks
import lps_kernels as lk
from benchmarks import measure as measuring
from benchmarks import results
from benchmarks.measure import COPY, OURS, Case, Work, copy_of, interleaved, paired_ratio, verify
from lps_kernels.op import OPS

ROUNDS = 15
OPTIONAL = ("triton", "rich", "matplotlib", "networkx")  # what modules without a table may want


def tables(op: str | None = None) -> dict:
    """The modules of this folder with a table of cases, by name."""
    modules = {}
    for module in pkgutil.iter_modules(benchmarks.__path__):
        try:
            modules[module.name] = importlib.import_module(f"benchmarks.{module.name}")
        except ModuleNotFoundError as error:
            if error.name not in OPTIONAL:
                raise
    found = {name: m for name, m in modules.items() if hasattr(m, "CASES") and hasattr(m, "build")}
    if op is not None and op not in found:
        raise SystemExit(f"--op: expected one of {', '.join(found)}, got {op}")
    return {name: m for name, m in found.items() if op in (None, name)}


def prepare(module, case: Case, compiled: bool = True) -> Work:
    """The work of a case with its compiled rivals and the copy; all results are compared first."""
    work = module.build(**case.sizes)
    if measuring.device().type == "cuda" and all(OPS["permute"].has_kernel(name) for name in ("cuda", "triton")):
        work.runs[f"{OURS}, triton"] = on_triton(work.runs[OURS])
    if compiled and case.compiled:
        for name, make in work.compilable.items():
            work.runs[f"{name}, compiled"] = make()
    if work.tolerance:
        expected = work.runs[OURS]()
        for name, run in ((name, run) for name, run in work.runs.items() if name not in work.unlike):
            verify(name, run(), expected, work.tolerance)
    work.runs[COPY] = copy_of(work.moved)
    return work


def on_triton(run: Callable) -> Callable:
    def on_that_backend():
        with lk.backend("triton"):
            return run()

    return on_that_backend


def measure(module, case: Case, rounds: int = ROUNDS, compiled: bool = True, budget: float = 20) -> list[dict]:
    """One row a rival, from so many rounds, or fewer where `budget` seconds end."""
    torch.manual_seed(0)
    torch.compiler.reset()
    name = module.__name__.rpartition(".")[2]
    work = prepare(module, case, compiled)
    times = interleaved(work, rounds, budget)
    mine = times[OURS]
    copied = paired_ratio(times[COPY], mine)
    shared = {
        "op": name,
        "case": case.label,
        "sizes": {k: v for k, v in case.sizes.items() if isinstance(v, (int, bool, str))},
        "ours_s": statistics.median(mine),
        "rounds": len(mine),
        "moved": work.moved,
        "of_copy": copied.median,
    }
    rows = []
    for rival in (r for r in times if r not in (OURS, COPY)):
        ratio = paired_ratio(times[rival], mine)
        row = {**shared, "rival": rival, "rival_s": statistics.median(times[rival])}
        row |= {"ratio": ratio.median, "low": ratio.low, "high": ratio.high, "sweep": case.sweep}
        row["goal"] = case.goals.get(rival.removesuffix(", compiled"))
        if rival in work.factors:
            row["exponent"] = math.log(ratio.median) / math.log(work.factors[rival])
        rows.append(row)
    return rows


def clock(seconds: float) -> str:
    for unit, scale in (("s", 1), ("ms", 1e3), ("us", 1e6)):
        if seconds * scale >= 1:
            return f"{seconds * scale:.3g} {unit}"
    return f"{seconds * 1e9:.3g} ns"


def size(count: int) -> str:
    return f"{count / 1e6:.3g} MB" if count >= 1e5 else f"{count / 1e3:.3g} kB"


def figures(ratio: float) -> str:
    return f"{ratio:,.0f}" if ratio >= 100 else f"{ratio:.3g}"


def lines(rows: list[dict]) -> Iterator[str]:
    """One case as text."""
    first = rows[0]
    of_copy = f", {first['of_copy']:.2f} of copy speed" if first["moved"] > 100_000 else ""
    yield f"{first['op']}: {first['case']}: {clock(first['ours_s'])}, moves {size(first['moved'])}{of_copy}"
    for row in rows:
        line = f"    {row['rival']:30s}{clock(row['rival_s']):>10s}  "
        line += f"{figures(row['ratio']):>7s}x  [{figures(row['low'])}, {figures(row['high'])}]"
        if "exponent" in row:
            line += f"  exponent {row['exponent']:.3f}, goal < {row['goal']}"
        elif row["goal"]:
            line += f"  goal {figures(row['goal'])}"
        yield line


def selected(options) -> Iterator[tuple]:
    for module in tables(options.op).values():
        for case in module.CASES:
            here = measuring.device().type in case.devices
            if here and options.case in case.label and (case.quick or not options.quick):
                yield module, case


def arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.run", description=__doc__.splitlines()[0])
    parser.add_argument("--op", help="one table, for example permute")
    parser.add_argument("--case", default="", help="only cases whose label has this text")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"), help="where everything is measured")
    parser.add_argument("--backend", help="run ours on this backend and no other")
    parser.add_argument("--threads", type=int, help="torch's threads, the same for all")
    parser.add_argument("--quick", action="store_true", help="few rounds of small cases, no compiled rivals")
    parser.add_argument("--budget", type=float, default=20, help="seconds a case takes at most")
    parser.add_argument("--keep", action="store_true", help="write benchmarks/results/<machine>.json")
    parser.add_argument("--base", metavar="REF", help="compare with another commit instead of with the rivals")
    return parser


def main() -> None:
    options = arguments().parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    measuring.use(options.device)
    if options.base:
        from benchmarks import base

        base.compare(options.base, list(selected(options)), 5 if options.quick else ROUNDS, options.backend)
        return
    start = time.perf_counter()
    print(f"lps_kernels {lk.__version__}, torch {torch.__version__}, {results.machine()}")
    kept = []
    with lk.backend(options.backend):
        for module, case in selected(options):
            rounds = 5 if options.quick else ROUNDS
            rows = measure(module, case, rounds, compiled=not options.quick, budget=options.budget)
            print("\n".join(lines(rows)), flush=True)
            kept += rows
    if options.keep and kept:
        print(f"wrote {results.write(kept, f'python -m benchmarks.run --device {options.device}')}")
    skipped = ", compiled rivals and larger cases skipped (--quick)" if options.quick else ""
    print(f"{time.perf_counter() - start:.0f} s{skipped}")


if __name__ == "__main__":
    main()
