"""Small finite groups as tables of permutations and of plane matrices."""

from __future__ import annotations

import itertools
import math

import torch
from torch import Tensor

LARGEST_SYMMETRIC = 6  # 720 elements


def permutation_group(group: str, n: int, device: torch.device | str | None = None) -> Tensor:
    """(elements, n) int64: "C_n", "D_n" or "S_n" acting on n nodes."""
    if group == "S_n":
        if n > LARGEST_SYMMETRIC:
            raise ValueError(f"group: expected n <= {LARGEST_SYMMETRIC} for all of S_n, got n = {n}; sample instead")
        table = list(itertools.permutations(range(n)))
        return torch.tensor(table, dtype=torch.int64, device=device).reshape(len(table), n)
    if group not in ("C_n", "D_n"):
        raise ValueError(f"group: expected 'C_n', 'D_n' or 'S_n', got {group!r}")
    if n < 1:
        raise ValueError(f"n: expected 1 or more, got {n}")
    index = torch.arange(n, device=device)
    turned = (index[:, None] + index) % n
    if group == "C_n" or n < 3:  # two nodes have no reflection that is not a rotation
        return turned
    return torch.cat((turned, turned.flip(1)))


def plane_group(group: str, device: torch.device | str | None = None) -> Tensor:
    """(elements, 2, 2) float64: "C_m" (rotations by a whole number of 1/m turns) or "D_m" (and reflections)."""
    kind, _, count = str(group).partition("_")
    if kind not in ("C", "D") or not count.isdigit() or int(count) < 1:
        raise ValueError(f"group: expected 'C_m' or 'D_m' with a number m, got {group!r}")
    m = int(count)
    angle = torch.arange(m, dtype=torch.float64, device=device) * (2 * math.pi / m)
    cos, sin = angle.cos(), angle.sin()
    turned = torch.stack((cos, -sin, sin, cos), -1).reshape(m, 2, 2)
    return turned if kind == "C" else torch.cat((turned, turned * turned.new_tensor([1.0, -1.0])))
