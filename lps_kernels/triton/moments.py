"""First moments of products with the SoftSort kernel, sums of K[i, j] (|t_i - t_j| / tau) x_j: see laplace.py."""

import triton
import triton.language as tl

from lps_kernels.triton.laplace import across, lane_numbers, of_lane, shifted, within_lanes


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
        before = shifted(total, STEP << j, lane)
        moment += lanes[j] * shifted(moment, STEP << j, lane) + lanes1[j] * before
        total += lanes[j] * before
    arrived, arrived1 = shifted(total, STEP, lane), shifted(moment, STEP, lane)
    if W > 1:
        END: tl.constexpr = 31 if STEP == 1 else 0
        START: tl.constexpr = 31 - END
        of_warp, of_warp1 = across(of_lane(total, END, lane), W), across(of_lane(moment, END, lane), W)
        of_warps = tl.sum(warps[0] * of_warp, 1, keep_dims=True)
        of_warps1 = tl.sum(warps[0] * of_warp1 + warps1[0] * of_warp, 1, keep_dims=True)
        arrived = tl.where(lane == START, 0.0, arrived) + warps[1] * of_warps
        arrived1 = tl.where(lane == START, 0.0, arrived1) + warps[1] * of_warps1 + warps1[1] * of_warps
    return arrived, arrived1


@triton.jit
def moment_sums(low, high, decays, moments, W: tl.constexpr, E: tl.constexpr):
    """`split_sums`, and the same with first moments."""
    inner, up, down, up_lanes, down_lanes, up_warps, down_warps = decays
    inner1, up1, down1, up_lanes1, down_lanes1, up_warps1, down_warps1 = moments
    lower, higher = within_lanes(low, high, inner, E)
    low1, high1 = (tl.zeros_like(low[0]),), (tl.zeros_like(low[0]),)
    for e in tl.static_range(1, E):
        low1 = low1 + (inner[e - 1] * low1[e - 1] + inner1[e - 1] * (lower[e - 1] + low[e - 1]),)
        high1 = (inner[E - 1 - e] * high1[0] + inner1[E - 1 - e] * (higher[E - e] + high[E - e]),) + high1
    below, below1 = _carry_moment(
        lower[E - 1] + low[E - 1], low1[E - 1], up_lanes, up_lanes1, up_warps, up_warps1, lane_numbers(W), 1, W
    )  # fmt: skip
    above, above1 = _carry_moment(
        higher[0] + high[0], high1[0], down_lanes, down_lanes1, down_warps, down_warps1, lane_numbers(W), -1, W
    )  # fmt: skip
    lower_sums, higher_sums, lower1, higher1 = (), (), (), ()
    for e in tl.static_range(E):
        lower_sums = lower_sums + (lower[e] + up[e] * below,)
        higher_sums = higher_sums + (higher[e] + down[e] * above,)
        lower1 = lower1 + (low1[e] + up[e] * below1 + up1[e] * below,)
        higher1 = higher1 + (high1[e] + down[e] * above1 + down1[e] * above,)
    return lower_sums, higher_sums, lower1, higher1
