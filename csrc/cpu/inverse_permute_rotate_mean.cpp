// inverse_permute_rotate_mean: each node of a sample is rotated and added to the node that it came from.
#include "cpu/permute_rotate.h"

namespace lps::cpu {

static Tensor inverse_permute_rotate_mean(Tensor y, Tensor perm, OptionalTensor, OptionalTensor, OptionalTensor,
                                          Tensor q, OptionalTensor center, OptionalTensor num_nodes,
                                          OptionalTensor weights, double, int64_t order, bool mean) {
  y = dense(y), perm = dense(perm), q = dense(q), center = dense(center), num_nodes = dense(num_nodes);
  weights = dense(weights);
  const Space s = space_of("inverse_permute_rotate_mean", y, q, center, num_nodes, order, true);
  const Shape p = permutation_of("inverse_permute_rotate_mean", s, perm, num_nodes);
  check_weights("inverse_permute_rotate_mean", weights, s.b * s.k, q.scalar_type());
  Tensor x = empty(y, sizes_of(s, !mean));
  if (mean && s.k == 0) return mean_of_none(x, weights.has_value());
  floating_switch(y.scalar_type(), "inverse_permute_rotate_mean", [&](auto type) {
    using S = typename decltype(type)::type;
    using T = Compute<S>;
    with_dimension(s.d, [&](auto D) {
      parallel_for(s.b, grain_for(2.0 * s.k * s.size()), [&](int64_t begin, int64_t end) {
        Action<D, T> act(s);
        std::vector<T> buffer, turned(s.size()), sum(s.size()), shift(s.d);
        for (int64_t row = begin * s.k; row < end * s.k; ++row) {
          const int64_t b = row / s.k, count = s.count(b), size = count * s.node();
          if (!mean || row % s.k == 0) {
            std::fill(sum.begin(), sum.end(), T(0));
            std::fill(shift.begin(), shift.end(), T(0));
          }
          const T w = !mean ? T(1) : weights ? in<T>(*weights)[row] : T(1) / static_cast<T>(s.k);
          const T* input = centered<T>(s, in<S>(y) + row * s.size(), static_cast<const T*>(nullptr), count, buffer);
          act.apply(in<T>(q) + row * s.d * s.d, false, w, input, turned.data(), count);
          scatter_nodes(turned.data(), p.perm_of(row), count, s.node(), sum.data());
          for (int64_t a = 0; center && a < s.d; ++a) shift[a] += w * in<T>(*center)[b * s.d + a];
          if (mean && (row + 1) % s.k != 0) continue;
          if (center) add_vector(sum.data(), shift.data(), T(1), count, s.d, s.c);
          S* to = out<S>(x) + (mean ? b : row) * s.size();
          convert_row(sum.data(), size, to);
          std::fill(to + size, to + s.size(), S(0));
        }
      });
    });
  });
  return x;
}

template <class S>
struct Gradients {
  S* y;
  Compute<S>*q, *center, *weights;
};

// Gradients of the rows of inputs [begin, end). grad is (b or b k, n, node) in the computing dtype; turned (b, k, n,
// node), where wanted, receives q y in order of rank.
template <int D, class S>
static void backward_inputs(const Space& s, const Shape& p, const Compute<S>* grad, const S* y, const Compute<S>* q,
                            const Compute<S>* center, const Compute<S>* weights, bool mean, int64_t begin, int64_t end,
                            const Gradients<S>& out, Compute<S>* turned) {
  using T = Compute<S>;
  Action<D, T> act(s);
  std::vector<T> buffer, gathered(s.size()), result(s.size()), total(s.d), matrix(matrix_size<T>(s.d));
  for (int64_t row = begin * s.k; row < end * s.k; ++row) {
    const int64_t b = row / s.k, count = s.count(b), size = count * s.node();
    const T w = !mean ? T(1) : weights ? weights[row] : T(1) / static_cast<T>(s.k);
    const T* matrix_q = q + row * s.d * s.d;
    gather_nodes(grad + (mean ? b : row) * s.size(), p.perm_of(row), count, s.node(), gathered.data());
    if (center) sum_vectors(gathered.data(), total.data(), count, s.d, s.c);
    if (out.y) {
      act.apply(matrix_q, true, w, gathered.data(), result.data(), count);
      S* to = out.y + row * s.size();
      convert_row(result.data(), size, to);
      std::fill(to + size, to + s.size(), S(0));
    }
    for (int64_t a = 0; out.center && a < s.d; ++a) {
      T& sum = out.center[b * s.d + a];
      sum = (row % s.k == 0 ? T(0) : sum) + w * total[a];
    }
    if (!out.q && !out.weights && !turned) continue;
    const T* input = centered<T>(s, y + row * s.size(), static_cast<const T*>(nullptr), count, buffer);
    if (turned) act.apply(matrix_q, false, T(1), input, turned + row * s.size(), count);
    if (!out.q && !out.weights) continue;
    act.gradient(matrix_q, false, input, gathered.data(), matrix.data(), count);
    if (out.q) write_scaled(matrix.data(), s.d * s.d, w, out.q + row * s.d * s.d);
    if (!out.weights) continue;
    out.weights[row] = along_matrix(matrix.data(), matrix_q, s.d) / static_cast<T>(s.order);
    for (int64_t a = 0; center && a < s.d; ++a) out.weights[row] += total[a] * center[b * s.d + a];
  }
}

static std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> inverse_permute_rotate_mean_backward(
    OptionalTensor grad_x, Tensor y, Tensor perm, OptionalTensor t, OptionalTensor row, OptionalTensor col, Tensor q,
    OptionalTensor center, OptionalTensor num_nodes, OptionalTensor weights, double tau, int64_t order, bool mean,
    int64_t needs) {
  constexpr const char* op = "inverse_permute_rotate_mean_backward";
  STD_TORCH_CHECK(grad_x, op, ": expected a gradient");
  const Tensor grad = dense(*grad_x);
  y = dense(y), perm = dense(perm), q = dense(q), center = dense(center), num_nodes = dense(num_nodes);
  t = dense(t), row = dense(row), col = dense(col), weights = dense(weights);
  const Space s = space_of(op, y, q, center, num_nodes, order, true);
  space_of(op, grad, q, center, num_nodes, order, !mean);
  check_gradient(op, grad, y, mean ? s.b * s.size() : y.numel());
  const Shape p = permutation_of(op, s, perm, num_nodes);
  check_soft(op, y, perm, t, row, col, true);
  check_weights(op, weights, s.b * s.k, q.scalar_type());
  const bool need_y = needs & 1, need_soft = t && (needs & 14), need_q = needs & 16;
  const bool need_center = center && needs & 32, need_weights = weights && needs & 64;
  const auto made = [&](bool needed, const Tensor& like, std::vector<int64_t> sizes) {
    return empty(like, needed ? sizes : std::vector<int64_t>{0});
  };
  Tensor grad_y = made(need_y, y, sizes_of(s, true)), grad_t = made(need_soft, q, {s.b, s.k, s.n});
  Tensor grad_row = made(need_soft, q, {s.b, s.k, s.n}), grad_col = made(need_soft, q, {s.b, s.k, s.n});
  Tensor grad_q = made(need_q, q, {s.b, s.k, s.d, s.d});
  Tensor grad_center = need_center ? zeros(q, {s.b, 1, s.d}) : empty(q, {0});  // without samples nobody adds to it
  Tensor grad_weights = made(need_weights, q, {s.b, s.k});
  floating_switch(y.scalar_type(), op, [&](auto type) {
    using S = typename decltype(type)::type;
    using T = Compute<S>;
    const int64_t rows = s.b * s.k;
    std::vector<T> turned(need_soft ? rows * s.size() : 0), wide;
    const T* g = nullptr;
    if constexpr (std::is_same_v<S, T>) {
      g = in<T>(grad);
    } else {
      wide.assign(in<S>(grad), in<S>(grad) + grad.numel());
      g = wide.data();
    }
    const Gradients<S> to{need_y ? out<S>(grad_y) : nullptr, need_q ? out<T>(grad_q) : nullptr,
                          need_center ? out<T>(grad_center) : nullptr, need_weights ? out<T>(grad_weights) : nullptr};
    with_dimension(s.d, [&](auto D) {
      parallel_for(s.b, grain_for(3.0 * s.k * s.size()), [&](int64_t begin, int64_t end) {
        backward_inputs<D>(s, p, g, in<S>(y), in<T>(q), in<T>(center), in<T>(weights), mean, begin, end, to,
                           need_soft ? turned.data() : nullptr);
      });
    });
    if (!need_soft) return;
    soft_gradient<T>(p, Soft<T>{in<T>(t), in<T>(row), in<T>(col), tau}, turned.data(), g, false, !mean, true,
                     mean ? in<T>(weights) : nullptr, mean ? T(1) / static_cast<T>(s.k) : T(1),
                     SoftGradient<T>{out<T>(grad_t), out<T>(grad_row), out<T>(grad_col)}, nullptr);
  });
  return {grad_y, grad_t, grad_row, grad_col, grad_q, grad_center, grad_weights};
}

}  // namespace lps::cpu

STABLE_TORCH_LIBRARY_IMPL(lps_kernels, CPU, m) {
  m.impl("inverse_permute_rotate_mean", TORCH_BOX(&lps::cpu::inverse_permute_rotate_mean));
  m.impl("inverse_permute_rotate_mean_backward", TORCH_BOX(&lps::cpu::inverse_permute_rotate_mean_backward));
}
