// Vectors of the compiler's own kind (GCC and clang), as wide as the level that is being built: no intrinsics but where
// the language has no word for it.
#pragma once

#include <cstdint>
#include <cstring>
#include <type_traits>
#include <utility>

#include "core/macros.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace lps::cpu {

#if defined(__AVX512F__)
constexpr int kVectorBytes = 64;
#elif defined(__AVX2__)
constexpr int kVectorBytes = 32;
#else
constexpr int kVectorBytes = 16;
#endif

template <class T>
struct VectorOf {
  typedef T type __attribute__((vector_size(kVectorBytes)));
};
template <class T>
using Vec = typename VectorOf<T>::type;
template <class T>
constexpr int kLanes = kVectorBytes / static_cast<int>(sizeof(T));

// The integers as wide as T: what comparisons of Vec<T> give.
template <class T>
using Int = std::conditional_t<sizeof(T) == 8, int64_t, int32_t>;

template <class T>
LPS_FN Vec<T> load(const T* p) {
  Vec<T> v;
  std::memcpy(&v, p, sizeof(v));
  return v;
}

template <class T>
LPS_FN void store(T* p, Vec<T> v) {
  std::memcpy(p, &v, sizeof(v));
}

template <class T>
LPS_FN Vec<T> splat(T x) {
  return x - Vec<T>{};  // x, not -0, for x = 0
}

template <class T>
LPS_FN bool any(Vec<T> mask) {
#if defined(__AVX2__) && !defined(__AVX512F__)
  return !_mm256_testz_si256((__m256i)mask, (__m256i)mask);
#endif
  uint64_t words[kVectorBytes / 8];
  std::memcpy(words, &mask, sizeof(words));
  uint64_t all = 0;
  for (uint64_t w : words) all |= w;
  return all != 0;
}

// (a, b)[Pick::at(i)] in lane i: the indices are constants, or a shuffle becomes a dozen instructions.
template <class T, class Pick, size_t... i>
LPS_FN Vec<T> shuffle(Vec<T> a, Vec<T> b, std::index_sequence<i...>) {
#if defined(__clang__) || __GNUC__ >= 12
  return __builtin_shufflevector(a, b, Pick::at(static_cast<int>(i))...);
#else
  return __builtin_shuffle(a, b, Vec<Int<T>>{Pick::at(static_cast<int>(i))...});
#endif
}

template <class T, class Pick>
LPS_FN Vec<T> shuffle(Vec<T> a, Vec<T> b) {
  return shuffle<T, Pick>(a, b, std::make_index_sequence<kLanes<T>>());
}

// Lanes whose index has the bit `half` clear, of a and then of b at their place with it set; or those with it set.
template <int lanes, int half, bool set>
struct Interleaved {
  static constexpr int at(int i) {
    return (i & half ? lanes + i - half : i) + (set ? half : 0);
  }
};

// The first, or second, halves of a's segments of 2 half lanes, then those of b's.
template <int lanes, int half, bool second>
struct Halves {
  static constexpr int at(int i) {
    return i / half * 2 * half + i % half + (second ? half : 0);
  }
};

// Within each 16 bytes, the first halves of a and b in turns, or the second halves: one instruction.
template <int lanes, int segment, bool second>
struct Unpacked {
  static constexpr int at(int i) {
    return (i & 1 ? lanes : 0) + i / segment * segment + i % segment / 2 + (second ? segment / 2 : 0);
  }
};

// Transposes `count` vectors in place, all kLanes by kLanes, or each segment of `count` lanes by itself. First within
// 16 bytes, then across.
template <class T, int count = kLanes<T>, int half = 1>
LPS_FN void transpose(Vec<T>* v) {
  constexpr int lanes = kLanes<T>;
  if constexpr (half == 1 && sizeof(T) == 4 && count >= 4) {
#pragma GCC unroll 4
    for (int i = 0; i < count; i += 4) {
      const Vec<T> a = shuffle<T, Unpacked<lanes, 4, false>>(v[i], v[i + 2]);
      const Vec<T> b = shuffle<T, Unpacked<lanes, 4, true>>(v[i], v[i + 2]);
      const Vec<T> c = shuffle<T, Unpacked<lanes, 4, false>>(v[i + 1], v[i + 3]);
      const Vec<T> d = shuffle<T, Unpacked<lanes, 4, true>>(v[i + 1], v[i + 3]);
      v[i] = shuffle<T, Unpacked<lanes, 4, false>>(a, c), v[i + 1] = shuffle<T, Unpacked<lanes, 4, true>>(a, c);
      v[i + 2] = shuffle<T, Unpacked<lanes, 4, false>>(b, d), v[i + 3] = shuffle<T, Unpacked<lanes, 4, true>>(b, d);
    }
    if constexpr (count > 4) transpose<T, count, 4>(v);
  } else {
#pragma GCC unroll 16
    for (int i = 0; i < count; ++i) {
      if (i & half) continue;
      const Vec<T> a = v[i], b = v[i + half];
      v[i] = shuffle<T, Interleaved<lanes, half, false>>(a, b);
      v[i + half] = shuffle<T, Interleaved<lanes, half, true>>(a, b);
    }
    if constexpr (2 * half < count) transpose<T, count, 2 * half>(v);
  }
}

// A vector of two halves, from a and from b on, and back.
#if defined(__AVX512F__)
template <class T>
LPS_FN Vec<T> load_halves(const T* a, const T* b) {
  const __m256d low = _mm256_loadu_pd(reinterpret_cast<const double*>(a));
  const __m256d high = _mm256_loadu_pd(reinterpret_cast<const double*>(b));
  return (Vec<T>)_mm512_insertf64x4(_mm512_castpd256_pd512(low), high, 1);
}
template <class T>
LPS_FN void store_halves(T* a, T* b, Vec<T> v) {
  _mm256_storeu_pd(reinterpret_cast<double*>(a), _mm512_castpd512_pd256((__m512d)v));
  _mm256_storeu_pd(reinterpret_cast<double*>(b), _mm512_extractf64x4_pd((__m512d)v, 1));
}
#elif defined(__AVX2__)
template <class T>
LPS_FN Vec<T> load_halves(const T* a, const T* b) {
  const __m128d low = _mm_loadu_pd(reinterpret_cast<const double*>(a));
  const __m128d high = _mm_loadu_pd(reinterpret_cast<const double*>(b));
  return (Vec<T>)_mm256_insertf128_pd(_mm256_castpd128_pd256(low), high, 1);
}
template <class T>
LPS_FN void store_halves(T* a, T* b, Vec<T> v) {
  _mm_storeu_pd(reinterpret_cast<double*>(a), _mm256_castpd256_pd128((__m256d)v));
  _mm_storeu_pd(reinterpret_cast<double*>(b), _mm256_extractf128_pd((__m256d)v, 1));
}
#endif

// The even, or odd, numbers of each 16 bytes of a, and then of b's: one instruction, unlike what crosses 16 bytes.
template <int lanes, int segment, bool odd>
struct Alternate {
  static constexpr int at(int i) {
    const int j = i % segment, half = segment / 2;
    return (j < half ? 0 : lanes) + i / segment * segment + j % half * 2 + (odd ? 1 : 0);
  }
};

// Folds `count` vectors pair by pair until lane i of the result holds the sum of v[i]'s lanes; count = kLanes. First
// within 16 bytes, then across.
template <class T, int count = kLanes<T>>
LPS_FN Vec<T> sum_lanes(Vec<T>* v) {
  constexpr int lanes = kLanes<T>, segment = 16 / sizeof(T), half = count * segment / 2;
#pragma GCC unroll 16
  for (int i = 0; i < count / 2; ++i) {
    const Vec<T> a = v[2 * i], b = v[2 * i + 1];
    if constexpr (count > lanes / segment) {
      v[i] = shuffle<T, Alternate<lanes, segment, false>>(a, b) + shuffle<T, Alternate<lanes, segment, true>>(a, b);
    } else {
      v[i] = shuffle<T, Halves<lanes, half, false>>(a, b) + shuffle<T, Halves<lanes, half, true>>(a, b);
    }
  }
  if constexpr (count > 2) {
    return sum_lanes<T, count / 2>(v);
  } else {
    return v[0];
  }
}

// 1 / x to about one ulp: an estimate and a Newton step, where a division of floats would be the loop's bottleneck.
LPS_FN Vec<double> reciprocal(Vec<double> x) {
  return 1.0 / x;
}
LPS_FN Vec<float> reciprocal(Vec<float> x) {
#if defined(__AVX512F__)
  const Vec<float> r = (Vec<float>)_mm512_rcp14_ps((__m512)x);
  return r + r * (1.0f - x * r);
#elif defined(__AVX2__)
  const Vec<float> r = (Vec<float>)_mm256_rcp_ps((__m256)x);
  return r + r * (1.0f - x * r);
#else
  return 1.0f / x;
#endif
}

// exp(x) for x <= 0: 2^k exp(r) with |r| <= ln(2) / 2 and a Taylor series to below half an ulp. Zero below the smallest
// normal number.
template <class T>
LPS_FN Vec<T> exp_nonpositive(Vec<T> x) {
  using I = Int<T>;
  constexpr bool single = sizeof(T) == 4;
  constexpr T lowest = single ? T(-87.0) : T(-708.0);
  const Vec<I> normal = x >= lowest;  // not for NaN, of scores too far apart for T
  x = normal ? x : splat<T>(0);
  const Vec<I> k = __builtin_convertvector(x * T(1.4426950408889634) - T(0.5), Vec<I>);
  const Vec<T> kf = __builtin_convertvector(k, Vec<T>);
  constexpr T ln2_high = single ? T(0.693359375) : T(6.93147180369123816490e-01);
  constexpr T ln2_low = single ? T(-2.12194440e-4) : T(1.90821492927058770002e-10);
  const Vec<T> r = (x - kf * ln2_high) - kf * ln2_low;
  constexpr int terms = single ? 7 : 13;
  Vec<T> p = splat<T>(1);
#pragma GCC unroll 13
  for (int i = terms; i > 0; --i) p = p * r * T(1.0 / i) + T(1);
  const Vec<I> bits = (k + I(single ? 127 : 1023)) << (single ? 23 : 52);
  const Vec<T> result = p * (Vec<T>)bits;
  return normal ? result : splat<T>(0);
}

// log(x) for normal x > 0: k ln 2 + 2 atanh((m - 1) / (m + 1)) with m in [sqrt(1/2), sqrt(2)).
template <class T>
LPS_FN Vec<T> log_positive(Vec<T> x) {
  using I = Int<T>;
  constexpr bool single = sizeof(T) == 4;
  constexpr int mantissa = single ? 23 : 52;
  constexpr I root_half = single ? I(0x3F3504F3) : I(0x3FE6A09E667F3BCDll);
  const Vec<I> bits = (Vec<I>)x;
  const Vec<I> k = (bits - root_half) >> mantissa;
  const Vec<T> m = (Vec<T>)(bits - (k << mantissa));
  const Vec<T> s = (m - T(1)) / (m + T(1));
  const Vec<T> s2 = s * s;
  constexpr int terms = single ? 5 : 11;
  Vec<T> p = splat<T>(T(1.0 / (2 * terms + 1)));
#pragma GCC unroll 11
  for (int i = terms - 1; i >= 0; --i) p = p * s2 + T(1.0 / (2 * i + 1));
  const Vec<T> kf = __builtin_convertvector(k, Vec<T>);
  constexpr T ln2_high = single ? T(0.693359375) : T(6.93147180369123816490e-01);
  constexpr T ln2_low = single ? T(-2.12194440e-4) : T(1.90821492927058770002e-10);
  return kf * ln2_high + (T(2) * s * p + kf * ln2_low);
}

// log(1 + x) for x >= 0, exact to rounding near 0.
template <class T>
LPS_FN Vec<T> log1p_nonnegative(Vec<T> x) {
  const Vec<T> u = T(1) + x;
  return log_positive<T>(u) + (x - (u - T(1))) / u;
}

}  // namespace lps::cpu
