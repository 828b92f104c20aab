// A bitonic sort of one row by a team, E keys a lane: lane l ends with keys l E .. l E + E - 1.
#pragma once

#include "cuda/team.cuh"

namespace lps::cuda {

// A 64-bit score with a random word and the index below it.
struct WideKey {
  int64_t key;
  uint64_t below;
};

__device__ __forceinline__ bool less(int64_t a, int64_t b) {
  return a < b;
}
__device__ __forceinline__ bool less(WideKey a, WideKey b) {
  return a.key < b.key || (a.key == b.key && a.below < b.below);
}
__device__ __forceinline__ int64_t shuffle_xor(int64_t a, int distance) {
  return __shfl_xor_sync(kAll, static_cast<long long>(a), distance);
}
__device__ __forceinline__ WideKey shuffle_xor(WideKey a, int distance) {
  return {shuffle_xor(a.key, distance), static_cast<uint64_t>(shuffle_xor(static_cast<int64_t>(a.below), distance))};
}

// Strides within a lane, from E / 2 down.
template <int E, class Key>
__device__ __forceinline__ void merge_lane(Key (&keys)[E], bool up) {
#pragma unroll
  for (int stride = E / 2; stride > 0; stride /= 2) {
#pragma unroll
    for (int e = 0; e < E; ++e) {
      if (e & stride) continue;
      const Key a = keys[e], b = keys[e + stride];
      const bool swap = less(b, a) == up;
      keys[e] = swap ? b : a;
      keys[e + stride] = swap ? a : b;
    }
  }
}

// Each lane sorts its own keys, upwards where `up`.
template <int E, class Key>
__device__ __forceinline__ void sort_lane(Key (&keys)[E], bool up) {
#pragma unroll
  for (int size = 2; size <= E; size *= 2) {
#pragma unroll
    for (int stride = size / 2; stride > 0; stride /= 2) {
#pragma unroll
      for (int e = 0; e < E; ++e) {
        if (e & stride) continue;
        const Key a = keys[e], b = keys[e + stride];
        const bool swap = less(b, a) == (size < E ? (e & size) == 0 : up);
        keys[e] = swap ? b : a;
        keys[e + stride] = swap ? a : b;
      }
    }
  }
}

template <int E, class Key>
__device__ __forceinline__ void exchange_lanes(Key (&keys)[E], int distance, bool keep_low) {
#pragma unroll
  for (int e = 0; e < E; ++e) {
    const Key other = shuffle_xor(keys[e], distance);
    keys[e] = less(other, keys[e]) == keep_low ? other : keys[e];
  }
}

template <int E, class Key>
__device__ __forceinline__ void exchange_warps(Key (&keys)[E], int lane, int distance, bool keep_low, Key* shared) {
  __syncthreads();  // the exchange before this one has been read
#pragma unroll
  for (int e = 0; e < E; ++e) shared[e * blockDim.x + lane] = keys[e];
  __syncthreads();
#pragma unroll
  for (int e = 0; e < E; ++e) {
    const Key other = shared[e * blockDim.x + (lane ^ distance)];
    keys[e] = less(other, keys[e]) == keep_low ? other : keys[e];
  }
}

// shared: room for E keys a thread where the team is a block.
template <int E, class Team, class Key>
__device__ __forceinline__ void sort(const Team& team, Key (&keys)[E], Key* shared) {
  const int lane = team.lane;
  sort_lane<E>(keys, (lane & 1) == 0);
#pragma unroll 1
  for (int size = 2; size <= team.size(); size *= 2) {
    const bool up = (lane & size) == 0;
#pragma unroll 1
    for (int distance = size / 2; distance > 0; distance /= 2) {
      const bool keep_low = ((lane & distance) == 0) == up;
      if (Team::kBlock && distance >= kWarp) {
        exchange_warps<E>(keys, lane, distance, keep_low, shared);
      } else {
        exchange_lanes<E>(keys, distance, keep_low);
      }
    }
    merge_lane<E>(keys, up);
  }
}

}  // namespace lps::cuda
