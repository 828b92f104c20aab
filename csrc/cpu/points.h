// d x d matrices that act on the space axis of many nodes, and the sums of outer products that are their gradients.
#pragma once

#include <algorithm>
#include <cstring>
#include <type_traits>
#include <vector>

#include "cpu/combine.h"
#include "cpu/parallel.h"

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

// Numbers i of (a, b), four of each.
template <int... i, class Q>
LPS_FN Q pick(Q a, Q b) {
#if defined(__clang__) || __GNUC__ >= 12
  return __builtin_shufflevector(a, b, i...);
#else
  return __builtin_shuffle(a, b, decltype(a < b){i...});
#endif
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

// Numbers to keep a d x d matrix in, whose rows may be read and written by whole vectors.
template <class T>
LPS_FN int64_t matrix_size(int64_t d) {
  return d * d + kLanes<T>;
}

// m[e * d + a], the factor of x_e in y_a, of q^T x (transpose) or q x.
template <class T>
LPS_FN void read_matrix(const T* q, int64_t d, bool transpose, T by, T* m) {
  constexpr int64_t lanes = kLanes<T>;
  if (transpose || d < lanes) {
    for (int64_t e = 0; e < d; ++e) {
      for (int64_t a = 0; a < d; ++a) m[e * d + a] = by * (transpose ? q[e * d + a] : q[a * d + e]);
    }
    return;
  }
  for (int64_t i = 0; i < d; i += lanes) {
    for (int64_t j = 0; j < d; j += lanes) {
      const int64_t e = std::min(i, d - lanes), a = std::min(j, d - lanes);
      Vec<T> block[lanes];
#pragma GCC unroll 16
      for (int64_t l = 0; l < lanes; ++l) block[l] = load(q + (a + l) * d + e);
      cpu::transpose<T>(block);
#pragma GCC unroll 16
      for (int64_t l = 0; l < lanes; ++l) store(m + (e + l) * d + a, by * block[l]);
    }
  }
}

// y_a = sum_e m[e, a] x_e of points without channels, D numbers each.
template <int D, class T>
struct Points {
  Quad<T> column[D];

  explicit LPS_FN Points(const T* m) {
#pragma GCC unroll 4
    for (int e = 0; e < D; ++e) column[e] = load_quad<T, D>(m + e * D);
  }

  // by q^T x or by q x. Fourth numbers of D = 3 are anything, as those of points are.
  LPS_FN Points(const T* q, bool transpose, T by) {
    if constexpr (D == 3) {  // the nine numbers of q by three loads, the last from the number before its row
      const Quad<T> a = load_wide(q), b = load_wide(q + 3), c = pick<1, 2, 3, 0>(load_wide(q + 5), a);
      if (transpose) {
        column[0] = by * a, column[1] = by * b, column[2] = by * c;
      } else {
        const Quad<T> low = pick<0, 4, 1, 5>(a, b), high = pick<2, 6, 3, 7>(a, b);
        column[0] = by * pick<0, 1, 4, 4>(low, c), column[1] = by * pick<2, 3, 5, 5>(low, c);
        column[2] = by * pick<0, 1, 6, 6>(high, c);
      }
    } else {
      T m[D * D];  // an array of its own, which stays in registers
      read_matrix(q, D, transpose, by, m);
      *this = Points(m);
    }
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

  // Sums of n points wait in so many parts, in an order of their own.
  using Part = Quad<T>;
  static int64_t parts(int64_t n) {
    return n;
  }
  LPS_FN void add(const T* x, Part* sum, int64_t n) const {
    for (int64_t i = 0; i < n; ++i) sum[i] += (*this)(x + i * D);
  }
  // The same of k samples with a matrix each, by weights or all by `share`; the nodes of one lie `stride` behind those
  // of the one before. The sums of few points stay in registers.
  static void add_samples(const T* q, const T* weights, T share, const T* x, int64_t stride, int64_t k, Part* sum,
                          int64_t n) {
    switch (n) {
      case 1:
        return add_few<1>(q, weights, share, x, stride, k, sum);
      case 2:
        return add_few<2>(q, weights, share, x, stride, k, sum);
      case 3:
        return add_few<3>(q, weights, share, x, stride, k, sum);
      case 4:
        return add_few<4>(q, weights, share, x, stride, k, sum);
      case 5:
        return add_few<5>(q, weights, share, x, stride, k, sum);
      case 6:
        return add_few<6>(q, weights, share, x, stride, k, sum);
    }
    for (int64_t row = 0; row < k; ++row) {
      Points(q + row * D * D, false, weights ? weights[row] : share).add(x + row * stride, sum, n);
    }
  }
  static void finish(const Part* sum, int64_t n, T* to) {
    for (int64_t i = 0; i < n; ++i) store_quad<T, D>(to + i * D, sum[i]);
  }

 private:
  template <int n>
  static void add_few(const T* q, const T* weights, T share, const T* x, int64_t stride, int64_t k, Part* sum) {
    Quad<T> total[n];
#pragma GCC unroll 6
    for (int i = 0; i < n; ++i) total[i] = sum[i];
    for (int64_t row = 0; row < k; ++row, q += D * D, x += stride) {
      const Points points(q, false, weights ? weights[row] : share);
#pragma GCC unroll 6
      for (int i = 0; i < n; ++i) {
#pragma GCC unroll 4
        for (int e = 0; e < D; ++e) total[i] += points.column[e] * x[i * D + e];
      }
    }
#pragma GCC unroll 6
    for (int i = 0; i < n; ++i) sum[i] = total[i];
  }
};

template <class T>
struct RowBuffers {
  std::vector<T> repeated, whole;
};

// Lanes that repeat each number C times.
template <int C>
struct Repeated {
  static constexpr int at(int i) {
    return i / C;
  }
};

// Of n rows, those that whole vectors may read and write where they are: of few that are not whole vectors, none.
template <class T>
LPS_FN int64_t rows_in_place(int64_t n, int64_t width) {
  return width < kLanes<T> && n * width <= 32 * kLanes<T> ? 0 : whole_rows<T>(n, width);
}

// What `samples` matrices do to C channels, summed: rows of a matrix, each number C times, with a node's numbers as
// factors. The nodes of a sample lie `next` numbers behind those of the one before.
template <int C, bool kAdd, class T>
void apply_rows(const T* m, const T* x, T* y, int64_t n, int64_t d, int64_t samples = 1, int64_t next = 0) {
  constexpr int64_t lanes = kLanes<T>;
  const int64_t width = d * C, numbers = samples * d * d;
  RowBuffers<T>& buffers = workspace<RowBuffers<T>>();
  if constexpr (C > 1) {
    buffers.repeated.resize(numbers * C + lanes);
    T* to = buffers.repeated.data();
    for (int64_t i = 0; i < numbers; i += lanes / C, to += lanes) {
      const Vec<T> v = load(m + i);
      store(to, shuffle<T, Repeated<C>>(v, v));
    }
    m = buffers.repeated.data();
  }
  // Less than a vector is not added in place: it would be read while the row before is being written.
  const int64_t placed = kAdd && width < lanes ? 0 : rows_in_place<T>(n, width), rest = (n - placed) * width;
  combine_rows<kAdd, true, C>(SampleFactors<T>{x, width, C, samples, next}, placed, d, m, y, width);
  if (!rest) return;
  buffers.whole.resize(rest + lanes);
  T* const whole = buffers.whole.data();
  combine_rows<false, true, C>(SampleFactors<T>{x + placed * width, width, C, samples, next}, n - placed, d, m, whole,
                               width);
  y += placed * width;
  if (!kAdd) std::memcpy(y, whole, rest * sizeof(T));
  for (int64_t i = 0; kAdd && i < rest; ++i) y[i] += whole[i];
}

// g[e, a] (+)= sum over nodes and C channels of x[i, e, :] y[i, a, :]: rows of y with the numbers of x as factors.
template <int C, bool kAdd, class T>
void add_outer_rows(const T* x, const T* y, T* g, int64_t n, int64_t d) {
  const int64_t width = d * C, placed = rows_in_place<T>(n, width), rest = (n - placed) * width;
  RowBuffers<T>& buffers = workspace<RowBuffers<T>>();
  T* sum = g;
  if constexpr (C > 1) {
    buffers.repeated.resize(d * width + kLanes<T>);
    sum = buffers.repeated.data();
  }
  constexpr bool onto = kAdd && C == 1;
  buffers.whole.resize(rest + kLanes<T>);
  std::copy_n(y + placed * width, rest, buffers.whole.data());
  combine_rows<onto, true, C>(Factors<T>{x + placed * width, C, width}, d, n - placed, buffers.whole.data(), sum,
                              width);
  if (placed) combine_rows<true, true, C>(Factors<T>{x, C, width}, d, placed, y, sum, width);
  for (int64_t i = 0; C > 1 && i < d * d; ++i) {
    T total = kAdd ? g[i] : T(0);
    for (int j = 0; j < C; ++j) total += sum[i * C + j];
    g[i] = total;
  }
}

// y[i, a, :] (+)= sum_e m[e, a] x[i, e, :] for n nodes with d x c numbers each; D is d or 0, m has matrix_size.
template <int D, bool kAdd, class T>
void apply_matrix(const T* m, const T* x, T* y, int64_t n, int64_t dynamic, int64_t c) {
  const int64_t d = D ? D : dynamic, node = d * c;
  if constexpr (D > 0) {
    if (c == 1) {
      const Points<D, T> points(m);
      if (!kAdd) return points.write(x, y, n);
      for (int64_t i = 0; i < n; ++i) store_quad<T, D>(y + i * D, load_quad<T, D>(y + i * D) + points(x + i * D));
      return;
    }
  } else if (d == 1) {
    for (int64_t i = 0; i < n * c; ++i) y[i] = (kAdd ? y[i] : T(0)) + *m * x[i];
    return;
  }
  if (with_repeats<T>(c, [&](auto C) { apply_rows<C, kAdd>(m, x, y, n, d); })) return;
  const int64_t whole = whole_rows<T>(n * d, c) / std::max<int64_t>(d, 1);
  const Factors<T> factors{m, 1, d};
  int64_t i = 0;
  if (D == 0 && c == kLanes<T>) {
    for (; i + 2 <= whole; i += 2) combine_pair<kAdd>(factors, d, d, x + i * node, y + i * node, node);
  }
  for (; i < whole; ++i) {
    if constexpr (D > 0) {
      cover_row<T>(c, [&](int64_t j, Vec<Int<T>> kept) {
        combine_vectors<1, D, 1, kAdd, true>(factors, d, x + i * node, y + i * node, c, {j}, kept);
      });
    } else {
      combine_rows<kAdd, true>(factors, d, d, x + i * node, y + i * node, c);
    }
  }
  for (; i < n; ++i) combine_rows<kAdd, false>(factors, d, d, x + i * node, y + i * node, c);
}

// g[e, a] (+)= sum over nodes and channels of x[i, e, :] y[i, a, :]; g has matrix_size.
template <int D, bool kAdd, class T>
void add_outer(const T* x, const T* y, T* g, int64_t n, int64_t dynamic, int64_t c) {
  const int64_t d = D ? D : dynamic;
  if constexpr (D > 0) {
    if (c == 1) {
      Quad<T> sum[D];
      for (int e = 0; e < D; ++e) sum[e] = kAdd ? load_quad<T, D>(g + e * D) : Quad<T>{};
      for (int64_t i = 0; i < n; ++i) {
        const Quad<T> row = i + 1 < n ? load_wide(y + i * D) : load_quad<T, D>(y + i * D);
#pragma GCC unroll 4
        for (int e = 0; e < D; ++e) sum[e] += row * x[i * D + e];
      }
      for (int e = 0; e < D; ++e) store_quad<T, D>(g + e * D, sum[e]);
      return;
    }
  }
  if (d > 1 && with_repeats<T>(c, [&](auto C) { add_outer_rows<C, kAdd>(x, y, g, n, d); })) return;
  if (!kAdd) std::fill_n(g, d * d, T(0));
  if (d == 1) c *= n, n = 1;  // all nodes are one row
  const int64_t whole = whole_rows<T>(n * d, c) / std::max<int64_t>(d, 1);
  const auto block = [&](auto P, auto Q, int64_t e, int64_t a) {
    add_products<P, Q>(x + e * c, y + a * c, n, whole, d * c, c, g + e * d + a, d);
  };
  const std::integral_constant<int, 1> one;
  const std::integral_constant<int, 2> two;
  const std::integral_constant<int, 4> four;
  if constexpr (D == 2 || D == 3) {
    block(std::integral_constant<int, D>(), std::integral_constant<int, D>(), 0, 0);
  } else {
    int64_t e = 0;
    for (; e + 2 <= d; e += 2) {
      int64_t a = 0;
      for (; a + 4 <= d; a += 4) block(two, four, e, a);
      for (; a < d; ++a) block(two, one, e, a);
    }
    for (int64_t a = 0; e < d && a < d; ++a) block(one, one, e, a);
  }
}

}  // namespace lps::cpu
