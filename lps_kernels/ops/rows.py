"""What the references of the S_n ops share: rows of sorted scores, their padding and their soft matrix."""

from __future__ import annotations

import torch
from torch import Tensor


def valid_nodes(num_nodes: Tensor | None, n: int, device: torch.device) -> Tensor:
    """Which entries of a padded row are real: (b, 1, n) bool, or (1, 1, n) where every row is full."""
    index = torch.arange(n, device=device)
    if num_nodes is None:
        return index.ge(0)[None, None]
    return index < num_nodes[:, None, None]


def compute_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype in which features or scores of `dtype` are computed."""
    return torch.float64 if dtype in (torch.float64, torch.complex128) else torch.float32


def laplace_kernel(t: Tensor, tau: float) -> Tensor:
    """K[r, j] = exp(-|t_r - t_j| / tau), (..., n, n), of sorted scores t (..., n)."""
    return torch.exp((t[..., :, None] - t[..., None, :]).abs() / -tau)


def soft_matrix(t: Tensor, row: Tensor, col: Tensor, tau: float) -> Tensor:
    """The soft permutation in sorted coordinates: P[r, j] = row[r] K[r, j] col[j], so that the hard one is identity."""
    return row[..., :, None] * laplace_kernel(t, tau) * col[..., None, :]


def sorted_matrix(t: Tensor | None, row: Tensor | None, col: Tensor | None, tau: float, hard: bool) -> Tensor | None:
    """What is added to the identity to apply a permutation that is already sorted; None where that is nothing.

    Soft: P - 1. Hard: zero, with the gradient of P (straight-through).
    """
    if t is None:
        return None
    soft = soft_matrix(t, row, col, tau)
    return soft - (soft.detach() if hard else torch.eye(t.shape[-1], dtype=t.dtype, device=t.device))


def apply_matrix(x: Tensor, delta: Tensor | None, axis: int, transpose: bool) -> Tensor:
    """(1 + delta) x, or its transpose, along one axis of x (b, k, ..., c) after the first two."""
    if delta is None:
        return x
    moved = x.movedim(axis, 2)
    finite = torch.where(moved.isfinite(), moved, 0)  # a gather does not spread inf over a column; nor does this
    pattern = "bkij,bki...->bkj..." if transpose else "bkij,bkj...->bki..."
    return (moved + torch.einsum(pattern, delta, finite)).movedim(2, axis)


def axis_shape(x: Tensor, axis: int) -> list[int]:
    """The shape in which a (b, k, n) tensor broadcasts along one axis of x (b, k, ...)."""
    return [size if i in (0, 1, axis) else 1 for i, size in enumerate(x.shape)]
