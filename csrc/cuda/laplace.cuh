// Products with the SoftSort kernel K[i, j] = exp(-|t_i - t_j| / tau) of one row of sorted scores, as scans of a team.
//
// Lane l holds elements l E .. l E + E - 1. A scan runs over a lane's own elements to find what leaves the lane, in
// log2 steps over the lanes of a warp, over the warps of a block through shared memory, and again over the lane's
// elements from what arrives there. Decays over more than a lane are made of differences of scores once a row, never of
// products of decays, so that rounding does not pile up along a row.
#pragma once

#include "core/laplace.h"
#include "cuda/team.cuh"

namespace lps::cuda {

__device__ __forceinline__ float exponential(float x) {
  return expf(x);
}
inline __device__ __noinline__ double exponential(double x) {  // 100 instructions, at each of 40 places of a kernel
  return exp(x);
}
// To one unit in the last place; |y| is no extreme number.
__device__ __forceinline__ float reciprocal(float y) {
  float result;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(result) : "f"(y));
  return result;
}
__device__ __forceinline__ double reciprocal(double y) {
  return 1.0 / y;
}

// 1 / tau in two parts: rounded to one float it would bend every decay of a row the same way.
template <class T>
struct Temperature {
  T first, rest;

  __host__ explicit Temperature(double tau) {
    const double inverse = std::min(1.0 / tau, 3e38);
    first = static_cast<T>(inverse);
    rest = static_cast<T>(inverse - static_cast<double>(first));
  }
};

// A row of sorted scores in shared memory, see padded().
template <class T, int E>
struct SortedRow {
  const T* t;
  int nodes;
  Temperature<T> inverse_tau;

  __device__ T at(int i) const {
    return t[padded<E>(i)];
  }
  // The distance of position `after` from `before` <= `after` in units of tau; kFarApart where one is not real.
  __device__ T gap(int before, int after) const {
    const T far = static_cast<T>(kFarApart);
    if (before < 0 || after >= nodes) return far;
    const T distance = at(before) - at(after);
    const T scaled = distance * inverse_tau.first + distance * inverse_tau.rest;
    return scaled < far ? scaled : far;
  }
};

constexpr int log2_of(int n) {
  return n <= 1 ? 0 : 1 + log2_of(n / 2);
}

// Between neighbours in a lane, to the lanes beside it, and over lanes and warps: distances in units of tau through F.
template <class T, class Team, int E>
struct Links {
  static constexpr int kLanes = Team::kBlock ? kWarp : Team::kSize, kSteps = log2_of(kLanes);
  T inner[E], from_before, from_after, up[kSteps], down[kSteps];
  T warps_up, warps_down, to_lane, from_lane;  // of a block only

  template <class F>
  __device__ __forceinline__ void build(const Team& team, const SortedRow<T, E>& row, const F& f) {
    const int first = team.lane * E, last = first + E - 1, lane = team.lane % kLanes;
#pragma unroll
    for (int e = 1; e < E; ++e) inner[e] = f(row.gap(first + e - 1, first + e));
    inner[0] = T(0);
    from_before = f(row.gap(first - 1, first));
    from_after = f(row.gap(last, last + 1));
#pragma unroll
    for (int step = 0; step < kSteps; ++step) {
      const int far = E << step;
      up[step] = f(row.gap(lane >= (1 << step) ? last - far : -1, last));
      down[step] = f(row.gap(lane + (1 << step) < kLanes ? first : -1, first + far));
    }
    if constexpr (Team::kBlock) {
      // From the end of warp `lane` to the end of the warp before this one, and from there to the end of the lane
      // before; and mirrored.
      constexpr int length = kWarp * E;
      const int warp = team.lane / kWarp, before = warp * length - 1, after = (warp + 1) * length;
      warps_up = f(row.gap(lane < warp ? (lane + 1) * length - 1 : -1, before));
      warps_down = f(row.gap(lane > warp ? after : -1, lane * length));
      to_lane = f(row.gap(before, first - 1));
      from_lane = f(row.gap(last + 1, after));
    }
  }
};

template <class T>
struct Decay {
  __device__ T operator()(T gap) const {
    return exponential(-gap);
  }
};
template <class T>
struct MomentDecay {
  __device__ T operator()(T gap) const {
    return gap * exponential(-gap);
  }
};

// What leaves each warp of a block, for the others: two buffers in turn, so that one barrier a scan is enough.
template <class T>
struct WarpTotals {
  T* buffer;  // (2, 4, 32) shared
  int turn = 0;

  __device__ T* next() {
    turn ^= 1;
    return buffer + turn * 4 * kWarp;
  }
};
template <class T, class Team>
constexpr size_t kTotalsBytes = Team::kBlock ? 8 * kWarp * sizeof(T) : 0;

// What arrives at a lane from the lanes before (kUp) or after it, of what leaves each: zero beyond the row's ends.
template <bool kUp, class T>
__device__ __forceinline__ T shifted(T x, int by, int lanes) {
  return kUp ? __shfl_up_sync(kAll, x, by, lanes) : __shfl_down_sync(kAll, x, by, lanes);
}

template <bool kUp, class T, class Team, int E>
__device__ __forceinline__ T over_lanes(const Links<T, Team, E>& decay, T& leaving) {
  constexpr int lanes = Links<T, Team, E>::kLanes;
#pragma unroll
  for (int step = 0; step < Links<T, Team, E>::kSteps; ++step) {
    leaving += (kUp ? decay.up[step] : decay.down[step]) * shifted<kUp>(leaving, 1 << step, lanes);
  }
  return shifted<kUp>(leaving, 1, lanes);
}

// Sums over lower and over higher ranks j of K[i, j] x_j, without the diagonal.
template <class T, class Team, int E>
__device__ __forceinline__ void strict_sums(const Team& team, const Links<T, Team, E>& decay, WarpTotals<T>& totals,
                                            const T (&x)[E], T (&lower)[E], T (&higher)[E]) {
  T up = x[0], down = x[E - 1];
#pragma unroll
  for (int e = 1; e < E; ++e) {
    up = decay.inner[e] * up + x[e];
    down = decay.inner[E - e] * down + x[E - 1 - e];
  }
  T below = over_lanes<true>(decay, up), above = over_lanes<false>(decay, down);
  if constexpr (Team::kBlock) {
    const int lane = team.lane % kWarp, warp = team.lane / kWarp, warps = team.size() / kWarp;
    T* shared = totals.next();
    if (lane == kWarp - 1) shared[warp] = up;
    if (lane == 0) shared[kWarp + warp] = down;
    __syncthreads();
    const T of_up = lane < warps ? decay.warps_up * shared[lane] : T(0);
    const T of_down = lane < warps ? decay.warps_down * shared[kWarp + lane] : T(0);
    below = (lane == 0 ? T(0) : below) + decay.to_lane * WarpTeam<kWarp>::reduce(of_up, Add());
    above = (lane == kWarp - 1 ? T(0) : above) + decay.from_lane * WarpTeam<kWarp>::reduce(of_down, Add());
  }
  lower[0] = decay.from_before * below;
  higher[E - 1] = decay.from_after * above;
#pragma unroll
  for (int e = 1; e < E; ++e) {
    lower[e] = decay.inner[e] * (lower[e - 1] + x[e - 1]);
    higher[E - 1 - e] = decay.inner[E - e] * (higher[E - e] + x[E - e]);
  }
}

}  // namespace lps::cuda
