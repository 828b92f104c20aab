// Products of a few vectors with many rows, for matrices that stay in cache. Rows are `length` numbers apart, padded
// with zeros to whole vectors.
#pragma once

#include "cpu/matrix_lanes.h"
#include "cpu/parallel.h"

namespace lps::cpu {

// s[i] = the sum of the lanes of a[i].
LPS_FN void add_lanes(const Vec<double>* a, double* s) {
  for (int i = 0; i < 8; ++i) {
    double sum = 0;
    for (int l = 0; l < kLanes<double>; ++l) sum += a[i][l];
    s[i] = sum;
  }
}
LPS_FN void add_lanes(const Vec<float>* a, float* s) {
#if defined(__AVX2__) && !defined(__AVX512F__)
  const auto pair = [](Vec<float> x, Vec<float> y) { return _mm256_hadd_ps((__m256)x, (__m256)y); };
  const __m256 low = _mm256_hadd_ps(pair(a[0], a[1]), pair(a[2], a[3]));
  const __m256 high = _mm256_hadd_ps(pair(a[4], a[5]), pair(a[6], a[7]));
  _mm256_storeu_ps(s, _mm256_permute2f128_ps(low, high, 0x20) + _mm256_permute2f128_ps(low, high, 0x31));
#else
  for (int i = 0; i < 8; ++i) {
    float sum = 0;
    for (int l = 0; l < kLanes<float>; ++l) sum += a[i][l];
    s[i] = sum;
  }
#endif
}

// s[r * C + c] = <a_r, x_c> for R rows and C vectors.
template <int R, int C, class T>
LPS_FN void dot_block(const T* a, const T* x, int64_t length, T* s) {
  static_assert(R * C <= 8);  // accumulators: two multiply-adds a cycle, four cycles each
  Vec<T> sum[8] = {};
  for (int64_t i = 0; i < length; i += kLanes<T>) {
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
#pragma GCC unroll 8
      for (int c = 0; c < C; ++c) sum[r * C + c] += load(a + r * length + i) * load(x + c * length + i);
    }
  }
  T all[8];
  add_lanes(sum, all);
  for (int i = 0; i < R * C; ++i) s[i] = all[i];
}

// s[r * C + c] = <a_r, x_c> for any number of rows.
template <int C, class T>
inline void dots(const T* a, int64_t count, const T* x, int64_t length, T* s) {
  constexpr int R = 8 / C;
  int64_t r = 0;
  for (; r + R <= count; r += R) dot_block<R, C>(a + r * length, x, length, s + r * C);
  if constexpr (R >= 8) {
    if (r + 4 <= count) dot_block<4, C>(a + r * length, x, length, s + r * C), r += 4;
  }
  if constexpr (R >= 4) {
    if (r + 2 <= count) dot_block<2, C>(a + r * length, x, length, s + r * C), r += 2;
  }
  if (r < count) dot_block<1, C>(a + r * length, x, length, s + r * C);
}

// y_c -= sum_r s[r * C + c] a_r, for U vectors of each y_c from `at` on.
template <int C, int U, class T>
LPS_FN void subtract_block(T* y, const T* s, const T* a, int64_t count, int64_t length, int64_t at) {
  Vec<T> sum[C][U];
  for (int c = 0; c < C; ++c) {
    for (int u = 0; u < U; ++u) sum[c][u] = load(y + c * length + at + u * kLanes<T>);
  }
  for (int64_t r = 0; r < count; ++r) {
    const T* row = a + r * length + at;
#pragma GCC unroll 8
    for (int u = 0; u < U; ++u) {
      const Vec<T> x = load(row + u * kLanes<T>);
#pragma GCC unroll 8
      for (int c = 0; c < C; ++c) sum[c][u] -= s[r * C + c] * x;
    }
  }
  for (int c = 0; c < C; ++c) {
    for (int u = 0; u < U; ++u) store(y + c * length + at + u * kLanes<T>, sum[c][u]);
  }
}

template <int C, class T>
inline void subtract_rows(T* y, const T* s, const T* a, int64_t count, int64_t length) {
  constexpr int U = 8 / C;
  int64_t at = 0;
  for (; at + U * kLanes<T> <= length; at += U * kLanes<T>) subtract_block<C, U>(y, s, a, count, length, at);
  for (; at < length; at += kLanes<T>) subtract_block<C, 1>(y, s, a, count, length, at);
}

template <class T>
struct ComplexRows {
  std::vector<T> values;
};

// The same of complex numbers, as rows of twice as many real ones; <a, x> conjugates a: its parts are those of a with x
// and with -i x.
template <int C, class T>
inline void dots(const Complex<T>* a, int64_t count, const Complex<T>* x, int64_t length, Complex<T>* s) {
  if (count == 0) return;
  std::vector<T>& both = workspace<ComplexRows<T>>().values;
  both.resize(4 * C * length);
  for (int64_t c = 0; c < C; ++c) {
    T* __restrict to = both.data() + 4 * c * length, * __restrict turned = to + 2 * length;
    for (int64_t i = 0; i < length; ++i) {
      const Complex<T> from = x[c * length + i];
      to[2 * i] = from.re, to[2 * i + 1] = from.im, turned[2 * i] = from.im, turned[2 * i + 1] = -from.re;
    }
  }
  dots<2 * C>(reinterpret_cast<const T*>(a), count, both.data(), 2 * length, reinterpret_cast<T*>(s));
}

// The rows by the real parts of s are taken from y, those by the imaginary parts from zero, and i times that is added.
template <int C, class T>
inline void subtract_rows(Complex<T>* y, const Complex<T>* s, const Complex<T>* a, int64_t count, int64_t length) {
  if (count == 0) return;
  std::vector<T>& both = workspace<ComplexRows<T>>().values;
  both.assign(4 * C * length, T(0));
  for (int64_t c = 0; c < C; ++c) std::memcpy(&both[4 * c * length], y + c * length, length * sizeof(*y));
  subtract_rows<2 * C>(both.data(), reinterpret_cast<const T*>(s), reinterpret_cast<const T*>(a), count, 2 * length);
  for (int64_t c = 0; c < C; ++c) {
    const T* __restrict from = both.data() + 4 * c * length, * __restrict turned = from + 2 * length;
    for (int64_t i = 0; i < length; ++i) {
      y[c * length + i] = {from[2 * i] - turned[2 * i + 1], from[2 * i + 1] + turned[2 * i]};
    }
  }
}

// |u|^2, added up in double: half of its error is that of every column's length.
template <class T>
inline T square_of(const T* u, int64_t length) {
  constexpr int lanes = kLanes<T>;
  double sum = 0, parts[lanes] = {};
  for (int64_t i = 0; i < length; i += lanes) {
#pragma GCC unroll 16
    for (int l = 0; l < lanes; ++l) parts[l] += static_cast<double>(u[i + l]) * u[i + l];
  }
  for (const double part : parts) sum += part;
  return static_cast<T>(sum);
}
template <class T>
inline T square_of(const Complex<T>* u, int64_t length) {
  return square_of(reinterpret_cast<const T*>(u), 2 * length);
}

}  // namespace lps::cpu
