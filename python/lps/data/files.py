"""Files of data sets: where they lie, and whether they are what they should be."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path


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
def alone(root: Path) -> Iterator[None]:
    """One process at a time in a folder, where its file system has locks: torchrun's would all download into it."""
    held = os.open(root, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):
            fcntl.flock(held, fcntl.LOCK_EX)
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
