"""permute: gathers by rank; its gradient gathers back and sums over samples in one launch, and where scores want theirs
is scanned in another, which goes along ranks. Where rows are few, parts of their channels are added up in a third.

Soft values take a launch for each axis that is scanned, forward and backward: a scan needs all of what it goes along.
"""

from __future__ import annotations

import torch
from torch import Tensor

from lps_kernels.triton.gather import gather, gather_sum
from lps_kernels.triton.launch import check_gradient, check_nodes, compute, dense, nothing
from lps_kernels.triton.soft import check_soft, soft_gradient, soft_product


def check(what: str, x: Tensor, perm: Tensor, num_nodes: Tensor | None, order: int, samples: bool) -> None:
    """The shapes that bound what kernels read and write."""
    b, k, n = perm.shape
    want = (b, *((k,) if samples else ()), *(n,) * order)
    if order not in (1, 2) or x.shape[:-1] != want or perm.dtype != torch.int64:
        raise ValueError(f"{what}: expected features {want} + (c,) and perm (b, k, n) int64, got {tuple(x.shape)}")
    check_nodes(what, num_nodes, b)


def permute(
    x: Tensor,
    perm: Tensor,
    t: Tensor | None,
    row: Tensor | None,
    col: Tensor | None,
    num_nodes: Tensor | None,
    tau: float,
    order: int,
    hard: bool,
) -> Tensor:
    x, perm, num_nodes = dense(x), dense(perm), dense(num_nodes)
    check("permute", x, perm, num_nodes, order, False)
    y = x.new_empty(*perm.shape[:2], *x.shape[1:])
    if hard:
        return gather(x, perm, num_nodes, y, order)
    check_soft("permute", x, perm, t, row, col)
    t, row, col = dense(t), dense(row), dense(col)
    if order == 1:
        return soft_product(x, perm, t, row, col, num_nodes, tau, 0, y, gathered=True, each=False)
    half = t.new_empty(y.shape)
    soft_product(x, perm, t, row, col, num_nodes, tau, 1, half, gathered=True, each=False)
    return soft_product(half, perm, t, row, col, num_nodes, tau, 0, y)


def permute_backward(
    grad_y: Tensor,
    x: Tensor,
    perm: Tensor,
    t: Tensor | None,
    row: Tensor | None,
    col: Tensor | None,
    num_nodes: Tensor | None,
    tau: float,
    order: int,
    hard: bool,
    needs: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    x, perm, num_nodes, grad_y = dense(x), dense(perm), dense(num_nodes), dense(grad_y)
    check("permute_backward", x, perm, num_nodes, order, False)
    check_gradient("permute_backward", grad_y, (*perm.shape[:2], *x.shape[1:]), x.dtype)
    soft, back, found = (dense(t), dense(row), dense(col)), grad_y, None
    if t is not None:
        check_soft("permute_backward", x, perm, *soft)
    if not hard:
        back, found = soft_backward(x, grad_y, perm, soft, num_nodes, tau, order, needs)
    elif needs & 14 and t is not None:
        found = soft_gradient(x, grad_y, perm, soft, num_nodes, tau, range(order))
    grad_x = nothing(x)
    if needs & 1:
        inside = compute(x.dtype)[1]
        grad_x = gather_sum(back, perm, num_nodes, torch.empty_like(x), order, scale=1.0, dtype=inside)
    return grad_x, *needed(found, needs, x)


def needed(grads: tuple[Tensor, Tensor, Tensor] | None, needs: int, like: Tensor) -> tuple[Tensor, ...]:
    """Gradients of t, row and col, those that bits 1 to 3 of needs say."""
    if grads is not None and needs & 14 == 14:
        return grads
    return tuple(nothing(like) if grads is None or not needs >> i & 1 else grads[i - 1] for i in (1, 2, 3))


def soft_backward(x, grad, perm, soft, num_nodes, tau, order, needs) -> tuple[Tensor, tuple[Tensor, ...] | None]:
    """Of y = P^T x with a soft P: the gradient of x in order of rank, and those of t, row and col if needed."""
    t, row, col = soft
    back, first, found = t.new_empty(grad.shape if needs & 1 else 0), None, None
    if order == 1:
        if needs & 14:
            found = soft_gradient(x, grad, perm, soft, num_nodes, tau, (0,))
        return soft_product(grad, perm, t, col, row, num_nodes, tau, 0, back), found
    half = t.new_empty(grad.shape)
    if needs & 14:
        soft_product(x, perm, t, row, col, num_nodes, tau, 1, half, gathered=True, each=False)
        first = soft_gradient(half, grad, perm, soft, num_nodes, tau, (0,), gathered=False, each=True)
    soft_product(grad, perm, t, col, row, num_nodes, tau, 0, half)
    if needs & 14:
        found = soft_gradient(x, half, perm, soft, num_nodes, tau, (1,), first=first)
    return soft_product(half, perm, t, col, row, num_nodes, tau, 1, back), found
