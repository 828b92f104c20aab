"""Centroids of points that no single program holds: a launch of its own, and one for its share of a gradient."""

from __future__ import annotations

import functools

import triton
import triton.language as tl
from torch import Tensor

from lps_kernels.triton.entry import entry
from lps_kernels.triton.launch import OPTIONS, cdiv, power_of_two, programs
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


@entry(do_not_specialize=["n", "d"])
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


@triton.jit
def add_share(grad_x, to_center, block, b, count, n, d, c, LANES: tl.constexpr, D2: tl.constexpr):
    """Adds to a tile of grad_x its share of the gradient of the center, to_center (D2,)."""
    lane, a, at = tile_at(block * LANES, c, d, LANES, D2)
    mask = (lane < count * c)[:, None] & (a < d)[None, :]
    at = grad_x + b * n * d * c + at
    share = to_center * share_of(count, c, to_center.dtype)
    total = tl.load(at, mask=mask, other=0).to(share.dtype) + share[None, :]
    tl.store(at, total.to(grad_x.dtype.element_ty), mask=mask)


@entry(do_not_specialize=["n", "d", "blocks"])
def centroid_backward_kernel(grad_x, grad_center, num_nodes, n, d, c, blocks, LANES: tl.constexpr, D2: tl.constexpr):
    block, b = (tl.program_id(0) % blocks).to(tl.int64), (tl.program_id(0) // blocks).to(tl.int64)
    a = tl.arange(0, D2)
    to_center = tl.load(grad_center + b * d + a, mask=a < d, other=0)
    add_share(grad_x, to_center, block, b, nodes_of(num_nodes, b, n), n, d, c, LANES, D2)


@functools.lru_cache(maxsize=64)
def tile_of(d: int) -> dict:
    block = power_of_two(d)
    return {"LANES": max(TILE // block, 1), "D2": block, "num_warps": WARPS}


def centroid(x: Tensor, num_nodes: Tensor | None, center: Tensor) -> None:
    """center (b, 1, d) of x (b, n, d, c), with their device the current one."""
    b, n, d, c = x.shape
    centroid_kernel[programs(b, "sample_rotate")](center, x, num_nodes, n, d, c, **tile_of(d), **OPTIONS)


def centroid_backward(grad_x: Tensor, grad_center: Tensor, num_nodes: Tensor | None) -> None:
    b, n, d, c = grad_x.shape
    tile = tile_of(d)
    blocks = cdiv(n * c, tile["LANES"])
    centroid_backward_kernel[programs(b * blocks, "sample_rotate_backward")](
        grad_x, grad_center, num_nodes, n, d, c, blocks, **tile, **OPTIONS
    )
