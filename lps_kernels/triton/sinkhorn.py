"""Sinkhorn's iteration on one row of sorted scores in lanes, see laplace.py, and its gradient."""

import functools

import torch
import triton
import triton.language as tl

from lps_kernels.triton.laplace import (
    decays,
    from_lanes,
    gaps,
    load_lanes,
    split_sums,
    store_lanes,
    strict_sums,
    to_lanes,
)
from lps_kernels.triton.launch import OPTIONS, power_of_two
from lps_kernels.triton.ties import merge, tied_groups

# By block, the row padded to a power of two: its warps, and elements a lane. Registers bound the elements: at 4,096,
# and in float64 at 2,048, a thread has 64 or 128 of them and spills.
_LANES = {32: (1, 1), 64: (1, 2), 128: (1, 4), 256: (1, 8), 512: (2, 8), 1024: (4, 8), 2048: (8, 8), 4096: (16, 8)}
_LANES_DOUBLE = {
    32: (1, 1),
    64: (1, 2),
    128: (1, 4),
    256: (2, 4),
    512: (4, 4),
    1024: (8, 4),
    2048: (16, 4),
    4096: (32, 4),
}

WARP = 64 if torch.version.hip else 32  # threads of a warp


@triton.jit
def half_step(x, decay, W: tl.constexpr, E: tl.constexpr):
    """1 / (K x), half an iteration."""
    lower, higher = strict_sums(x, decay, W, E)
    y = ()
    for e in tl.static_range(E):
        y = y + (1.0 / (lower[e] + (higher[e] + x[e])),)
    return y


@triton.jit
def half_step_backward(x, y, a, sig, groups, tied, decay, W: tl.constexpr, E: tl.constexpr):
    """With a the gradient of log y, y = 1 / (K x), and q = y a: that of log x is -x K q, and sig -= q D x + x D q."""
    q = ()
    for e in tl.static_range(E):
        q = q + (y[e] * a[e],)
    low, high, _own = merge(x, groups, tied, W, E)
    lower_x, higher_x = split_sums(low, high, decay, W, E)
    slope_x = ()
    for e in tl.static_range(E):
        slope_x = slope_x + (lower_x[e] - higher_x[e],)
    low, high, own = merge(q, groups, tied, W, E)
    lower, higher = split_sums(low, high, decay, W, E)
    before, slope = (), ()
    for e in tl.static_range(E):
        before = before + (-x[e] * (lower[e] + (higher[e] + own[e])),)
        slope = slope + (sig[e] - (q[e] * slope_x[e] + x[e] * (lower[e] - higher[e])),)
    return before, slope


@triton.jit
def sinkhorn_backward(
    t, row, col, grad_row, grad_col, kept, at, nodes, n, tau_inverse, n_iter, DTYPE: tl.constexpr,
    W: tl.constexpr, E: tl.constexpr,
):  # fmt: skip
    """The gradient of t (BLOCK,) in units of tau. kept: room for the iterate before each half step, rows (BLOCK,)."""
    BLOCK: tl.constexpr = W * 32 * E
    i = tl.arange(0, BLOCK)
    rho, kap = tl.zeros((BLOCK,), DTYPE), tl.zeros((BLOCK,), DTYPE)
    mine = i < nodes
    if grad_row is not None:
        rho = tl.load(grad_row + at * n + i, mask=mine, other=0.0) * tl.load(row + at * n + i, mask=mine, other=0.0)
    if grad_col is not None:
        kap = tl.load(grad_col + at * n + i, mask=mine, other=0.0) * tl.load(col + at * n + i, mask=mine, other=0.0)
    sorted_t = tl.load(t + at * n + i, mask=mine, other=0.0)
    decay = decays(gaps(to_lanes(sorted_t, W, E), nodes, tau_inverse, DTYPE, W, E))
    groups, tied = tied_groups(to_lanes(sorted_t, W, E), nodes, W, E)
    y = to_lanes(tl.full((BLOCK,), 1.0, DTYPE), W, E)
    for m in range(2 * n_iter):
        store_lanes(kept + m * BLOCK, y, W, E)
        y = half_step(y, decay, W, E)
    tl.debug_barrier()
    a, extra = to_lanes(kap, W, E), to_lanes(rho, W, E)
    sig = to_lanes(tl.zeros((BLOCK,), DTYPE), W, E)
    for back in range(2 * n_iter):
        x = load_lanes(kept + (2 * n_iter - 1 - back) * BLOCK, W, E)
        before, sig = half_step_backward(x, y, a, sig, groups, tied, decay, W, E)
        y, a = x, ()
        for e in tl.static_range(E):
            a = a + (before[e] + extra[e],)
        extra = to_lanes(tl.zeros((BLOCK,), DTYPE), W, E)
    tl.debug_barrier()  # the next row of this program writes where this one has read
    return from_lanes(sig, W, E)


@functools.lru_cache(maxsize=1024)
def row_sizes(n: int, dtype: torch.dtype) -> dict:
    block = power_of_two(n, 32)
    warps, elements = (_LANES_DOUBLE if dtype == torch.float64 else _LANES)[block]
    return {"W": warps, "E": elements, "num_warps": warps_for(warps), **OPTIONS}


def warps_for(rows: int) -> int:
    """For rows of 32 lanes. Had AMD's warps, which hold two, as many, each would compute the same twice."""
    return max(rows * 32 // WARP, 1)
