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
def _lanes(W: tl.constexpr):
    return tl.broadcast_to(tl.arange(0, 32)[None, :], (W, 32))


@triton.jit
def _shifted(x, k: tl.constexpr, lane):
    """Each lane's value from k lanes before, or after for negative k; the row's ends get any value of the row."""
    return tl.gather(x, tl.minimum(tl.maximum(lane - k, 0), 31), 1)


@triton.jit
def _of_lane(x, which: tl.constexpr, lane):
    """(W, 1): every warp's value in one lane."""
    return tl.sum(tl.where(lane == which, x, 0.0), 1, keep_dims=True)


@triton.jit
def _across(x, W: tl.constexpr):
    """(W, 1) to (1, W). tl.trans would give a layout of its own, and a conversion of every tensor that meets it."""
    diagonal = tl.arange(0, W)[:, None] == tl.arange(0, W)[None, :]
    return tl.sum(tl.where(diagonal, x, 0.0), 0, keep_dims=True)


@triton.jit
def _of_warp(x, which, W: tl.constexpr):
    """(W, 1): x (1, W) of warp which[w] for each warp w; zero where there is no such warp."""
    return tl.sum(tl.where(which == tl.arange(0, W)[None, :], x, 0.0), 1, keep_dims=True)


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
def _link(low, high, real, tau_inverse, DTYPE: tl.constexpr, TIES: tl.constexpr):
    if TIES:
        return tl.where(real & (low == high), 1.0, 0.0).to(DTYPE)
    else:
        return gap(low, high, real, tau_inverse, DTYPE)


@triton.jit
def gaps(t, nodes, tau_inverse, DTYPE: tl.constexpr, W: tl.constexpr, E: tl.constexpr, TIES: tl.constexpr = False):
    """What the scans of a row need: gaps between neighbours in a lane, from and to the lanes beside it, between lanes
    at distances 1 to 16, from and to the warps beside it, and between warps. t: E tensors (W, 32), nodes: how many
    are real. TIES: decays instead, one between equal scores and zero between others.
    """
    lane, warp = _lanes(W), tl.arange(0, W)[:, None]
    at = (warp * 32 + lane) * E
    # The last score before this lane's and the first after them, across warps too.
    warp_last, warp_first = _across(_of_lane(t[E - 1], 31, lane), W), _across(_of_lane(t[0], 0, lane), W)
    before_warp, after_warp = _of_warp(warp_last, warp - 1, W), _of_warp(warp_first, warp + 1, W)
    before = tl.where(lane == 0, before_warp, _shifted(t[E - 1], 1, lane))
    after = tl.where(lane == 31, after_warp, _shifted(t[0], -1, lane))
    inner, up, down, up_lanes, down_lanes = (), (), (), (), ()
    for e in tl.static_range(E):
        if e > 0:
            inner = inner + (_link(t[e], t[e - 1], at + e < nodes, tau_inverse, DTYPE, TIES),)
        up = up + (_link(t[e], before, (at > 0) & (at + e < nodes), tau_inverse, DTYPE, TIES),)
        down = down + (_link(after, t[e], at + E < nodes, tau_inverse, DTYPE, TIES),)
    for j in tl.static_range(5):
        far_up, far_down = _shifted(t[E - 1], 1 << j, lane), _shifted(t[0], -(1 << j), lane)
        real_up = (lane >= (1 << j)) & (at + E - 1 < nodes)
        real_down = (lane < 32 - (1 << j)) & (at + (E << j) < nodes)
        up_lanes = up_lanes + (_link(t[E - 1], far_up, real_up, tau_inverse, DTYPE, TIES),)
        down_lanes = down_lanes + (_link(far_down, t[0], real_down, tau_inverse, DTYPE, TIES),)
    if W == 1:
        return inner, up, down, up_lanes, down_lanes, (), ()
    # From warps before to the end of the warp before this one, and from there to each lane; mirrored.
    other = tl.arange(0, W)[None, :]
    real_before, real_after = (other < warp) & (warp * 32 * E - 1 < nodes), (other > warp) & (other * 32 * E < nodes)
    warps_up = _link(before_warp, warp_last, real_before, tau_inverse, DTYPE, TIES)
    warps_down = _link(warp_first, after_warp, real_after, tau_inverse, DTYPE, TIES)
    to_lane = _link(before, before_warp, (warp > 0) & (at - 1 < nodes), tau_inverse, DTYPE, TIES)
    from_lane = _link(after_warp, after, (warp < W - 1) & ((warp + 1) * 32 * E < nodes), tau_inverse, DTYPE, TIES)
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
        total += lanes[j] * _shifted(total, STEP << j, lane)
    arrived = _shifted(total, STEP, lane)
    if W > 1:
        END: tl.constexpr = 31 if STEP == 1 else 0
        START: tl.constexpr = 31 - END
        of_warps = tl.sum(warps[0] * _across(_of_lane(total, END, lane), W), 1, keep_dims=True)
        arrived = tl.where(lane == START, 0.0, arrived) + warps[1] * of_warps
    return arrived


@triton.jit
def _within_lanes(x, inner, E: tl.constexpr):
    """The strict sums over a lane's own elements."""
    lower, higher = (tl.zeros_like(x[0]),), (tl.zeros_like(x[0]),)
    for e in tl.static_range(1, E):
        lower = lower + (inner[e - 1] * (lower[e - 1] + x[e - 1]),)
        higher = (inner[E - 1 - e] * (higher[0] + x[E - e]),) + higher
    return lower, higher


@triton.jit
def strict_sums(x, decays, W: tl.constexpr, E: tl.constexpr, ROWS: tl.constexpr = 1):
    """Sums over j of lower and of higher ranks of K[i, j] x_j, without the diagonal.

    Where W is 1 there may be several x, (ROWS, 32) each of the E tensors, for one row of scores.
    """
    inner, up, down, up_lanes, down_lanes, up_warps, down_warps = decays
    lower, higher = _within_lanes(x, inner, E)
    below = _carry(lower[E - 1] + x[E - 1], up_lanes, up_warps, _lanes(W * ROWS), 1, W)
    above = _carry(higher[0] + x[0], down_lanes, down_warps, _lanes(W * ROWS), -1, W)
    lower_sums, higher_sums = (), ()
    for e in tl.static_range(E):
        lower_sums = lower_sums + (lower[e] + up[e] * below,)
        higher_sums = higher_sums + (higher[e] + down[e] * above,)
    return lower_sums, higher_sums


@triton.jit
def _products(a, b):
    found = ()
    for j in tl.static_range(len(a)):
        found = found + (a[j] * b[j],)
    return found


@triton.jit
def moments(gaps, decays):
    """gap exp(-gap), of all of `gaps`: what a first moment picks up on the way."""
    found = ()
    for j in tl.static_range(7):
        found = found + (_products(gaps[j], decays[j]),)
    return found


@triton.jit
def _carry_moment(
    total, moment, lanes, lanes1, warps, warps1, lane, STEP: tl.constexpr, W: tl.constexpr
):  # fmt: skip
    """`_carry` of totals and of their first moments."""
    for j in tl.static_range(5):
        before = _shifted(total, STEP << j, lane)
        moment += lanes[j] * _shifted(moment, STEP << j, lane) + lanes1[j] * before
        total += lanes[j] * before
    arrived, arrived1 = _shifted(total, STEP, lane), _shifted(moment, STEP, lane)
    if W > 1:
        END: tl.constexpr = 31 if STEP == 1 else 0
        START: tl.constexpr = 31 - END
        of_warp, of_warp1 = _across(_of_lane(total, END, lane), W), _across(_of_lane(moment, END, lane), W)
        of_warps = tl.sum(warps[0] * of_warp, 1, keep_dims=True)
        of_warps1 = tl.sum(warps[0] * of_warp1 + warps1[0] * of_warp, 1, keep_dims=True)
        arrived = tl.where(lane == START, 0.0, arrived) + warps[1] * of_warps
        arrived1 = tl.where(lane == START, 0.0, arrived1) + warps[1] * of_warps1 + warps1[1] * of_warps
    return arrived, arrived1


@triton.jit
def moment_sums(x, decays, moments, W: tl.constexpr, E: tl.constexpr):
    """`strict_sums`, and the same with first moments: sums over j of K[i, j] (|t_i - t_j| / tau) x_j."""
    inner, up, down, up_lanes, down_lanes, up_warps, down_warps = decays
    inner1, up1, down1, up_lanes1, down_lanes1, up_warps1, down_warps1 = moments
    lower, higher = _within_lanes(x, inner, E)
    low1, high1 = (tl.zeros_like(x[0]),), (tl.zeros_like(x[0]),)
    for e in tl.static_range(1, E):
        low1 = low1 + (inner[e - 1] * low1[e - 1] + inner1[e - 1] * (lower[e - 1] + x[e - 1]),)
        high1 = (inner[E - 1 - e] * high1[0] + inner1[E - 1 - e] * (higher[E - e] + x[E - e]),) + high1
    below, below1 = _carry_moment(
        lower[E - 1] + x[E - 1], low1[E - 1], up_lanes, up_lanes1, up_warps, up_warps1, _lanes(W), 1, W
    )  # fmt: skip
    above, above1 = _carry_moment(
        higher[0] + x[0], high1[0], down_lanes, down_lanes1, down_warps, down_warps1, _lanes(W), -1, W
    )  # fmt: skip
    lower_sums, higher_sums, lower1, higher1 = (), (), (), ()
    for e in tl.static_range(E):
        lower_sums = lower_sums + (lower[e] + up[e] * below,)
        higher_sums = higher_sums + (higher[e] + down[e] * above,)
        lower1 = lower1 + (low1[e] + up[e] * below1 + up1[e] * below,)
        higher1 = higher1 + (high1[e] + down[e] * above1 + down1[e] * above,)
    return lower_sums, higher_sums, lower1, higher1


@triton.jit
def any_ties(t, nodes, BLOCK: tl.constexpr):
    """Whether two of t (BLOCK,) are equal."""
    i = tl.arange(0, BLOCK)
    return tl.max(((t == tl.gather(t, tl.maximum(i - 1, 0), 0)) & (i > 0) & (i < nodes)).to(tl.int32), 0) > 0


@triton.jit
def difference(lower, higher, t, nodes, tied, DTYPE: tl.constexpr, W: tl.constexpr, E: tl.constexpr,
               ROWS: tl.constexpr = 1):  # fmt: skip
    """lower - higher, where a group of equal scores keeps what its end found: |t_i - t_j| has slope zero there.

    t points to the row of scores. What an end found is spread by a scan too, whose decays are one within a group.
    """
    if tied:
        at = (tl.arange(0, W)[:, None] * 32 + tl.arange(0, 32)[None, :]) * E
        scores, first, last = (), (), ()
        for e in tl.static_range(E):
            scores = scores + (tl.load(t + at + e, mask=at + e < nodes, other=0.0),)
        links = gaps(scores, nodes, 1.0, DTYPE, W, E, True)
        for e in tl.static_range(E):
            starts = links[1][0] == 0 if e == 0 else links[0][e - 1] == 0
            stops = links[2][E - 1] == 0 if e == E - 1 else links[0][e] == 0
            first, last = first + (tl.where(starts, lower[e], 0.0),), last + (tl.where(stops, higher[e], 0.0),)
        from_first, _unused = strict_sums(first, links, W, E, ROWS)
        _unused, from_last = strict_sums(last, links, W, E, ROWS)
        lower, higher = (), ()
        for e in tl.static_range(E):
            lower, higher = lower + (first[e] + from_first[e],), higher + (last[e] + from_last[e],)
    found = ()
    for e in tl.static_range(E):
        found = found + (lower[e] - higher[e],)
    return found
