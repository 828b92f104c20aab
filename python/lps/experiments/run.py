"""Runs an experiment by name: what `lps train` and `python -m lps.experiments.<name>` call."""

from __future__ import annotations

import importlib
import os
import platform
import shlex
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

import lps_kernels
from lps.experiments.build import settle
from lps.experiments.config import ConfigError, pairs, parse
from lps.experiments.lines import line

NAMES = (
    "automorphism",
    "exp",
    "exp_classify",
    "graph8c",
    "nbody",
    "pattern",
    "pcqm_contact",
    "peptides_func",
    "peptides_struct",
    "sample_efficiency",
)


def main(name: str, arguments: Sequence[str] | None = None) -> int:
    """Run an experiment with the settings given; 0, or 2 after one line on stderr that says what is wrong.

    The result is one JSON line on stdout, without learning curves; `results=FILE` adds a line with them to a file.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if any(a in ("-h", "--help", "help") for a in arguments):
        return show(name)
    try:
        given = pairs(arguments)
        file = given.pop("results", "")
        if file:
            open(file, "a").close()  # one that can't be written is told before the run, not after it
        result = run(name, [f"{key}={value}" for key, value in given.items()])
    except (ValueError, OSError) as error:  # wrong settings, missing data, shapes that do not fit, no such folder
        print(f"lps {name}: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"lps {name}: stopped; the same command with the same out= goes on", file=sys.stderr)
        return 130
    if int(os.environ.get("RANK", 0)) == 0:
        if file:
            with open(file, "a") as lines:
                lines.write(line(result) + "\n")
        print(line({k: v for k, v in result.items() if k != "history"}))
    return 0


def run(name: str, arguments: Sequence[str] = ()) -> dict[str, Any]:
    """The result of an experiment, with what it takes to repeat it: command, settings, versions, wall time."""
    module = find(name)
    config = settle(parse(arguments, module.PRESETS), pairs(arguments))
    if config.get("plot"):
        check_picture(config["plot"])
    start = time.perf_counter()
    result = module.run(config)
    return {
        "experiment": name,
        "command": shlex.join(["python", "-m", f"lps.experiments.{name}", *arguments]),
        **{"config": config, **result},
        "wall_seconds": round(time.perf_counter() - start, 1),
        "versions": versions(),
    }


def check_picture(file: str) -> None:
    """Raise before a run, not after it, where a picture can't be written."""
    from matplotlib.figure import Figure

    kinds = Figure().canvas.get_supported_filetypes()
    if Path(file).suffix[1:].lower() not in kinds:
        raise ConfigError(f"plot: expected a file that ends in one of {', '.join(kinds)}, got {file!r}")
    open(file, "a").close()


def versions() -> dict[str, str]:
    """What ran, on what, and how busy that was: beside a load above the number of cores no time says much."""
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "lps_kernels": lps_kernels.__version__,
        "machine": platform.machine(),
        "threads": str(torch.get_num_threads()),
        "cores": str(os.cpu_count()),
        "load_average": f"{os.getloadavg()[0]:.1f}",
    }


def find(name: str) -> Any:
    """The module of an experiment."""
    name = name.replace("-", "_")
    if name not in NAMES:
        raise ConfigError(f"experiment: expected one of {', '.join(NAMES)}, got {name!r}")
    return importlib.import_module(f"lps.experiments.{name}")


def show(name: str) -> int:
    """Print an experiment's presets and settings."""
    module = find(name)
    print((module.__doc__ or "").strip(), "\n")
    print(f"python -m lps.experiments.{name} [preset={'|'.join(module.PRESETS)}] [results=FILE] [key=value ...]")
    for key, value in module.PRESETS["paper"].items():
        print(f"  {key}={value}")
    return 0
