// Matrices of any size on one or both space axes, as products and outer products of lines.
#include "cuda/line_kernels.cuh"
#include "cuda/rotation_gradients.cuh"
#include "cuda/rotation_lines.cuh"

namespace lps::cuda {

// Blocks from which on a device is busy: two for each multiprocessor of an H100.
constexpr int64_t kBusyBlocks = 264;

// One space axis of features.
template <class T>
struct Axis {
  const Space& s;
  const Tensor& q;
  const OptionalTensor& nodes;
  int64_t per, c;

  Lines<T> lines(const Tensor& x, bool each, const OptionalTensor& order, const OptionalTensor& before) const {
    return {numbers(x), in<T>(before), order_of(order), in<int64_t>(nodes), s.n, s.k, s.d, c, per, s.centers, each};
  }
  struct Last {
    OptionalTensor after, weights;
    bool sum = false, mean = false;
  };
  void product(const Tensor& y, const Tensor& x, bool transpose, bool each, const OptionalTensor& order,
               const OptionalTensor& before, const Last& last) const {
    side_switch(s.d, [&](auto side) {
      const int64_t tiles = LineTile<side>::count(s.n * per, c), parts = blocks(s.d, side);
      // All samples of a tile where tiles keep a device busy.
      const int64_t samples = last.sum || s.b * tiles * parts >= kBusyBlocks ? s.k : 1;
      const Product<T> a{lines(x, each, order, before),
                         numbers(y),
                         in<T>(q),
                         in<T>(last.after),
                         in<T>(last.weights),
                         tiles,
                         parts,
                         samples,
                         transpose,
                         last.sum,
                         last.mean};
      launch("line_product_kernel", line_product_kernel<T, side>, q, s.b * blocks(s.k, samples) * tiles * parts,
             kLineThreads, 0, a);
    });
  }
  void outer(const Tensor& sums, const Lines<T>& x, const Lines<T>& g, bool forward, bool add, bool totals) const {
    side_switch(s.d, [&](auto side) {
      const int64_t parts = blocks(s.d, side);
      const Outer<T> a{x, g, out<T>(sums), parts, s.d * s.d + s.d, forward, add, totals};
      launch("line_outer_kernel", line_outer_kernel<T, side>, q, s.b * s.k * parts * parts, kLineThreads, 0, a);
    });
  }
};

// Both axes of tensors, the only one of vectors.
template <class T>
struct Axes {
  const Space& s;
  const Tensor& q;
  Axis<T> first, second;

  Axes(const Space& s, const Tensor& q, const OptionalTensor& nodes)
      : s(s), q(q), first{s, q, nodes, 1, s.order == 1 ? s.c : s.d * s.c}, second{s, q, nodes, s.d, s.c} {}

  void product(const Tensor& y, const Tensor& x, bool transpose, bool each, const OptionalTensor& order,
               const OptionalTensor& before, const typename Axis<T>::Last& last) const {
    if (s.order == 1) return first.product(y, x, transpose, each, order, before, last);
    const Tensor half = empty(q, sizes_of(s, true));
    first.product(half, x, transpose, each, order, std::nullopt, {});
    second.product(y, half, transpose, true, std::nullopt, std::nullopt, last);
  }

  // (b k, d d + d): the gradient of q as if weights were 1, and sums of g over nodes and channels.
  Tensor gradient(const Tensor& x, const Tensor& g, bool forward, bool each, bool each_grad,
                  const OptionalTensor& order, const OptionalTensor& before) const {
    const Tensor sums = empty(q, {s.b * s.k, s.d * s.d + s.d});
    const OptionalTensor none;
    if (s.order == 1) {
      first.outer(sums, first.lines(x, each, none, before), first.lines(g, each_grad, order, none), forward, false,
                  true);
      return sums;
    }
    const Tensor half = empty(q, sizes_of(s, true));  // x with the other axis turned
    second.product(half, x, forward, each, none, none, {});
    first.outer(sums, first.lines(half, true, none, none), first.lines(g, each_grad, order, none), forward, false,
                false);
    first.product(half, x, forward, each, none, none, {});
    second.outer(sums, second.lines(half, true, none, none), second.lines(g, each_grad, order, none), forward, true,
                 true);
    return sums;
  }
};

template <class T>
void turn_lines(const Space& s, const Tensor& y, const Tensor& x, const Tensor& q, const OptionalTensor& center,
                const OptionalTensor& perm, const OptionalTensor& nodes) {
  Axes<T>(s, q, nodes).product(y, x, true, false, perm, center, {});
}

template <class T>
void turn_lines_backward(const Space& s, const Tensor& grad_y, const Tensor& x, const Tensor& q,
                         const OptionalTensor& center, const OptionalTensor& inverse, const OptionalTensor& nodes,
                         const Tensor& grad_x, const Tensor& grad_q, const Tensor& grad_center,
                         const OptionalTensor& more_q) {
  const Axes<T> axes(s, q, nodes);
  if (grad_x.numel() > 0) {
    axes.product(grad_x, grad_y, false, true, inverse, std::nullopt, {std::nullopt, std::nullopt, true, false});
  }
  if (grad_q.numel() == 0 && grad_center.numel() == 0) return;
  const Tensor sums = axes.gradient(x, grad_y, true, false, true, inverse, center);
  finish_gradients<T>(s, sums, 1, s.d * s.d + s.d, q, std::nullopt, std::nullopt, true, false, grad_q, grad_center,
                      empty(q, {0}), more_q);
}

template <class T>
void turn_lines_back(const Space& s, const Tensor& x, const Tensor& y, const Tensor& q, const OptionalTensor& center,
                     const OptionalTensor& inverse, const OptionalTensor& nodes, const OptionalTensor& weights,
                     bool mean) {
  Axes<T>(s, q, nodes)
      .product(x, y, false, true, inverse, std::nullopt, {center, mean ? weights : std::nullopt, mean, mean});
}

template <class T>
void turn_lines_back_backward(const Space& s, const Tensor& grad_x, const Tensor& y, const Tensor& q,
                              const OptionalTensor& center, const OptionalTensor& perm, const OptionalTensor& nodes,
                              const OptionalTensor& weights, bool mean, const Tensor& grad_y, const Tensor& grad_q,
                              const Tensor& grad_center, const Tensor& grad_weights) {
  const Axes<T> axes(s, q, nodes);
  if (grad_y.numel() > 0) {
    axes.product(grad_y, grad_x, true, !mean, perm, std::nullopt, {std::nullopt, weights, false, mean});
  }
  if (grad_q.numel() == 0 && grad_center.numel() == 0 && grad_weights.numel() == 0) return;
  const Tensor sums = axes.gradient(y, grad_x, false, true, !mean, perm, std::nullopt);
  finish_gradients<T>(s, sums, 1, s.d * s.d + s.d, q, center, weights, false, mean, grad_q, grad_center, grad_weights);
}

#define LPS_INSTANTIATE(T)                                                                                           \
  template void turn_lines<T>(const Space&, const Tensor&, const Tensor&, const Tensor&, const OptionalTensor&,      \
                              const OptionalTensor&, const OptionalTensor&);                                         \
  template void turn_lines_backward<T>(const Space&, const Tensor&, const Tensor&, const Tensor&,                    \
                                       const OptionalTensor&, const OptionalTensor&, const OptionalTensor&,          \
                                       const Tensor&, const Tensor&, const Tensor&, const OptionalTensor&);          \
  template void turn_lines_back<T>(const Space&, const Tensor&, const Tensor&, const Tensor&, const OptionalTensor&, \
                                   const OptionalTensor&, const OptionalTensor&, const OptionalTensor&, bool);       \
  template void turn_lines_back_backward<T>(                                                                         \
      const Space&, const Tensor&, const Tensor&, const Tensor&, const OptionalTensor&, const OptionalTensor&,       \
      const OptionalTensor&, const OptionalTensor&, bool, const Tensor&, const Tensor&, const Tensor&, const Tensor&);
LPS_INSTANTIATE(float)
LPS_INSTANTIATE(double)

}  // namespace lps::cuda
