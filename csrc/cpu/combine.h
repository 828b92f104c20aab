// Sums of rows with factors and inner products of rows, of any width: what a matrix does to points that have channels
// or many dimensions. Rows lie one behind the other.
#pragma once

#include <algorithm>

#include "cpu/simd.h"

namespace lps::cpu {

// Lanes [first, last).
template <class T>
LPS_FN Vec<Int<T>> lanes_between(int64_t first, int64_t last) {
  Vec<Int<T>> lane;
  for (int i = 0; i < kLanes<T>; ++i) lane[i] = i;
  return (lane >= static_cast<Int<T>>(first)) & (lane < static_cast<Int<T>>(last));
}

// Calls body(j, kept) for the vectors that cover a row: from number j on, lanes `kept` of it. The last one overlaps the
// one before; only where the whole row is less than a vector does it reach beyond.
template <class T, class Body>
LPS_FN void cover_row(int64_t width, const Body& body) {
  constexpr int64_t lanes = kLanes<T>;
  int64_t j = 0;
  for (; j + lanes <= width; j += lanes) body(j, lanes_between<T>(0, lanes));
  if (j == width) return;
  width < lanes ? body(0, lanes_between<T>(0, width))
                : body(width - lanes, lanes_between<T>(j - (width - lanes), lanes));
}

// How many of `rows` rows can be read and written by whole vectors without leaving them.
template <class T>
LPS_FN int64_t whole_rows(int64_t rows, int64_t width) {
  const int64_t beyond = width < kLanes<T> ? (kLanes<T> - 1) / std::max<int64_t>(width, 1) : 0;
  return std::max<int64_t>(rows - beyond, 0);
}

// A vector of a row; where vectors may not be whole, its first `width` numbers.
template <bool kWhole, class T>
LPS_FN Vec<T> load_row(const T* p, int64_t width) {
  if constexpr (kWhole) return load(p);
  Vec<T> v{};
  for (int64_t i = 0; i < std::min<int64_t>(width, kLanes<T>); ++i) v[i] = p[i];
  return v;
}
template <bool kWhole, class T>
LPS_FN void store_row(T* p, Vec<T> v, int64_t width) {
  if constexpr (kWhole) return store(p, v);
  for (int64_t i = 0; i < std::min<int64_t>(width, kLanes<T>); ++i) p[i] = v[i];
}

// Factor (r, i) of row i in sum r is at[r * sum + i * row].
template <class T>
struct Factors {
  const T* at;
  int64_t sum, row;
};

// to[r, :] (+)= sum_i factor(r, i) from[i, :] for R sums of `count` rows. In order of r: what a whole vector writes
// beyond its row, the next one overwrites.
template <int R, bool kAdd, bool kWhole, class T>
LPS_FN void combine(const Factors<T>& f, int64_t count, const T* from, T* to, int64_t width) {
  cover_row<T>(width, [&](int64_t j, Vec<Int<T>> kept) {
    Vec<T> sum[R] = {};
    for (int64_t i = 0; i < count; ++i) {
      const Vec<T> row = load_row<kWhole>(from + i * width + j, width);
#pragma GCC unroll 4
      for (int r = 0; r < R; ++r) sum[r] += row * f.at[r * f.sum + i * f.row];
    }
#pragma GCC unroll 4
    for (int r = 0; r < R; ++r) {
      T* const at = to + r * width + j;
      if (kAdd) sum[r] = load_row<kWhole>(at, width) + (kept ? sum[r] : Vec<T>{});
      store_row<kWhole>(at, sum[r], width);
    }
  });
}

// The same for any number of sums.
template <bool kAdd, bool kWhole, class T>
void combine_rows(Factors<T> f, int64_t sums, int64_t count, const T* from, T* to, int64_t width) {
  int64_t r = 0;
  for (; r + 4 <= sums; r += 4, f.at += 4 * f.sum) {
    combine<4, kAdd, kWhole>(f, count, from, to + r * width, width);
  }
  switch (sums - r) {
    case 3:
      return combine<3, kAdd, kWhole>(f, count, from, to + r * width, width);
    case 2:
      return combine<2, kAdd, kWhole>(f, count, from, to + r * width, width);
    case 1:
      return combine<1, kAdd, kWhole>(f, count, from, to + r * width, width);
  }
}

// g[p * stride + q] += the sum over nodes of <x[p, :], y[q, :]>, P rows of x with Q of y; nodes are `node` numbers
// apart. Of all nodes but the last ones, `whole`, vectors are.
template <int P, int Q, class T>
void add_products(const T* x, const T* y, int64_t nodes, int64_t whole, int64_t node, int64_t width, T* g,
                  int64_t stride) {
  Vec<T> sum[P][Q] = {};
  const auto add = [&](auto whole_vectors, const T* a, const T* b) {
    constexpr bool kWhole = decltype(whole_vectors)::value;
    cover_row<T>(width, [&](int64_t j, Vec<Int<T>> kept) {
      Vec<T> left[P];
#pragma GCC unroll 4
      for (int p = 0; p < P; ++p) left[p] = kept ? load_row<kWhole>(a + p * width + j, width) : Vec<T>{};
#pragma GCC unroll 4
      for (int q = 0; q < Q; ++q) {
        // Both: what lies beyond a row may be infinite.
        const Vec<T> right = kept ? load_row<kWhole>(b + q * width + j, width) : Vec<T>{};
#pragma GCC unroll 4
        for (int p = 0; p < P; ++p) sum[p][q] += left[p] * right;
      }
    });
  };
  for (int64_t i = 0; i < whole; ++i) add(std::true_type(), x + i * node, y + i * node);
  for (int64_t i = whole; i < nodes; ++i) add(std::false_type(), x + i * node, y + i * node);
  for (int p = 0; p < P; ++p) {
    for (int q = 0; q < Q; ++q) {
      T total = 0;
      for (int l = 0; l < kLanes<T>; ++l) total += sum[p][q][l];
      g[p * stride + q] += total;
    }
  }
}

}  // namespace lps::cpu
