// Matrices of a seed, small ones by a thread each, and normal numbers.
#pragma once

#include "core/haar.h"
#include "core/philox.h"
#include "cuda/gram_schmidt_small.cuh"

namespace lps::cuda {

// In (0, 1), with as many bits as are exact after adding a half.
template <class T>
__device__ __forceinline__ T uniform(uint32_t word) {
  constexpr int bits = sizeof(T) == 4 ? 23 : 32;
  return (static_cast<T>(word >> (32 - bits)) + T(0.5)) * (sizeof(T) == 4 ? T(0x1p-23) : T(0x1p-32));
}

// Normal numbers 4 call to 4 call + 3 of a row.
template <class T>
__device__ __forceinline__ void normals(uint64_t seed, int call, int64_t row, T* to) {
  const Words words = philox(seed, static_cast<uint32_t>(call), static_cast<uint64_t>(row), kNormal);
#pragma unroll
  for (int pair = 0; pair < 4; pair += 2) {
    const T radius = sqrt(T(-2) * log(uniform<T>(words.w[pair])));
    box_muller<T>(radius, uniform<T>(words.w[pair + 1]), to + pair, to + pair + 1);
  }
}

// Where matrices come from: a seed. Angles give those that are orthonormal as they are; others are normal numbers.
struct Drawn {
  const int64_t* seed;
  bool special;

  template <int D, class N>
  static constexpr bool kOrthonormal = D <= kAngles && sizeof(N) == sizeof(Real<N>);

  template <int D, int M, class N>
  __device__ __forceinline__ void read(Real<N>*, int64_t first, int, N (*columns)[D]) const {
    using T = Real<N>;
    const uint64_t key = static_cast<uint64_t>(*seed), row = static_cast<uint64_t>(first + threadIdx.x);
    if constexpr (kOrthonormal<D, N>) {
      const Words words = philox(key, 0, row, kRotation);
      T u[kHaarWords];
#pragma unroll
      for (int i = 0; i < kHaarWords; ++i) u[i] = uniform<T>(words.w[i]);
      haar_by_angles<D>(u, special, columns);
    } else {
      constexpr int calls = (Layout<D, M, N>::kEntries + 3) / 4;
      T entries[4 * calls];
#pragma unroll
      for (int call = 0; call < calls; ++call) normals(key, call, row, entries + 4 * call);
      read_columns<D, M>(entries, columns);
    }
  }
};

}  // namespace lps::cuda
