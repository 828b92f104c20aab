// One small matrix a lane: the vectors of simd.h as numbers of core/, and arrays of matrices to lanes and back.
#pragma once

#include <algorithm>
#include <type_traits>

#include "core/number.h"
#include "cpu/simd.h"
#include "tensor.h"

namespace lps {

namespace cpu {

template <class T>
LPS_FN Vec<T> square_root(Vec<T> x) {
#if defined(__AVX512F__)
  if constexpr (sizeof(T) == 4) return (Vec<T>)_mm512_sqrt_ps((__m512)x);
  if constexpr (sizeof(T) == 8) return (Vec<T>)_mm512_sqrt_pd((__m512d)x);
#elif defined(__AVX2__)
  if constexpr (sizeof(T) == 4) return (Vec<T>)_mm256_sqrt_ps((__m256)x);
  if constexpr (sizeof(T) == 8) return (Vec<T>)_mm256_sqrt_pd((__m256d)x);
#else
  for (int i = 0; i < kLanes<T>; ++i) x[i] = std::sqrt(x[i]);
  return x;
#endif
}

// A class, because the compiler drops a vector's attributes in a template argument.
template <class T>
struct VectorLanes {
  using Scalar = T;
  static LPS_FN Vec<T> splat(T x) {
    return cpu::splat<T>(x);
  }
  static LPS_FN Vec<T> root(Vec<T> x) {
    return square_root<T>(x);
  }
  static LPS_FN bool any(Vec<Int<T>> mask) {
    return cpu::any<Int<T>>(mask);
  }
};

}  // namespace cpu

template <>
struct Lanes<cpu::Vec<float>> : cpu::VectorLanes<float> {};
template <>
struct Lanes<cpu::Vec<double>> : cpu::VectorLanes<double> {};

namespace cpu {

// How many matrices are turned into lanes at once: enough that the scalar stores of the turn have left the store
// buffer when the vectors are loaded, few enough to stay in the first-level cache.
constexpr int kChunk = 64;

// Matrices turn as blocks of so many entries, the last one over entries of the one before where they are not a multiple
// of it; with 0, entry by entry. Half as many entries as lanes are two matrices a vector.
template <int E, class T, class S>
constexpr int turned_entries() {
  if (!std::is_same_v<S, T>) return 0;
  if (kVectorBytes == 64 && E >= kLanes<T>) return kLanes<T>;
  if (kVectorBytes >= 32 && E >= kLanes<T> / 2) return kLanes<T> / 2;
  return kVectorBytes == 16 && E >= kLanes<T> ? kLanes<T> : 0;
}

// at[e * kChunk + i] = entry e of matrix i, zero for matrices from `count` on. Not inlined: once for a size, not for
// every op.
template <int E, class T, class S>
__attribute__((noinline)) void to_lanes(const S* from, int64_t count, T* at) {
  if (count < kChunk) std::fill(at, at + E * kChunk, T(0));
  int64_t i = 0;
  constexpr int turned = turned_entries<E, T, S>();
  if constexpr (turned > 0) {
    for (; i + kLanes<T> <= count; i += kLanes<T>) {
#pragma GCC unroll 16
      for (int done = 0; done < E; done += turned) {
        const int e = std::min(done, E - turned);
        Vec<T> block[turned];
#pragma GCC unroll 16
        for (int l = 0; l < turned; ++l) {
          const T* row = from + (i + l) * E + e;
          if constexpr (turned == kLanes<T>) {
            block[l] = load(row);
          } else {
            block[l] = load_halves(row, row + turned * E);
          }
        }
        transpose<T, turned>(block);
#pragma GCC unroll 16
        for (int j = done - e; j < turned; ++j) store(at + (e + j) * kChunk + i, block[j]);
      }
    }
  }
#pragma GCC unroll 1
  for (; i < count; ++i) {
#pragma GCC unroll 16
    for (int e = 0; e < E; ++e) at[e * kChunk + i] = static_cast<T>(from[i * E + e]);
  }
}

template <int E, class T, class S>
__attribute__((noinline)) void from_lanes(const T* at, int64_t count, S* to) {
  int64_t i = 0;
  constexpr int turned = turned_entries<E, T, S>();
  if constexpr (turned > 0) {
    for (; i + kLanes<T> <= count; i += kLanes<T>) {
#pragma GCC unroll 16
      for (int done = 0; done < E; done += turned) {
        const int e = std::min(done, E - turned);
        Vec<T> block[turned];
#pragma GCC unroll 16
        for (int j = 0; j < turned; ++j) block[j] = load(at + (e + j) * kChunk + i);
        transpose<T, turned>(block);
#pragma GCC unroll 16
        for (int l = 0; l < turned; ++l) {
          T* const row = to + (i + l) * E + e;
          if constexpr (turned == kLanes<T>) {
            store(row, block[l]);
          } else {
            store_halves(row, row + turned * E, block[l]);
          }
        }
      }
    }
  }
#pragma GCC unroll 1
  for (; i < count; ++i) {
#pragma GCC unroll 16
    for (int e = 0; e < E; ++e) to[i * E + e] = static_cast<S>(at[e * kChunk + i]);
  }
}

// A number of N for the lanes from `lane` on, of entry e; complex ones are two entries.
template <class T, class N>
struct Entry {
  static constexpr int kParts = 1;
  static LPS_FN N read(const T* at, int e, int lane) {
    return load<T>(at + e * kChunk + lane);
  }
  static LPS_FN void write(T* at, int e, int lane, N x) {
    store<T>(at + e * kChunk + lane, x);
  }
};
template <class T>
struct Entry<T, Complex<Vec<T>>> {
  static constexpr int kParts = 2;
  static LPS_FN Complex<Vec<T>> read(const T* at, int e, int lane) {
    return {load<T>(at + 2 * e * kChunk + lane), load<T>(at + (2 * e + 1) * kChunk + lane)};
  }
  static LPS_FN void write(T* at, int e, int lane, Complex<Vec<T>> x) {
    store<T>(at + 2 * e * kChunk + lane, x.re);
    store<T>(at + (2 * e + 1) * kChunk + lane, x.im);
  }
};

// Column j of the lanes' row-major (D, M) entries.
template <int D, int M, class T, class N>
LPS_FN void read_column(const T* at, int j, int lane, N* v) {
#pragma GCC unroll 4
  for (int i = 0; i < D; ++i) v[i] = Entry<T, N>::read(at, i * M + j, lane);
}
template <int D, int M, class T, class N>
LPS_FN void write_column(T* at, int j, int lane, const N* v) {
#pragma GCC unroll 4
  for (int i = 0; i < D; ++i) Entry<T, N>::write(at, i * M + j, lane, v[i]);
}

// The first `count` columns.
template <int D, int M, int count = M, class T, class N>
LPS_FN void read_columns(const T* at, int lane, N (*v)[D]) {
#pragma GCC unroll 4
  for (int j = 0; j < count; ++j) read_column<D, M>(at, j, lane, v[j]);
}
template <int D, int M, class T, class N>
LPS_FN void write_columns(T* at, int lane, const N (*v)[D]) {
#pragma GCC unroll 4
  for (int j = 0; j < M; ++j) write_column<D, M>(at, j, lane, v[j]);
}

}  // namespace cpu
}  // namespace lps
