"""Tests of the paper's system run where its packages are: `make test-lps`."""

from importlib.util import find_spec

WANTED = ("torch_geometric", "torchvision", "timm", "transformers", "tensorboard", "torchmetrics")
missing = [name for name in WANTED if find_spec(name) is None]
collect_ignore_glob = ["test_*.py"] if missing else []


def pytest_terminal_summary(terminalreporter):
    if missing:
        terminalreporter.write_line(f"tests/lps were not run, not installed: {', '.join(missing)} (make test-lps)")
