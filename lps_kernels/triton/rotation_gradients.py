"""Gradients of matrices, centers and weights from their parts by blocks of nodes: the second launch of a backward."""

from __future__ import annotations

import triton.language as tl
from torch import Tensor

from lps_kernels.triton.entry import entry
from lps_kernels.triton.large_gram_schmidt import OPTIONS  # sums of products over threads, as there
from lps_kernels.triton.launch import programs

ROWS = 16  # samples at a time


@entry(do_not_specialize=["k", "blocks", "centers"])
def finish_kernel(
    grad_q, grad_center, grad_weights, partial, q, center, weights, k, blocks, centers,
    MEAN: tl.constexpr, D: tl.constexpr, ORDER: tl.constexpr, FORWARD: tl.constexpr, WIDTH: tl.constexpr,
    ROWS: tl.constexpr,
):  # fmt: skip
    """One input. partial holds the gradient of q as if weights were 1, then sums of the incoming gradient."""
    dtype: tl.constexpr = q.dtype.element_ty
    b = tl.program_id(0).to(tl.int64)
    entry, local = tl.arange(0, WIDTH), tl.arange(0, ROWS)
    shift = tl.zeros((WIDTH,), dtype)
    for start in range(0, k, ROWS):
        sample = start + local
        row, live = b * k + sample, sample < k
        total = tl.zeros((ROWS, WIDTH), dtype)
        for block in range(blocks):
            at = partial + ((row * blocks + block) * WIDTH)[:, None] + entry[None, :]
            total += tl.load(at, mask=live[:, None], other=0)
        w = tl.full((ROWS,), 1.0, dtype) / k.to(dtype) if MEAN else tl.full((ROWS,), 1.0, dtype)
        if weights is not None:
            w = tl.load(weights + row, mask=live, other=0)
        inside = live[:, None] & (entry < D * D)[None, :]
        at = (row * (D * D))[:, None] + entry[None, :]
        if grad_q is not None:
            tl.store(grad_q + at, total * w[:, None], mask=inside)
        if grad_weights is not None:
            along = tl.sum(total * tl.load(q + at, mask=inside, other=0), 1) / ORDER
            for a in tl.static_range(D if center is not None else 0):
                middle = tl.load(center + (b * centers + sample % centers) * D + a, mask=live, other=0)
                along += middle * tl.sum(tl.where(entry == D * D + a, total, 0), 1)
            tl.store(grad_weights + row, along, mask=live)
        if grad_center is not None:
            for e in tl.static_range(D):
                to_center = w * tl.sum(tl.where(entry == D * D + e, total, 0), 1)
                if FORWARD:
                    to_center = tl.zeros((ROWS,), dtype)
                    for a in tl.static_range(D):
                        factor = tl.load(q + row * (D * D) + e * D + a, mask=live, other=0)
                        to_center -= factor * tl.sum(tl.where(entry == D * D + a, total, 0), 1)
                if centers == 1:
                    shift += tl.where(entry == e, tl.sum(to_center, 0), 0)
                else:
                    tl.store(grad_center + row * D + e, to_center, mask=live)
    if grad_center is not None:
        tl.store(grad_center + b * D + entry, shift, mask=entry < tl.where(centers == 1, D, 0))


def finish(
    s,
    partial: Tensor,
    q: Tensor,
    center: Tensor | None,
    weights: Tensor | None,
    forward: bool,
    mean: bool,
    grad_q: Tensor | None,
    grad_center: Tensor | None,
    grad_weights: Tensor | None,
) -> None:
    """Write those gradients that are not empty. forward: of rotate, whose samples have no weights."""

    def wanted(x: Tensor | None) -> Tensor | None:
        return x if x is not None and x.numel() else None

    finish_kernel[programs(s.b, "rotation gradients")](
        wanted(grad_q), wanted(grad_center), wanted(grad_weights), partial, q, center, weights, s.k, partial.shape[1],
        max(s.centers, 1), MEAN=mean, D=s.d, ORDER=s.order, FORWARD=forward, WIDTH=partial.shape[2], ROWS=ROWS,
        num_warps=4, **OPTIONS,
    )  # fmt: skip
