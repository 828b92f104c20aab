"""Checkpoints that are whole or refused, and the random numbers that a run goes on with."""

from __future__ import annotations

import contextlib
import random
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lps.data.files import alone, read, write

BEST = "best.pt"
KEPT = 2  # the last one, and the one before in case the last is damaged


def claim(folder: Path | None, rank: int = 0) -> contextlib.AbstractContextManager:
    """A run's folder, made if need be; a second run is refused there. The first of torchrun's processes holds it."""
    if folder:
        folder.mkdir(parents=True, exist_ok=True)
    return alone(folder, wait=False) if folder and rank == 0 else contextlib.nullcontext()


def save(folder: Path, epoch: int, state: dict[str, Any]) -> None:
    """Write the checkpoint of an epoch, and remove those before the last two."""
    write(folder / f"checkpoint-{epoch:06d}.pt", state)
    for old in sorted(folder.glob("checkpoint-*.pt"))[:-KEPT]:
        old.unlink()


def latest(folder: Path) -> dict[str, Any] | None:
    """The newest whole checkpoint of a folder, None where it has none. A damaged one is reported and passed over."""
    for path in sorted(folder.glob("checkpoint-*.pt"), reverse=True):
        try:
            return read(path)
        except ValueError as error:
            warnings.warn(f"{error}; using the one before", stacklevel=2)
    return None


def best(folder: Path) -> dict[str, Any] | None:
    """The weights of the best epoch. Where they are damaged or missing that is reported, and None."""
    try:
        return read(folder / BEST)["model"]
    except (ValueError, OSError) as error:
        warnings.warn(f"{error}; the best epoch so far is lost and no longer counts", stacklevel=2)
    return None


def random_state() -> dict[str, Any]:
    """The states of all generators that training draws from."""
    numpy = np.random.get_state()
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all(),
        "numpy": [numpy[0], torch.from_numpy(numpy[1].astype(np.int64)), *numpy[2:]],
        "python": list(random.getstate()[1]),
        "python_gauss": random.getstate()[2],
    }


def set_random_state(state: dict[str, Any]) -> None:
    """Put all generators where `random_state` found them."""
    torch.set_rng_state(state["torch"])
    torch.cuda.set_rng_state_all(state["cuda"][: torch.cuda.device_count()])  # a run may go on where there are fewer
    name, keys, *rest = state["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), *rest))
    random.setstate((3, tuple(state["python"]), state["python_gauss"]))
