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

// C numbers from p on, again and again.
template <int C, class T>
LPS_FN Vec<T> repeat(const T* p) {
  constexpr int bytes = C * sizeof(T);
  if constexpr (C == 1) {
    return splat(*p);
  } else if constexpr (bytes == 8) {
    int64_t bits;
    std::memcpy(&bits, p, sizeof(bits));
    return (Vec<T>)splat(bits);
#if defined(__AVX512F__)
  } else if constexpr (bytes == 16) {
    return (Vec<T>)_mm512_broadcast_f32x4(_mm_loadu_ps(reinterpret_cast<const float*>(p)));
  } else {
    static_assert(bytes == 32);
    return (Vec<T>)_mm512_broadcast_f64x4(_mm256_loadu_pd(reinterpret_cast<const double*>(p)));
#elif defined(__AVX2__)
  } else {
    static_assert(bytes == 16);
    return (Vec<T>)_mm256_broadcast_ps(reinterpret_cast<const __m128*>(p));
#endif
  }
}

// Calls body(C) where rows of c numbers repeat to fill a vector: C is c then. Whether they do.
template <class T, class Body>
bool with_repeats(int64_t c, const Body& body) {
  if (c == 1) return body(std::integral_constant<int, 1>()), true;
  if constexpr (kLanes<T> > 2) {
    if (c == 2) return body(std::integral_constant<int, 2>()), true;
  }
  if constexpr (kLanes<T> > 4) {
    if (c == 4) return body(std::integral_constant<int, 4>()), true;
  }
  return false;
}

// Factors (r, i) of row i in sum r are the C numbers at[r * sum + i * row], which repeat along it.
template <class T>
struct Factors {
  static constexpr int64_t samples = 1, next = 0;
  const T* at;
  int64_t sum, row;
};
// The same of samples, which a sum goes over too: each lies `next` behind the one before.
template <class T>
struct SampleFactors {
  const T* at;
  int64_t sum, row, samples, next;
};

// Vectors of `combine` from numbers at[0] to at[V - 1] on; of the last one, lanes `kept`.
template <int C, int R, int V, bool kAdd, bool kWhole, class F, class T>
LPS_FN void combine_vectors(const F& f, int64_t count, const T* from, T* to, int64_t width, const int64_t (&at)[V],
                            Vec<Int<T>> kept) {
  Vec<T> sum[R][V] = {};
  for (int64_t s = 0; s < f.samples; ++s) {
    for (int64_t i = 0; i < count; ++i) {
      Vec<T> row[V];
#pragma GCC unroll 2
      for (int v = 0; v < V; ++v) row[v] = load_row<kWhole>(from + (s * count + i) * width + at[v], width);
#pragma GCC unroll 4
      for (int r = 0; r < R; ++r) {
        const Vec<T> factor = repeat<C>(f.at + r * f.sum + i * f.row + s * f.next);
#pragma GCC unroll 2
        for (int v = 0; v < V; ++v) sum[r][v] += row[v] * factor;
      }
    }
  }
#pragma GCC unroll 4
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 2
    for (int v = 0; v < V; ++v) {
      T* const place = to + r * width + at[v];
      Vec<T> total = sum[r][v];
      if (kAdd) total = load_row<kWhole>(place, width) + (v + 1 < V || kept ? total : Vec<T>{});
      store_row<kWhole>(place, total, width);
    }
  }
}

// to[r, :] (+)= sum_i factor(r, i) from[i, :] for R sums of `count` rows a sample, two vectors at a time. In order of
// r: what a whole vector writes beyond its row, the next one overwrites. The last vector of a row overlaps the one
// before.
template <int C, int R, bool kAdd, bool kWhole, class F, class T>
LPS_FN void combine(const F& f, int64_t count, const T* from, T* to, int64_t width) {
  constexpr int64_t lanes = kLanes<T>;
  int64_t j = 0;
  for (; j + 2 * lanes <= width; j += 2 * lanes) {
    combine_vectors<C, R, 2, kAdd, kWhole>(f, count, from, to, width, {j, j + lanes}, lanes_between<T>(0, lanes));
  }
  if (j == width) return;
  if (width - j > lanes) {
    const int64_t last = width - lanes;
    combine_vectors<C, R, 2, kAdd, kWhole>(f, count, from, to, width, {j, last},
                                           lanes_between<T>(j + lanes - last, lanes));
  } else {
    const int64_t last = std::max<int64_t>(width - lanes, 0);
    combine_vectors<C, R, 1, kAdd, kWhole>(f, count, from, to, width, {last},
                                           lanes_between<T>(j - last, std::min(lanes, width)));
  }
}

// Calls body(R, r) for all of `sums` sums, R from number r on at a time.
template <class Body>
LPS_FN void by_fours(int64_t sums, const Body& body) {
  int64_t r = 0;
  for (; r + 4 <= sums; r += 4) body(std::integral_constant<int, 4>(), r);
  switch (sums - r) {
    case 3:
      return body(std::integral_constant<int, 3>(), r);
    case 2:
      return body(std::integral_constant<int, 2>(), r);
    case 1:
      return body(std::integral_constant<int, 1>(), r);
  }
}

// `combine` of any number of sums.
template <bool kAdd, bool kWhole, int C = 1, class F, class T>
void combine_rows(F f, int64_t sums, int64_t count, const T* from, T* to, int64_t width) {
  const T* const at = f.at;
  by_fours(sums, [&](auto R, int64_t r) {
    f.at = at + r * f.sum;
    combine<C, R, kAdd, kWhole>(f, count, from, to + r * width, width);
  });
}

// The same of two nodes, `node` numbers apart, whose rows are one vector.
template <bool kAdd, class T>
void combine_pair(Factors<T> f, int64_t sums, int64_t count, const T* from, T* to, int64_t node) {
  constexpr int64_t lanes = kLanes<T>;
  const T* const at = f.at;
  by_fours(sums, [&](auto R, int64_t r) {
    f.at = at + r * f.sum;
    combine_vectors<1, R, 2, kAdd, true>(f, count, from, to + r * lanes, lanes, {0, node}, lanes_between<T>(0, lanes));
  });
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
  constexpr int lanes = kLanes<T>, folds = (P * Q + lanes - 1) / lanes;
  Vec<T> parts[folds * lanes] = {};
#pragma GCC unroll 16
  for (int i = 0; i < P * Q; ++i) parts[i] = sum[i / Q][i % Q];
  T totals[folds * lanes];
#pragma GCC unroll 8
  for (int i = 0; i < folds; ++i) store(totals + i * lanes, sum_lanes<T>(parts + i * lanes));
  for (int i = 0; i < P * Q; ++i) g[i / Q * stride + i % Q] += totals[i];
}

}  // namespace lps::cpu
