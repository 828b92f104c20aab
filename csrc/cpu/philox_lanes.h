// Philox4x32-10 with a counter a lane.
#pragma once

#include "core/philox.h"
#include "cpu/simd.h"

namespace lps::cpu {

using Words64 = Vec<uint64_t>;  // 32-bit words; the upper halves are not looked at

// Products of the lower halves.
LPS_FN Words64 multiply_words(Words64 a, uint64_t m) {
#if defined(__AVX512F__)
  return (Words64)_mm512_mul_epu32((__m512i)a, (__m512i)splat(m));
#elif defined(__AVX2__)
  return (Words64)_mm256_mul_epu32((__m256i)a, (__m256i)splat(m));
#elif defined(__SSE2__)
  return (Words64)_mm_mul_epu32((__m128i)a, (__m128i)splat(m));
#else
  return (a & uint64_t{0xFFFFFFFF}) * m;
#endif
}

// The keys of a seed's ten rounds, in all lanes.
struct PhiloxKeys {
  Words64 first[10], second[10];

  explicit PhiloxKeys(uint64_t seed) {
    uint32_t key0 = static_cast<uint32_t>(seed), key1 = static_cast<uint32_t>(seed >> 32);
    for (int round = 0; round < 10; ++round) {
      first[round] = splat<uint64_t>(key0), second[round] = splat<uint64_t>(key1);
      key0 += 0x9E3779B9u;
      key1 += 0xBB67AE85u;
    }
  }
};

// first, first + 1, ...
LPS_FN Words64 counting(uint64_t first) {
  Words64 lanes;
  for (int i = 0; i < kLanes<uint64_t>; ++i) lanes[i] = i;
  return first + lanes;
}

// The words of counters (index, row, stream), as philox() of core.
LPS_FN void philox_lanes(const PhiloxKeys& keys, Words64 index, Words64 row, uint32_t stream, Words64* w) {
  Words64 c0 = index, c1 = row, c2 = row >> 32, c3 = splat<uint64_t>(stream);
#pragma GCC unroll 10
  for (int round = 0; round < 10; ++round) {
    const Words64 p0 = multiply_words(c0, 0xD2511F53u), p1 = multiply_words(c2, 0xCD9E8D57u);
    c0 = (p1 >> 32) ^ (c1 ^ keys.first[round]);
    c1 = p1;
    c2 = (p0 >> 32) ^ (c3 ^ keys.second[round]);
    c3 = p0;
  }
  w[0] = c0, w[1] = c1, w[2] = c2, w[3] = c3;
}

// The lower halves, kept as the bits of as many numbers of type T.
template <class T>
LPS_FN void store_words(T* to, Words64 w) {
  if constexpr (sizeof(T) == 8) {
    std::memcpy(to, &w, sizeof(w));
  } else {
    typedef uint32_t Half __attribute__((vector_size(kVectorBytes / 2)));
    const Half half = __builtin_convertvector(w, Half);
    std::memcpy(to, &half, sizeof(half));
  }
}

// Uniform numbers in (0, 1) of words kept so: 23 bits and a half in float, 32 and a half in double.
LPS_FN Vec<float> uniform_lanes(const float* words) {
  uint32_t const* bits = reinterpret_cast<const uint32_t*>(words);
  return ((Vec<float>)((load(bits) >> 9) | 0x3F800000u) - 1.0f) + 0x1p-24f;
}
LPS_FN Vec<double> uniform_lanes(const double* words) {
  const Words64 w = load(reinterpret_cast<const uint64_t*>(words)) & uint64_t{0xFFFFFFFF};
  return (((Vec<double>)(w | uint64_t{0x4330000000000000}) - 0x1p52) + 0.5) * 0x1p-32;
}

}  // namespace lps::cpu
