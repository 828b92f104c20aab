// The order of scores: descending, what is not a number behind them, padding last, ties at random.
#pragma once

#include "core/philox.h"
#include "cpu/parallel.h"
#include "cpu/sort.h"

namespace lps::cpu {

// Keys that ascend as scores descend: NaN behind -inf, padding last. Equal scores, -0 and 0 too, have equal keys.
constexpr int64_t kPadding32 = INT32_MAX, kNan32 = INT32_MAX - 1;

LPS_FN int64_t descending_key(float z) {
  int32_t bits;
  z += 0.0f;
  std::memcpy(&bits, &z, sizeof(bits));
  return z != z ? kNan32 : ~(bits ^ ((bits >> 31) & INT32_MAX));
}

LPS_FN int64_t descending_key(double z) {
  int64_t bits;
  z += 0.0;
  std::memcpy(&bits, &z, sizeof(bits));
  return z != z ? INT64_MAX - 1 : ~(bits ^ ((bits >> 63) & INT64_MAX));
}

// Orders each group of equal scores among the first `valid` by its random words.
template <class T>
void shuffle_ties(const T* z, int64_t* perm, int64_t valid, uint64_t seed, int64_t row) {
  const auto word = [&](int64_t i) { return philox(seed, static_cast<uint32_t>(i / 4), row, kTies).w[i % 4]; };
  std::vector<std::pair<uint32_t, int64_t>> group;
  for (int64_t first = 0; first < valid;) {
    int64_t stop = first + 1;
    const int64_t key = descending_key(z[perm[first]]);
    while (stop < valid && descending_key(z[perm[stop]]) == key) ++stop;
    if (stop > first + 1) {
      group.clear();
      for (int64_t r = first; r < stop; ++r) group.emplace_back(word(perm[r]), perm[r]);
      std::sort(group.begin(), group.end());
      for (int64_t r = first; r < stop; ++r) perm[r] = group[r - first].second;
    }
    first = stop;
  }
}

inline void sort_scores(const float* z, int64_t* perm, int64_t begin, int64_t end, int64_t n, int64_t k,
                        const int64_t* nodes, uint64_t seed) {
  sort_rows(
      begin, end, n, 32,
      [&](int64_t row, int64_t* at, int64_t stride) {
        const int64_t valid = count_nodes(nodes, row / k, n);
        const float* zr = z + row * n;
        for (int64_t i = 0; i < n; ++i)
          at[i * stride] = (i < valid ? descending_key(zr[i]) : kPadding32) * (int64_t{1} << 32) + i;
      },
      [&](int64_t row, const int64_t* at, int64_t stride) {
        int64_t* result = perm + row * n;
        bool tied = false;
        for (int64_t i = 0; i < n; ++i) {
          result[i] = at[i * stride] & 0xFFFFFFFF;
          tied |= i > 0 && at[i * stride] >> 32 == at[(i - 1) * stride] >> 32;
        }
        if (tied) shuffle_ties(z + row * n, result, count_nodes(nodes, row / k, n), seed, row);
      });
}

// The low bits of a key give way to the index.
inline void sort_scores(const double* z, int64_t* perm, int64_t begin, int64_t end, int64_t n, int64_t k,
                        const int64_t* nodes, uint64_t seed) {
  int bits = 1;
  while (int64_t{1} << bits < n) ++bits;
  const int64_t mask = (int64_t{1} << bits) - 1;
  sort_rows(
      begin, end, n, bits,
      [&](int64_t row, int64_t* at, int64_t stride) {
        const int64_t valid = count_nodes(nodes, row / k, n);
        const double* zr = z + row * n;
        for (int64_t i = 0; i < n; ++i) at[i * stride] = ((i < valid ? descending_key(zr[i]) : INT64_MAX) & ~mask) | i;
      },
      [&](int64_t row, const int64_t* at, int64_t stride) {
        const int64_t valid = count_nodes(nodes, row / k, n);
        const double* zr = z + row * n;
        int64_t* result = perm + row * n;
        bool close = false;
        for (int64_t i = 0; i < n; ++i) {
          result[i] = at[i * stride] & mask;
          close |= i > 0 && i < valid && at[i * stride] >> bits == at[(i - 1) * stride] >> bits;
        }
        if (!close) return;
        // Where indices took the place of bits that matter.
        const auto key = [&](int64_t i) { return std::make_pair(descending_key(zr[i]), i); };
        for (int64_t i = 1, start = 0; i <= valid; ++i) {
          if (i < valid && at[i * stride] >> bits == at[start * stride] >> bits) continue;
          std::sort(result + start, result + i, [&](int64_t a, int64_t b) { return key(a) < key(b); });
          start = i;
        }
        shuffle_ties(zr, result, valid, seed, row);
      });
}

}  // namespace lps::cpu
