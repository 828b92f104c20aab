// Sums over the lanes of a warp of many values at once.
#pragma once

#include "cuda/team.cuh"

namespace lps::cuda {

// Each step halves how many sums a lane holds and doubles over how many lanes they run: of 2 HALF values, lane l is
// left with value l % (2 HALF).
template <int HALF, class T, int N>
__device__ __forceinline__ void halve_sums(T (&held)[N], int lane) {
  if constexpr (HALF > 0) {
    const bool upper = lane & HALF;
#pragma unroll
    for (int i = 0; i < HALF; ++i) {
      const T kept = upper ? held[i + HALF] : held[i], sent = upper ? held[i] : held[i + HALF];
      held[i] = kept + __shfl_xor_sync(kAll, sent, HALF);
    }
    halve_sums<HALF / 2>(held, lane);
  }
}

}  // namespace lps::cuda
