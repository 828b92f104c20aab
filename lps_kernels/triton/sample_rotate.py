"""sample_rotate: matrices, then the centroid, then the turned points: three launches.

Not one: turning a point takes the centroid of all of them and a matrix that lanes of another program hold.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from lps_kernels.triton.gram_schmidt import gram_schmidt, gram_schmidt_backward
from lps_kernels.triton.launch import OPTIONS, cdiv, compute, dense, nothing, on, power_of_two, programs
from lps_kernels.triton.random_orthogonal import random_orthogonal
from lps_kernels.triton.rotate import rotate, rotate_backward
from lps_kernels.triton.rotations import nodes_of

TILE, WARPS = 1024, 4  # numbers at a time: some nodes and channels with all their entries


@triton.jit
def tile_at(start, c, d, LANES: tl.constexpr, D2: tl.constexpr):
    """Lanes, entries and offsets in a row of a tile of (node and channel, entry)."""
    lane, a = start + tl.arange(0, LANES), tl.arange(0, D2)
    return lane, a, (lane // c)[:, None] * (d * c) + a[None, :] * c + (lane % c)[:, None]


@triton.jit
def share_of(count, c, dtype: tl.constexpr):
    return tl.full((), 1.0, dtype) / tl.maximum(count * c, 1).to(dtype)


@triton.jit(do_not_specialize=["n", "d"])
def centroid_kernel(center, x, num_nodes, n, d, c, LANES: tl.constexpr, D2: tl.constexpr):
    """center (b, d): the mean of x (b, n, d, c) over real nodes and channels, one input a program."""
    dtype: tl.constexpr = center.dtype.element_ty
    b = tl.program_id(0).to(tl.int64)
    count = nodes_of(num_nodes, b, n)
    total = tl.zeros((LANES, D2), dtype)
    for start in range(0, count * c, LANES):
        lane, a, at = tile_at(start, c, d, LANES, D2)
        mask = (lane < count * c)[:, None] & (a < d)[None, :]
        total += tl.load(x + b * n * d * c + at, mask=mask, other=0).to(dtype)
    a = tl.arange(0, D2)
    tl.store(center + b * d + a, tl.sum(total, 0) * share_of(count, c, dtype), mask=a < d)


@triton.jit(do_not_specialize=["n", "d", "blocks"])
def centroid_backward_kernel(grad_x, grad_center, num_nodes, n, d, c, blocks, LANES: tl.constexpr, D2: tl.constexpr):
    """Adds to grad_x of real nodes their share of the gradient of the center."""
    dtype: tl.constexpr = grad_center.dtype.element_ty
    block, b = (tl.program_id(0) % blocks).to(tl.int64), (tl.program_id(0) // blocks).to(tl.int64)
    count = nodes_of(num_nodes, b, n)
    lane, a, at = tile_at(block * LANES, c, d, LANES, D2)
    mask = (lane < count * c)[:, None] & (a < d)[None, :]
    added = tl.load(grad_center + b * d + a, mask=a < d, other=0) * share_of(count, c, dtype)
    at = grad_x + b * n * d * c + at
    total = tl.load(at, mask=mask, other=0).to(dtype) + added[None, :]
    tl.store(at, total.to(grad_x.dtype.element_ty), mask=mask)


def tile_of(d: int) -> dict:
    block = power_of_two(d)
    return {"LANES": max(TILE // block, 1), "D2": block, "num_warps": WARPS}


def check(v: Tensor | None, x: Tensor, num_nodes: Tensor | None, k: int) -> None:
    if x.dim() != 4 or (v is not None and v.shape != (x.shape[0], k, x.shape[2], x.shape[2])):
        raise ValueError(f"sample_rotate: expected x (b, n, d, c) and v (b, k, d, d), got {tuple(x.shape)}")
    if num_nodes is not None and (num_nodes.shape != x.shape[:1] or num_nodes.dtype != torch.int64):
        raise ValueError(f"sample_rotate: expected num_nodes (b,) int64, got {tuple(num_nodes.shape)}")


def sample_rotate(
    v: Tensor | None, seed: Tensor, x: Tensor, num_nodes: Tensor | None, k: int, special: bool, centered: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    check(v, x, num_nodes, k)
    x, num_nodes = dense(x), dense(num_nodes)
    b, n, d, c = x.shape
    wide = compute(x.dtype)[0]
    if v is None:
        q = random_orthogonal(seed, b, k, d, special, False, wide == torch.float64)
        degenerate = torch.zeros(b, k, d, dtype=torch.bool, device=x.device)
    else:
        q, degenerate = gram_schmidt(v.reshape(b * k, d, d), special)
        q, degenerate = q.view(b, k, d, d), degenerate.view(b, k, d)
    center = torch.empty(b, int(centered), d, dtype=wide, device=x.device)
    if center.numel():
        with on(x):
            centroid_kernel[programs(b, "sample_rotate")](center, x, num_nodes, n, d, c, **tile_of(d), **OPTIONS)
    return q, degenerate, center, rotate(x, q, center if centered else None, num_nodes, 1)


def sample_rotate_backward(
    grad_q: Tensor | None,
    grad_degenerate: Tensor | None,
    grad_center: Tensor | None,
    grad_x_k: Tensor | None,
    v: Tensor | None,
    seed: Tensor,
    x: Tensor,
    num_nodes: Tensor | None,
    k: int,
    special: bool,
    centered: bool,
    saved_q: Tensor,
    saved_degenerate: Tensor,
    saved_center: Tensor,
    needs: int,
) -> tuple[Tensor, Tensor]:
    check(v, x, num_nodes, k)
    x, num_nodes, q = dense(x), dense(num_nodes), dense(saved_q)
    b, n, d, c = x.shape
    like = next(g for g in (grad_q, grad_degenerate, grad_center, grad_x_k, v, seed) if g is not None)
    need_v, need_x = v is not None and bool(needs & 1), bool(needs & 2)
    to_x, to_q, to_center = torch.zeros_like(x) if need_x else nothing(like), None, None
    if grad_x_k is not None:
        center = saved_center if centered else None
        wanted = need_x | need_v << 1 | (need_x and centered) << 2
        by_x, to_q, to_center = rotate_backward(grad_x_k, x, q, center, num_nodes, 1, wanted)
        to_x = by_x if need_x else to_x
    if need_x and centered and x.numel():
        parts = [dense(g) for g in (to_center, grad_center) if g is not None]
        total = sum(parts[1:], parts[0]) if parts else None
        if total is not None:
            tile = tile_of(d)
            blocks = cdiv(n * c, tile["LANES"])
            with on(x):
                centroid_backward_kernel[programs(b * blocks, "sample_rotate_backward")](
                    to_x, total, num_nodes, n, d, c, blocks, **tile, **OPTIONS
                )
    if not need_v:
        return nothing(like), to_x
    parts = [g for g in (to_q, grad_q) if g is not None]
    total = sum(parts[1:], parts[0]).reshape(b * k, d, d) if parts else None
    flat = (z.reshape(b * k, *z.shape[2:]) for z in (v, q, saved_degenerate))
    flat_v, flat_q, flags = flat
    to_v = gram_schmidt_backward(total, None, flat_v, special, flat_q, flags, 1)
    return to_v.view(b, k, d, d), to_x
