"""random_orthogonal: angles for d <= 3, else normal numbers and Gram-Schmidt, in registers."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from lps_kernels.triton.entries import store_rows
from lps_kernels.triton.entry import entry
from lps_kernels.triton.gram_schmidt import LANES, WARPS, constants, is_small, to_columns, to_entries
from lps_kernels.triton.large_gram_schmidt import OPTIONS as UNFUSED
from lps_kernels.triton.large_gram_schmidt import offsets, orthonormalize_tile, tile_of
from lps_kernels.triton.launch import OPTIONS, cdiv, on, power_of_two, programs
from lps_kernels.triton.orthonormalize import orthonormalize
from lps_kernels.triton.philox import STREAM_ROTATION, normals, on_circle, philox, root, uniform

ANGLES = tl.constexpr(3)  # the largest d of real matrices that angles describe


@triton.jit
def normal_entries(seed, row, DTYPE: tl.constexpr, COUNT: tl.constexpr):
    """The first COUNT normal numbers, rounded up to two, of each row."""
    entries = ()
    for pair in tl.static_range((COUNT + 1) // 2):
        entries = entries + normals(seed, tl.full(row.shape, pair, tl.int32), row, DTYPE)
    return entries


@triton.jit
def haar_by_angles(seed, row, DTYPE: tl.constexpr, D: tl.constexpr, SPECIAL: tl.constexpr):
    """Entries of a row's matrix, from four words: two turns, a height, and the sign of the last column."""
    one, two, three, four = philox(seed, tl.zeros(row.shape, tl.int32), row, STREAM_ROTATION)
    sign = tl.full(row.shape, 1.0, DTYPE)
    if not SPECIAL:
        sign = tl.where(uniform(four, DTYPE) < 0.5, sign, -sign)
    if D == 1:
        entries = (sign,)
    else:
        x, y = on_circle(uniform(one, DTYPE), DTYPE)
        if D == 2:
            entries = (x, -sign * y, y, sign * x)
        else:
            a, b = on_circle(uniform(two, DTYPE), DTYPE)
            u = uniform(three, DTYPE)
            z, radius = 1 - 2 * u, 2 * root(u * (1 - u))
            top = (x * z * a - y * b, -x * z * b - y * a, sign * x * radius)
            middle = (y * z * a + x * b, x * a - y * z * b, sign * y * radius)
            entries = top + middle + (-radius * a, radius * b, sign * z)
    return entries


@triton.jit
def haar_entries(seed, row, DTYPE: tl.constexpr, D: tl.constexpr, PARTS: tl.constexpr, SPECIAL: tl.constexpr,
                 DEPENDENCE: tl.constexpr, TINIEST: tl.constexpr):  # fmt: skip
    """Entries of a row's matrix, complex ones in two PARTS."""
    if PARTS == 1 and D <= ANGLES:
        entries = haar_by_angles(seed, row, DTYPE, D, SPECIAL)
    else:
        columns = to_columns(normal_entries(seed, row, DTYPE, D * D * PARTS), DTYPE, D, D, PARTS)
        columns, _ = orthonormalize(columns, D, D, PARTS, SPECIAL, DEPENDENCE, TINIEST)
        entries = to_entries(columns, D, D, PARTS)
    return entries


@entry(do_not_specialize=["b"])
def random_orthogonal_kernel(
    q, seed, b,
    D: tl.constexpr, PARTS: tl.constexpr, SPECIAL: tl.constexpr, DEPENDENCE: tl.constexpr, TINIEST: tl.constexpr,
    PADDED: tl.constexpr, LANES: tl.constexpr,
):  # fmt: skip
    COUNT: tl.constexpr = D * D * PARTS
    dtype: tl.constexpr = q.dtype.element_ty
    first = tl.program_id(0).to(tl.int64) * LANES
    row = first + tl.arange(0, LANES)
    entries = haar_entries(tl.load(seed), row, dtype, D, PARTS, SPECIAL, DEPENDENCE, TINIEST)
    rows = tl.minimum(b - first, LANES).to(tl.int32)
    store_rows(q + first * COUNT, entries, rows, 1, COUNT, PADDED, LANES)


@entry(do_not_specialize=["d"])
def large_random_orthogonal_kernel(
    q, seed, d,
    PARTS: tl.constexpr, SPECIAL: tl.constexpr, DEPENDENCE: tl.constexpr, TINIEST: tl.constexpr, D2: tl.constexpr,
    M2: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    i, j, at, inside = offsets(d, d, PARTS, D2, M2)
    first, second = normals(tl.load(seed), at // 2, row, q.dtype.element_ty)
    tile = tl.where(inside, tl.where(at % 2 == 0, first, second), 0)
    tile, _ = orthonormalize_tile(tile, i, j, d, d, DEPENDENCE, TINIEST, PARTS, SPECIAL, D2, M2)
    tl.store(q + row * (d * d * PARTS) + at, tile, mask=inside)


def random_orthogonal(seed: Tensor, b: int, k: int, d: int, special: bool, unitary: bool, double: bool) -> Tensor:
    if seed.numel() != 1 or seed.dtype != torch.int64:
        raise ValueError(f"random_orthogonal: expected a seed (1,) int64, got {tuple(seed.shape)} {seed.dtype}")
    if special and unitary:
        raise ValueError("random_orthogonal: expected real matrices for a determinant of 1")
    parts = 2 if unitary else 1
    shape = (b, k, d, d, 2) if unitary else (b, k, d, d)
    q = torch.empty(shape, dtype=torch.float64 if double else torch.float32, device=seed.device)
    if not q.numel():
        return q
    limits = constants(q.dtype, d)
    with on(seed):
        if is_small(d, parts):
            random_orthogonal_kernel[programs(cdiv(b * k, LANES), "random_orthogonal")](
                q, seed, b * k, d, parts, special, **limits, PADDED=power_of_two(d * d * parts), LANES=LANES,
                num_warps=WARPS, **OPTIONS,
            )  # fmt: skip
        else:
            tile = tile_of("random_orthogonal", d, d, parts, q.element_size(), False)
            large_random_orthogonal_kernel[programs(b * k, "random_orthogonal")](
                q, seed, d, SPECIAL=special, **limits, **tile, **UNFUSED
            )
    return q
