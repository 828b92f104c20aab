"""Files of data sets: where they lie, and whether they are what they should be."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import io
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch


class DataError(ValueError):
    """A data set is missing, or a file is not what it should be. The message is one line."""


def folder(data: str | None = None) -> Path:
    """The folder given, or else $LPS_DATA."""
    name = data or os.environ.get("LPS_DATA")
    if not name:
        raise DataError("data: expected a folder, data=FOLDER or the environment variable LPS_DATA")
    if not Path(name).is_dir():
        raise DataError(f"data: expected a folder, {name} is none")
    return Path(name)


@contextlib.contextmanager
def alone(root: Path, wait: bool = True) -> Iterator[None]:
    """One process at a time in a folder, where its file system has locks: torchrun's would all download into it.

    Who does not wait gets a ValueError while another is there; one that was killed is not.
    """
    held = os.open(root, os.O_RDONLY)
    try:
        try:
            fcntl.flock(held, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            raise ValueError(f"{root}: expected a folder that no other run is using") from None
        except OSError:
            pass  # no locks there
        yield
    finally:
        os.close(held)


def find(name: str, sha256: str, data: str | None = None) -> Path:
    """The file of that name in `folder(data)`, if its checksum is right."""
    path = folder(data) / name
    if not path.is_file():
        raise DataError(f"data: expected {name} in {path.parent}, it has no such file")
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if found != sha256:
        raise DataError(f"{path}: expected sha256 {sha256}, got {found}: the file is truncated or another one")
    return path


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
        raise ValueError(f"{path}: expected a whole file, its checksum is wrong")
    return torch.load(io.BytesIO(held[32:]), map_location="cpu", weights_only=True)
