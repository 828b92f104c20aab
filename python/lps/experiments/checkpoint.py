"""Checkpoints that are whole or refused: written beside their name, moved there at once, read by their checksum."""

from __future__ import annotations

import hashlib
import io
import os
import random
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch

KEPT = 2  # the last one, and the one before in case the last is damaged


def write(path: Path, state: dict[str, Any]) -> None:
    """Write a state so that a reader finds the old file or the new one, never a part."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    part = path.with_name(f".{path.name}.part")
    with part.open("wb") as file:
        file.write(hashlib.sha256(buffer.getbuffer()).digest())
        file.write(buffer.getbuffer())
        file.flush()
        os.fsync(file.fileno())
    os.replace(part, path)


def read(path: Path) -> dict[str, Any]:
    """What `write` wrote. Raises ValueError where the file is not whole."""
    held = memoryview(path.read_bytes())
    if hashlib.sha256(held[32:]).digest() != held[:32]:
        raise ValueError(f"{path}: expected a whole checkpoint, its checksum is wrong")
    return torch.load(io.BytesIO(held[32:]), map_location="cpu", weights_only=True)


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
