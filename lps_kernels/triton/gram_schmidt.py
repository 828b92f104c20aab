"""gram_schmidt: small matrices one a lane, unrolled; larger ones a program each, see large_gram_schmidt.py."""

from __future__ import annotations

import functools

import torch
import triton
import triton.language as tl
from torch import Tensor

from lps_kernels.triton.entries import load_rows, store_rows
from lps_kernels.triton.entry import entry
from lps_kernels.triton.large_gram_schmidt import large_backward, large_forward
from lps_kernels.triton.launch import OPTIONS, cdiv, check_gradient, compute, dense, nothing, on, power_of_two, programs
from lps_kernels.triton.orthonormalize import orthonormalize, orthonormalize_backward

# Matrices a program and its warps. Four numbers a thread and more would spill the backward of 4 x 4 in float64.
LANES, WARPS = 128, 4
SMALL = 4  # up to this d, 3 for complex, matrices go in lanes


@triton.jit
def to_columns(entries, dtype: tl.constexpr, D: tl.constexpr, M: tl.constexpr, PARTS: tl.constexpr):
    columns = ()
    for j in tl.static_range(M):
        column = ()
        for i in tl.static_range(D):
            for part in tl.static_range(PARTS):
                column = column + (entries[(i * M + j) * PARTS + part].to(dtype),)
        columns = columns + (column,)
    return columns


@triton.jit
def to_entries(columns, D: tl.constexpr, M: tl.constexpr, PARTS: tl.constexpr):
    entries = ()
    for i in tl.static_range(D):
        for j in tl.static_range(M):
            for part in tl.static_range(PARTS):
                entries = entries + (columns[j][i * PARTS + part],)
    return entries


@entry(do_not_specialize=["b"])
def gram_schmidt_kernel(
    q, degenerate, v, b,
    D: tl.constexpr, M: tl.constexpr, PARTS: tl.constexpr, SPECIAL: tl.constexpr, DEPENDENCE: tl.constexpr,
    TINIEST: tl.constexpr, PADDED: tl.constexpr, PADDED_M: tl.constexpr, LANES: tl.constexpr,
):  # fmt: skip
    COUNT: tl.constexpr = D * M * PARTS
    first = tl.program_id(0).to(tl.int64) * LANES
    rows = tl.minimum(b - first, LANES).to(tl.int32)
    entries = load_rows(v + first * COUNT, rows, 1, COUNT, PADDED, LANES)
    columns = to_columns(entries, q.dtype.element_ty, D, M, PARTS)
    columns, flags = orthonormalize(columns, D, M, PARTS, SPECIAL, DEPENDENCE, TINIEST)
    store_rows(q + first * COUNT, to_entries(columns, D, M, PARTS), rows, 1, COUNT, PADDED, LANES)
    store_rows(degenerate + first * M, flags, rows, 1, M, PADDED_M, LANES)


@entry(do_not_specialize=["b"])
def gram_schmidt_backward_kernel(
    grad_v, grad_q, v, q, degenerate, b,
    D: tl.constexpr, M: tl.constexpr, PARTS: tl.constexpr, PADDED: tl.constexpr, PADDED_M: tl.constexpr,
    LANES: tl.constexpr,
):  # fmt: skip
    COUNT: tl.constexpr = D * M * PARTS
    dtype: tl.constexpr = q.dtype.element_ty
    first = tl.program_id(0).to(tl.int64) * LANES
    rows = tl.minimum(b - first, LANES).to(tl.int32)
    columns = to_columns(load_rows(v + first * COUNT, rows, 1, COUNT, PADDED, LANES), dtype, D, M, PARTS)
    basis = to_columns(load_rows(q + first * COUNT, rows, 1, COUNT, PADDED, LANES), dtype, D, M, PARTS)
    g = to_columns(load_rows(grad_q + first * COUNT, rows, 1, COUNT, PADDED, LANES), dtype, D, M, PARTS)
    flags = load_rows(degenerate + first * M, rows, 1, M, PADDED_M, LANES)
    g = orthonormalize_backward(basis, columns, flags, g, D, M, PARTS)
    store_rows(grad_v + first * COUNT, to_entries(g, D, M, PARTS), rows, 1, COUNT, PADDED, LANES)


@functools.lru_cache(maxsize=1024)
def constants(dtype: torch.dtype, d: int) -> dict:
    """Below which length, and which part of its length, a column counts as dependent on those before it."""
    info = torch.finfo(dtype)
    return {"DEPENDENCE": (info.eps * (4 + d**0.5)) ** 2, "TINIEST": info.tiny}


def sizes(v: Tensor, special: bool) -> tuple[int, int, int, int]:
    """b, d, m and how many numbers an entry has."""
    if not (v.dim() == 3 or (v.dim() == 4 and v.shape[3] == 2)) or v.shape[2] > v.shape[1]:
        raise ValueError(f"gram_schmidt: expected v (b, d, m) or (b, d, m, 2) with m <= d, got {tuple(v.shape)}")
    if special and (v.dim() == 4 or v.shape[1] != v.shape[2]):
        raise ValueError(f"gram_schmidt: special expects real square matrices, got {tuple(v.shape)}")
    return *v.shape[:3], v.dim() - 2


def is_small(d: int, parts: int) -> bool:
    return d <= (SMALL if parts == 1 else 3)


def gram_schmidt(v: Tensor, special: bool) -> tuple[Tensor, Tensor]:
    b, d, m, parts = sizes(v, special)
    v = dense(v)
    q = torch.empty(v.shape, dtype=compute(v.dtype)[0], device=v.device)
    degenerate = torch.empty(b, m, dtype=torch.bool, device=v.device)
    if not q.numel():
        return q, degenerate
    limits = constants(q.dtype, d)
    with on(v):
        if is_small(d, parts):
            padded = {"PADDED": power_of_two(d * m * parts), "PADDED_M": power_of_two(m), "LANES": LANES}
            gram_schmidt_kernel[programs(cdiv(b, LANES), "gram_schmidt")](
                q, degenerate.view(torch.int8), v, b, d, m, parts, special, **limits, **padded,
                num_warps=WARPS, **OPTIONS,
            )  # fmt: skip
        else:
            large_forward(q, degenerate.view(torch.int8), v, special, limits)
    return q, degenerate


def gram_schmidt_backward(
    grad_q: Tensor | None,
    grad_degenerate: Tensor | None,
    v: Tensor,
    special: bool,
    saved_q: Tensor,
    saved_degenerate: Tensor,
    needs: int,
) -> Tensor:
    b, d, m, parts = sizes(v, special)
    if not needs & 1:
        return nothing(v if grad_q is None else grad_q)
    if grad_q is None:
        return torch.zeros_like(v, memory_format=torch.contiguous_format)
    v, q, degenerate, grad_q = dense(v), dense(saved_q), dense(saved_degenerate), dense(grad_q)
    if q.shape != v.shape or degenerate.shape != (b, m):
        raise ValueError("gram_schmidt_backward: expected outputs of the forward's shape")
    check_gradient("gram_schmidt_backward", grad_q, q.shape, q.dtype)
    grad_v = torch.empty_like(v)
    if not v.numel():
        return grad_v
    with on(v):
        if is_small(d, parts):
            padded = {"PADDED": power_of_two(d * m * parts), "PADDED_M": power_of_two(m), "LANES": LANES}
            gram_schmidt_backward_kernel[programs(cdiv(b, LANES), "gram_schmidt_backward")](
                grad_v, grad_q, v, q, degenerate.view(torch.int8), b, d, m, parts, **padded, num_warps=WARPS, **OPTIONS
            )
        else:
            large_backward(grad_v, grad_q, v, q, degenerate.view(torch.int8))
    return grad_v
