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


def apply_sorted(
    x: Tensor, t: Tensor | None, row: Tensor | None, col: Tensor | None, tau: float, hard: bool, order: int, back: bool
) -> Tensor:
    """P x, or its transpose unless back, along the node axes of x (b, k, n, c) or (b, k, n, n, c), sorted already.

    Hard: x itself with the gradient of the soft matrix (straight-through); without t a constant.
    """
    if t is None:
        return x
    soft = soft_matrix(t, row, col, tau)
    pattern = "bkij,bkj...->bki..." if back else "bkij,bki...->bkj..."
    for axis in range(2, 2 + order):
        moved = x.movedim(axis, 2)
        if hard:
            finite = torch.where(
                moved.isfinite(), moved, 0
            )  # a gather does not spread inf over a column; nor does this
            moved = moved + torch.einsum(pattern, soft - soft.detach(), finite)
        else:
            moved = torch.einsum(pattern, soft, moved)
        x = moved.movedim(2, axis)
    return x


def along(perm: Tensor, x: Tensor, axis: int) -> Tensor:
    """A (b, k, n) tensor in the shape in which it broadcasts along one axis of x (b, k, ...)."""
    return perm.view([size if i in (0, 1, axis) else 1 for i, size in enumerate(x.shape)])


def mask_nodes(x: Tensor, num_nodes: Tensor | None, order: int) -> Tensor:
    """x (b, k, n, c) or (b, k, n, n, c) with zero at padding."""
    if num_nodes is None:
        return x
    padding = ~valid_nodes(num_nodes, x.shape[2], x.device).expand(x.shape[:3])
    for axis in range(2, 2 + order):
        x = x.masked_fill(along(padding, x, axis), 0)
    return x
