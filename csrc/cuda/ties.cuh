// Groups of equal scores, for differences between sums over lower and over higher ranks.
#pragma once

#include "cuda/laplace.cuh"

namespace lps::cuda {

// Groups of equal scores, for differences between the sums over lower and over higher ranks: |t_i - t_j| has slope zero
// within a group, so all of it takes what its ends have found. bounds: of each position, the first one of its group and
// the last one, in 16 bits each.
template <class T, int E>
struct Ties {
  unsigned* bounds;   // (N,) shared
  T *lower, *higher;  // (N,) shared each
  bool any;           // in a team of this warp

  // write: whether this team writes the bounds, where several teams share a row.
  template <class Team>
  __device__ __forceinline__ void build(const Team& team, const SortedRow<T, E>& row, bool write = true) {
    bool tied = false;
#pragma unroll
    for (int e = 0; e < E; ++e) {
      const int i = team.lane * E + e;
      tied |= i > 0 && i < row.nodes && row.at(i) == row.at(i - 1);
    }
    any = team.any_in_warp(tied);
    if (!any || !write) return;
#pragma unroll 1
    for (int e = 0; e < E; ++e) {
      const int i = team.lane * E + e;
      int first = i, last = i;
      if (i < row.nodes) {
        const T t = row.at(i);
        int low = 0, high = i;  // the first position whose score is not above t
        while (low < high) {
          const int middle = (low + high) / 2;
          row.at(middle) > t ? low = middle + 1 : high = middle;
        }
        first = low;
        low = i, high = row.nodes - 1;  // the last one whose score is not below t
        while (low < high) {
          const int middle = (low + high + 1) / 2;
          row.at(middle) < t ? high = middle - 1 : low = middle;
        }
        last = low;
      }
      bounds[padded<E>(i)] = static_cast<unsigned>(first) | static_cast<unsigned>(last) << 16;
    }
  }

  // difference = lower - higher, where a group keeps what its ends have found.
  template <class Team>
  __device__ __forceinline__ void difference(const Team& team, const T (&low)[E], const T (&high)[E],
                                             T (&result)[E]) const {
    if (!any) {
#pragma unroll
      for (int e = 0; e < E; ++e) result[e] = low[e] - high[e];
      return;
    }
    team.sync();  // the difference before this one has been read
#pragma unroll
    for (int e = 0; e < E; ++e) {
      lower[padded<E>(team.lane * E + e)] = low[e];
      higher[padded<E>(team.lane * E + e)] = high[e];
    }
    team.sync();
#pragma unroll
    for (int e = 0; e < E; ++e) {
      const unsigned both = bounds[padded<E>(team.lane * E + e)];
      result[e] = lower[padded<E>(both & 0xFFFFu)] - higher[padded<E>(both >> 16)];
    }
  }
};

// Shared memory of one row: its scores, and what Ties needs.
template <class T, int E>
size_t row_bytes(int64_t length, bool ties) {
  const size_t numbers = padded_size<E>(length);
  return (numbers * (sizeof(T) * (ties ? 3 : 1) + (ties ? sizeof(unsigned) : 0)) + 15) / 16 * 16;
}

}  // namespace lps::cuda
