"""Every test runs with uninitialised memory filled with NaN, and leaves the settings that it found."""

import os

import hypothesis
import pytest
import torch

import lps_kernels as lk
from lps_kernels import testing

hypothesis.settings.register_profile(
    "lps", deadline=None, database=None, derandomize="LPS_FUZZ_EXAMPLES" not in os.environ, print_blob=True
)
hypothesis.settings.load_profile("lps")


@pytest.fixture(autouse=True)
def settings():
    threads, dtype = torch.get_num_threads(), torch.get_default_dtype()
    torch.set_num_threads(1)  # tests run side by side; those about threads ask for more
    torch.manual_seed(0)
    with testing.poisoned():
        yield
    lk.check_finite(False)
    torch.set_num_threads(threads)
    torch.set_default_dtype(dtype)


def pytest_terminal_summary(terminalreporter):
    missing = sorted({name for name in ("cuda", "triton") if name not in testing.backends()})
    if missing:
        terminalreporter.write_line(f"not tested, this machine has no such device: {', '.join(missing)}")
