"""Where a process runs, alone or as one of torchrun's, and what it draws."""

from __future__ import annotations

import atexit
import os
import random
import time
from typing import Any

import numpy as np
import torch
from torch import distributed


def pick_device(name: str) -> torch.device:
    """The device of that name; "auto" is this process's GPU where there is one. Joins torchrun's group, if any."""
    if name == "auto":
        name = f"cuda:{os.environ.get('LOCAL_RANK', 0)}" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ValueError(f"device: expected auto, cpu, cuda or another that torch knows, got {name!r}") from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"device: expected one that this machine has, got {name!r}")
    if int(os.environ.get("WORLD_SIZE", 1)) > 1 and not distributed.is_initialized():
        distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
        atexit.register(_leave)
    return device


def _leave() -> None:
    """Out of torchrun's group. Gloo's threads end a moment later; an exit in between would abort the process."""
    distributed.destroy_process_group()
    time.sleep(0.2)


def seed_all(seed: int) -> None:
    """Seed all generators that training draws from."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def gather(mine: Any) -> list:
    """What each of torchrun's processes has."""
    if not distributed.is_initialized():
        return [mine]
    parts: list = [None] * distributed.get_world_size()
    distributed.all_gather_object(parts, mine)
    return parts
