"""Gram-Schmidt of one matrix a program, held as a tile, and its derivative; what is said in orthonormalize.py applies.

A complex tile has two rows an entry, and a second tile holds J q beside each column q.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from lps_kernels.triton.entries import divide, root
from lps_kernels.triton.entry import entry
from lps_kernels.triton.launch import power_of_two, programs
from lps_kernels.triton.orthonormalize import COMPLETION

# Not fused: where threads add each other's products, x + shuffled x, contraction rounds the copies of one sum in two
# ways, and a vector whose copies differ by an ulp of what it was before a projection is not made orthogonal again.
OPTIONS = {"enable_fp_fusion": False}
# Warps by numbers in a tile; beyond the last, the derivative, with five tiles at once, would not fit in registers. In
# float64 that of the largest does not quite: 128 to 168 bytes a thread spill.
WARPS = {256: 1, 1024: 4, 2048: 8, 4096: 16}
# Of real tiles of 256 and 1,024 numbers, by bytes of one, forward and backward. As many as ptxas takes by itself, where
# it spills 8 to 32 bytes on one architecture or another.
_REGISTERS = {(2, False): {"maxnreg": 96}, (8, False): {"maxnreg": 128}, (8, True): {"maxnreg": 168}}
if torch.version.hip:
    _REGISTERS = {}


@triton.jit
def offsets(d, m, PARTS: tl.constexpr, D2: tl.constexpr, M2: tl.constexpr):
    """Row and column indices of a tile, where its numbers are in memory, and which of them there are."""
    i, j = tl.arange(0, D2), tl.arange(0, M2)
    at = ((i // PARTS)[:, None] * m + j[None, :]) * PARTS + (i % PARTS)[:, None]
    return i, j, at, (i < d * PARTS)[:, None] & (j < m)[None, :]


@triton.jit
def column(tile, j, chosen):
    return tl.sum(tl.where(j[None, :] == chosen, tile, 0), 1)


@triton.jit
def times_i(u):
    """J u of a vector with two rows an entry."""
    re, im = tl.split(tl.reshape(u, (u.shape[0] // 2, 2)))
    return tl.reshape(tl.join(-im, re), (u.shape[0],))


@triton.jit
def project(u, q, q_i, PARTS: tl.constexpr):
    """What is left of u beside the columns of q: all inner products first."""
    along = tl.sum(q * tl.sum(q * u[:, None], 0)[None, :], 1)
    if PARTS == 2:
        along += tl.sum(q_i * tl.sum(q_i * u[:, None], 0)[None, :], 1)
    return u - along


@triton.jit
def complete(q, q_i, i, chosen, d, PARTS: tl.constexpr, D2: tl.constexpr):
    """What is left of the first standard vector of which enough is left beside `chosen` columns."""
    used = tl.sum(q * q, 1)
    if PARTS == 2:
        used += tl.sum(q_i * q_i, 1)
    enough = tl.full((), COMPLETION, q.dtype) * (d - chosen) / d
    there = (1 - used > enough) & (i < d * PARTS) & (i % PARTS == 0)
    u = (i == tl.min(tl.where(there, i, D2), 0)).to(q.dtype)
    return project(project(u, q, q_i, PARTS), q, q_i, PARTS)


@triton.jit
def is_reflection(a, i, j, d):
    """Whether the determinant of an orthonormal tile is -1: elimination, each row the pivot once."""
    free = i < d
    odd = (d == 0).to(tl.int32)
    for step in range(d):
        u = column(a, j, step)
        pivot = tl.argmax(tl.where(free, tl.abs(u), -1.0), 0)
        here = i == pivot
        value = tl.sum(tl.where(here, u, 0), 0)
        odd += (value < 0).to(tl.int32) + tl.sum((free & (i < pivot)).to(tl.int32), 0)
        free = free & (i != pivot)
        by = tl.where(free, u / value, 0)
        a -= by[:, None] * tl.sum(tl.where(here[:, None], a, 0), 0)[None, :]
    return odd % 2 == 1


@triton.jit
def normalized(u, use):
    """u over its largest magnitude, where `use` says so, and that factor."""
    size = tl.max(tl.abs(u), 0)
    factor = divide(tl.full((), 1.0, u.dtype), tl.where(use & (size > 0), size, 1.0))
    return u * factor, factor, size


@triton.jit
def orthonormalize_tile(
    v, i, j, d, m, DEPENDENCE: tl.constexpr, TINIEST: tl.constexpr, PARTS: tl.constexpr, SPECIAL: tl.constexpr,
    D2: tl.constexpr, M2: tl.constexpr,
):  # fmt: skip
    """q and which of its columns are degenerate, of a tile that is zero outside of the matrix."""
    finite = tl.max(tl.max(((tl.abs(v) < float("inf")) == 0).to(tl.int32), 1), 0) == 0
    v = tl.where(finite, v, (i[:, None] == j[None, :] * PARTS).to(v.dtype))
    q, q_i = tl.zeros((D2, M2), v.dtype), tl.zeros((D2, M2), v.dtype)
    flags = tl.zeros((M2,), tl.int32)
    for chosen in range(m):
        u = column(v, j, chosen)
        nonzero = tl.max(tl.abs(u), 0) >= TINIEST
        u, _, _ = normalized(u, nonzero)
        start = tl.sum(u * u, 0)
        u = project(project(u, q, q_i, PARTS), q, q_i, PARTS)
        good = nonzero & (tl.sum(u * u, 0) > start * DEPENDENCE)
        if good == 0:
            u = complete(q, q_i, i, chosen, d, PARTS, D2)
        u = u * divide(tl.full((), 1.0, u.dtype), root(tl.sum(u * u, 0)))
        q = tl.where(j[None, :] == chosen, u[:, None], q)
        if PARTS == 2:
            q_i = tl.where(j[None, :] == chosen, times_i(u)[:, None], q_i)
        flags = tl.where(j == chosen, ((good & finite) == 0).to(tl.int32), flags)
    if SPECIAL:
        q = tl.where(is_reflection(q, i, j, d) & (j == 0)[None, :], -q, q)
    return q, flags


@entry(do_not_specialize=["d", "m"])
def large_gram_schmidt_kernel(
    q, degenerate, v, d, m,
    DEPENDENCE: tl.constexpr, TINIEST: tl.constexpr, PARTS: tl.constexpr, SPECIAL: tl.constexpr, D2: tl.constexpr,
    M2: tl.constexpr,
):  # fmt: skip
    matrix = tl.program_id(0).to(tl.int64)
    i, j, at, inside = offsets(d, m, PARTS, D2, M2)
    at += matrix * (d * m * PARTS)
    tile = tl.load(v + at, mask=inside, other=0).to(q.dtype.element_ty)
    tile, flags = orthonormalize_tile(tile, i, j, d, m, DEPENDENCE, TINIEST, PARTS, SPECIAL, D2, M2)
    tl.store(q + at, tile, mask=inside)
    tl.store(degenerate + matrix * m + j, flags.to(tl.int8), mask=j < m)


@entry(do_not_specialize=["d", "m"])
def large_gram_schmidt_backward_kernel(
    grad_v, grad_q, v, q, degenerate, d, m,
    PARTS: tl.constexpr, D2: tl.constexpr, M2: tl.constexpr,
):  # fmt: skip
    matrix = tl.program_id(0).to(tl.int64)
    i, j, at, inside = offsets(d, m, PARTS, D2, M2)
    at += matrix * (d * m * PARTS)
    basis = tl.load(q + at, mask=inside, other=0)
    basis_i = basis
    if PARTS == 2:  # the other part of an entry, from the cache
        other = tl.load(q + tl.where((i % 2 == 0)[:, None], at + 1, at - 1), mask=inside, other=0)
        basis_i = tl.where((i % 2 == 0)[:, None], -other, other)
    tile = tl.load(v + at, mask=inside, other=0).to(basis.dtype)
    g = tl.load(grad_q + at, mask=inside, other=0)
    flags = tl.load(degenerate + matrix * m + j, mask=j < m, other=0)
    coupled = tl.max(flags.to(tl.int32), 0) > 0
    for step in range(m):
        chosen = m - 1 - step
        alive = tl.sum(tl.where(j == chosen, flags, 0).to(tl.int32), 0) == 0
        u = tl.where(alive, column(tile, j, chosen), 0)
        p = tl.where(alive, column(g, j, chosen), 0)
        q_j = column(basis, j, chosen)
        u, factor, _ = normalized(u, alive)
        before = j < chosen
        r, h = tl.sum(basis * u[:, None], 0), tl.sum(basis * p[:, None], 0)
        diagonal = tl.sum(tl.where(j == chosen, r, 0), 0)
        inverse = divide(tl.full((), 1.0, u.dtype), tl.where(alive, diagonal, 1.0))
        r, own, h = tl.where(before, r, 0), tl.where(j == chosen, h, 0), tl.where(before, h, 0)
        along = tl.sum(basis * h[None, :], 1)
        p -= tl.sum(basis * own[None, :], 1)
        if PARTS == 2:
            r_i = tl.where(before, tl.sum(basis_i * u[:, None], 0), 0)
            h_i = tl.where(before, tl.sum(basis_i * p[:, None], 0), 0)
            along += tl.sum(basis_i * h_i[None, :], 1)
        p = (p - along) * inverse
        if PARTS == 1:
            p = tl.where(chosen == d - 1, 0.0, p)  # a last direction can't turn
        to_r = p + tl.where(coupled, along * inverse, 0)
        to_h = q_j + tl.where(coupled, (u - diagonal * q_j) * inverse, 0)
        g -= to_r[:, None] * r[None, :] + to_h[:, None] * h[None, :]
        if PARTS == 2:
            g += times_i(to_r)[:, None] * r_i[None, :] + times_i(to_h)[:, None] * h_i[None, :]
        g = tl.where(j[None, :] == chosen, (p * factor)[:, None], g)
    tl.store(grad_v + at, g, mask=inside)


def tile_of(name: str, d: int, m: int, parts: int, itemsize: int, backward: bool) -> dict:
    """The tile that holds a matrix, its warps and their registers."""
    shape = {"PARTS": parts, "D2": power_of_two(d * parts), "M2": power_of_two(m)}
    numbers = shape["D2"] * shape["M2"]
    warps = next((warps for most, warps in WARPS.items() if numbers <= most), None)
    if warps is None:
        raise ValueError(
            f"{name}: the triton backend holds a matrix as a tile of at most {max(WARPS)} numbers, sides rounded up to "
            f"powers of two; got {d} x {m}{' complex' * (parts - 1)}. backend 'reference' has no limit"
        )
    registers = _REGISTERS.get((itemsize, backward), {}) if parts == 1 and numbers in (256, 1024) else {}
    return {**shape, "num_warps": warps, **registers}


def large_forward(q: Tensor, degenerate: Tensor, v: Tensor, special: bool, limits: dict) -> None:
    b, d, m = v.shape[:3]
    shape = tile_of("gram_schmidt", d, m, v.dim() - 2, v.element_size(), False)
    large_gram_schmidt_kernel[programs(b, "gram_schmidt")](
        q, degenerate, v, d, m, SPECIAL=special, **limits, **shape, **OPTIONS
    )


def large_backward(grad_v: Tensor, grad_q: Tensor, v: Tensor, q: Tensor, degenerate: Tensor) -> None:
    b, d, m = v.shape[:3]
    shape = tile_of("gram_schmidt_backward", d, m, v.dim() - 2, v.element_size(), True)
    large_gram_schmidt_backward_kernel[programs(b, "gram_schmidt_backward")](
        grad_v, grad_q, v, q, degenerate, d, m, **shape, **OPTIONS
    )
