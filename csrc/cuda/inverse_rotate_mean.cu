// inverse_rotate_mean: a tile of every sample is read once, turned back and added up in registers.
#include "cuda/packed_rotations.cuh"
#include "cuda/rotation.cuh"
#include "cuda/rotation_gradients.cuh"
#include "cuda/rotation_lines.cuh"
#include "cuda/rotations.cuh"
#include "cuda/row_rotations.cuh"

namespace lps::cuda {

// mean: over all samples of an input, else the samples of a block, each for itself. a.order is the rank (b, k, n) of
// each node where they were permuted.
template <class T, int D, int ORDER>
__global__ void __launch_bounds__(Tile<T, kCount<D, ORDER>>::kThreads)
    inverse_rotate_mean_kernel(Turn<T> a, Numbers x, Numbers y, bool mean) {
  using Nodes = Tile<T, kCount<D, ORDER>>;
  __shared__ T buffers[Nodes::kWarps][Nodes::kNumbers];
  __shared__ Held<T, D> matrices[Nodes::kWarps];
  const Part<T> part(a);
  Held<T, D>& held = matrices[part.warp];
  const int64_t count = count_nodes(a.num_nodes, part.b, a.n), size = a.n * a.c * kCount<D, ORDER>;
  for (int64_t index = part.tile; index < part.end; index += part.count_of_warps) {
    const Nodes tile(buffers[part.warp], index, a.c);
    typename Nodes::Entries v, total;
#pragma unroll
    for (int t = 0; t < Nodes::kItems; ++t) {
#pragma unroll
      for (int e = 0; e < kCount<D, ORDER>; ++e) total[t][e] = T(0);
    }
    for (int64_t sample = part.first; sample < part.last; ++sample) {
      const int64_t row = part.b * a.k + sample, here = (sample - part.first) % kSamples;
      if (here == 0) held.read(a, part.b, sample, part.last, part.lane);
      if (!a.order.given()) {
        tile.load(y, row * size, count, v);
      } else {
        bool live[Nodes::kItems];
        tile.gather(y, row * size, a.order, row * a.n, count, v, live);
      }
      T m[D * D];
      held.template matrix<true>(here, m);
      const T w = mean && a.weights != nullptr ? a.weights[row] : T(1);
#pragma unroll
      for (int t = 0; t < Nodes::kItems; ++t) {
        T back[kCount<D, ORDER>];
        turn<D, ORDER>(m, v[t], back);
        if (a.center != nullptr) shift<D>(back, held.center(a, here), T(1));
#pragma unroll
        for (int e = 0; e < kCount<D, ORDER>; ++e) total[t][e] = mean ? total[t][e] + w * back[e] : back[e];
      }
      if (!mean) tile.store(x, row * size, count, a.n, total);
    }
    if (!mean) continue;
    const T share = a.weights != nullptr ? T(1) : T(1) / static_cast<T>(a.k);
#pragma unroll
    for (int t = 0; t < Nodes::kItems; ++t) {
#pragma unroll
      for (int e = 0; e < kCount<D, ORDER>; ++e) total[t][e] *= share;
    }
    tile.store(x, part.b * size, count, a.n, total);
  }
}

// grad_y of a tile of some samples, and its part of the gradients of q, center and weights. a.order is the node
// (b, k, n) of each rank where they were permuted.
template <class T, int D, int ORDER>
__global__ void __launch_bounds__(Tile<T, kCount<D, ORDER>>::kThreads, 1)
    inverse_rotate_mean_backward_kernel(Turn<T> a, Numbers grad_y, T* partial, Numbers grad_x, Numbers y, bool mean) {
  using Nodes = Tile<T, kCount<D, ORDER>>;
  constexpr int width = D * D + (ORDER == 1 ? D : 0);
  __shared__ T buffers[Nodes::kWarps][Nodes::kNumbers];
  __shared__ Held<T, D> matrices[Nodes::kWarps];
  const Part<T> part(a);
  Held<T, D>& held = matrices[part.warp];
  const int64_t count = count_nodes(a.num_nodes, part.b, a.n), size = a.n * a.c * kCount<D, ORDER>;
  for (int64_t index = part.tile; index < part.end; index += part.count_of_warps) {
    const Nodes tile(buffers[part.warp], index, a.c);
    typename Nodes::Entries g, v;
    if (mean && !a.order.given()) tile.load(grad_x, part.b * size, count, g);
    held.read(a, part.b, part.first, part.last, part.lane);
    for (int64_t sample = part.first; sample < part.last; ++sample) {
      const int64_t row = part.b * a.k + sample, from = (mean ? part.b : row) * size;
      if (a.order.given()) {
        bool live[Nodes::kItems];
        tile.gather(grad_x, from, a.order, row * a.n, count, g, live);
      } else if (!mean) {
        tile.load(grad_x, from, count, g);
      }
      T m[D * D];
      if (grad_y.data != nullptr) {
        held.template matrix<false>(sample - part.first, m);
        const T w = !mean ? T(1) : a.weights != nullptr ? a.weights[row] : T(1) / static_cast<T>(a.k);
#pragma unroll
        for (int t = 0; t < Nodes::kItems; ++t) {
          turn<D, ORDER>(m, g[t], v[t]);
#pragma unroll
          for (int e = 0; e < kCount<D, ORDER>; ++e) v[t][e] *= w;
        }
        tile.store(grad_y, row * size, count, a.n, v);
      }
      if (partial == nullptr) continue;
      tile.load(y, row * size, count, v);
      held.template matrix<true>(sample - part.first, m);
      T sums[width] = {};
#pragma unroll
      for (int t = 0; t < Nodes::kItems; ++t) {
        add_gradient<D, ORDER>(m, v[t], g[t], sums);
        if constexpr (ORDER == 1) {
#pragma unroll
          for (int e = 0; e < D; ++e) sums[D * D + e] += g[t][e];
        }
      }
      T turned[width];  // in the order of q
#pragma unroll
      for (int i = 0; i < width; ++i) turned[i] = sums[i < D * D ? i % D * D + i / D : i];
      write_sums<width>(turned, partial + (row * a.tiles + index) * width, part.lane);
    }
  }
}

static void check_weights(const char* op, const Space& s, const Tensor& q, const OptionalTensor& weights) {
  STD_TORCH_CHECK(!weights || (weights->numel() == s.b * s.k && weights->scalar_type() == q.scalar_type()), op,
                  ": expected weights (b, k) in the computing dtype");
}

Tensor launch_inverse(const char* op, Tensor y, OptionalTensor order, Tensor q, OptionalTensor center,
                      OptionalTensor num_nodes, OptionalTensor weights, int64_t axes, bool mean) {
  y = dense(y), order = dense(order), q = dense(q), center = dense(center), num_nodes = dense(num_nodes);
  weights = dense(weights);
  const Space s = space_of(op, y, q, center, num_nodes, axes, true);
  check_weights(op, s, q, weights);
  check_same_device(op, y, order, q, center, num_nodes, weights);
  Tensor x = empty(y, sizes_of(s, !mean));
  if (x.numel() == 0) return x;
  if (s.k == 0) return mean_of_none(x, weights.has_value());
  compute_switch(y.scalar_type(), op, [&](auto number) {
    using T = decltype(number);
    if (is_packed(s)) {
      const Turn<T> a = cut<T, 1>(s, q, center, order, num_nodes, mean ? weights : OptionalTensor(), !mean);
      if (!mean) {
        packed_to_samples<T>(s, a, y, numbers(x), numbers(y), true, true, T(1), Numbers(), MatrixSums<T>());
      } else {
        const T share = weights ? T(1) : T(1) / static_cast<T>(s.k);
        packed_to_inputs<T>(s, a, y, numbers(x), numbers(y), share, Numbers(), MatrixSums<T>());
      }
      return;
    }
    if (order && order->scalar_type() == ScalarType::Long) {
      const Turn<T> a = cut<T, 1>(s, q, center, order, num_nodes, mean ? weights : OptionalTensor(), !mean);
      const T share = mean && !weights ? T(1) / static_cast<T>(s.k) : T(1);
      rows_to_inputs<T>(s, a, q, numbers(x), numbers(y), !mean, share, Numbers());
      return;
    }
    const bool done = tile_switch<T>(s, [&](auto D, auto ORDER) {
      const Turn<T> a = cut<T, kCount<D, ORDER>>(s, q, center, order, num_nodes, weights, !mean);
      launch("inverse_rotate_mean_kernel", inverse_rotate_mean_kernel<T, D, ORDER>, y, grid_of(s, a),
             threads_of<T, kCount<D, ORDER>>(a), 0, a, numbers(x), numbers(y), mean);
    });
    if (!done) turn_lines_back<T>(s, x, y, q, center, order, num_nodes, weights, mean);
  });
  return x;
}

std::tuple<Tensor, Tensor, Tensor, Tensor> launch_inverse_backward(const char* op, const OptionalTensor& grad_x,
                                                                   Tensor y, OptionalTensor perm, Tensor q,
                                                                   OptionalTensor center, OptionalTensor num_nodes,
                                                                   OptionalTensor weights, int64_t order, bool mean,
                                                                   const InverseNeeds& need) {
  STD_TORCH_CHECK(grad_x, op, ": expected a gradient");
  const Tensor grad = dense(*grad_x);
  y = dense(y), perm = dense(perm), q = dense(q), center = dense(center), num_nodes = dense(num_nodes);
  weights = dense(weights);
  const Space s = space_of(op, y, q, center, num_nodes, order, true);
  space_of(op, grad, q, center, num_nodes, order, !mean);
  check_weights(op, s, q, weights);
  check_gradient(op, grad, y, mean ? s.b * s.size() : y.numel());
  check_same_device(op, y, grad, perm, q, center, num_nodes, weights);
  const bool need_center = need.center && center, need_weights = need.weights && weights, any = y.numel() > 0;
  const auto made = [&](bool needed, const std::vector<int64_t>& sizes, ScalarType dtype) {
    return !needed ? empty(q, {0}, dtype) : any ? empty(q, sizes, dtype) : zeros(q, sizes, dtype);
  };
  const ScalarType wide = q.scalar_type();
  Tensor grad_y = made(need.y, sizes_of(s, true), need.wide ? wide : y.scalar_type());
  Tensor grad_q = made(need.q, {s.b, s.k, s.d, s.d}, wide);
  Tensor grad_center = made(need_center, {s.b, s.centers, s.d}, wide);
  Tensor grad_weights = made(need_weights, {s.b, s.k}, wide);
  const bool sums = need.q || need_center || need_weights;
  if (!any || !(need.y || sums)) return {grad_y, grad_q, grad_center, grad_weights};
  if (!mean) weights = std::nullopt;
  compute_switch(y.scalar_type(), op, [&](auto number) {
    using T = decltype(number);
    if (is_packed(s)) {
      const Turn<T> a = cut<T, 1>(s, q, std::nullopt, perm, num_nodes, weights, true);
      const T share = mean && !weights ? T(1) / static_cast<T>(s.k) : T(1);
      const bool more = need_center || need_weights;
      Tensor partial;
      const MatrixSums<T> to = matrix_sums<T>(s, !more, sums, share, grad_q, partial);
      packed_to_samples<T>(s, a, y, wanted(grad_y), numbers(grad), !mean, false, share, numbers(y), to);
      if (more) {
        finish_gradients<T>(s, partial, 1, s.d * s.d + s.d, q, center, weights, false, mean, grad_q, grad_center,
                            grad_weights);
      }
      return;
    }
    if (perm && rows_fit(op, s, y, 1, mean)) {
      const Turn<T> a = cut<T, 1>(s, q, std::nullopt, perm, num_nodes, weights, true);
      const T share = mean ? T(1) / static_cast<T>(s.k) : T(1);
      const Tensor partial =
          rows_to_samples<T>(s, a, q, wanted(grad_y), numbers(grad), !mean, share, sums ? numbers(y) : Numbers());
      if (sums) {
        finish_gradients<T>(s, partial, partial.size(1), partial.size(2), q, center, weights, false, mean, grad_q,
                            grad_center, grad_weights);
      }
      return;
    }
    const bool done = tile_switch<T>(s, [&](auto D, auto ORDER) {
      const Turn<T> a = cut<T, kCount<D, ORDER>>(s, q, std::nullopt, perm, num_nodes, weights, true);
      const int64_t width = D * D + (ORDER == 1 ? D : 0);
      Tensor partial = empty(q, {sums ? s.b * s.k * a.tiles * width : 0});
      launch("inverse_rotate_mean_backward_kernel", inverse_rotate_mean_backward_kernel<T, D, ORDER>, y, grid_of(s, a),
             threads_of<T, kCount<D, ORDER>>(a), 0, a, wanted(grad_y), sums ? out<T>(partial) : nullptr, numbers(grad),
             numbers(y), mean);
      if (sums)
        finish_gradients<T>(s, partial, a.tiles, width, q, center, weights, false, mean, grad_q, grad_center,
                            grad_weights);
    });
    if (!done) {
      turn_lines_back_backward<T>(s, grad, y, q, center, perm, num_nodes, weights, mean, grad_y, grad_q, grad_center,
                                  grad_weights);
    }
  });
  return {grad_y, grad_q, grad_center, grad_weights};
}

static Tensor inverse_rotate_mean(Tensor y, Tensor q, OptionalTensor center, OptionalTensor num_nodes,
                                  OptionalTensor weights, int64_t order, bool mean) {
  return launch_inverse("inverse_rotate_mean", y, std::nullopt, q, center, num_nodes, weights, order, mean);
}

static std::tuple<Tensor, Tensor, Tensor, Tensor> inverse_rotate_mean_backward(OptionalTensor grad_x, Tensor y,
                                                                               Tensor q, OptionalTensor center,
                                                                               OptionalTensor num_nodes,
                                                                               OptionalTensor weights, int64_t order,
                                                                               bool mean, int64_t needs) {
  const InverseNeeds need{(needs & 1) != 0, (needs & 2) != 0, (needs & 4) != 0, (needs & 8) != 0, false};
  return launch_inverse_backward("inverse_rotate_mean_backward", grad_x, y, std::nullopt, q, center, num_nodes, weights,
                                 order, mean, need);
}

}  // namespace lps::cuda

STABLE_TORCH_LIBRARY_IMPL(lps_kernels, CUDA, m) {
  m.impl("inverse_rotate_mean", TORCH_BOX(&lps::cuda::inverse_rotate_mean));
  m.impl("inverse_rotate_mean_backward", TORCH_BOX(&lps::cuda::inverse_rotate_mean_backward));
}
