"""`make bench`: pytest-benchmark drives the same cases as `benchmarks.run`, and the paired ratios are kept.

Nothing here asserts a time. LPS_BENCH_QUICK=1 runs what --quick does, and keeps nothing.
"""

import os

import pytest

from benchmarks import results, run
from benchmarks.measure import OURS

QUICK = os.environ.get("LPS_BENCH_QUICK") == "1"
PARAMETERS = [
    pytest.param(module, case, id=f"{name}: {case.label}")
    for name, module in run.tables().items()
    for case in module.CASES
    if "cpu" in case.devices and (case.quick or not QUICK)
]


@pytest.fixture(scope="module")
def kept():
    rows = []
    yield rows
    if rows and not QUICK:
        print(f"\nwrote {results.write(rows, 'make bench')}")


@pytest.mark.parametrize(("module", "case"), PARAMETERS)
def test_speed(benchmark, kept, module, case, capsys):
    rows = run.measure(module, case, 5 if QUICK else run.ROUNDS, compiled=not QUICK)
    kept += rows
    with capsys.disabled():
        print("\n" + "\n".join(run.lines(rows)))
    benchmark.group = module.__name__
    benchmark.extra_info["rows"] = rows
    benchmark.pedantic(module.build(**case.sizes).runs[OURS], rounds=10, warmup_rounds=1)
