"""What kernels that move nodes and edges share: which of them there are, where they go, and what each counts.

Their pointers carry a hint of contiguity 1 where they are gathered. Threads then take neighbours, one number each: four
numbers a thread, as Triton lays out a tile of which another access is contiguous, ask for each sector four times. The
hint holds on what an operation of the same function made, so it can't be given by a function.
"""

import triton
import triton.language as tl


@triton.jit
def positions(first, n, P: tl.constexpr):
    """Rows and ranks of P consecutive positions of rows of n. Only the first one divides in 64 bits."""
    row = first // n
    local = (first - row * n).to(tl.int32) + tl.arange(0, P)
    return row + local // n, local % n


@triton.jit
def real_nodes(num_nodes, graph, i, n, mask):
    """Which nodes i of their graphs are real."""
    if num_nodes is None:
        return mask & (i < n)
    else:
        return mask & (i < tl.minimum(tl.load(num_nodes + (graph + tl.zeros_like(i)), mask=mask, other=0), n))


@triton.jit
def node(perm, at, n, mask):
    """perm at positions; what is no index of a node can't be read or written out of bounds."""
    return tl.minimum(tl.maximum(tl.load(perm + at, mask=mask, other=0), 0), n - 1).to(tl.int32)


@triton.jit
def weight_of(weights, scale, row, mask, DTYPE: tl.constexpr):
    if weights is None:
        return tl.full(row.shape, scale, tl.float64).to(DTYPE)
    else:
        return tl.load(weights + row, mask=mask, other=None if mask is None else 0.0).to(DTYPE)
