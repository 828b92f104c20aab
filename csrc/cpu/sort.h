// Sorting of 64-bit keys: short rows side by side in the lanes of a network, long ones by radix.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <vector>

#include "cpu/simd.h"

namespace lps::cpu {

// Below this length a network of O(n log^2 n) comparisons without branches beats three passes over the keys.
constexpr int64_t kNetworkLength = 512;

template <class I>
LPS_FN void compare_exchange(Vec<I>& a, Vec<I>& b) {
  const Vec<I> first = a, second = b;
  a = first > second ? second : first;
  b = first > second ? first : second;
}

// Batcher's merge exchange (Knuth, TAOCP 5.2.2, algorithm M), ascending, each lane for itself.
template <class I>
void sort_lanes(Vec<I>* a, int64_t n) {
  if (n < 2) return;
  int64_t top = 1;
  while (2 * top < n) top *= 2;
  for (int64_t p = top; p > 0; p /= 2) {
    int64_t q = top, r = 0, d = p;
    while (true) {
      for (int64_t block = r; block < n - d; block += 2 * p) {
        const int64_t end = std::min(block + p, n - d);
        for (int64_t i = block; i < end; ++i) compare_exchange<I>(a[i], a[i + d]);
      }
      if (q == p) break;
      d = q - p;
      q /= 2;
      r = p;
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
  constexpr int lanes = kLanes<int64_t>;
  if (n > kNetworkLength) {
    std::vector<int64_t> keys(2 * n);
    for (int64_t row = begin; row < end; ++row) {
      fill(row, keys.data(), 1);
      sort_radix(keys.data(), keys.data() + n, n, low);
      take(row, keys.data(), 1);
    }
    return;
  }
  std::vector<Vec<int64_t>> keys(std::max<int64_t>(n, 1));
  int64_t* at = reinterpret_cast<int64_t*>(keys.data());
  for (int64_t row = begin; row < end; row += lanes) {
    const int64_t count = std::min<int64_t>(lanes, end - row);
    for (int64_t lane = 0; lane < count; ++lane) fill(row + lane, at + lane, lanes);
    sort_lanes<int64_t>(keys.data(), n);
    for (int64_t lane = 0; lane < count; ++lane) take(row + lane, at + lane, lanes);
  }
}

}  // namespace lps::cpu
