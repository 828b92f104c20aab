// Sorting of 64-bit keys: short rows side by side in the lanes of a network, long ones by radix.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <limits>
#include <vector>

#include "cpu/simd.h"

namespace lps::cpu {

// Up to these lengths a network of O(n log^2 n) comparisons without branches beats three passes over the keys: of one
// row, and of rows that fill most lanes.
constexpr int64_t kNetworkLength = 512, kFullNetworkLength = kLanes<int64_t> < 4 ? 512 : 4096;

template <class I>
LPS_FN void compare_exchange(Vec<I>& a, Vec<I>& b) {
  const Vec<I> first = a, second = b;
  a = first > second ? second : first;
  b = first > second ? first : second;
}

// Compares a[i] with a[i + k] for the i < k of which both are among `count`.
template <class I>
LPS_FN void exchange_halves(Vec<I>* a, int64_t count, int64_t k) {
  for (int64_t i = 0; i < std::min(k, count - k); ++i) compare_exchange<I>(a[i], a[i + k]);
}

// Two steps of four numbers: a and b with c and d, backwards or not, then neighbours.
template <bool backwards, class I>
LPS_FN void exchange_four(Vec<I>* a, Vec<I>* b, Vec<I>* c, Vec<I>* d) {
  Vec<I> v[4] = {*a, *b, *c, *d};
  compare_exchange<I>(v[0], v[backwards ? 3 : 2]);
  compare_exchange<I>(v[1], v[backwards ? 2 : 3]);
  compare_exchange<I>(v[0], v[1]);
  compare_exchange<I>(v[2], v[3]);
  *a = v[0], *b = v[1], *c = v[2], *d = v[3];
}

// Sorts, or merges a bitonic, block of eight in registers; beyond `count` it is filled up.
template <bool merge, class I>
LPS_FN void sort_block(Vec<I>* a, int64_t count) {
  constexpr int8_t sorting[19][2] = {{0, 1}, {2, 3}, {4, 5}, {6, 7}, {0, 2}, {1, 3}, {4, 6}, {5, 7}, {1, 2}, {5, 6},
                                     {0, 4}, {1, 5}, {2, 6}, {3, 7}, {2, 4}, {3, 5}, {1, 2}, {3, 4}, {5, 6}};
  constexpr int8_t merging[12][2] = {{0, 4}, {1, 5}, {2, 6}, {3, 7}, {0, 2}, {1, 3},
                                     {4, 6}, {5, 7}, {0, 1}, {2, 3}, {4, 5}, {6, 7}};
  Vec<I> v[8];
#pragma GCC unroll 8
  for (int i = 0; i < 8; ++i) v[i] = i < count ? a[i] : splat(std::numeric_limits<I>::max());
#pragma GCC unroll 19
  for (int i = 0; i < (merge ? 12 : 19); ++i) {
    const int8_t* pair = merge ? merging[i % 12] : sorting[i];
    compare_exchange<I>(v[pair[0]], v[pair[1]]);
  }
#pragma GCC unroll 8
  for (int i = 0; i < 8; ++i) {
    if (i < count) a[i] = v[i];
  }
}
template <bool merge, class I>
LPS_FN void sort_blocks(Vec<I>* a, int64_t n) {
  int64_t i = 0;
  for (; i + 8 <= n; i += 8) sort_block<merge, I>(a + i, 8);
  if (i < n) sort_block<merge, I>(a + i, n - i);
}

// Batcher's bitonic sort (Knuth, TAOCP 5.2.2), ascending, each lane for itself: of any n, as if infinite numbers
// followed. Runs are compared with the next one backwards, so that all comparisons have the smaller number first. Two
// steps at a time in registers, and the last three.
template <class I>
void sort_lanes(Vec<I>* a, int64_t n) {
  sort_blocks<false, I>(a, n);
  for (int64_t run = 8; run < n; run *= 2) {
    for (int64_t base = 0; base + run < n; base += 2 * run) {
      Vec<I>* const b = a + base;
      const int64_t count = std::min(2 * run, n - base);
      int64_t k = run / 2;
      if (count == 2 * run && k >= 8) {
        for (int64_t i = 0; i < k; ++i) exchange_four<true, I>(b + i, b + i + k, b + 3 * k - 1 - i, b + 4 * k - 1 - i);
        k /= 2;
      } else {
        for (int64_t i = 2 * run - count; i < run; ++i) compare_exchange<I>(b[i], b[2 * run - 1 - i]);
      }
      for (; k >= 16; k /= 4) {
        for (int64_t at = 0; at < count; at += 2 * k) {
          Vec<I>* const c = b + at;
          const int64_t rest = count - at, half = k / 2;
          if (rest >= 2 * k) {
            for (int64_t i = 0; i < half; ++i)
              exchange_four<false, I>(c + i, c + i + half, c + i + k, c + i + k + half);
          } else {
            exchange_halves<I>(c, rest, k);
            exchange_halves<I>(c, rest, half);
            exchange_halves<I>(c + k, rest - k, half);
          }
        }
      }
      for (int64_t at = 0; k == 8 && at < count; at += 16) exchange_halves<I>(b + at, count - at, k);
      sort_blocks<true, I>(b, count);
    }
  }
}

// Stable, ascending by the 11-bit digits from bit `low` up to 63; `spare` has as many elements as `keys`.
inline void sort_radix(int64_t* keys, int64_t* spare, int64_t n, int low) {
  constexpr int bits = 11;
  constexpr uint64_t sign = uint64_t{1} << 63;
  std::array<int64_t, 1 << bits> start;
  int64_t *from = keys, *to = spare;
  for (int shift = low; shift < 64; shift += bits) {
    const auto digit = [&](int64_t key) { return ((static_cast<uint64_t>(key) ^ sign) >> shift) & ((1u << bits) - 1); };
    start.fill(0);
    for (int64_t i = 0; i < n; ++i) ++start[digit(from[i])];
    int64_t sum = 0;
    for (int64_t& s : start) sum += std::exchange(s, sum);
    for (int64_t i = 0; i < n; ++i) to[start[digit(from[i])]++] = from[i];
    std::swap(from, to);
  }
  if (from != keys) std::copy(from, from + n, keys);
}

// Sorts `rows` rows of n keys, ascending; low: bits below it only carry, they need not be compared. fill(row, at,
// stride) writes the row's keys to at[i * stride], and take(row, at, stride) reads them back in order.
template <class Fill, class Take>
void sort_rows(int64_t begin, int64_t end, int64_t n, int low, const Fill& fill, const Take& take) {
  constexpr int64_t lanes = kLanes<int64_t>;
  const auto by_network = [n](int64_t rows) { return n <= (2 * rows >= lanes ? kFullNetworkLength : kNetworkLength); };
  // Of as many rows as there are lanes, or of one and a spare.
  std::vector<Vec<int64_t>> keys(by_network(end - begin) ? n : 2 * n / lanes + 1);
  int64_t* at = reinterpret_cast<int64_t*>(keys.data());
  for (int64_t first = begin; first < end; first += lanes) {
    const int64_t last = std::min(first + lanes, end);
    if (by_network(last - first)) {
      for (int64_t row = first; row < last; ++row) fill(row, at + row - first, lanes);
      sort_lanes<int64_t>(keys.data(), n);
      for (int64_t row = first; row < last; ++row) take(row, at + row - first, lanes);
    } else {
      for (int64_t row = first; row < last; ++row) {
        fill(row, at, 1);
        sort_radix(at, at + n, n, low);
        take(row, at, 1);
      }
    }
  }
}

}  // namespace lps::cpu
