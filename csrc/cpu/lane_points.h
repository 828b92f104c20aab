// 3 x 3 matrices on points without channels, five points a vector, or two in double: number 3 i + a of a vector belongs
// to axis a of its point i. Where vectors can be cut for nothing, with AVX-512.
#pragma once

#include "cpu/points.h"

namespace lps::cpu {

#if defined(__AVX512F__)
// In every lane of axis a the entry that takes axis `axis` of q^T x (transpose), or of q x, to a; q from number `first`
// on.
template <int axis, bool transpose, int first>
struct MatrixEntry {
  static constexpr int at(int i) {
    return (transpose ? axis * 3 + i % 3 : i % 3 * 3 + axis) - first;
  }
};

// In every lane its own point's number `axis`.
template <int lanes, int axis>
struct PointEntry {
  static constexpr int at(int i) {
    return (i / 3 * 3 + axis) % lanes;
  }
};

LPS_FN Vec<float> load_first(const float* p, int64_t count) {
  return (Vec<float>)_mm512_maskz_loadu_ps(static_cast<__mmask16>((1u << count) - 1), p);
}
LPS_FN Vec<double> load_first(const double* p, int64_t count) {
  return (Vec<double>)_mm512_maskz_loadu_pd(static_cast<__mmask8>((1u << count) - 1), p);
}
LPS_FN void store_first(float* p, Vec<float> v, int64_t count) {
  _mm512_mask_storeu_ps(p, static_cast<__mmask16>((1u << count) - 1), (__m512)v);
}
LPS_FN void store_first(double* p, Vec<double> v, int64_t count) {
  _mm512_mask_storeu_pd(p, static_cast<__mmask8>((1u << count) - 1), (__m512d)v);
}

// As Points.
template <class T>
struct LanePoints {
  using Part = Vec<T>;
  static constexpr int lanes = kLanes<T>, step = lanes / 3 * 3;
  Vec<T> column[3];

  LPS_FN LanePoints(const T* q, bool transpose, T by) {
    transpose ? read<true>(q, by) : read<false>(q, by);
  }

  LPS_FN void write(const T* x, T* y, int64_t n) const {
    each(x, n, [&](int64_t at, Vec<T> v, int64_t count) { store_first(y + at, v, count); });
  }

  static int64_t parts(int64_t n) {
    return (3 * n + step - 1) / step;
  }
  LPS_FN void add(const T* x, Part* sum, int64_t n) const {
    each(x, n, [&](int64_t, Vec<T> v, int64_t) { *sum++ += v; });
  }
  static void add_samples(const T* q, const T* weights, T share, const T* x, int64_t stride, int64_t k, Part* sum,
                          int64_t n) {
    for (int64_t row = 0; row < k; ++row, q += 9, x += stride) {
      LanePoints(q, false, weights ? weights[row] : share).add(x, sum, n);
    }
  }
  static void finish(const Part* sum, int64_t n, T* to) {
    for (int64_t at = 0; at < 3 * n; at += step) store_first(to + at, *sum++, std::min<int64_t>(step, 3 * n - at));
  }

 private:
  // Calls body(first number, values, how many) for the results of n points.
  template <class Body>
  LPS_FN void each(const T* x, int64_t n, const Body& body) const {
    for (int64_t at = 0; at < 3 * n; at += step) {
      const int64_t count = std::min<int64_t>(step, 3 * n - at);
      const Vec<T> v = load_first(x + at, count);
      Vec<T> sum = column[0] * shuffle<T, PointEntry<lanes, 0>>(v, v);
      sum += column[1] * shuffle<T, PointEntry<lanes, 1>>(v, v);
      sum += column[2] * shuffle<T, PointEntry<lanes, 2>>(v, v);
      body(at, sum, count);
    }
  }

  // Of nine numbers a vector of eight lacks one, so the last axis looks from the second number on.
  template <bool transpose>
  LPS_FN void read(const T* q, T by) {
    constexpr int first = lanes > 8 ? 0 : 1;
    const Vec<T> low = load_first(q, lanes > 8 ? 9 : 8), high = first ? load_first(q + first, 8) : low;
    column[0] = by * shuffle<T, MatrixEntry<0, transpose, 0>>(low, low);
    column[1] = by * shuffle<T, MatrixEntry<1, transpose, 0>>(low, low);
    column[2] = by * shuffle<T, MatrixEntry<2, transpose, first>>(high, high);
  }
};

template <int D, class T>
using PointsOf = std::conditional_t<D == 3, LanePoints<T>, Points<D, T>>;
#else
template <int D, class T>
using PointsOf = Points<D, T>;
#endif

}  // namespace lps::cpu
