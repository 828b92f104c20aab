"""Sorts of one row in a program: by descending score with random ties, and back."""

import triton
import triton.language as tl

from lps_kernels.triton.philox import STREAM_TIES, word

# An index within a row takes 12 bits of a sort key, which is what bounds n.
MAX_NODES = 4096
INDEX_BITS = tl.constexpr(12)
INDEX_MASK = tl.constexpr(4095)


@triton.jit
def count_nodes(num_nodes, graph, n):
    """How many nodes of a graph are real, and no more than there are."""
    if num_nodes is None:
        return n
    else:
        return tl.minimum(tl.maximum(tl.load(num_nodes + graph), 0), n).to(tl.int32)


@triton.jit
def _descending_key(z, nodes, i):
    """Integers that ascend as scores descend: NaN behind -inf, padding last; -0 and 0 are equal."""
    z = tl.where(z == 0, 0.0, z)
    if z.dtype == tl.float64:
        bits = z.to(tl.int64, bitcast=True)
        LAST: tl.constexpr = (1 << 63) - 1
        key = ~(bits ^ ((bits >> 63) & LAST))
    else:
        bits = z.to(tl.int32, bitcast=True)
        LAST: tl.constexpr = (1 << 31) - 1
        key = ~(bits ^ ((bits >> 31) & LAST))
    return tl.where(i < nodes, tl.where(z != z, LAST - 1, key), LAST)


@triton.jit
def sort_descending(z, nodes, seed, row, BLOCK: tl.constexpr):
    """Indices (BLOCK,) int32 that sort the first `nodes` of z by descending score, the rest in place, and the sorted z.

    What is not finite comes back as any value. Ties are broken by a random word of each element. Few rows have any, so
    these are put in order by a pass of their own, within groups of equal keys, and only where there are some. All
    passes are one loop, because a sort is what takes Triton long to compile.
    """
    i = tl.arange(0, BLOCK)
    key = _descending_key(z, nodes, i)
    DOUBLE: tl.constexpr = z.dtype == tl.float64
    LAST: tl.constexpr = 1 if DOUBLE else 0  # float64: the low half of the keys first, then, stably, the high one
    packed = ((key & 0xFFFFFFFF) << INDEX_BITS) | i if DOUBLE else (key.to(tl.int64) << 32) | i
    order, ordered, step, steps = i, key, 0, LAST + 1
    while step < steps:
        packed = tl.sort(packed)
        order = (packed & INDEX_MASK).to(tl.int32)
        if step == LAST:
            ordered = tl.gather(key, order, 0) if DOUBLE else (packed >> 32).to(tl.int32)
            tied = (ordered == tl.gather(ordered, tl.maximum(i - 1, 0), 0)) & (i > 0) & (i < nodes)
            if tl.max(tied.to(tl.int32), 0) > 0:
                group = tl.cumsum(tl.where(tied, 0, 1), 0).to(tl.int64)
                tie = word(seed, order, row, STREAM_TIES).to(tl.int64)
                packed = (group << 44) | (tie << INDEX_BITS) | order
                steps += 1
        elif DOUBLE:
            packed = (tl.gather(key >> 32, order, 0) << (2 * INDEX_BITS)) | (i << INDEX_BITS) | order
        step += 1
    if DOUBLE:
        return order, tl.gather(z, order, 0)
    else:
        return order, (~ordered ^ ((~ordered >> 31) & 0x7FFFFFFF)).to(tl.float32, bitcast=True)


@triton.jit
def inverse(perm, BLOCK: tl.constexpr):
    """The inverse of a permutation (BLOCK,) int32."""
    return tl.sort(perm * BLOCK + tl.arange(0, BLOCK)) % BLOCK
