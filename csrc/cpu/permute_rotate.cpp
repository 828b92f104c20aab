// permute_rotate: each node is gathered and rotated at once.
#include "cpu/permute_rotate.h"

namespace lps::cpu {

static Tensor permute_rotate(Tensor x, Tensor perm, OptionalTensor, OptionalTensor, OptionalTensor, Tensor q,
                             OptionalTensor center, OptionalTensor num_nodes, double, int64_t order) {
  x = dense(x), perm = dense(perm), q = dense(q), center = dense(center), num_nodes = dense(num_nodes);
  const Space s = space_of("permute_rotate", x, q, center, num_nodes, order, false);
  const Shape p = permutation_of("permute_rotate", s, perm, num_nodes);
  Tensor y = empty(x, sizes_of(s, true));
  floating_switch(x.scalar_type(), "permute_rotate", [&](auto type) {
    using S = typename decltype(type)::type;
    using T = Compute<S>;
    with_dimension(s.d, [&](auto D) {
      parallel_for(s.b * s.k, grain_for(1.5 * s.size()), [&](int64_t begin, int64_t end) {
        Action<D, T> act(s);
        std::vector<T> buffer, gathered(s.size()), result(s.size());
        const T* input = nullptr;
        for (int64_t row = begin; row < end; ++row) {
          const int64_t b = row / s.k, count = s.count(b), size = count * s.node();
          if (row == begin || row % s.k == 0) {
            // All n nodes: a permutation that was not made here may move padding.
            input = centered<T>(s, in<S>(x) + b * s.size(), center ? in<T>(center) + b * s.d : nullptr, s.n, buffer);
          }
          gather_nodes(input, p.perm_of(row), count, s.node(), gathered.data());
          act.apply(in<T>(q) + row * s.d * s.d, true, T(1), gathered.data(), result.data(), count);
          S* to = out<S>(y) + row * s.size();
          convert_row(result.data(), size, to);
          std::fill(to + size, to + s.size(), S(0));
        }
      });
    });
  });
  return y;
}

template <class S>
struct Gradients {
  S* x;
  Compute<S>*q, *center;
};

// Gradients of inputs [begin, end). turned (b, k, n, node), where wanted, receives q grad, in order of rank.
template <int D, class S>
static void backward_inputs(const Space& s, const Shape& p, const S* grad, const Compute<S>* x, const Compute<S>* q,
                            int64_t begin, int64_t end, const Gradients<S>& out, Compute<S>* turned) {
  using T = Compute<S>;
  Action<D, T> act(s);
  std::vector<T> buffer, work(s.size()), sum(s.size()), total(s.d), matrix(matrix_size<T>(s.d));
  for (int64_t b = begin; b < end; ++b) {
    const int64_t count = s.count(b);
    std::fill(sum.begin(), sum.end(), T(0));
    T* center = out.center ? out.center + b * s.d : nullptr;
    if (center) std::fill_n(center, s.d, T(0));
    for (int64_t row = b * s.k; row < (b + 1) * s.k; ++row) {
      const T* matrix_q = q + row * s.d * s.d;
      const int64_t* perm = p.perm_of(row);
      const T* g = centered<T>(s, grad + row * s.size(), static_cast<const T*>(nullptr), count, buffer);
      if (out.x || turned) {
        T* to = turned ? turned + row * s.size() : work.data();
        act.apply(matrix_q, false, T(1), g, to, count);
        scatter_nodes(to, perm, count, s.node(), sum.data());
      }
      if (center) {
        sum_vectors(g, total.data(), count, s.d, s.c);
        for (int64_t e = 0; e < s.d; ++e) {
          for (int64_t a = 0; a < s.d; ++a) center[e] -= matrix_q[e * s.d + a] * total[a];
        }
      }
      if (!out.q) continue;
      gather_nodes(x + b * s.size(), perm, count, s.node(), work.data());
      act.gradient(matrix_q, true, work.data(), g, matrix.data(), count);
      std::copy_n(matrix.data(), s.d * s.d, out.q + row * s.d * s.d);
    }
    if (out.x) convert_row(sum.data(), s.size(), out.x + b * s.size());
  }
}

static std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> permute_rotate_backward(
    OptionalTensor grad_y, Tensor x, Tensor perm, OptionalTensor t, OptionalTensor row, OptionalTensor col, Tensor q,
    OptionalTensor center, OptionalTensor num_nodes, double tau, int64_t order, int64_t needs) {
  constexpr const char* op = "permute_rotate_backward";
  STD_TORCH_CHECK(grad_y, op, ": expected a gradient");
  const Tensor grad = dense(*grad_y);
  x = dense(x), perm = dense(perm), q = dense(q), center = dense(center), num_nodes = dense(num_nodes);
  t = dense(t), row = dense(row), col = dense(col);
  const Space s = space_of(op, x, q, center, num_nodes, order, false);
  space_of(op, grad, q, center, num_nodes, order, true);
  check_gradient(op, grad, x, x.numel() * s.k);
  const Shape p = permutation_of(op, s, perm, num_nodes);
  check_soft(op, x, perm, t, row, col, true);
  const bool need_x = needs & 1, need_soft = t && (needs & 14), need_q = needs & 16, need_center = center && needs & 32;
  const auto made = [&](bool needed, const Tensor& like, std::vector<int64_t> sizes) {
    return empty(like, needed ? sizes : std::vector<int64_t>{0});
  };
  Tensor grad_x = made(need_x, x, sizes_of(s, false)), grad_t = made(need_soft, q, {s.b, s.k, s.n});
  Tensor grad_row = made(need_soft, q, {s.b, s.k, s.n}), grad_col = made(need_soft, q, {s.b, s.k, s.n});
  Tensor grad_q = made(need_q, q, {s.b, s.k, s.d, s.d}), grad_center = made(need_center, q, {s.b, 1, s.d});
  floating_switch(x.scalar_type(), op, [&](auto type) {
    using S = typename decltype(type)::type;
    using T = Compute<S>;
    std::vector<T> inputs(need_q || need_soft ? s.b * s.size() : 0), turned(need_soft ? s.b * s.k * s.size() : 0);
    const Gradients<S> to{need_x ? out<S>(grad_x) : nullptr, need_q ? out<T>(grad_q) : nullptr,
                          need_center ? out<T>(grad_center) : nullptr};
    with_dimension(s.d, [&](auto D) {
      parallel_for(s.b, grain_for(3.0 * s.k * s.size()), [&](int64_t begin, int64_t end) {
        std::vector<T> buffer;
        for (int64_t b = begin; b < end && !inputs.empty(); ++b) {
          const T* source =
              centered<T>(s, in<S>(x) + b * s.size(), center ? in<T>(center) + b * s.d : nullptr, s.n, buffer);
          std::copy_n(source, s.size(), inputs.data() + b * s.size());
        }
        backward_inputs<D>(s, p, in<S>(grad), inputs.data(), in<T>(q), begin, end, to,
                           need_soft ? turned.data() : nullptr);
      });
    });
    if (!need_soft) return;
    // The sums of U V^T do not change where both are rotated: x and the gradient in the frame of the input.
    soft_gradient<T>(p, Soft<T>{in<T>(t), in<T>(row), in<T>(col), tau}, inputs.data(), turned.data(), true, true, true,
                     nullptr, T(1), SoftGradient<T>{out<T>(grad_t), out<T>(grad_row), out<T>(grad_col)}, nullptr);
  });
  return {grad_x, grad_t, grad_row, grad_col, grad_q, grad_center};
}

}  // namespace lps::cpu

STABLE_TORCH_LIBRARY_IMPL(lps_kernels, CPU, m) {
  m.impl("permute_rotate", TORCH_BOX(&lps::cpu::permute_rotate));
  m.impl("permute_rotate_backward", TORCH_BOX(&lps::cpu::permute_rotate_backward));
}
