"""permute_rotate: the kernels of rotate, which gather nodes as they read them; scans for the scores' gradients."""

from __future__ import annotations

import torch
from torch import Tensor

from lps_kernels.triton.launch import dense, nothing
from lps_kernels.triton.rotate import launch_backward, launch_rotate
from lps_kernels.triton.soft import check_soft, soft_gradient


def check_perm(name: str, perm: Tensor, q: Tensor, n: int) -> None:
    if perm.shape != (*q.shape[:2], n) or perm.dtype != torch.int64:
        raise ValueError(f"{name}: expected perm {(*q.shape[:2], n)} int64, got {tuple(perm.shape)} {perm.dtype}")


def permute_rotate(
    x: Tensor,
    perm: Tensor,
    t: Tensor | None,
    row: Tensor | None,
    col: Tensor | None,
    q: Tensor,
    center: Tensor | None,
    num_nodes: Tensor | None,
    tau: float,
    order: int,
) -> Tensor:
    check_perm("permute_rotate", perm, q, x.shape[1])
    return launch_rotate("permute_rotate", x, perm, q, center, num_nodes, order)


def permute_rotate_backward(
    grad_y: Tensor | None,
    x: Tensor,
    perm: Tensor,
    t: Tensor | None,
    row: Tensor | None,
    col: Tensor | None,
    q: Tensor,
    center: Tensor | None,
    num_nodes: Tensor | None,
    tau: float,
    order: int,
    needs: int,
) -> tuple[Tensor, ...]:
    name = "permute_rotate_backward"
    check_perm(name, perm, q, x.shape[1])
    need = (bool(needs & 1), bool(needs & 16), bool(needs & 32) and center is not None)
    grad_x, grad_q, grad_center = launch_backward(name, grad_y, x, perm, q, center, num_nodes, order, need)
    soft_grads = (nothing(x),) * 3
    if t is not None and needs & 14:
        # The sums of U V^T do not change where both are turned: y again, and its gradient.
        turned = launch_rotate(name, x, perm, q, center, num_nodes, order, wide=True)
        soft_grads = soft_sums(name, turned, grad_y, perm, (t, row, col), num_nodes, tau, needs)
    return grad_x, *soft_grads, grad_q, grad_center


def soft_sums(name: str, u: Tensor, v: Tensor, perm: Tensor, soft: tuple, num_nodes, tau: float, needs: int) -> tuple:
    """Gradients of t, row and col from features u and v in order of rank: bits 1 to 3 of needs."""
    check_soft(name, u, perm, *soft)
    perm, num_nodes = dense(perm), dense(num_nodes)
    u, v = (dense(z).flatten(3) for z in (u, v))
    found = soft_gradient(u, v, perm, tuple(map(dense, soft)), num_nodes, tau, (0,), gathered=False, each=True)
    return tuple(g if needs >> i & 1 else nothing(v) for i, g in enumerate(found, 1))
