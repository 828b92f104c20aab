// d x d matrices, d from 2 to 4, on the space axis of a tile's nodes; what the four kernels of rotations are made of.
#pragma once

#include "cuda/halve_sums.cuh"
#include "cuda/tile.cuh"
#include "space.h"

namespace lps::cuda {

// Samples whose matrices a warp reads at once, in order: entry by entry they would be a tenth of the traffic.
constexpr int kSamples = 16;

template <int D, int ORDER>
constexpr int kCount = ORDER == 1 ? D : D * D;

// The same for all four: sizes, and the samples that a block takes.
template <class T>
struct Turn {
  const T *q, *center, *weights;
  Order order;
  const int64_t* num_nodes;
  int64_t n, k, c, centers, tiles, tiles_of_block, chunks, samples;
};

// Which input, samples and tiles are this block's.
template <class T>
struct Part {
  int64_t b, first, last, tile, end;
  int warp, lane, count_of_warps;

  __device__ explicit Part(const Turn<T>& a)
      : warp(threadIdx.x / kWarp), lane(threadIdx.x % kWarp), count_of_warps(blockDim.x / kWarp) {
    const int64_t groups = (a.tiles + a.tiles_of_block - 1) / a.tiles_of_block;
    const int64_t group = blockIdx.x % groups, item = blockIdx.x / groups;
    b = item / a.chunks;
    first = item % a.chunks * a.samples;
    last = first + a.samples < a.k ? first + a.samples : a.k;
    tile = group * a.tiles_of_block + warp;
    end = (group + 1) * a.tiles_of_block < a.tiles ? (group + 1) * a.tiles_of_block : a.tiles;
  }
};

// Matrices and centers of up to kSamples samples, in shared memory of a warp.
template <class T, int D>
struct Held {
  T matrices[kSamples * D * D], centers[kSamples * D];

  __device__ void read(const Turn<T>& a, int64_t b, int64_t first, int64_t last, int lane) {
    __syncwarp();
    const int count = static_cast<int>(last - first < kSamples ? last - first : kSamples);
    const T* const q = a.q + (b * a.k + first) * D * D;
    for (int i = lane; i < count * D * D; i += kWarp) matrices[i] = q[i];
    if (a.center != nullptr) {
      const T* const from = a.center + (a.centers == 1 ? b : b * a.k + first) * D;
      for (int i = lane; i < (a.centers == 1 ? D : count * D); i += kWarp) centers[i] = from[i];
    }
    __syncwarp();
  }
  // Entry e * D + a is q[e, a], or with TRANSPOSED q[a, e].
  template <bool TRANSPOSED>
  __device__ void matrix(int64_t sample, T (&m)[D * D]) const {
#pragma unroll
    for (int e = 0; e < D; ++e) {
#pragma unroll
      for (int a = 0; a < D; ++a) m[e * D + a] = matrices[sample * D * D + (TRANSPOSED ? a * D + e : e * D + a)];
    }
  }
  __device__ const T* center(const Turn<T>& a, int64_t sample) const {
    return centers + (a.centers == 1 ? 0 : sample * D);
  }
};

// v += sign * center.
template <int D, class T, int COUNT>
__device__ __forceinline__ void shift(T (&v)[COUNT], const T* center, T sign) {
#pragma unroll
  for (int e = 0; e < D; ++e) v[e] += sign * center[e];
}

// to[a, :] = sum_e m[e, a] v[e, :], REST entries behind each of the D.
template <int D, int REST, class T>
__device__ __forceinline__ void apply_first(const T (&m)[D * D], const T (&v)[D * REST], T (&to)[D * REST]) {
#pragma unroll
  for (int a = 0; a < D; ++a) {
#pragma unroll
    for (int i = 0; i < REST; ++i) {
      T sum = m[a] * v[i];
#pragma unroll
      for (int e = 1; e < D; ++e) sum += m[e * D + a] * v[e * REST + i];
      to[a * REST + i] = sum;
    }
  }
}

// to[:, a] = sum_f m[f, a] v[:, f].
template <int D, class T>
__device__ __forceinline__ void apply_last(const T (&m)[D * D], const T (&v)[D * D], T (&to)[D * D]) {
#pragma unroll
  for (int i = 0; i < D; ++i) {
#pragma unroll
    for (int a = 0; a < D; ++a) {
      T sum = m[a] * v[i * D];
#pragma unroll
      for (int f = 1; f < D; ++f) sum += m[f * D + a] * v[i * D + f];
      to[i * D + a] = sum;
    }
  }
}

// y_a = sum_e m[e, a] v_e of a vector, on both axes of a tensor.
template <int D, int ORDER, class T>
__device__ __forceinline__ void turn(const T (&m)[D * D], const T (&v)[kCount<D, ORDER>], T (&to)[kCount<D, ORDER>]) {
  if constexpr (ORDER == 1) {
    apply_first<D, 1>(m, v, to);
  } else {
    T half[D * D];
    apply_first<D, D>(m, v, half);
    apply_last<D>(m, half, to);
  }
}

// sums[e * D + a] += the gradient of m, of y = turn(m, x) with gradient g.
template <int D, int ORDER, class T>
__device__ __forceinline__ void add_gradient(const T (&m)[D * D], const T (&x)[kCount<D, ORDER>],
                                             const T (&g)[kCount<D, ORDER>], T* sums) {
  T half[kCount<D, ORDER>];
  if constexpr (ORDER == 2) apply_last<D>(m, x, half);
#pragma unroll
  for (int e = 0; e < D; ++e) {
#pragma unroll
    for (int a = 0; a < D; ++a) {
      if constexpr (ORDER == 1) {
        sums[e * D + a] += x[e] * g[a];
      } else {
#pragma unroll
        for (int l = 0; l < D; ++l) sums[e * D + a] += half[e * D + l] * g[a * D + l];
      }
    }
  }
  if constexpr (ORDER == 2) {
    apply_first<D, D>(m, x, half);
#pragma unroll
    for (int e = 0; e < D; ++e) {
#pragma unroll
      for (int a = 0; a < D; ++a) {
#pragma unroll
        for (int l = 0; l < D; ++l) sums[e * D + a] += half[l * D + e] * g[l * D + a];
      }
    }
  }
}

// to[i] = the sum over lanes of v[i].
template <int WIDTH, class T>
__device__ __forceinline__ void write_sums(const T (&v)[WIDTH], T* to, int lane) {
  constexpr int padded = WIDTH <= 4 ? 4 : WIDTH <= 8 ? 8 : WIDTH <= 16 ? 16 : 32;
  T held[padded];
#pragma unroll
  for (int i = 0; i < padded; ++i) held[i] = i < WIDTH ? v[i < WIDTH ? i : 0] : T(0);
  halve_sums<padded / 2>(held, lane);
#pragma unroll
  for (int apart = padded; apart < kWarp; apart *= 2) held[0] += __shfl_xor_sync(kAll, held[0], apart);
  if (lane < WIDTH) to[lane] = held[0];
}

// Calls body(D, ORDER) as constants where the kernels of tiles serve them; whether they do. Not tensors in float64:
// their kernels would take as long to compile as all others.
template <class T, class Body>
bool tile_switch(const Space& s, const Body& body) {
  const auto with = [&](auto D) {
    if (s.order == 1) {
      body(D, std::integral_constant<int, 1>());
      return true;
    }
    if constexpr (sizeof(T) == 4) body(D, std::integral_constant<int, 2>());
    return sizeof(T) == 4;
  };
  switch (s.d) {
    case 2:
      return with(std::integral_constant<int, 2>());
    case 3:
      return with(std::integral_constant<int, 3>());
    case 4:
      return with(std::integral_constant<int, 4>());
    default:
      return false;
  }
}

// Tiles of a block, a warp each.
constexpr int64_t kTilesOfBlock = 8;

// How a call is cut into blocks. split: samples are independent, and a block takes some of them.
template <class T, int COUNT>
Turn<T> cut(const Space& s, const Tensor& q, const OptionalTensor& center, const OptionalTensor& order,
            const OptionalTensor& num_nodes, const OptionalTensor& weights, bool split) {
  Turn<T> a;
  a.q = in<T>(q), a.center = in<T>(center), a.weights = in<T>(weights);
  a.order = order_of(order), a.num_nodes = in<int64_t>(num_nodes);
  a.n = s.n, a.k = s.k, a.c = s.c, a.centers = s.centers;
  a.tiles = Tile<T, COUNT>::tiles(s.n, s.c);
  a.chunks = split ? blocks(s.k, kSamples) : 1;
  a.samples = split ? blocks(s.k, a.chunks) : s.k;
  a.tiles_of_block = std::min<int64_t>(a.tiles, kTilesOfBlock);
  return a;
}

template <class T>
int64_t grid_of(const Space& s, const Turn<T>& a) {
  return s.b * a.chunks * blocks(a.tiles, a.tiles_of_block);
}
template <class T, int COUNT>
int threads_of(const Turn<T>& a) {
  return static_cast<int>(std::min<int64_t>(a.tiles_of_block, Tile<T, COUNT>::kWarps)) * kWarp;
}

}  // namespace lps::cuda
