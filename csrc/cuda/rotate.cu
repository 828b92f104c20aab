// rotate: a tile of an input's nodes is read once and turned for several samples.
#include "cuda/packed_rotations.cuh"
#include "cuda/rotation_gradients.cuh"
#include "cuda/rotation_lines.cuh"
#include "cuda/rotations.cuh"
#include "cuda/row_rotations.cuh"
#include "cuda/turn_samples.cuh"

namespace lps::cuda {

// In the order of a.order (b, k, n), where there is one.
template <class T, int D, int ORDER>
__global__ void __launch_bounds__(Tile<T, kCount<D, ORDER>>::kThreads) rotate_kernel(Turn<T> a, Numbers y, Numbers x) {
  using Nodes = Tile<T, kCount<D, ORDER>>;
  __shared__ T buffers[Nodes::kWarps][Nodes::kNumbers];
  __shared__ Held<T, D> matrices[Nodes::kWarps];
  const Part<T> part(a);
  if (part.tile >= part.end) return;
  matrices[part.warp].read(a, part.b, part.first, part.last, part.lane);
  turn_samples<D, ORDER>(a, part, matrices[part.warp], buffers[part.warp], y, x);
}

// grad_x of a tile, and its part of the gradients of q and center: all samples, one after the other. a.order is the
// rank (b, k, n) of each node where they were permuted.
template <class T, int D, int ORDER>
__global__ void __launch_bounds__(Tile<T, kCount<D, ORDER>>::kThreads, 1)
    rotate_backward_kernel(Turn<T> a, Numbers grad_x, T* partial, Numbers grad_y, Numbers x) {
  using Nodes = Tile<T, kCount<D, ORDER>>;
  constexpr int width = D * D + (ORDER == 1 ? D : 0);
  __shared__ T buffers[Nodes::kWarps][Nodes::kNumbers];
  __shared__ Held<T, D> matrices[Nodes::kWarps];
  const Part<T> part(a);
  Held<T, D>& held = matrices[part.warp];
  const int64_t count = count_nodes(a.num_nodes, part.b, a.n), size = a.n * a.c * kCount<D, ORDER>;
  for (int64_t index = part.tile; index < part.end; index += part.count_of_warps) {
    const Nodes tile(buffers[part.warp], index, a.c);
    typename Nodes::Entries v, g, total;
    if (partial != nullptr) tile.load(x, part.b * size, count, v);
#pragma unroll
    for (int t = 0; t < Nodes::kItems; ++t) {
#pragma unroll
      for (int e = 0; e < kCount<D, ORDER>; ++e) total[t][e] = T(0);
    }
    for (int64_t sample = 0; sample < a.k; ++sample) {
      const int64_t row = part.b * a.k + sample, here = sample % kSamples;
      if (here == 0) held.read(a, part.b, sample, a.k, part.lane);
      if (!a.order.given()) {
        tile.load(grad_y, row * size, count, g);
      } else {
        bool live[Nodes::kItems];
        tile.gather(grad_y, row * size, a.order, row * a.n, count, g, live);
      }
      T m[D * D];
      if (grad_x.data != nullptr) {
        held.template matrix<true>(here, m);
#pragma unroll
        for (int t = 0; t < Nodes::kItems; ++t) {
          T back[kCount<D, ORDER>];
          turn<D, ORDER>(m, g[t], back);
#pragma unroll
          for (int e = 0; e < kCount<D, ORDER>; ++e) total[t][e] += back[e];
        }
      }
      if (partial == nullptr) continue;
      held.template matrix<false>(here, m);
      T sums[width] = {};
#pragma unroll
      for (int t = 0; t < Nodes::kItems; ++t) {
        T u[kCount<D, ORDER>];
#pragma unroll
        for (int e = 0; e < kCount<D, ORDER>; ++e) u[e] = v[t][e];
        if (a.center != nullptr && tile.node[t] < count) shift<D>(u, held.center(a, here), T(-1));
        add_gradient<D, ORDER>(m, u, g[t], sums);
        if constexpr (ORDER == 1) {
#pragma unroll
          for (int e = 0; e < D; ++e) sums[D * D + e] += g[t][e];
        }
      }
      write_sums<width>(sums, partial + (row * a.tiles + index) * width, part.lane);
    }
    if (grad_x.data != nullptr) tile.store(grad_x, part.b * size, count, a.n, total);
  }
}

Tensor launch_rotate(const char* op, Tensor x, OptionalTensor perm, Tensor q, OptionalTensor center,
                     OptionalTensor num_nodes, int64_t order, bool wide) {
  x = dense(x), perm = dense(perm), q = dense(q), center = dense(center), num_nodes = dense(num_nodes);
  const Space s = space_of(op, x, q, center, num_nodes, order, false);
  check_same_device(op, x, perm, q, center, num_nodes);
  Tensor y = empty(x, sizes_of(s, true), wide ? q.scalar_type() : x.scalar_type());
  if (y.numel() == 0) return y;
  compute_switch(x.scalar_type(), op, [&](auto number) {
    using T = decltype(number);
    if (is_packed(s)) {
      const Turn<T> a = cut<T, 1>(s, q, center, perm, num_nodes, std::nullopt, true);
      return packed_to_samples<T>(s, a, x, numbers(y), numbers(x), false, false, T(1), Numbers(), MatrixSums<T>());
    }
    if (perm && rows_fit(op, s, x, 1, true)) {
      const Turn<T> a = cut<T, 1>(s, q, center, perm, num_nodes, std::nullopt, true);
      rows_to_samples<T>(s, a, q, numbers(y), numbers(x), false, T(1), Numbers());
      return;
    }
    const bool done = tile_switch<T>(s, [&](auto D, auto ORDER) {
      const Turn<T> a = cut<T, kCount<D, ORDER>>(s, q, center, perm, num_nodes, std::nullopt, true);
      launch("rotate_kernel", rotate_kernel<T, D, ORDER>, x, grid_of(s, a), threads_of<T, kCount<D, ORDER>>(a), 0, a,
             numbers(y), numbers(x));
    });
    if (!done) turn_lines<T>(s, y, x, q, center, perm, num_nodes);
  });
  return y;
}

std::tuple<Tensor, Tensor, Tensor> launch_rotate_backward(const char* op, const OptionalTensor& grad_y, Tensor x,
                                                          OptionalTensor order, Tensor q, OptionalTensor center,
                                                          OptionalTensor num_nodes, int64_t axes, bool need_x,
                                                          bool need_q, bool need_center, const OptionalTensor& more_q) {
  STD_TORCH_CHECK(grad_y, op, ": expected a gradient");
  const Tensor grad = dense(*grad_y);
  x = dense(x), order = dense(order), q = dense(q), center = dense(center), num_nodes = dense(num_nodes);
  const Space s = space_of(op, x, q, center, num_nodes, axes, false);
  space_of(op, grad, q, center, num_nodes, axes, true);
  check_gradient(op, grad, x, x.numel() * s.k);
  check_same_device(op, x, grad, order, q, center, num_nodes, more_q);
  need_center = need_center && center;
  const bool any = grad.numel() > 0;
  const auto made = [&](const Tensor& like, const std::vector<int64_t>& sizes) {
    return any ? empty(like, sizes) : zeros(like, sizes);
  };
  Tensor grad_x = need_x ? made(x, sizes_of(s, false)) : empty(x, {0});
  Tensor grad_q = need_q ? made(q, {s.b, s.k, s.d, s.d}) : empty(q, {0});
  if (need_q && !any && more_q) grad_q = *more_q;
  Tensor grad_center = need_center ? made(q, {s.b, s.centers, s.d}) : empty(q, {0});
  if (!any || !(need_x || need_q || need_center)) return {grad_x, grad_q, grad_center};
  const bool sums = need_q || need_center;
  compute_switch(x.scalar_type(), op, [&](auto number) {
    using T = decltype(number);
    if (is_packed(s)) {
      const OptionalTensor shift = sums ? center : OptionalTensor();
      const Turn<T> a = cut<T, 1>(s, q, shift, order, num_nodes, std::nullopt, false);
      const bool more = need_center || more_q;
      Tensor partial;
      const MatrixSums<T> to = matrix_sums<T>(s, !more, sums, T(1), grad_q, partial);
      packed_to_inputs<T>(s, a, x, wanted(grad_x), numbers(grad), T(1), numbers(x), to);
      if (sums && more) {
        finish_gradients<T>(s, partial, 1, s.d * s.d + s.d, q, std::nullopt, std::nullopt, true, false, grad_q,
                            grad_center, empty(q, {0}), more_q);
      }
      return;
    }
    if (order && order->scalar_type() == ScalarType::Long) {
      const Turn<T> a = cut<T, 1>(s, q, sums ? center : OptionalTensor(), order, num_nodes, std::nullopt, false);
      const Tensor partial =
          rows_to_inputs<T>(s, a, q, wanted(grad_x), numbers(grad), false, T(1), sums ? numbers(x) : Numbers());
      if (sums) {
        finish_gradients<T>(s, partial, partial.size(1), partial.size(2), q, std::nullopt, std::nullopt, true, false,
                            grad_q, grad_center, empty(q, {0}), more_q);
      }
      return;
    }
    const bool done = tile_switch<T>(s, [&](auto D, auto ORDER) {
      const Turn<T> a = cut<T, kCount<D, ORDER>>(s, q, center, order, num_nodes, std::nullopt, false);
      const int64_t width = D * D + (ORDER == 1 ? D : 0);
      Tensor partial = empty(q, {sums ? s.b * s.k * a.tiles * width : 0});
      launch("rotate_backward_kernel", rotate_backward_kernel<T, D, ORDER>, x, grid_of(s, a),
             threads_of<T, kCount<D, ORDER>>(a), 0, a, wanted(grad_x), sums ? out<T>(partial) : nullptr, numbers(grad),
             numbers(x));
      if (sums)
        finish_gradients<T>(s, partial, a.tiles, width, q, std::nullopt, std::nullopt, true, false, grad_q, grad_center,
                            empty(q, {0}), more_q);
    });
    if (!done) turn_lines_backward<T>(s, grad, x, q, center, order, num_nodes, grad_x, grad_q, grad_center, more_q);
  });
  return {grad_x, grad_q, grad_center};
}

static Tensor rotate(Tensor x, Tensor q, OptionalTensor center, OptionalTensor num_nodes, int64_t order) {
  return launch_rotate("rotate", x, std::nullopt, q, center, num_nodes, order, false);
}

static std::tuple<Tensor, Tensor, Tensor> rotate_backward(OptionalTensor grad_y, Tensor x, Tensor q,
                                                          OptionalTensor center, OptionalTensor num_nodes,
                                                          int64_t order, int64_t needs) {
  return launch_rotate_backward("rotate_backward", grad_y, x, std::nullopt, q, center, num_nodes, order, needs & 1,
                                needs & 2, needs & 4);
}

}  // namespace lps::cuda

STABLE_TORCH_LIBRARY_IMPL(lps_kernels, CUDA, m) {
  m.impl("rotate", TORCH_BOX(&lps::cuda::rotate));
  m.impl("rotate_backward", TORCH_BOX(&lps::cuda::rotate_backward));
}
