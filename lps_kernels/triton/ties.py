"""Groups of equal scores in scans, see laplace.py: |t_i - t_j| has slope zero between tied scores.

A scan from lower ranks sees the sum of a group at its last rank and zeros at its others, so that what each rank of the
group gets is the sum over the ranks before the group; a scan from higher ranks sees it at the first. Nothing tied is
added and taken away again, so nothing cancels.
"""

import triton
import triton.language as tl

from lps_kernels.triton.laplace import lane_numbers, previous, shifted, stack, unstack


@triton.jit
def tied_groups(t, nodes, W: tl.constexpr, E: tl.constexpr):
    """Bit e of a lane's word: whether its element e begins a group, e = E being the next lane's first; and whether any
    group is larger than one. t: the row's sorted scores, E tensors (W, 32).
    """
    at = (tl.arange(0, W)[:, None] * 32 + tl.arange(0, 32)[None, :]) * E
    before, word = previous(t[E - 1], W), tl.zeros((W, 32), tl.int32)
    for e in tl.static_range(E):
        starts = (t[e] != (before if e == 0 else t[e - 1])) | (at + e >= nodes) | (at + e == 0)
        word += tl.where(starts, 1 << e, 0)
    after = tl.where(at == (W * 32 - 1) * E, 1, shifted(word, -1, lane_numbers(W)) & 1)
    if W > 1:
        first = tl.sum(tl.where(tl.arange(0, 32)[None, :] == 0, word & 1, 0), 1, keep_dims=True)
        warp = tl.arange(0, W)
        next_warp = tl.sum(tl.where(warp[:, None] == warp[None, :] + 1, first, 0), 0)
        after = tl.where(tl.arange(0, 32)[None, :] == 31, tl.where(warp == W - 1, 1, next_warp)[:, None], after)
    word += after << E
    ALL: tl.constexpr = (2 << E) - 1
    return word, tl.min(tl.min((word == ALL).to(tl.int32), 1), 0) == 0


@triton.jit
def _flags(word, first: tl.constexpr, E: tl.constexpr):
    """E tensors: bits first to first + E - 1 of each word."""
    found = ()
    for e in tl.static_range(E):
        found = found + ((word >> (first + e)) & 1,)
    return found


@triton.jit
def _within_group(a, a_stops, b, b_stops):
    return tl.where(b_stops != 0, b, a + b), a_stops | b_stops


@triton.jit
def _sums_up_to(x, stops, ROWS: tl.constexpr, W: tl.constexpr, E: tl.constexpr, REVERSE: tl.constexpr):
    """Sums from where a group begins, or ends if REVERSE, to each rank, of ROWS rows in lanes."""
    stops = tl.broadcast_to(tl.reshape(stack(stops, E), (1, W * 32 * E)), (ROWS, W * 32 * E))
    x = tl.reshape(stack(x, E), (ROWS, W * 32 * E))
    sums, _stops = tl.associative_scan((x, stops), 1, _within_group, reverse=REVERSE)
    return unstack(tl.reshape(sums, (ROWS * W, 32, E)), E)


@triton.jit
def merge(x, groups, tied, W: tl.constexpr, E: tl.constexpr, ROWS: tl.constexpr = 1):
    """x as a scan from lower ranks takes it, as one from higher ranks does, and what stands for the diagonal.

    ROWS: how many rows x has where W is 1.
    """
    low, high, own = x, x, x
    if tied:
        starts, ends = _flags(groups, 0, E), _flags(groups, 1, E)
        up, down = _sums_up_to(x, starts, ROWS, W, E, False), _sums_up_to(x, ends, ROWS, W, E, True)
        low, high, own = (), (), ()
        for e in tl.static_range(E):
            low = low + (tl.where(ends[e] != 0, up[e], 0.0),)
            high = high + (tl.where(starts[e] != 0, down[e], 0.0),)
            own = own + (up[e] + (down[e] - x[e]),)
    return low, high, own
