"""sample_rotate of matrices that take a program each, by the launches of its parts; and of nothing at all."""

from __future__ import annotations

import torch
from torch import Tensor

from lps_kernels.triton.centroid import centroid, centroid_backward
from lps_kernels.triton.gram_schmidt import gram_schmidt, gram_schmidt_backward
from lps_kernels.triton.launch import compute, nothing, on
from lps_kernels.triton.random_orthogonal import random_orthogonal
from lps_kernels.triton.rotate import rotate, rotate_backward


def large_forward(
    v: Tensor | None, seed: Tensor, x: Tensor, num_nodes: Tensor | None, k: int, special: bool, centered: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    b, _, d, _ = x.shape
    wide = compute(x.dtype)[0]
    if v is None:
        q = random_orthogonal(seed, b, k, d, special, False, wide == torch.float64)
        degenerate = torch.zeros(b, k, d, dtype=torch.bool, device=x.device)
    else:
        q, degenerate = gram_schmidt(v.view(b * k, d, d), special)
        q, degenerate = q.view(b, k, d, d), degenerate.view(b, k, d)
    center = torch.empty(b, int(centered), d, dtype=wide, device=x.device)
    if center.numel():
        with on(x):
            centroid(x, num_nodes, center)
    return q, degenerate, center, rotate(x, q, center if centered else None, num_nodes, 1)


def large_backward(
    grad_q, grad_center, grad_x_k, v, x, num_nodes, special, center, q, degenerate, need_v: bool, need_x: bool
) -> tuple[Tensor, Tensor]:
    """Gradients of v and of x; those that are not needed are empty."""
    to_x, to_q, to_center = torch.zeros_like(x) if need_x else nothing(x), None, None
    if grad_x_k is not None:
        wanted = need_x | need_v << 1 | (need_x and center is not None) << 2
        by_x, to_q, to_center = rotate_backward(grad_x_k, x, q, center, num_nodes, 1, wanted)
        to_x = by_x if need_x else to_x
    if need_x and center is not None and x.numel():
        parts = [g for g in (to_center, grad_center) if g is not None]
        if parts:
            with on(x):
                centroid_backward(to_x, sum(parts[1:], parts[0]), num_nodes)
    if not need_v:
        return nothing(x), to_x
    (b, k, d, _), parts = q.shape, [g for g in (to_q, grad_q) if g is not None]
    total = sum(parts[1:], parts[0]).view(b * k, d, d) if parts else None
    v, q = v.view(b * k, d, d), q.view(b * k, d, d)
    to_v = gram_schmidt_backward(total, None, v, special, q, degenerate.view(b * k, d), 1)
    return to_v.view(b, k, d, d), to_x
