"""Features of one sample as channels of scans along a node axis, and the sums of the gradient over them.

Features are seen as (outer, n, inner): a scan runs along n, the node axis that is acted on, and the other axes are
channels of it. inner is c, or n c where the first axis of edges is scanned; outer is 1, or n where the second one is.
"""

import triton
import triton.language as tl

from lps_kernels.triton.laplace import decays, from_lanes, gaps, split_sums, stack, to_lanes, unstack
from lps_kernels.triton.moves import node, real_nodes
from lps_kernels.triton.ties import merge, tied_groups


@triton.jit
def to_channels(tile, W: tl.constexpr, E: tl.constexpr):
    """A tile (L, N, C) in lanes, see laplace.py: one x of L C rows where W is 1, else L C of one row."""
    L: tl.constexpr = tile.shape[0]
    C: tl.constexpr = tile.shape[2]
    if W == 1:
        return (unstack(tl.reshape(tl.permute(tile, (0, 2, 1)), (L * C, 32, E)), E),)
    else:
        flat = unstack(tl.reshape(tl.permute(tile, (1, 0, 2)), (W, 32, E * L * C)), E * L * C)
        channels = ()
        for channel in tl.static_range(L * C):
            parts = ()
            for e in tl.static_range(E):
                parts = parts + (flat[e * L * C + channel],)
            channels = channels + (parts,)
        return channels


@triton.jit
def to_tile(channels, W: tl.constexpr, E: tl.constexpr, L: tl.constexpr, C: tl.constexpr):
    """Undo `to_channels`."""
    if W == 1:
        return tl.permute(tl.reshape(stack(channels[0], E), (L, C, 32 * E)), (0, 2, 1))
    else:
        flat = ()
        for e in tl.static_range(E):
            for channel in tl.static_range(L * C):
                flat = flat + (channels[channel][e],)
        return tl.permute(tl.reshape(stack(flat, E * L * C), (W * 32 * E, L, C)), (1, 0, 2))


@triton.jit
def row_vectors(t, row, col, at, nodes, n, tau_inverse, DTYPE: tl.constexpr, W: tl.constexpr, E: tl.constexpr):
    """Of a row: decays, what `merge` wants to know of ties, and row and col in lanes."""
    i = tl.arange(0, W * 32 * E)
    here = i < nodes
    sorted_t = tl.load(t + at * n + i, mask=here, other=0.0)
    decay = decays(gaps(to_lanes(sorted_t, W, E), nodes, tau_inverse, DTYPE, W, E))
    row_scale = to_lanes(tl.load(row + at * n + i, mask=here, other=0.0), W, E)
    col_scale = to_lanes(tl.load(col + at * n + i, mask=here, other=0.0), W, E)
    groups, tied = tied_groups(to_lanes(sorted_t, W, E), nodes, W, E)
    return decay, groups, tied, row_scale, col_scale


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
    return tl.load(
        tl.max_contiguous(x + (lines[:, :, None] * inner + at_q[None, None, :]), [1, 1, 1]), mask=mask, other=0
    ).to(DTYPE)


@triton.jit
def block_of(item, inner, L: tl.constexpr, C: tl.constexpr):
    """Outer and inner indices of a work item."""
    across = tl.cdiv(inner, C)
    return item // across * L + tl.arange(0, L), item % across * C + tl.arange(0, C)


@triton.jit
def pair_sums(u, v, vectors, sums, W: tl.constexpr, E: tl.constexpr, ROWS: tl.constexpr):
    """Adds to the gradients of row, col and t / tau through P with dL/dP = u v^T, of one channel or of ROWS of them."""
    decay, groups, tied, row_scale, col_scale = vectors
    row_sum, col_sum, sig = sums
    scaled_u, scaled_v = (), ()
    for e in tl.static_range(E):
        scaled_u, scaled_v = scaled_u + (u[e] * row_scale[e],), scaled_v + (v[e] * col_scale[e],)
    low, high, own = merge(scaled_v, groups, tied, W, E, ROWS)
    lower, higher = split_sums(low, high, decay, W, E, ROWS)
    new_row, half_sig = (), ()
    for e in tl.static_range(E):
        new_row = new_row + (row_sum[e] + u[e] * (lower[e] + higher[e] + own[e]),)
        half_sig = half_sig + (sig[e] + scaled_u[e] * (lower[e] - higher[e]),)
    low, high, own = merge(scaled_u, groups, tied, W, E, ROWS)
    lower, higher = split_sums(low, high, decay, W, E, ROWS)
    new_col, new_sig = (), ()
    for e in tl.static_range(E):
        new_col = new_col + (col_sum[e] + v[e] * (lower[e] + higher[e] + own[e]),)
        new_sig = new_sig + (half_sig[e] + scaled_v[e] * (lower[e] - higher[e]),)
    return new_row, new_col, new_sig


@triton.jit
def load_pair(
    u, v, perm, num_nodes, sample, at, graph, n, c, outer, inner, item, GATHER: tl.constexpr, FIRST: tl.constexpr,
    DTYPE: tl.constexpr, W: tl.constexpr, E: tl.constexpr, L: tl.constexpr, C: tl.constexpr,
):  # fmt: skip
    """A work item's channels of u, in order of nodes if GATHER, and of v, in lanes."""
    N: tl.constexpr = W * 32 * E
    o, q = block_of(item, inner, L, C)
    us = load_tile(u, perm, num_nodes, sample, at, graph, n, c, outer, inner, o, q, GATHER, FIRST, DTYPE, N)
    vs = load_tile(v, perm, num_nodes, at, at, graph, n, c, outer, inner, o, q, False, FIRST, DTYPE, N)
    return to_channels(us, W, E), to_channels(vs, W, E)


@triton.jit
def total(parts, W: tl.constexpr, E: tl.constexpr):
    """(BLOCK,): the sum over the rows of E tensors (ROWS, 32); over none where a row takes W warps."""
    if W == 1:
        found = ()
        for e in tl.static_range(E):
            found = found + (tl.sum(parts[e], 0, keep_dims=True),)
        return from_lanes(found, W, E)
    else:
        return from_lanes(parts, W, E)
