"""Products with the SoftSort kernel K[i, j] = exp(-|t_i - t_j| / tau) of one row of sorted scores, as scans.

A row of W 32 E elements lies in E tensors (W, 32): warp w and lane l hold elements (32 w + l) E .. + E - 1. A scan runs
over a lane's own elements, then in five steps over the 32 lanes, then over the W warps. Every decay is made of a
difference of scores once a row, never of a product of decays, so that rounding does not pile up along a row, and the
decays' half of an associative scan, which would be the same in every product, is not computed again.
"""

import triton
import triton.language as tl

# Gaps are clipped here, in units of tau: the decay is zero, and zero times the gap is too. It isolates padding.
FAR = tl.constexpr(1e4)


@triton.jit
def unstack(x, E: tl.constexpr):
    """(W, 32, E) to E tensors (W, 32)."""
    if E == 1:
        return (tl.reshape(x, (x.shape[0], x.shape[1])),)
    else:
        low, high = tl.split(tl.permute(tl.reshape(x, (x.shape[0], x.shape[1], 2, E // 2)), (0, 1, 3, 2)))
        return unstack(low, E // 2) + unstack(high, E // 2)


@triton.jit
def stack(parts, E: tl.constexpr):
    """Undo `unstack`."""
    if E == 1:
        return tl.reshape(parts[0], (parts[0].shape[0], parts[0].shape[1], 1))
    else:
        both = tl.join(stack(parts[: E // 2], E // 2), stack(parts[E // 2 :], E // 2))
        return tl.reshape(tl.permute(both, (0, 1, 3, 2)), (both.shape[0], both.shape[1], E))


@triton.jit
def to_lanes(x, W: tl.constexpr, E: tl.constexpr):
    """(W 32 E,) to E tensors (W, 32)."""
    return unstack(tl.reshape(x, (W, 32, E)), E)


@triton.jit
def from_lanes(parts, W: tl.constexpr, E: tl.constexpr):
    """E tensors (W, 32) to (W 32 E,)."""
    return tl.reshape(stack(parts, E), (W * 32 * E,))


@triton.jit
def lane_numbers(W: tl.constexpr):
    return tl.broadcast_to(tl.arange(0, 32)[None, :], (W, 32))


@triton.jit
def shifted(x, k: tl.constexpr, lane):
    """Each lane's value from k lanes before, or after for negative k; the row's ends get any value of the row."""
    return tl.gather(x, tl.minimum(tl.maximum(lane - k, 0), 31), 1)


@triton.jit
def of_lane(x, which: tl.constexpr, lane):
    """(W, 1): every warp's value in one lane."""
    return tl.sum(tl.where(lane == which, x, 0.0), 1, keep_dims=True)


@triton.jit
def across(x, W: tl.constexpr):
    """(W, 1) to (1, W). tl.trans would give a layout of its own, and a conversion of every tensor that meets it."""
    diagonal = tl.arange(0, W)[:, None] == tl.arange(0, W)[None, :]
    return tl.sum(tl.where(diagonal, x, 0.0), 0, keep_dims=True)


@triton.jit
def of_warp(x, which, W: tl.constexpr):
    """(W, 1): x (1, W) of warp which[w] for each warp w; zero where there is no such warp."""
    return tl.sum(tl.where(which == tl.arange(0, W)[None, :], x, 0.0), 1, keep_dims=True)


@triton.jit
def previous(last, W: tl.constexpr):
    """From the last element of each lane, that of the lane before, across warps too; the first gets any value."""
    lane = lane_numbers(W)
    warp = tl.arange(0, W)[:, None]
    before_warp = of_warp(across(of_lane(last, 31, lane), W), warp - 1, W)
    return tl.where(lane == 0, before_warp, shifted(last, 1, lane))


@triton.jit
def gap(low, high, real, tau_inverse, DTYPE: tl.constexpr):
    """The distance of a lower score from a higher one in units of tau; FAR where it is not real.

    1 / tau comes in two parts for float32: rounded to one float it would bend every decay of a row the same way.
    """
    whole = tl.full((1, 1), tau_inverse, tl.float64)
    first = tl.minimum(whole, 3e38).to(DTYPE)
    scaled = (high - low) * first
    if DTYPE == tl.float32:
        scaled = scaled + (high - low) * tl.where(whole < 3e38, whole - first, 0.0).to(DTYPE)
    return tl.where(real & (scaled < FAR), scaled, FAR)


@triton.jit
def gaps(t, nodes, tau_inverse, DTYPE: tl.constexpr, W: tl.constexpr, E: tl.constexpr):
    """What the scans of a row need: gaps between neighbours in a lane, from and to the lanes beside it, between lanes
    at distances 1 to 16, from and to the warps beside it, and between warps. t: E tensors (W, 32), nodes: how many
    are real.
    """
    lane, warp = lane_numbers(W), tl.arange(0, W)[:, None]
    at = (warp * 32 + lane) * E
    # The last score before this lane's and the first after them, across warps too.
    warp_last, warp_first = across(of_lane(t[E - 1], 31, lane), W), across(of_lane(t[0], 0, lane), W)
    before_warp, after_warp = of_warp(warp_last, warp - 1, W), of_warp(warp_first, warp + 1, W)
    before = tl.where(lane == 0, before_warp, shifted(t[E - 1], 1, lane))
    after = tl.where(lane == 31, after_warp, shifted(t[0], -1, lane))
    inner, up, down, up_lanes, down_lanes = (), (), (), (), ()
    for e in tl.static_range(E):
        if e > 0:
            inner = inner + (gap(t[e], t[e - 1], at + e < nodes, tau_inverse, DTYPE),)
        up = up + (gap(t[e], before, (at > 0) & (at + e < nodes), tau_inverse, DTYPE),)
        down = down + (gap(after, t[e], at + E < nodes, tau_inverse, DTYPE),)
    for j in tl.static_range(5):
        far_up, far_down = shifted(t[E - 1], 1 << j, lane), shifted(t[0], -(1 << j), lane)
        real_up = (lane >= (1 << j)) & (at + E - 1 < nodes)
        real_down = (lane < 32 - (1 << j)) & (at + (E << j) < nodes)
        up_lanes = up_lanes + (gap(t[E - 1], far_up, real_up, tau_inverse, DTYPE),)
        down_lanes = down_lanes + (gap(far_down, t[0], real_down, tau_inverse, DTYPE),)
    if W == 1:
        return inner, up, down, up_lanes, down_lanes, (), ()
    else:  # said, because Triton 3.6 compiles what follows a return
        # From warps before to the end of the warp before this one, and from there to each lane; mirrored.
        other = tl.arange(0, W)[None, :]
        real_before, real_after = (
            (other < warp) & (warp * 32 * E - 1 < nodes),
            (other > warp) & (other * 32 * E < nodes),
        )
        warps_up = gap(before_warp, warp_last, real_before, tau_inverse, DTYPE)
        warps_down = gap(warp_first, after_warp, real_after, tau_inverse, DTYPE)
        to_lane = gap(before, before_warp, (warp > 0) & (at - 1 < nodes), tau_inverse, DTYPE)
        from_lane = gap(after_warp, after, (warp < W - 1) & ((warp + 1) * 32 * E < nodes), tau_inverse, DTYPE)
        return inner, up, down, up_lanes, down_lanes, (warps_up, to_lane), (warps_down, from_lane)


@triton.jit
def _exp_all(parts):
    found = ()
    for j in tl.static_range(len(parts)):
        found = found + (tl.exp(-parts[j]),)
    return found


@triton.jit
def decays(gaps):
    """exp(-gap), of all of `gaps`."""
    found = ()
    for j in tl.static_range(7):
        found = found + (_exp_all(gaps[j]),)
    return found


@triton.jit
def _carry(total, lanes, warps, lane, STEP: tl.constexpr, W: tl.constexpr):
    """The sum over the lanes before (STEP 1) or after (-1), as it arrives at this one, of totals (W, 32)."""
    for j in tl.static_range(5):
        total += lanes[j] * shifted(total, STEP << j, lane)
    arrived = shifted(total, STEP, lane)
    if W > 1:
        END: tl.constexpr = 31 if STEP == 1 else 0
        START: tl.constexpr = 31 - END
        of_warps = tl.sum(warps[0] * across(of_lane(total, END, lane), W), 1, keep_dims=True)
        arrived = tl.where(lane == START, 0.0, arrived) + warps[1] * of_warps
    return arrived


@triton.jit
def within_lanes(low, high, inner, E: tl.constexpr):
    """The strict sums over a lane's own elements, of lower ranks of low and of higher ranks of high."""
    lower, higher = (tl.zeros_like(low[0]),), (tl.zeros_like(low[0]),)
    for e in tl.static_range(1, E):
        lower = lower + (inner[e - 1] * (lower[e - 1] + low[e - 1]),)
        higher = (inner[E - 1 - e] * (higher[0] + high[E - e]),) + higher
    return lower, higher


@triton.jit
def split_sums(low, high, decays, W: tl.constexpr, E: tl.constexpr, ROWS: tl.constexpr = 1):
    """Sums over j < i of K[i, j] low_j, and over j > i of K[i, j] high_j.

    Where W is 1 there may be several rows of x, (ROWS, 32) each of the E tensors, for one row of scores.
    """
    inner, up, down, up_lanes, down_lanes, up_warps, down_warps = decays
    lower, higher = within_lanes(low, high, inner, E)
    below = _carry(lower[E - 1] + low[E - 1], up_lanes, up_warps, lane_numbers(W * ROWS), 1, W)
    above = _carry(higher[0] + high[0], down_lanes, down_warps, lane_numbers(W * ROWS), -1, W)
    lower_sums, higher_sums = (), ()
    for e in tl.static_range(E):
        lower_sums = lower_sums + (lower[e] + up[e] * below,)
        higher_sums = higher_sums + (higher[e] + down[e] * above,)
    return lower_sums, higher_sums


@triton.jit
def strict_sums(x, decays, W: tl.constexpr, E: tl.constexpr, ROWS: tl.constexpr = 1):
    """Sums over lower and over higher ranks j of K[i, j] x_j, without the diagonal."""
    return split_sums(x, x, decays, W, E, ROWS)


@triton.jit
def store_lanes(at, x, W: tl.constexpr, E: tl.constexpr):
    """Write a row in lanes to room for W 32 E numbers that `load_lanes` reads: 16 bytes a thread at once."""
    RUN: tl.constexpr = min(E, 128 // x[0].dtype.primitive_bitwidth)
    run = (tl.arange(0, W)[:, None, None] * 32 + tl.arange(0, 32)[None, :, None]) * RUN
    for part in tl.static_range(E // RUN):
        number = run + tl.arange(0, RUN)[None, None, :] + part * (W * 32 * RUN)
        tl.store(at + number, stack(x[part * RUN : (part + 1) * RUN], RUN))


@triton.jit
def load_lanes(at, W: tl.constexpr, E: tl.constexpr):
    """Read what `store_lanes` wrote, each thread its own."""
    RUN: tl.constexpr = min(E, 128 // at.dtype.element_ty.primitive_bitwidth)
    run = (tl.arange(0, W)[:, None, None] * 32 + tl.arange(0, 32)[None, :, None]) * RUN
    x = ()
    for part in tl.static_range(E // RUN):
        number = run + tl.arange(0, RUN)[None, None, :] + part * (W * 32 * RUN)
        x = x + unstack(tl.load(at + number), RUN)
    return x
