// Gram-Schmidt of small matrices, each in the registers of a thread. They pass through shared memory, so that a block
// reads and writes its matrices in order.
#pragma once

#include "core/gram_schmidt.h"
#include "cuda/typed.cuh"

namespace lps::cuda {

// Up to this d a thread holds a matrix.
constexpr int64_t kSmall = 4, kSmallComplex = 3;
// Rectangular ones in float64 or complex go the way of larger ones, to halve the time that the kernels take to compile.
template <class N>
constexpr bool held_by_thread(int64_t d, int64_t m) {
  return d <= (sizeof(N) == sizeof(Real<N>) ? kSmall : kSmallComplex) && (d == m || std::is_same_v<N, float>);
}
constexpr int kMatrices = 128;  // a block's, and its threads

// D x M numbers of N in units of T, and how far apart two matrices lie: odd, so that threads meet no bank twice.
template <int D, int M, class N>
struct Layout {
  using T = Real<N>;
  static constexpr int kParts = sizeof(N) / sizeof(T), kEntries = D * M * kParts, kStride = kEntries | 1;
};

// shared[i * stride + e] = entry e of matrix first + i, for `count` matrices of one block.
template <int ENTRIES, int STRIDE, class S, class T>
__device__ __forceinline__ void stage_in(const S* from, int64_t first, int count, T* shared) {
  from += first * ENTRIES;
#pragma unroll
  for (int step = 0; step < ENTRIES; ++step) {
    const int at = step * kMatrices + threadIdx.x;
    if (at < count * ENTRIES) shared[at / ENTRIES * STRIDE + at % ENTRIES] = static_cast<T>(from[at]);
  }
}

template <int ENTRIES, int STRIDE, class S, class T>
__device__ __forceinline__ void stage_out(const T* shared, int64_t first, int count, S* to) {
  to += first * ENTRIES;
#pragma unroll
  for (int step = 0; step < ENTRIES; ++step) {
    const int at = step * kMatrices + threadIdx.x;
    if (at < count * ENTRIES) to[at] = static_cast<S>(shared[at / ENTRIES * STRIDE + at % ENTRIES]);
  }
}

template <int D, int M, class N, class T>
__device__ __forceinline__ void read_columns(const T* entries, N (*columns)[D]) {
#pragma unroll
  for (int j = 0; j < M; ++j) {
#pragma unroll
    for (int i = 0; i < D; ++i) {
      if constexpr (sizeof(N) == sizeof(T)) {
        columns[j][i] = entries[i * M + j];
      } else {
        columns[j][i] = {entries[2 * (i * M + j)], entries[2 * (i * M + j) + 1]};
      }
    }
  }
}

template <int D, int M, class N, class T>
__device__ __forceinline__ void write_columns(const N (*columns)[D], T* entries) {
#pragma unroll
  for (int j = 0; j < M; ++j) {
#pragma unroll
    for (int i = 0; i < D; ++i) {
      if constexpr (sizeof(N) == sizeof(T)) {
        entries[i * M + j] = columns[j][i];
      } else {
        entries[2 * (i * M + j)] = columns[j][i].re;
        entries[2 * (i * M + j) + 1] = columns[j][i].im;
      }
    }
  }
}

// Where matrices come from: memory.
struct Given {
  Numbers v;

  template <int D, class N>
  static constexpr bool kOrthonormal = false;

  template <int D, int M, class N>
  __device__ __forceinline__ void read(Real<N>* shared, int64_t first, int count, N (*columns)[D]) const {
    using L = Layout<D, M, N>;
    typed<Real<N>>(v, [&](const auto* at) { stage_in<L::kEntries, L::kStride>(at, first, count, shared); });
    __syncthreads();
    if (threadIdx.x < count) read_columns<D, M>(shared + threadIdx.x * L::kStride, columns);
  }
};

template <int D, int M, class N, class Source>
__global__ void __launch_bounds__(kMatrices)
    gram_schmidt_small_kernel(Source source, int64_t b, bool special, Real<N>* q, bool* degenerate) {
  using L = Layout<D, M, N>;
  __shared__ Real<N> entries[kMatrices * L::kStride];
  __shared__ bool flags[kMatrices * M];
  const int64_t first = static_cast<int64_t>(blockIdx.x) * kMatrices;
  const int count = b - first < kMatrices ? static_cast<int>(b - first) : kMatrices;
  N columns[M][D];
  source.template read<D, M, N>(entries, first, count, columns);
  bool found[M] = {};
  if (threadIdx.x < count) {
    if constexpr (!Source::template kOrthonormal<D, N>) gram_schmidt<D, M>(columns, special, found);
    write_columns<D, M>(columns, entries + threadIdx.x * L::kStride);
#pragma unroll
    for (int j = 0; j < M; ++j) flags[threadIdx.x * M + j] = found[j];
  }
  __syncthreads();
  stage_out<L::kEntries, L::kStride>(entries, first, count, q);
  if (degenerate != nullptr) stage_out<M, M>(flags, first, count, degenerate);
}

template <int D, int M, class N>
__global__ void __launch_bounds__(kMatrices)
    gram_schmidt_backward_small_kernel(const Real<N>* grad, Numbers v, const Real<N>* q, const bool* degenerate,
                                       int64_t b, Numbers grad_v) {
  using L = Layout<D, M, N>;
  using T = Real<N>;
  __shared__ T entries[kMatrices * L::kStride];
  __shared__ bool flags[kMatrices * M];
  const int64_t first = static_cast<int64_t>(blockIdx.x) * kMatrices;
  const int count = b - first < kMatrices ? static_cast<int>(b - first) : kMatrices;
  T* const own = entries + threadIdx.x * L::kStride;
  N columns[M][D], basis[M][D], g[M][D];
  // One after the other through the same memory: three at once would halve the number of blocks on a multiprocessor.
  stage_in<M, M>(degenerate, first, count, flags);
  Given{v}.read<D, M, N>(entries, first, count, columns);
  __syncthreads();
  stage_in<L::kEntries, L::kStride>(q, first, count, entries);
  __syncthreads();
  if (threadIdx.x < count) read_columns<D, M>(own, basis);
  __syncthreads();
  stage_in<L::kEntries, L::kStride>(grad, first, count, entries);
  __syncthreads();
  if (threadIdx.x < count) {
    read_columns<D, M>(own, g);
    bool found[M];
#pragma unroll
    for (int j = 0; j < M; ++j) found[j] = flags[threadIdx.x * M + j];
    gram_schmidt_backward<D, M>(basis, columns, found, g);
    write_columns<D, M>(g, own);
  }
  __syncthreads();
  typed<T>(grad_v, [&](auto* at) { stage_out<L::kEntries, L::kStride>(entries, first, count, at); });
}

// Calls body(d, m) with both as constants, for 1 <= m <= d <= 4.
template <class Body>
void small_switch(int64_t d, int64_t m, const Body& body) {
  const auto with = [&](auto D, auto M) {
    if (d == D && m == M) body(D, M);
  };
  const auto each = [&](auto D) {
    with(D, std::integral_constant<int, 1>());
    if constexpr (D >= 2) with(D, std::integral_constant<int, 2>());
    if constexpr (D >= 3) with(D, std::integral_constant<int, 3>());
    if constexpr (D >= 4) with(D, std::integral_constant<int, 4>());
  };
  each(std::integral_constant<int, 1>());
  each(std::integral_constant<int, 2>());
  each(std::integral_constant<int, 3>());
  each(std::integral_constant<int, 4>());
}

}  // namespace lps::cuda
