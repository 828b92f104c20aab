"""inverse_permute_mean: gathers by the inverse and sums over samples; its gradient gathers by rank.

Gradients of weights are sums over whole samples and those of scores are scans along ranks: a launch each, beside that
of y's. Soft values take one for each axis that is scanned, see permute.py.
"""

from __future__ import annotations

import torch
from torch import Tensor

from lps_kernels.triton.gather import gather, gather_sum
from lps_kernels.triton.launch import check_gradient, compute, dense, mean_of_none, nothing
from lps_kernels.triton.permute import check, needed
from lps_kernels.triton.soft import check_soft, soft_gradient, soft_product
from lps_kernels.triton.weight_gradient import weight_gradient


def _check_weights(what: str, y: Tensor, perm: Tensor, weights: Tensor | None) -> None:
    if weights is not None and (weights.shape != perm.shape[:2] or weights.dtype != compute(y.dtype)[0]):
        raise ValueError(f"{what}: expected weights (b, k) in the dtype that y is computed in")


def inverse_permute_mean(
    y: Tensor,
    perm: Tensor,
    t: Tensor | None,
    row: Tensor | None,
    col: Tensor | None,
    num_nodes: Tensor | None,
    weights: Tensor | None,
    tau: float,
    order: int,
    hard: bool,
    mean: bool,
) -> Tensor:
    y, perm, num_nodes, weights = dense(y), dense(perm), dense(num_nodes), dense(weights)
    check("inverse_permute_mean", y, perm, num_nodes, order, True)
    _check_weights("inverse_permute_mean", y, perm, weights)
    x = y.new_empty(y.shape[0], *y.shape[2:]) if mean else torch.empty_like(y)
    if mean and not perm.shape[1]:
        return mean_of_none(x, weights)
    inside, scale = compute(y.dtype)[1] if mean else None, 1.0 / max(perm.shape[1], 1)
    if not hard:
        check_soft("inverse_permute_mean", y, perm, t, row, col)
        out = torch.empty_like(y, dtype=t.dtype if mean else y.dtype)
        y = _soft_inverse(y, perm, (t, row, col), num_nodes, tau, order, out)
    return gather_sum(y, perm, num_nodes, x, order, weights, scale, inside)


def _soft_inverse(y, perm, soft, num_nodes, tau, order, out) -> Tensor:
    """P y of every sample, in order of rank."""
    t, row, col = map(dense, soft)
    if order == 2:
        y = soft_product(y, perm, t, col, row, num_nodes, tau, 1, t.new_empty(y.shape))
    return soft_product(y, perm, t, col, row, num_nodes, tau, 0, out)


def inverse_permute_mean_backward(
    grad_x: Tensor,
    y: Tensor,
    perm: Tensor,
    t: Tensor | None,
    row: Tensor | None,
    col: Tensor | None,
    num_nodes: Tensor | None,
    weights: Tensor | None,
    tau: float,
    order: int,
    hard: bool,
    mean: bool,
    needs: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    what = "inverse_permute_mean_backward"
    y, perm, num_nodes, weights, grad_x = map(dense, (y, perm, num_nodes, weights, grad_x))
    check(what, y, perm, num_nodes, order, True)
    check_gradient(what, grad_x, y.shape[:1] + y.shape[2:] if mean else y.shape, y.dtype)
    _check_weights(what, y, perm, weights)
    if t is not None:
        check_soft(what, y, perm, t, row, col)
    soft, scale = (dense(t), dense(row), dense(col)), 1.0 / max(perm.shape[1], 1) if mean else 1.0
    grad_y, found, grad_weights = None, None, None
    share = {"weights": weights, "scale": scale, "each": not mean}
    if hard:
        if needs & 1:
            inside = compute(y.dtype)[1] if mean else None
            grad_y = gather(grad_x, perm, num_nodes, torch.empty_like(y), order, dtype=inside, **share)
        if needs & 14 and t is not None:
            found = soft_gradient(grad_x, y, perm, soft, num_nodes, tau, range(order), **share)
    else:
        grad_y, found = _soft_backward(grad_x, y, perm, soft, num_nodes, tau, order, share, needs)
    if needs & 16 and weights is not None:
        dtype, inside = compute(y.dtype)
        if not hard:
            y = _soft_inverse(y, perm, soft, num_nodes, tau, order, y.new_empty(y.shape, dtype=dtype))
        grad_weights = weight_gradient(grad_x, y, perm, num_nodes, order, torch.empty_like(weights), inside)
    first, last = (nothing(y) if g is None else g for g in (grad_y, grad_weights))
    return first, *needed(found, needs, y), last


def _soft_backward(
    grad, y, perm, soft, num_nodes, tau, order, share, needs
) -> tuple[Tensor, tuple[Tensor, ...] | None]:
    """Of x = sum of w P y with a soft P: the gradient of y, and those of t, row and col, if they are needed."""
    t, row, col = soft
    grad_y, first, found = torch.empty_like(y) if needs & 1 else nothing(y), None, None
    back = {"gathered": True, "each": share["each"]}  # P^T grad, read in order of rank
    if order == 1:
        soft_product(grad, perm, t, row, col, num_nodes, tau, 0, grad_y, **{**share, **back})
        if needs & 14:
            found = soft_gradient(grad, y, perm, soft, num_nodes, tau, (0,), **share)
        return grad_y, found
    half = t.new_empty(y.shape)
    if needs & 14:
        soft_product(y, perm, t, col, row, num_nodes, tau, 1, half)
        first = soft_gradient(grad, half, perm, soft, num_nodes, tau, (0,), **share)
    soft_product(grad, perm, t, row, col, num_nodes, tau, 0, half, **back)
    if needs & 14:
        again = {"gathered": False, **share, "each": True, "first": first}
        found = soft_gradient(half, y, perm, soft, num_nodes, tau, (1,), **again)
    soft_product(half, perm, t, row, col, num_nodes, tau, 1, grad_y, weights=share["weights"], scale=share["scale"])
    return grad_y, found
