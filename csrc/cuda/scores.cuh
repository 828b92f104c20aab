// A row of scores: its norm, and keys that sort it by descending score with random ties.
#pragma once

#include "core/philox.h"
#include "cuda/numbers.cuh"
#include "cuda/sort.cuh"

namespace lps::cuda {

// Whether a score is not finite, the largest magnitude, and the norm in units of it, in which no square overflows or
// vanishes.
template <class T>
struct Norm {
  bool bad;
  T largest, root;

  __device__ bool clamped() const {
    return largest == T(0) || root * largest <= T(1e-6);
  }
  // x / max(norm, 1e-6), in two steps that neither overflow nor vanish.
  __device__ T divide(T x) const {
    return clamped() ? x / T(1e-6) : x / largest / root;
  }
};

template <class T>
__device__ __forceinline__ T magnitude_of(T x) {
  return x < T(0) ? -x : x;
}

// at(i) for i < nodes: the scores, in any order that covers the row.
template <int E, class T, class Team>
__device__ __forceinline__ Norm<T> norm_of(const Team& team, const T (&z)[E], const bool (&real)[E]) {
  T largest = 0, sum = 0;
  bool bad = false;
#pragma unroll
  for (int e = 0; e < E; ++e) {
    const bool finite = z[e] - z[e] == T(0);
    bad |= real[e] && !finite;
    if (real[e] && finite && magnitude_of(z[e]) > largest) largest = magnitude_of(z[e]);
  }
  bad = team.reduce(bad ? 1 : 0, Largest()) > 0;
  largest = team.reduce(largest, Largest());
  const T unit = largest > T(0) ? largest : T(1);
#pragma unroll
  for (int e = 0; e < E; ++e) {
    const T scaled = real[e] && z[e] - z[e] == T(0) ? z[e] / unit : T(0);
    sum += scaled * scaled;
  }
  sum = team.reduce(sum, Add());
  return {bad, largest, sqrt(sum)};
}

// Integers that ascend as scores descend, and back. NaN lies behind -inf, padding last; equal scores, -0 and 0 too,
// have equal keys.
__device__ __forceinline__ int32_t descending_key(float z, bool real) {
  const int32_t bits = __float_as_int(z == 0 ? 0.0f : z);
  return !real ? INT32_MAX : z != z ? INT32_MAX - 1 : ~(bits ^ ((bits >> 31) & INT32_MAX));
}
__device__ __forceinline__ int64_t descending_key(double z, bool real) {
  const int64_t bits = __double_as_longlong(z == 0 ? 0.0 : z);
  return !real ? INT64_MAX : z != z ? INT64_MAX - 1 : ~(bits ^ ((bits >> 63) & INT64_MAX));
}
__device__ __forceinline__ float score_of(int32_t key) {
  return __int_as_float(~key ^ ((~key >> 31) & INT32_MAX));
}
__device__ __forceinline__ double score_of(int64_t key) {
  return __longlong_as_double(~key ^ ((~key >> 63) & INT64_MAX));
}

__device__ __forceinline__ uint32_t tie_word(uint64_t seed, int i, int64_t row) {
  const Words words = philox(seed, static_cast<uint32_t>(i) / 4, static_cast<uint64_t>(row), kTies);
  // A choice among registers: an index would put them into local memory.
  const uint32_t low = i & 1 ? words.w[1] : words.w[0], high = i & 1 ? words.w[3] : words.w[2];
  return i & 2 ? high : low;
}

// Bits of an index within a row.
constexpr int kIndexBits = 12;
static_assert(kMaxNodes <= 1 << kIndexBits);

// Sorts a row by descending score, ties by a random word of each element. order and z, in lanes: element and score of
// each rank. buffer: the team's shared memory, see sort_bytes(); free again after a team.sync().
template <int S, class Team>
__device__ __forceinline__ void sort_scores(const Team& team, const float (&scores)[S], int nodes, uint64_t seed,
                                            void* buffer, int (&order)[S], float (&z)[S]) {
  int64_t keys[S];
#pragma unroll
  for (int e = 0; e < S; ++e) {
    const int i = e * team.size() + team.lane;
    keys[e] = static_cast<int64_t>(descending_key(scores[e], i < nodes)) * (int64_t{1} << 32) + i;
  }
  sort<S>(team, keys, static_cast<int64_t*>(buffer));
  int* ranked = static_cast<int*>(buffer);
  team.sync();
#pragma unroll
  for (int e = 0; e < S; ++e) {
    const int32_t key = static_cast<int32_t>(keys[e] >> 32);
    order[e] = static_cast<int>(keys[e] & 0xFFFFFFFF), z[e] = score_of(key);
    ranked[padded<S>(team.lane * S + e)] = key;
  }
  team.sync();
  bool tied = false;
#pragma unroll
  for (int e = 0; e < S; ++e) {
    const int rank = team.lane * S + e;
    tied |= rank > 0 && rank < nodes && ranked[padded<S>(rank)] == ranked[padded<S>(rank - 1)];
  }
  if (!team.any_in_warp(tied)) return;
  // Few rows have ties: a second sort, within groups of equal scores, by random words.
#pragma unroll 1
  for (int e = 0; e < S; ++e) {
    const int rank = team.lane * S + e, key = ranked[padded<S>(rank)];
    int low = 0, high = rank;  // the group's first rank
    while (low < high) {
      const int middle = (low + high) / 2;
      ranked[padded<S>(middle)] < key ? low = middle + 1 : high = middle;
    }
    if (rank >= nodes) low = rank;
#pragma unroll
    for (int slot = 0; slot < S; ++slot) {  // keys[e] for an e that is no constant
      if (slot != e) continue;
      const uint64_t word = tie_word(seed, order[slot], team.row);
      keys[slot] =
          static_cast<int64_t>(low) << (32 + kIndexBits) | static_cast<int64_t>(word << kIndexBits) | order[slot];
    }
  }
  team.sync();
  sort<S>(team, keys, static_cast<int64_t*>(buffer));
#pragma unroll
  for (int e = 0; e < S; ++e) order[e] = static_cast<int>(keys[e] & ((1 << kIndexBits) - 1));
}

template <int S, class Team>
__device__ __forceinline__ void sort_scores(const Team& team, const double (&scores)[S], int nodes, uint64_t seed,
                                            void* buffer, int (&order)[S], double (&z)[S]) {
  WideKey keys[S];
#pragma unroll
  for (int e = 0; e < S; ++e) {
    const int i = e * team.size() + team.lane;
    const uint64_t word = i < nodes ? tie_word(seed, i, team.row) : 0;
    keys[e] = {descending_key(scores[e], i < nodes), word << 32 | static_cast<unsigned>(i)};
  }
  sort<S>(team, keys, static_cast<WideKey*>(buffer));
#pragma unroll
  for (int e = 0; e < S; ++e) {
    order[e] = static_cast<int>(keys[e].below & 0xFFFFFFFF), z[e] = score_of(keys[e].key);
  }
}

// Bytes of a team's buffer for sort_scores.
template <class T, int S, class Team>
size_t sort_bytes(int64_t size) {
  const size_t key = sizeof(T) == 8 ? sizeof(WideKey) : sizeof(int64_t);
  return Team::kBlock ? size * S * key : padded_size<S>(size * S) * sizeof(int);
}

}  // namespace lps::cuda
