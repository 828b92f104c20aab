// d x d matrices that act on the space axis of many nodes, and the sums of outer products that are their gradients.
#pragma once

#include <type_traits>

#include "cpu/simd.h"

namespace lps::cpu {

// Rows of up to four numbers, whatever the level.
template <class T>
struct QuadOf {
  typedef T type __attribute__((vector_size(4 * sizeof(T))));
};
template <class T>
using Quad = typename QuadOf<T>::type;

// By elements: a copy through memory would be written in two parts and read in one, which stalls.
template <class T, int D>
LPS_FN Quad<T> load_quad(const T* p) {
  if constexpr (D == 2) return Quad<T>{p[0], p[1], T(0), T(0)};
  if constexpr (D == 3) return Quad<T>{p[0], p[1], p[2], T(0)};
  return Quad<T>{p[0], p[1], p[2], p[3]};
}
template <class T, int D>
LPS_FN void store_quad(T* p, Quad<T> v) {
#pragma GCC unroll 4
  for (int a = 0; a < D; ++a) p[a] = v[a];
}

// The same where four numbers may be touched, what follows the D of them too.
template <class T>
LPS_FN Quad<T> load_wide(const T* p) {
  Quad<T> v;
  std::memcpy(&v, p, sizeof(v));
  return v;
}
template <class T>
LPS_FN void store_wide(T* p, Quad<T> v) {
  std::memcpy(p, &v, sizeof(v));
}

// Calls body(D), d as a constant, or 0 where it is none of the usual ones.
template <class Body>
void with_dimension(int64_t d, const Body& body) {
  switch (d) {
    case 2:
      return body(std::integral_constant<int, 2>());
    case 3:
      return body(std::integral_constant<int, 3>());
    case 4:
      return body(std::integral_constant<int, 4>());
    default:
      return body(std::integral_constant<int, 0>());
  }
}

// m[e * d + a], the factor of x_e in y_a, of q^T x (transpose) or q x.
template <class T>
LPS_FN void read_matrix(const T* q, int64_t d, bool transpose, T by, T* m) {
  for (int64_t e = 0; e < d; ++e) {
    for (int64_t a = 0; a < d; ++a) m[e * d + a] = by * (transpose ? q[e * d + a] : q[a * d + e]);
  }
}

// by q^T x or by q x of points without channels, D numbers each.
template <int D, class T>
struct Points {
  Quad<T> column[D];

  LPS_FN Points(const T* q, bool transpose, T by) {
    T m[D * D];
    read_matrix(q, D, transpose, by, m);
#pragma GCC unroll 4
    for (int e = 0; e < D; ++e) column[e] = load_quad<T, D>(m + e * D);
  }

  LPS_FN Quad<T> operator()(const T* x) const {
    Quad<T> sum = column[0] * x[0];
#pragma GCC unroll 4
    for (int e = 1; e < D; ++e) sum += column[e] * x[e];
    return sum;
  }

  // All of n points; a point's fourth number is that of the next one, which is written after it.
  LPS_FN void write(const T* x, T* y, int64_t n) const {
    int64_t i = 0;
    for (; D == 3 && i + 1 < n; ++i) store_wide(y + i * D, (*this)(x + i * D));
    for (; i < n; ++i) store_quad<T, D>(y + i * D, (*this)(x + i * D));
  }

  LPS_FN void add(const T* x, Quad<T>* sum, int64_t n) const {
    for (int64_t i = 0; i < n; ++i) sum[i] += (*this)(x + i * D);
  }
};

// y[i, a, :] (+)= sum_e m[e, a] x[i, e, :] for n nodes with d x c numbers each.
template <bool kAdd, class T>
void apply_matrix(const T* m, const T* x, T* y, int64_t n, int64_t d, int64_t c) {
  for (int64_t i = 0; i < n; ++i) {
    const T* from = x + i * d * c;
    T* to = y + i * d * c;
    if (c == 1) {
      if (!kAdd) std::fill_n(to, d, T(0));
      for (int64_t e = 0; e < d; ++e) {
        for (int64_t a = 0; a < d; ++a) to[a] += m[e * d + a] * from[e];
      }
      continue;
    }
    for (int64_t a = 0; a < d; ++a) {
      for (int64_t j = 0; j < c; ++j) {
        T sum = kAdd ? to[a * c + j] : T(0);
        for (int64_t e = 0; e < d; ++e) sum += m[e * d + a] * from[e * c + j];
        to[a * c + j] = sum;
      }
    }
  }
}

// g[e, a] += sum over nodes and channels of x[i, e, :] y[i, a, :].
template <int D, class T>
void add_outer(const T* x, const T* y, T* g, int64_t n, int64_t dynamic, int64_t c) {
  const int64_t d = D ? D : dynamic;
  if constexpr (D > 0) {
    if (c == 1) {
      Quad<T> sum[D];
      for (int e = 0; e < D; ++e) sum[e] = load_quad<T, D>(g + e * D);
      for (int64_t i = 0; i < n; ++i) {
        const Quad<T> row = i + 1 < n ? load_wide(y + i * D) : load_quad<T, D>(y + i * D);
#pragma GCC unroll 4
        for (int e = 0; e < D; ++e) sum[e] += row * x[i * D + e];
      }
      for (int e = 0; e < D; ++e) store_quad<T, D>(g + e * D, sum[e]);
      return;
    }
  }
  for (int64_t i = 0; i < n; ++i) {
    for (int64_t e = 0; e < d; ++e) {
      const T* from = x + (i * d + e) * c;
      for (int64_t a = 0; a < d; ++a) {
        const T* to = y + (i * d + a) * c;
        Vec<T> lanes = {};
        int64_t j = 0;
        for (; j + kLanes<T> <= c; j += kLanes<T>) lanes += load(from + j) * load(to + j);
        T sum = g[e * d + a];
        for (int l = 0; l < kLanes<T> && c >= kLanes<T>; ++l) sum += lanes[l];
        for (; j < c; ++j) sum += from[j] * to[j];
        g[e * d + a] = sum;
      }
    }
  }
}

}  // namespace lps::cpu
