// Rows of numbers from the type that stores them to the one that computes with them, and back. Those of 16 bits have
// vectors of their own here: compilers make none of conversions of single numbers.
#pragma once

#include "cpu/simd.h"
#include "tensor.h"

namespace lps::cpu {

// Whether vectors of F are read and written as vectors of float, by `widen` and `narrow`.
#if defined(__F16C__)
constexpr bool kHalfVectors = true;
#else
constexpr bool kHalfVectors = false;
#endif
template <class F>
constexpr bool kWidens =
    std::is_same_v<F, float> || std::is_same_v<F, BFloat16> || (std::is_same_v<F, Half> && kHalfVectors);

template <class F>
LPS_FN Vec<float> widen(const F* from) {
  if constexpr (std::is_same_v<F, float>) return load(from);
  uint16_t bits __attribute__((vector_size(kVectorBytes / 2)));
  std::memcpy(&bits, from, sizeof(bits));
#if defined(__AVX512F__)
  if constexpr (std::is_same_v<F, Half>) return (Vec<float>)_mm512_cvtph_ps((__m256i)bits);
#elif defined(__F16C__)
  if constexpr (std::is_same_v<F, Half>) return (Vec<float>)_mm256_cvtph_ps((__m128i)bits);
#endif
  return (Vec<float>)(__builtin_convertvector(bits, Vec<uint32_t>) << 16);
}

// To the nearest, of two the even one.
template <class F>
LPS_FN void narrow(Vec<float> x, F* to) {
  if constexpr (std::is_same_v<F, float>) return store(to, x);
  uint16_t bits __attribute__((vector_size(kVectorBytes / 2)));
  if constexpr (std::is_same_v<F, BFloat16>) {
    const auto whole = (Vec<uint32_t>)x;
    const Vec<uint32_t> rounded = (whole + 0x7FFF + ((whole >> 16) & 1)) >> 16, nan = Vec<uint32_t>{} + 0x7FC0;
    bits = __builtin_convertvector(x == x ? rounded : nan, decltype(bits));
  }
#if defined(__AVX512F__)
  if constexpr (std::is_same_v<F, Half>) bits = (decltype(bits))_mm512_cvtps_ph((__m512)x, _MM_FROUND_TO_NEAREST_INT);
#elif defined(__F16C__)
  if constexpr (std::is_same_v<F, Half>) bits = (decltype(bits))_mm256_cvtps_ph((__m256)x, _MM_FROUND_TO_NEAREST_INT);
#endif
  std::memcpy(to, &bits, sizeof(bits));
}

// One number.
template <class To, class From>
LPS_FN To convert(From x) {
#if defined(__F16C__)
  if constexpr (std::is_same_v<From, Half> && std::is_same_v<To, float>) return _cvtsh_ss(x.x);
  if constexpr (std::is_same_v<From, float> && std::is_same_v<To, Half>) {
    return Half(_cvtss_sh(x, _MM_FROUND_TO_NEAREST_INT), Half::from_bits());
  }
#endif
  return static_cast<To>(x);
}

// to[i] = from[i]. Of a wider `to`, `from` may be the second half.
template <class From, class To, class Count>
LPS_FN void convert_row(const From* from, Count count, To* to) {
  int64_t i = 0;
  if constexpr (std::is_same_v<From, To>) {
    if (count > 0) std::memcpy(to, from, count * sizeof(To));  // null where there is nothing
    return;
  } else if constexpr (kWidens<From> && kWidens<To>) {
    for (; i + kLanes<float> <= count; i += kLanes<float>) narrow(widen(from + i), to + i);
  }
  for (; i < count; ++i) to[i] = convert<To>(from[i]);
}

}  // namespace lps::cpu
