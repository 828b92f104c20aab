// sample_rotate: matrices, the centroid and the turned points, in one launch for d from 2 to 4: a block has a cloud and
// up to kSamples samples. Where such blocks are few and clouds large, points are turned by a second one, a block a
// tile.
#include "cuda/drawn.cuh"
#include "cuda/gram_schmidt_large.cuh"
#include "cuda/permute_rotate.cuh"
#include "cuda/turn_samples.cuh"

namespace lps::cuda {

constexpr int kCentroidThreads = 256;
// Blocks that fill the largest device twice, and tiles of a cloud that one block may go through where they are fewer.
constexpr int64_t kBusyBlocks = 264, kFewTiles = 32;

// to (d,): the mean of a cloud x (n, d, c) over `count` nodes and all channels. sums: a number a thread, shared.
template <class T>
__device__ __forceinline__ void find_centroid(const Numbers& x, int64_t offset, int64_t count, int64_t d, int64_t c,
                                              T* sums, T* to) {
  const int64_t node = d * c;
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp, threads = static_cast<int>(blockDim.x);
  const T total = static_cast<T>(count * c > 0 ? count * c : 1);
  // Threads that read a row in order, each always the same entry of a node, where a node is that small.
  const int together = node > 0 && node <= threads ? static_cast<int>(threads / node * node) : 0;
  T sum = 0;
  typed<T>(x, [&](const auto* at) {
#pragma unroll 4
    for (int64_t i = threadIdx.x; threadIdx.x < together && i < count * node; i += together) {
      sum += static_cast<T>(at[offset + i]);
    }
  });
  sums[threadIdx.x] = sum;
  __syncthreads();
#pragma unroll 1
  for (int64_t a = warp; a < d; a += threads / kWarp) {
    T of_entry = 0;
#pragma unroll 1
    for (int i = lane; i < together; i += kWarp) {
      of_entry += i / static_cast<int>(c) % static_cast<int>(d) == a ? sums[i] : T(0);
    }
#pragma unroll 1
    for (int64_t i = lane; together == 0 && i < count * c; i += kWarp) {
      of_entry += load<T>(x, offset + (i / c * d + a) * c + i % c);
    }
    of_entry = warp_sum(of_entry);
    if (lane == 0) to[a] = of_entry / total;
  }
}

template <class T>
__global__ void __launch_bounds__(kCentroidThreads)
    centroid_kernel(T* center, Numbers x, const int64_t* num_nodes, int64_t n, int64_t d, int64_t c) {
  __shared__ T sums[kCentroidThreads];
  const int64_t b = blockIdx.x;
  find_centroid(x, b * n * d * c, count_nodes(num_nodes, b, n), d, c, sums, center + b * d);
}

// v (b, k, d, d) or null, for matrices of the seed; what is written beside the points.
template <class T>
struct Sampled {
  const T* v;
  const int64_t* seed;
  T *q, *center;
  bool* degenerate;
  bool special;
};

// Matrices of a block's samples, a thread each; the centroid; and, unless y is null, the points.
template <class T, int D>
__global__ void __launch_bounds__(Tile<T, D>::kThreads)
    sample_rotate_kernel(Turn<T> a, Sampled<T> to, Numbers y, Numbers x) {
  using Nodes = Tile<T, D>;
  __shared__ T buffers[Nodes::kWarps][Nodes::kNumbers];
  __shared__ Held<T, D> held;
  __shared__ bool flags[kSamples * D];
  __shared__ T sums[Nodes::kThreads];
  const Part<T> part(a);
  const int64_t first = part.b * a.k + part.first;
  const int samples = static_cast<int>(part.last - part.first), square = samples * D * D;
  for (int i = threadIdx.x; to.v != nullptr && i < square; i += blockDim.x) held.matrices[i] = to.v[first * D * D + i];
  if (to.center != nullptr && (y.data != nullptr || part.first == 0)) {
    find_centroid(x, part.b * a.n * D * a.c, count_nodes(a.num_nodes, part.b, a.n), D, a.c, sums, held.centers);
  }
  __syncthreads();
  if (threadIdx.x < samples) {
    T columns[D][D], *const own = held.matrices + threadIdx.x * D * D;
    bool found[D] = {};
    if (to.v != nullptr) {
      read_columns<D, D>(own, columns);
    } else {
      Drawn{to.seed, to.special}.read<D, D>(own, first, samples, columns);
    }
    if (to.v != nullptr || !Drawn::kOrthonormal<D, T>) lps::gram_schmidt<D, D>(columns, to.special, found);
    write_columns<D, D>(columns, own);
#pragma unroll
    for (int j = 0; j < D; ++j) flags[threadIdx.x * D + j] = to.v != nullptr && found[j];
  }
  __syncthreads();
  for (int i = threadIdx.x; i < square; i += blockDim.x) to.q[first * D * D + i] = held.matrices[i];
  for (int i = threadIdx.x; i < samples * D; i += blockDim.x) to.degenerate[first * D + i] = flags[i];
  if (to.center != nullptr && part.first == 0 && threadIdx.x < D) {
    to.center[part.b * D + threadIdx.x] = held.centers[threadIdx.x];
  }
  if (y.data != nullptr) {
    turn_samples<D, 1>(a, part, held, buffers[part.warp], y, x);
  }
}

// Adds to grad_x of real nodes their share of the gradient of the center, the sum of two where both are given.
template <class T>
__global__ void __launch_bounds__(kCentroidThreads)
    centroid_backward_kernel(Numbers grad_x, const T* first, const T* second, const int64_t* num_nodes, int64_t n,
                             int64_t d, int64_t c, int64_t blocks_of_row) {
  const int64_t b = blockIdx.x / blocks_of_row, count = count_nodes(num_nodes, b, n);
  const int64_t i = blockIdx.x % blocks_of_row * kCentroidThreads + threadIdx.x;
  if (i >= count * d * c) return;
  const int64_t a = b * d + i / c % d;
  const T sum = (first != nullptr ? first[a] : T(0)) + (second != nullptr ? second[a] : T(0));
  const T share = sum / static_cast<T>(count * c);
  typed<T>(grad_x, [&](auto* at) {
    auto& target = at[b * n * d * c + i];
    target = static_cast<Pointee<decltype(at)>>(static_cast<T>(target) + share);
  });
}

static Tensor reshaped(const Tensor& x, std::vector<int64_t> sizes) {
  return torch::stable::view(dense(x), {sizes.data(), sizes.size()});
}

static void check_sizes(const OptionalTensor& v, const Tensor& x, const OptionalTensor& num_nodes, int64_t k) {
  STD_TORCH_CHECK(x.dim() == 4, "sample_rotate: expected x (b, n, d, c)");
  const int64_t b = x.size(0), d = x.size(2);
  STD_TORCH_CHECK(!v || (v->dim() == 4 && v->size(0) == b && v->size(1) == k && v->size(2) == d && v->size(3) == d),
                  "sample_rotate: expected v (b, k, d, d)");
  check_nodes("sample_rotate", num_nodes, b);
  check_same_device("sample_rotate", x, v, num_nodes);
}

// q, degenerate and center by the kernels of other ops, for matrices that no thread holds.
static void sample_large(const OptionalTensor& v, const Tensor& seed, const Tensor& x, const OptionalTensor& num_nodes,
                         bool special, Tensor& q, Tensor& degenerate, const Tensor& center) {
  const int64_t b = x.size(0), k = q.size(1), n = x.size(1), d = x.size(2), c = x.size(3);
  if (v) {
    const auto [columns, flags] = gram_schmidt(reshaped(*v, {b * k, d, d}), special);
    q = reshaped(columns, {b, k, d, d}), degenerate = reshaped(flags, {b, k, d});
  } else {
    q = random_orthogonal(seed, b, k, d, special, false, q.scalar_type() == ScalarType::Double);
    degenerate = zeros(x, {b, k, d}, ScalarType::Bool);
  }
  if (center.numel() == 0) return;
  compute_switch(x.scalar_type(), "sample_rotate", [&](auto number) {
    using T = decltype(number);
    launch("centroid_kernel", centroid_kernel<T>, x, b, kCentroidThreads, 0, out<T>(center), numbers(x),
           in<int64_t>(num_nodes), n, d, c);
  });
}

static std::tuple<Tensor, Tensor, Tensor, Tensor> sample_rotate(OptionalTensor v, Tensor seed, Tensor x,
                                                                OptionalTensor num_nodes, int64_t k, bool special,
                                                                bool centered) {
  check_sizes(v, x, num_nodes, k);
  check_same_device("sample_rotate", x, seed);
  x = dense(x), num_nodes = dense(num_nodes), v = dense(v);
  const int64_t b = x.size(0), n = x.size(1), d = x.size(2), c = x.size(3);
  const ScalarType wide = compute_dtype(x.scalar_type());
  Tensor q = empty(x, {b, k, d, d}, wide), degenerate = empty(x, {b, k, d}, ScalarType::Bool);
  const Tensor center = empty(q, {b, centered ? 1 : 0, d});
  OptionalTensor about;
  if (centered) about = center;
  bool held = false, turned = false;
  Tensor y = x;
  if (q.numel() > 0 && n * c > 0) {
    STD_TORCH_CHECK(!v || v->scalar_type() == wide, "sample_rotate: expected v in the dtype that x is computed in");
    const Space s = space_of("sample_rotate", x, q, about, num_nodes, 1, false);
    compute_switch(x.scalar_type(), "sample_rotate", [&](auto number) {
      using T = decltype(number);
      held = tile_switch<T>(s, [&](auto D, auto ORDER) {
        if constexpr (ORDER == 1) {
          Turn<T> a = cut<T, D>(s, q, about, std::nullopt, num_nodes, std::nullopt, true);
          a.tiles_of_block = a.tiles;
          turned = a.tiles <= kFewTiles || b * a.chunks >= kBusyBlocks;
          if (turned) y = empty(x, sizes_of(s, true));
          const Sampled<T> to{
              in<T>(v), in<int64_t>(seed), out<T>(q), centered ? out<T>(center) : nullptr, out<bool>(degenerate),
              special};
          launch("sample_rotate_kernel", sample_rotate_kernel<T, D>, x, grid_of(s, a), threads_of<T, D>(a), 0, a, to,
                 turned ? numbers(y) : Numbers{nullptr, kWhole}, numbers(x));
        }
      });
    });
  }
  if (!held) sample_large(v, seed, x, num_nodes, special, q, degenerate, center);
  if (!turned) y = launch_rotate("sample_rotate", x, std::nullopt, q, about, num_nodes, 1, false);
  return {q, degenerate, center, y};
}

static std::tuple<Tensor, Tensor> sample_rotate_backward(OptionalTensor grad_q, OptionalTensor,
                                                         OptionalTensor grad_center, OptionalTensor grad_x_k,
                                                         OptionalTensor v, Tensor, Tensor x, OptionalTensor num_nodes,
                                                         int64_t k, bool special, bool centered, Tensor q,
                                                         Tensor degenerate, Tensor saved_center, int64_t needs) {
  check_sizes(v, x, num_nodes, k);
  check_gradient("sample_rotate_backward", grad_q, q, q.numel());
  check_gradient("sample_rotate_backward", grad_center, saved_center, saved_center.numel());
  x = dense(x), num_nodes = dense(num_nodes), grad_center = dense(grad_center);
  const int64_t b = x.size(0), n = x.size(1), d = x.size(2), c = x.size(3);
  const bool need_v = v && needs & 1, need_x = needs & 2;
  OptionalTensor center, to_center;
  if (centered) center = saved_center;
  Tensor to_x = empty(x, {0});
  if (grad_x_k) {
    const auto [by_x, by_q, by_center] =
        launch_rotate_backward("sample_rotate_backward", grad_x_k, x, std::nullopt, q, center, num_nodes, 1, need_x,
                               need_v, need_x, dense(grad_q));
    to_x = by_x;
    if (need_v) grad_q = by_q;
    if (need_x && centered) to_center = by_center;
  } else if (need_x) {
    to_x = zeros(x, {b, n, d, c});
  }
  if (need_x && centered && to_x.numel() > 0 && (to_center || grad_center)) {
    check_same_device("sample_rotate_backward", x, grad_center);
    compute_switch(x.scalar_type(), "sample_rotate_backward", [&](auto number) {
      using T = decltype(number);
      const int64_t of_row = blocks(n * d * c, kCentroidThreads);
      launch("centroid_backward_kernel", centroid_backward_kernel<T>, x, b * of_row, kCentroidThreads, 0, numbers(to_x),
             in<T>(to_center), in<T>(grad_center), in<int64_t>(num_nodes), n, d, c, of_row);
    });
  }
  if (!need_v) return {empty(x, {0}), to_x};
  OptionalTensor flat;
  if (grad_q) flat = reshaped(*grad_q, {b * k, d, d});
  const Tensor to_v = gram_schmidt_backward(flat, std::nullopt, reshaped(*v, {b * k, d, d}), special,
                                            reshaped(q, {b * k, d, d}), reshaped(degenerate, {b * k, d}), 1);
  return {reshaped(to_v, {b, k, d, d}), to_x};
}

}  // namespace lps::cuda

STABLE_TORCH_LIBRARY_IMPL(lps_kernels, CUDA, m) {
  m.impl("sample_rotate", TORCH_BOX(&lps::cuda::sample_rotate));
  m.impl("sample_rotate_backward", TORCH_BOX(&lps::cuda::sample_rotate_backward));
}
