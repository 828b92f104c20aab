"""inverse_permute_rotate_mean: inverse_rotate_mean, whose kernels gather nodes by rank as they read."""

from __future__ import annotations

from torch import Tensor

from lps_kernels.triton.inverse_rotate_mean import launch_inverse, launch_inverse_backward
from lps_kernels.triton.launch import nothing
from lps_kernels.triton.permute_rotate import check_perm, soft_sums


def inverse_permute_rotate_mean(
    y: Tensor,
    perm: Tensor,
    t: Tensor | None,
    row: Tensor | None,
    col: Tensor | None,
    q: Tensor,
    center: Tensor | None,
    num_nodes: Tensor | None,
    weights: Tensor | None,
    tau: float,
    order: int,
    mean: bool,
) -> Tensor:
    name = "inverse_permute_rotate_mean"
    check_perm(name, perm, q, y.shape[2])
    return launch_inverse(name, y, perm, q, center, num_nodes, weights, order, mean)


def inverse_permute_rotate_mean_backward(
    grad_x: Tensor | None,
    y: Tensor,
    perm: Tensor,
    t: Tensor | None,
    row: Tensor | None,
    col: Tensor | None,
    q: Tensor,
    center: Tensor | None,
    num_nodes: Tensor | None,
    weights: Tensor | None,
    tau: float,
    order: int,
    mean: bool,
    needs: int,
) -> tuple[Tensor, ...]:
    name = "inverse_permute_rotate_mean_backward"
    check_perm(name, perm, q, y.shape[2])
    need_soft = t is not None and bool(needs & 14)
    need = [bool(needs & bit) for bit in (1, 16, 32, 64)]
    arguments = (grad_x, y, perm, q, center, num_nodes, weights, order, mean)
    # The sums for the scores take the gradient of y as it is computed, not as it is rounded to half precision.
    wide = need_soft and y.dtype != q.dtype
    grad_y, grad_q, grad_center, grad_weights = launch_inverse_backward(
        name, *arguments, [need[0] or need_soft, *need[1:]], wide
    )
    soft_grads = (nothing(y),) * 3
    if need_soft:
        soft_grads = soft_sums(name, grad_y, y, perm, (t, row, col), num_nodes, tau, needs)
    grad_y = grad_y.to(y.dtype) if need[0] else nothing(y)
    return grad_y, *soft_grads, grad_q, grad_center, grad_weights
