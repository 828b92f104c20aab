// The same scans with their first moments.
#pragma once

#include "cuda/laplace.cuh"

namespace lps::cuda {

template <bool kUp, class T, class Team, int E>
__device__ __forceinline__ void over_lanes(const Links<T, Team, E>& decay, const Links<T, Team, E>& moment, T& leaving,
                                           T& leaving1, T& arriving, T& arriving1) {
  constexpr int lanes = Links<T, Team, E>::kLanes;
#pragma unroll
  for (int step = 0; step < Links<T, Team, E>::kSteps; ++step) {
    const T from = shifted<kUp>(leaving, 1 << step, lanes), from1 = shifted<kUp>(leaving1, 1 << step, lanes);
    const T by = kUp ? decay.up[step] : decay.down[step], by1 = kUp ? moment.up[step] : moment.down[step];
    leaving += by * from;
    leaving1 += by * from1 + by1 * from;
  }
  arriving = shifted<kUp>(leaving, 1, lanes), arriving1 = shifted<kUp>(leaving1, 1, lanes);
}

// What arrives from other warps of a block, added to what arrives from other lanes of the warp.
template <bool kUp, class T, class Team, int E>
__device__ __forceinline__ void over_warps(const Team& team, const Links<T, Team, E>& decay,
                                           const Links<T, Team, E>& moment, const T* totals, T& arriving,
                                           T& arriving1) {
  const int lane = team.lane % kWarp;
  const bool here = lane < team.size() / kWarp;
  const T from = here ? totals[lane] : T(0), from1 = here ? totals[kWarp + lane] : T(0);
  const T by = kUp ? decay.warps_up : decay.warps_down, by1 = kUp ? moment.warps_up : moment.warps_down;
  const T sum = WarpTeam<kWarp>::reduce(by * from, Add());
  const T sum1 = WarpTeam<kWarp>::reduce(by * from1 + by1 * from, Add());
  const bool end = lane == (kUp ? 0 : kWarp - 1);
  const T step = kUp ? decay.to_lane : decay.from_lane, step1 = kUp ? moment.to_lane : moment.from_lane;
  arriving1 = (end ? T(0) : arriving1) + step * sum1 + step1 * sum;
  arriving = (end ? T(0) : arriving) + step * sum;
}

// strict_sums(), and sums of K[i, j] (|t_i - t_j| / tau) x_j. moment: the links of that kernel.
template <class T, class Team, int E>
__device__ __forceinline__ void moment_sums(const Team& team, const SortedRow<T, E>& row,
                                            const Links<T, Team, E>& decay, const Links<T, Team, E>& moment,
                                            WarpTotals<T>& totals, const T (&x)[E], T (&lower)[E], T (&higher)[E],
                                            T (&lower1)[E], T (&higher1)[E]) {
  const int first = team.lane * E;
  T gap[E];  // to the element before
#pragma unroll
  for (int e = 1; e < E; ++e) gap[e] = row.gap(first + e - 1, first + e);
  T up = x[0], down = x[E - 1], up1 = 0, down1 = 0;
#pragma unroll
  for (int e = 1; e < E; ++e) {
    up1 = decay.inner[e] * (up1 + gap[e] * up);
    up = decay.inner[e] * up + x[e];
    down1 = decay.inner[E - e] * (down1 + gap[E - e] * down);
    down = decay.inner[E - e] * down + x[E - 1 - e];
  }
  T below, below1, above, above1;
  over_lanes<true>(decay, moment, up, up1, below, below1);
  over_lanes<false>(decay, moment, down, down1, above, above1);
  if constexpr (Team::kBlock) {
    const int lane = team.lane % kWarp, warp = team.lane / kWarp;
    T* shared = totals.next();
    if (lane == kWarp - 1) shared[warp] = up, shared[kWarp + warp] = up1;
    if (lane == 0) shared[2 * kWarp + warp] = down, shared[3 * kWarp + warp] = down1;
    __syncthreads();
    over_warps<true>(team, decay, moment, shared, below, below1);
    over_warps<false>(team, decay, moment, shared + 2 * kWarp, above, above1);
  }
  lower[0] = decay.from_before * below;
  lower1[0] = decay.from_before * below1 + moment.from_before * below;
  higher[E - 1] = decay.from_after * above;
  higher1[E - 1] = decay.from_after * above1 + moment.from_after * above;
#pragma unroll
  for (int e = 1; e < E; ++e) {
    const int down_e = E - 1 - e;
    lower1[e] = decay.inner[e] * (lower1[e - 1] + gap[e] * (lower[e - 1] + x[e - 1]));
    lower[e] = decay.inner[e] * (lower[e - 1] + x[e - 1]);
    higher1[down_e] = decay.inner[E - e] * (higher1[E - e] + gap[E - e] * (higher[E - e] + x[E - e]));
    higher[down_e] = decay.inner[E - e] * (higher[E - e] + x[E - e]);
  }
}

}  // namespace lps::cuda
