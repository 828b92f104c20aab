// sample_rotate: matrices, the centroid and the turned points: three launches. Not one: turning a point takes the
// centroid of all of them and a matrix that another block holds.
#include "cuda/gram_schmidt_large.cuh"
#include "cuda/permute_rotate.cuh"
#include "cuda/typed.cuh"

namespace lps::cuda {

constexpr int kCentroidThreads = 256;

// center (b, d): the mean of x (b, n, d, c) over real nodes and channels, one input a block.
template <class T>
__global__ void __launch_bounds__(kCentroidThreads)
    centroid_kernel(T* center, Numbers x, const int64_t* num_nodes, int64_t n, int64_t d, int64_t c) {
  __shared__ T sums[kCentroidThreads];
  const int64_t b = blockIdx.x, count = count_nodes(num_nodes, b, n), node = d * c;
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp, warps = kCentroidThreads / kWarp;
  const T total = static_cast<T>(count * c > 0 ? count * c : 1);
  // Threads that read a row in order, each always the same entry of a node, where a node is that small.
  const int together = node > 0 && node <= kCentroidThreads ? static_cast<int>(kCentroidThreads / node * node) : 0;
  typed<T>(x, [&](const auto* at) {
    at += b * n * node;
    T sum = 0;
    for (int64_t i = threadIdx.x; threadIdx.x < together && i < count * node; i += together) {
      sum += static_cast<T>(at[i]);
    }
    sums[threadIdx.x] = sum;
    __syncthreads();
    for (int64_t a = warp; a < d; a += warps) {
      T of_entry = 0;
      for (int i = lane; i < together; i += kWarp) of_entry += i / c % d == a ? sums[i] : T(0);
      for (int64_t i = lane; together == 0 && i < count * c; i += kWarp) {
        of_entry += static_cast<T>(at[(i / c * d + a) * c + i % c]);
      }
      of_entry = warp_sum(of_entry);
      if (lane == 0) center[b * d + a] = of_entry / total;
    }
  });
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
  STD_TORCH_CHECK(!num_nodes || num_nodes->numel() == b, "sample_rotate: expected num_nodes of shape (b,)");
  check_same_device("sample_rotate", x, v, num_nodes);
}

static std::tuple<Tensor, Tensor, Tensor, Tensor> sample_rotate(OptionalTensor v, Tensor seed, Tensor x,
                                                                OptionalTensor num_nodes, int64_t k, bool special,
                                                                bool centered) {
  check_sizes(v, x, num_nodes, k);
  check_same_device("sample_rotate", x, seed);
  x = dense(x), num_nodes = dense(num_nodes);
  const int64_t b = x.size(0), n = x.size(1), d = x.size(2), c = x.size(3);
  Tensor q = x, degenerate = x;
  if (v) {
    const auto [columns, flags] = gram_schmidt(reshaped(*v, {b * k, d, d}), special);
    q = reshaped(columns, {b, k, d, d}), degenerate = reshaped(flags, {b, k, d});
  } else {
    q = random_orthogonal(seed, b, k, d, special, false, compute_dtype(x.scalar_type()) == ScalarType::Double);
    degenerate = zeros(x, {b, k, d}, ScalarType::Bool);
  }
  const Tensor center = empty(q, {b, centered ? 1 : 0, d});
  if (center.numel() > 0) {
    compute_switch(x.scalar_type(), "sample_rotate", [&](auto number) {
      using T = decltype(number);
      launch("centroid_kernel", centroid_kernel<T>, x, b, kCentroidThreads, 0, out<T>(center), numbers(x),
             in<int64_t>(num_nodes), n, d, c);
    });
  }
  OptionalTensor about;
  if (centered) about = center;
  return {q, degenerate, center, launch_rotate("sample_rotate", x, std::nullopt, q, about, num_nodes, 1, false)};
}

static std::tuple<Tensor, Tensor> sample_rotate_backward(OptionalTensor grad_q, OptionalTensor,
                                                         OptionalTensor grad_center, OptionalTensor grad_x_k,
                                                         OptionalTensor v, Tensor, Tensor x, OptionalTensor num_nodes,
                                                         int64_t k, bool special, bool centered, Tensor q,
                                                         Tensor degenerate, Tensor saved_center, int64_t needs) {
  check_sizes(v, x, num_nodes, k);
  x = dense(x), num_nodes = dense(num_nodes), grad_center = dense(grad_center);
  const int64_t b = x.size(0), n = x.size(1), d = x.size(2), c = x.size(3);
  const bool need_v = v && needs & 1, need_x = needs & 2;
  OptionalTensor center, to_q, to_center;
  if (centered) center = saved_center;
  Tensor to_x = empty(x, {0});
  if (grad_x_k) {
    const auto [by_x, by_q, by_center] = launch_rotate_backward("sample_rotate_backward", grad_x_k, x, std::nullopt, q,
                                                                center, num_nodes, 1, need_x, need_v, need_x);
    to_x = by_x;
    if (need_v) to_q = by_q;
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
  if (grad_q) to_q = to_q ? add(*to_q, dense(*grad_q)) : dense(*grad_q);
  OptionalTensor flat;
  if (to_q) flat = reshaped(*to_q, {b * k, d, d});
  const Tensor to_v = gram_schmidt_backward(flat, std::nullopt, reshaped(*v, {b * k, d, d}), special,
                                            reshaped(q, {b * k, d, d}), reshaped(degenerate, {b * k, d}), 1);
  return {reshaped(to_v, {b, k, d, d}), to_x};
}

}  // namespace lps::cuda

STABLE_TORCH_LIBRARY_IMPL(lps_kernels, CUDA, m) {
  m.impl("sample_rotate", TORCH_BOX(&lps::cuda::sample_rotate));
  m.impl("sample_rotate_backward", TORCH_BOX(&lps::cuda::sample_rotate_backward));
}
