"""Where a process runs, alone or as one of torchrun's, and what it draws."""

from __future__ import annotations

import atexit
import os
import random
import time
from typing import Any

import numpy as np
import torch
from torch import distributed, nn


def pick_device(name: str) -> torch.device:
    """The device of that name, "auto" and "cuda" this process's own GPU, if any. Joins torchrun's group."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
        if device.type == "cuda":
            rank = int(os.environ.get("LOCAL_RANK", 0))
            device = torch.device("cuda", rank if device.index is None else device.index)
            torch.cuda.set_device(device)  # nccl gathers objects on the current one
        torch.zeros((), device=device).item()
    except (RuntimeError, AssertionError):
        raise ValueError(f"device: expected auto, cpu, cuda or another that this machine has, got {name!r}") from None
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


def share_buffers(model: nn.Module) -> None:
    """Give each of torchrun's processes the buffers of the first: batch statistics go apart between two steps."""
    for buffer in model.buffers() if distributed.is_initialized() else ():
        distributed.broadcast(buffer, 0)


def gather(mine: Any) -> list:
    """What each of torchrun's processes has."""
    if not distributed.is_initialized():
        return [mine]
    parts: list = [None] * distributed.get_world_size()
    distributed.all_gather_object(parts, mine)
    return parts
