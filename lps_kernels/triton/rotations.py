"""What the rotation kernels are made of: d x d matrices, d at most 4, on the space axis of features in registers.

Features of one sample are (n, d, c) or (n, d, d, c). A lane is a node and a channel and holds all its space entries.
"""

from __future__ import annotations

import triton
import triton.language as tl

from lps_kernels.triton.entries import load_rows, pack, store_rows, unpack


@triton.jit
def lanes_of(block, c, LANES: tl.constexpr, DIRECT: tl.constexpr):
    """First lane of a block, how many it has, and node and channel of each. Blocks hold whole nodes unless DIRECT."""
    lane = tl.arange(0, LANES)
    per = LANES if DIRECT else LANES // c * c
    first = tl.zeros((), tl.int64) + block * per
    return first, per, tl.where(lane < per, (first + lane) // c, 2**62), (first + lane) % c


@triton.jit
def load_vectors(
    at, first, per, node, channel, count, c, dtype: tl.constexpr,
    COUNT: tl.constexpr, PADDED: tl.constexpr, LANES: tl.constexpr, DIRECT: tl.constexpr, SKEW: tl.constexpr,
):  # fmt: skip
    """The entries of a block's lanes of the features at `at`, zero from node `count` on."""
    raw = ()
    if DIRECT:
        for e in tl.static_range(COUNT):
            raw = raw + (tl.load(at + node * (COUNT * c) + e * c + channel, mask=node < count, other=0),)
    else:
        nodes = tl.maximum(tl.minimum(count * c - first, per), 0).to(tl.int32) // c
        raw = load_rows(at + first * COUNT, nodes, c, COUNT, PADDED, LANES, SKEW)
    entries = ()
    for e in tl.static_range(COUNT):
        entries = entries + (raw[e].to(dtype),)
    return entries


@triton.jit
def store_vectors(
    at, entries, first, per, node, channel, count, n, c,
    COUNT: tl.constexpr, PADDED: tl.constexpr, LANES: tl.constexpr, DIRECT: tl.constexpr, SKEW: tl.constexpr,
):  # fmt: skip
    """Undo `load_vectors`, with zeros from node `count` to node n."""
    kept = ()
    for e in tl.static_range(COUNT):
        kept = kept + (tl.where(node < count, entries[e], 0),)
    if DIRECT:
        for e in tl.static_range(COUNT):
            tl.store(at + node * (COUNT * c) + e * c + channel, kept[e].to(at.dtype.element_ty), mask=node < n)
    else:
        nodes = tl.maximum(tl.minimum(n * c - first, per), 0).to(tl.int32) // c
        store_rows(at + first * COUNT, kept, nodes, c, COUNT, PADDED, LANES, SKEW)


@triton.jit
def ordered(order, node, n, count):
    """The nodes that an order (n,) names, and an impossible one where that is padding or no node at all."""
    found = tl.load(order + node, mask=node < count, other=-1).to(tl.int64)
    return tl.where((found >= 0) & (found < count), found, 2**62)


@triton.jit
def moved(v, order, node, channel, c, live):
    """Lanes of a whole graph whose nodes are put in order, zero where they are not live."""
    source = tl.gather(order, tl.where(live, node, 0).to(tl.int32), 0) * c + channel.to(tl.int32)
    result = ()
    for e in tl.static_range(len(v)):
        result = result + (tl.where(live, tl.gather(v[e], tl.where(live, source, 0), 0), 0),)
    return result


@triton.jit
def nodes_of(num_nodes, b, n):
    if num_nodes is None:
        return n.to(tl.int64)
    else:
        return tl.minimum(tl.maximum(tl.load(num_nodes + b), 0), n).to(tl.int64)


@triton.jit
def broadcast_row(at, COUNT: tl.constexpr, WIDTH: tl.constexpr, LANES: tl.constexpr, THREADS: tl.constexpr):
    """COUNT neighbouring numbers, each in all lanes.

    A warp reads them at once: COUNT scalar loads, a sector each, would be a fifth of what a warp of 188 points moves.
    """
    i, run = tl.arange(0, WIDTH), tl.arange(0, WIDTH * THREADS)
    held = tl.load(at + i, mask=i < COUNT, other=0)
    parts = unpack(tl.gather(held, run // THREADS, 0), WIDTH)
    result = ()
    for e in tl.static_range(COUNT):
        each = tl.broadcast_to(parts[e][None, :], (LANES // THREADS, THREADS))
        result = result + (tl.reshape(each, (LANES,)),)
    return result


@triton.jit
def load_matrix(q, D: tl.constexpr, LANES: tl.constexpr, THREADS: tl.constexpr):
    """Entry e * D + a is q[e, a], the factor of x_e in y_a of q^T x."""
    return broadcast_row(q, D * D, 1 if D == 1 else 4 if D == 2 else 16, LANES, THREADS)


@triton.jit
def transposed(m, D: tl.constexpr):
    result = ()
    for e in tl.static_range(D):
        for a in tl.static_range(D):
            result = result + (m[a * D + e],)
    return result


@triton.jit
def apply_first(m, v, D: tl.constexpr, REST: tl.constexpr):
    """sum_e m[e, a] v[e, :], REST entries behind each of the D."""
    result = ()
    for a in tl.static_range(D):
        for i in tl.static_range(REST):
            total = m[a] * v[i]
            for e in tl.static_range(1, D):
                total += m[e * D + a] * v[e * REST + i]
            result = result + (total,)
    return result


@triton.jit
def apply_last(m, v, D: tl.constexpr):
    """sum_f m[f, l] v[:, f]"""
    result = ()
    for a in tl.static_range(D):
        for i in tl.static_range(D):
            total = m[i] * v[a * D]
            for f in tl.static_range(1, D):
                total += m[f * D + i] * v[a * D + f]
            result = result + (total,)
    return result


@triton.jit
def apply_matrix(m, v, D: tl.constexpr, ORDER: tl.constexpr):
    if ORDER == 1:
        return apply_first(m, v, D, 1)
    else:
        return apply_last(m, apply_first(m, v, D, D), D)


@triton.jit
def outer(x, g, D: tl.constexpr, REST: tl.constexpr, STRIDE: tl.constexpr, STEP: tl.constexpr):
    """Entry e * D + a: sum of x[e] g[a] over REST others. STRIDE is that of the axis of e and a, STEP of the others.

    Added to 0, so that no product is left that a sum over threads would contract: its copies would round differently.
    """
    result = ()
    for e in tl.static_range(D):
        for a in tl.static_range(D):
            total = x[e * STRIDE] * g[a * STRIDE] + 0.0
            for i in tl.static_range(1, REST):
                total += x[e * STRIDE + i * STEP] * g[a * STRIDE + i * STEP]
            result = result + (total,)
    return result


@triton.jit
def matrix_gradient(m, x, g, D: tl.constexpr, ORDER: tl.constexpr):
    """A lane's part of the gradient of m in y = m x or m x m^T, entry e * D + a."""
    if ORDER == 1:
        return outer(x, g, D, 1, 1, D)
    else:
        left = outer(apply_last(m, x, D), g, D, D, D, 1)
        right = outer(apply_first(m, x, D, D), g, D, D, 1, D)
        result = ()
        for i in tl.static_range(D * D):
            result = result + (left[i] + right[i],)
        return result


@triton.jit
def lane_sums(parts, COUNT: tl.constexpr, WIDTH: tl.constexpr):
    """(WIDTH,): the sum over lanes of each of COUNT tensors, then copies of the first."""
    padded = parts[:COUNT]
    for _ in tl.static_range(WIDTH - COUNT):
        padded = padded + (parts[0],)
    return tl.sum(tl.reshape(pack(padded, WIDTH), (WIDTH, parts[0].shape[0])), 1)


@triton.jit
def shifted(
    v, center, live, D: tl.constexpr, SIGN: tl.constexpr, LANES: tl.constexpr, THREADS: tl.constexpr
):  # fmt: skip
    """v plus or minus the center where lanes are live."""
    middle = broadcast_row(center, D, D if D < 3 else 4, LANES, THREADS)
    result = ()
    for e in tl.static_range(D):
        result = result + (tl.where(live, v[e] + SIGN * middle[e], 0),)
    return result
