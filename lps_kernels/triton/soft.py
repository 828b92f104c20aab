"""The soft permutation applied to features, and the gradient of t, row and col, both by scans in order of rank.

Features of one sample are seen as (outer, n, inner): a scan runs along n, the node axis that is acted on, and the other
axes are channels of it. inner is c, or n c where the first axis of edges is scanned; outer is 1, or n where the second
one is.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from lps_kernels.triton.gather import node, real_nodes, weight_of
from lps_kernels.triton.laplace import groups_of
from lps_kernels.triton.launch import OPTIONS, compute, on, power_of_two, programs

_TILE = 4096  # numbers a program scans at once, 16 a thread in eight warps
_BUSY = 264  # programs that fill the largest device twice; rows are cut into parts where they are fewer


@triton.jit
def _scan(decay1, sum1, strict1, decay2, sum2, strict2):
    """Two neighbouring segments: sums decayed to the last element, with it and without it (not subtracted later)."""
    carried = decay2 * sum1
    return decay1 * decay2, carried + sum2, carried + strict2


@triton.jit
def row_decays(t, row, nodes, n, tau_inverse, DTYPE: tl.constexpr, N: tl.constexpr):
    """Each (1, N, 1): decays from the rank before and to the rank after, zero at the ends; and for ties where the group
    begins and ends, and whether there are any."""
    i = tl.arange(0, N)
    here = tl.load(t + row * n + i, mask=i < nodes, other=0.0)
    before = tl.load(t + row * n + i - 1, mask=(i > 0) & (i < nodes), other=0.0)
    after = tl.load(t + row * n + i + 1, mask=i + 1 < nodes, other=0.0)
    whole = tl.full((N,), tau_inverse, tl.float64)
    first = tl.minimum(whole, 3e38).to(DTYPE)
    rest = tl.where(whole < 3e38, whole - first, 0.0).to(DTYPE)
    up = tl.exp((here - before) * first + (here - before) * rest)
    down = tl.exp((after - here) * first + (after - here) * rest)
    up, down = tl.where((i > 0) & (i < nodes), up, 0.0), tl.where(i + 1 < nodes, down, 0.0)
    tied = (here == before) & (i > 0) & (i < nodes)
    start, stop, any_tied = groups_of(tied, (here == after) & (i + 1 < nodes), N)
    return up[None, :, None], down[None, :, None], start[None, :, None], stop[None, :, None], any_tied


@triton.jit
def lower_and_higher(w, up, down):
    """Sums over lower and over higher ranks of K[i, j] w_j, along axis 1 of w (L, N, C), without the diagonal."""
    nothing = tl.zeros_like(w)
    _, _, lower = tl.associative_scan((up + nothing, w, nothing), 1, _scan)
    _, _, higher = tl.associative_scan((down + nothing, w, nothing), 1, _scan, reverse=True)
    return lower, higher


@triton.jit
def load_tile(
    x, perm, num_nodes, sample, row, graph, n, c, outer, inner, o, q,
    GATHER: tl.constexpr, FIRST: tl.constexpr, DTYPE: tl.constexpr, N: tl.constexpr,
):  # fmt: skip
    """(L, N, C) features: outer o (L,), all ranks, inner q (C,). FIRST: inner holds the other node axis, or no node;
    else outer does, or is 1. GATHER reads in order of rank what lies in order of nodes. Zero at padding.
    """
    i = tl.arange(0, N)
    valid_i = real_nodes(num_nodes, graph, i, n, i < n)
    valid_o, valid_q = o < outer, q < inner
    at_i, at_o, at_q = i, o, q
    if FIRST:
        if inner != c:
            valid_q = real_nodes(num_nodes, graph, q // c, n, valid_q)
            if GATHER:
                at_q = node(perm, row * n + q // c, n, valid_q) * c + q % c
    else:
        valid_o = real_nodes(num_nodes, graph, o, n, valid_o)
        if GATHER:
            at_o = node(perm, row * n + o, n, valid_o)
    if GATHER:
        at_i = node(perm, row * n + i, n, valid_i)
    lines = sample * outer * n + at_o.to(tl.int64)[:, None] * n + at_i[None, :]
    mask = valid_o[:, None, None] & valid_i[None, :, None] & valid_q[None, None, :]
    return tl.load(x + lines[:, :, None] * inner + at_q[None, None, :], mask=mask, other=0).to(DTYPE)


@triton.jit
def _block_of(item, inner, L: tl.constexpr, C: tl.constexpr):
    """Outer and inner indices of a work item."""
    across = tl.cdiv(inner, C)
    return item // across * L + tl.arange(0, L), item % across * C + tl.arange(0, C)


@triton.jit
def pair_sums(
    u, v, row_scale, col_scale, up, down, start, stop, tied, row_sum, col_sum, sig
):  # fmt: skip
    """Adds the gradient of row, col and t / tau through P with dL/dP = u v^T, summed over channels. u, v (L, N, C)."""
    at_v_lower, at_v_higher = lower_and_higher(v * col_scale, up, down)
    at_u_lower, at_u_higher = lower_and_higher(u * row_scale, up, down)
    both = u * v
    row_sum += tl.sum(tl.sum(u * (at_v_lower + at_v_higher) + both * col_scale, 2), 0)
    col_sum += tl.sum(tl.sum(v * (at_u_lower + at_u_higher) + both * row_scale, 2), 0)
    if tied:  # a group of equal scores keeps what its end found: |t_i - t_j| has slope zero there
        starts, stops = start + tl.zeros_like(u).to(tl.int32), stop + tl.zeros_like(u).to(tl.int32)
        at_v_lower, at_u_lower = tl.gather(at_v_lower, starts, 1), tl.gather(at_u_lower, starts, 1)
        at_v_higher, at_u_higher = tl.gather(at_v_higher, stops, 1), tl.gather(at_u_higher, stops, 1)
    slope = u * row_scale * (at_v_lower - at_v_higher) + v * col_scale * (at_u_lower - at_u_higher)
    sig += tl.sum(tl.sum(slope, 2), 0)
    return row_sum, col_sum, sig


@triton.jit(do_not_specialize=["k", "n", "parts"])
def soft_gradient_kernel(
    u, v, perm, t, row, col, num_nodes, weights, grad_t, grad_row, grad_col, k, n, c, line, parts,
    tau_inverse: tl.float64, scale: tl.float64, GATHER: tl.constexpr, EACH: tl.constexpr, FIRST: tl.constexpr,
    SECOND: tl.constexpr, DTYPE: tl.constexpr, N: tl.constexpr, C0: tl.constexpr, L1: tl.constexpr, C1: tl.constexpr,
):  # fmt: skip
    """Gradients of t, row and col, a part of the channels each (rows, parts, n), from u, in order of nodes if GATHER
    and with samples if EACH, and v, in order of rank. FIRST, SECOND: the axes that the permutation acted on.
    """
    at, part = (tl.program_id(0) // parts).to(tl.int64), tl.program_id(0) % parts
    i, graph = tl.arange(0, N), at // k
    here = real_nodes(num_nodes, graph, i, n, i < n)
    nodes = tl.sum(here.to(tl.int32), 0)
    row_scale = tl.load(row + at * n + i, mask=here, other=0.0)[None, :, None]
    col_scale = tl.load(col + at * n + i, mask=here, other=0.0)[None, :, None]
    up, down, start, stop, tied = row_decays(t, at, nodes, n, tau_inverse, DTYPE, N)
    row_sum, col_sum, sig = tl.zeros((N,), DTYPE), tl.zeros((N,), DTYPE), tl.zeros((N,), DTYPE)
    sample = at if EACH else graph
    if FIRST:
        for item in range(part, tl.cdiv(line, C0), parts):
            o, q = _block_of(item, line, 1, C0)
            us = load_tile(u, perm, num_nodes, sample, at, graph, n, c, 1, line, o, q, GATHER, True, DTYPE, N)
            vs = load_tile(v, perm, num_nodes, at, at, graph, n, c, 1, line, o, q, False, True, DTYPE, N)
            row_sum, col_sum, sig = pair_sums(
                us, vs, row_scale, col_scale, up, down, start, stop, tied, row_sum, col_sum, sig
            )
    if SECOND:
        for item in range(part, tl.cdiv(n, L1) * tl.cdiv(c, C1), parts):
            o, q = _block_of(item, c, L1, C1)
            us = load_tile(u, perm, num_nodes, sample, at, graph, n, c, n, c, o, q, GATHER, False, DTYPE, N)
            vs = load_tile(v, perm, num_nodes, at, at, graph, n, c, n, c, o, q, False, False, DTYPE, N)
            row_sum, col_sum, sig = pair_sums(
                us, vs, row_scale, col_scale, up, down, start, stop, tied, row_sum, col_sum, sig
            )
    w = weight_of(weights, scale, at + tl.zeros((N,), tl.int64), None, DTYPE)
    to = (at * parts + part) * n + i
    unit = tl.full((N,), tau_inverse, tl.float64).to(DTYPE)
    tl.store(grad_t + to, sig * unit * w, mask=i < n)
    tl.store(grad_row + to, row_sum * w, mask=i < n)
    tl.store(grad_col + to, col_sum * w, mask=i < n)


@triton.jit(do_not_specialize=["k", "n"])
def soft_product_kernel(
    x, perm, t, before, after, num_nodes, weights, y, k, n, c, outer, inner, tau_inverse: tl.float64,
    scale: tl.float64, GATHER: tl.constexpr, EACH: tl.constexpr, FIRST: tl.constexpr, DTYPE: tl.constexpr,
    N: tl.constexpr, L: tl.constexpr, C: tl.constexpr,
):  # fmt: skip
    """y = w after (K (before x)) along one axis of each sample, in order of rank."""
    items = tl.cdiv(outer, L) * tl.cdiv(inner, C)
    at, item = (tl.program_id(0) // items).to(tl.int64), tl.program_id(0) % items
    i, graph = tl.arange(0, N), at // k
    here = real_nodes(num_nodes, graph, i, n, i < n)
    up, down, _start, _stop, _tied = row_decays(t, at, tl.sum(here.to(tl.int32), 0), n, tau_inverse, DTYPE, N)
    o, q = _block_of(item, inner, L, C)
    xs = load_tile(
        x, perm, num_nodes, at if EACH else graph, at, graph, n, c, outer, inner, o, q, GATHER, FIRST, DTYPE, N
    )
    xs *= tl.load(before + at * n + i, mask=here, other=0.0)[None, :, None]
    lower, higher = lower_and_higher(xs, up, down)
    w = weight_of(weights, scale, at + tl.zeros((N,), tl.int64), None, DTYPE)
    factor = (tl.load(after + at * n + i, mask=here, other=0.0) * w)[None, :, None]
    lines = (at * outer + o.to(tl.int64))[:, None] * n + i[None, :]
    mask = (o < outer)[:, None, None] & (i < n)[None, :, None] & (q < inner)[None, None, :]
    value = ((lower + higher) + xs) * factor
    tl.store(y + lines[:, :, None] * inner + q[None, None, :], value.to(y.dtype.element_ty), mask=mask)


def _tiles(n: int, c: int, dtype: torch.dtype) -> dict:
    """By n: channels at once where the first axis is scanned, and where the second is the lines and their channels."""
    block = power_of_two(n, 16)
    room = max((_TILE if dtype == torch.float32 else _TILE // 2) // block, 1)
    channels = min(power_of_two(c), room)
    return {"N": block, "C0": min(room, 64), "L1": min(room // channels, 64), "C1": channels}


def check_soft(what: str, x: Tensor, perm: Tensor, t: Tensor | None, row: Tensor | None, col: Tensor | None) -> None:
    for name, p in (("t", t), ("row", row), ("col", col)):
        if p is None or p.shape != perm.shape or p.dtype != compute(x.dtype)[0]:
            raise ValueError(f"{what}: expected {name} like perm, in the dtype that the features are computed in")
    if perm.shape[2] > 4096:
        raise ValueError(
            f"backend 'triton': {what} with a soft permutation takes at most 4096 nodes, got n = {perm.shape[2]}; "
            "backend='reference' has no such limit"
        )


def soft_gradient(
    u, v, perm, soft, num_nodes, tau, axes, *, gathered=True, each=False, weights=None, scale=1.0
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of t, row and col, (b, k, n) each, see `soft_gradient_kernel`; axes is a subset of (0, 1)."""
    t, row, col = soft
    b, k, n = perm.shape
    c = v.shape[-1]
    line = c if v.dim() == 4 else n * c
    # Cut by the number of rows alone, not by the device, so that sums are the same on any.
    parts = max(1, min(-(-_BUSY // max(b * k, 1)), -(-line // 64)))
    grads = tuple(t.new_empty(b, k, parts, n) for _ in range(3))
    if perm.numel():
        with on(t):
            soft_gradient_kernel[programs(b * k * parts, "permute_backward")](
                u, v, perm, t, row, col, num_nodes, weights, *grads, k, n, c, line, parts, 1.0 / tau, scale,
                gathered, each, 0 in axes, 1 in axes, compute(t.dtype)[1], **_tiles(n, c, t.dtype), num_warps=8,
                **OPTIONS,
            )  # fmt: skip
    return tuple(g.sum(2) if parts > 1 else g.view(b, k, n) for g in grads)


def soft_product(
    x, perm, t, before, after, num_nodes, tau, axis, out, *, gathered=False, each=True, weights=None, scale=1.0
) -> Tensor:
    """out (b, k, n, c) or (b, k, n, n, c) in order of rank, see `soft_product_kernel`."""
    b, k, n = perm.shape
    c = x.shape[-1]
    outer, inner = (1, c if out.dim() == 4 else n * c) if axis == 0 else (n, c)
    if out.numel():
        tiles = _tiles(n, c, t.dtype)
        block = {"L": 1, "C": tiles["C0"]} if axis == 0 else {"L": tiles["L1"], "C": tiles["C1"]}
        count = b * k * -(-outer // block["L"]) * -(-inner // block["C"])
        with on(t):
            soft_product_kernel[programs(count, "permute")](
                x, perm, t, before, after, num_nodes, weights, out, k, n, c, outer, inner, 1.0 / tau, scale,
                gathered, each, axis == 0, compute(t.dtype)[1], tiles["N"], **block, num_warps=8, **OPTIONS,
            )  # fmt: skip
    return out
