// inverse_permute_mean: samples scattered back to node order and averaged; its gradient gathers and sums for the
// scores.
#include "cpu/soft_matrix.h"

namespace lps::cpu {

static Tensor inverse_permute_mean(Tensor y, Tensor perm, OptionalTensor t, OptionalTensor row, OptionalTensor col,
                                   OptionalTensor num_nodes, OptionalTensor weights, double tau, int64_t order,
                                   bool hard, bool mean) {
  y = dense(y), perm = dense(perm), num_nodes = dense(num_nodes), t = dense(t), row = dense(row), col = dense(col);
  weights = dense(weights);
  const Shape s = shape_of("inverse_permute_mean", y, perm, num_nodes, order, true);
  std::vector<int64_t> sizes = {s.b, s.n, s.c};
  if (order == 2) sizes.insert(sizes.begin() + 1, s.n);
  if (!mean) sizes.insert(sizes.begin() + 1, s.k);
  Tensor x = empty(y, sizes);
  if (hard && !mean) {
    move_nodes(s, y.const_data_ptr(), x.mutable_data_ptr(), y.element_size(), true, true);
    return x;
  }
  check_soft("inverse_permute_mean", y, perm, t, row, col, hard);
  check_weights("inverse_permute_mean", weights, s.rows(), compute_dtype(y.scalar_type()));
  if (mean && s.k == 0) return mean_of_none(x, weights.has_value());
  floating_switch(y.scalar_type(), "inverse_permute_mean", [&](auto type) {
    using F = typename decltype(type)::type;
    using T = Compute<F>;
    const T* w = in<T>(weights);
    const T each = T(1) / static_cast<T>(s.k);
    if (hard) {
      scatter_sum<F, F>(s, in<F>(y), w, each, out<F>(x));
      return;
    }
    std::vector<T> sorted(y.numel());
    soft_transform<F>(s, {in<T>(t), in<T>(row), in<T>(col), tau}, in<F>(y), true, false, sorted.data());
    if (mean) {
      scatter_sum<T, F>(s, sorted.data(), w, each, out<F>(x));
    } else {
      std::vector<T> back(y.numel());
      move_nodes(s, sorted.data(), back.data(), sizeof(T), true, true);
      convert_all(back.data(), y.numel(), out<F>(x));
    }
  });
  return x;
}

template <class T>
double inner_product(const T* a, const T* b, int64_t size) {
  constexpr int64_t lanes = kLanes<T>;
  Vec<T> sum[4] = {};
  int64_t i = 0;
  for (; i + 4 * lanes <= size; i += 4 * lanes) {
#pragma GCC unroll 4
    for (int64_t j = 0; j < 4; ++j) sum[j] += load(a + i + j * lanes) * load(b + i + j * lanes);
  }
  const Vec<T> all = (sum[0] + sum[1]) + (sum[2] + sum[3]);
  double total = 0;
  for (int64_t j = 0; j < lanes; ++j) total += all[j];
  for (; i < size; ++i) total += a[i] * b[i];
  return total;
}

template <class T>
struct WeightLines {
  std::vector<T> grad, y;
};

// d weights[row] = <grad x, P y of the sample>, the soft product for a soft permutation.
template <class T, class F, class Y>
void weight_gradient(const Shape& s, const F* grad, const Y* y, T* to) {
  const int64_t line = s.n * s.c, size = s.n * s.inner();
  parallel_for(s.rows(), grain_for(0.5 * size), [&](int64_t begin, int64_t end) {
    auto& lines = workspace<WeightLines<T>>();
    lines.grad.resize(line), lines.y.resize(line);
    for (int64_t row = begin; row < end; ++row) {
      const bool edges = s.order == 2;
      const int64_t count = s.c == 0 ? 0 : s.count(row);
      const Sorted<F> of_grad{grad + row / s.k * size, s.perm_of(row), s.n, s.c, edges};
      double sum = 0;
      for (int64_t r = 0; r < (edges ? count : std::min<int64_t>(count, 1)); ++r) {
        if (edges) {
          of_grad.line(r, std::min(r + kAhead, count - 1), 0, count, false, lines.grad.data());
        } else {
          of_grad.copy_nodes(0, s.c, count, s.c, lines.grad.data());
        }
        const Y* from = y + row * size + r * line;
        if constexpr (std::is_same_v<Y, T>) {
          sum += inner_product(lines.grad.data(), from, count * s.c);
        } else {
          convert_row(from, count * s.c, lines.y.data());
          sum += inner_product(lines.grad.data(), lines.y.data(), count * s.c);
        }
      }
      to[row] = static_cast<T>(sum);
    }
  });
}

static std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> inverse_permute_mean_backward(
    OptionalTensor grad_x, Tensor y, Tensor perm, OptionalTensor t, OptionalTensor row, OptionalTensor col,
    OptionalTensor num_nodes, OptionalTensor weights, double tau, int64_t order, bool hard, bool mean, int64_t needs) {
  y = dense(y), perm = dense(perm), num_nodes = dense(num_nodes), t = dense(t), row = dense(row), col = dense(col);
  weights = dense(weights);
  const char* name = "inverse_permute_mean_backward";
  const Shape s = shape_of(name, y, perm, num_nodes, order, true);
  STD_TORCH_CHECK(grad_x, name, ": expected a gradient");
  const Tensor grad = dense(*grad_x);
  shape_of(name, grad, perm, num_nodes, order, !mean);
  check_gradient(name, grad, y, mean ? s.b * s.n * s.inner() : y.numel());
  check_soft(name, y, perm, t, row, col, hard);
  const bool need_y = needs & 1, need_soft = t && (!hard || (needs & 14)), need_weights = weights && (needs & 16);
  const ScalarType dtype = compute_dtype(y.scalar_type());
  check_weights(name, weights, s.rows(), dtype);
  Tensor grad_y = need_y ? empty(y) : empty(y, {0});
  const auto like_t = [&](int64_t bit) {
    return need_soft || needs & bit ? empty(y, {s.b, s.k, s.n}, dtype) : empty(y, {0}, dtype);
  };
  Tensor grad_t = like_t(2), grad_row = like_t(4), grad_col = like_t(8);
  Tensor grad_weights = need_weights ? empty(y, {s.b, s.k}, dtype) : empty(y, {0}, dtype);
  floating_switch(y.scalar_type(), name, [&](auto type) {
    using F = typename decltype(type)::type;
    using T = Compute<F>;
    const T* w = in<T>(weights);
    const T each = mean ? T(1) / static_cast<T>(std::max<int64_t>(s.k, 1)) : T(1);
    const Soft<T> soft{in<T>(t), in<T>(row), in<T>(col), tau};
    if (need_y && hard && mean) gather_scaled<F>(s, in<F>(grad), w, each, out<F>(grad_y));
    if (need_y && hard && !mean) {
      move_nodes(s, grad.const_data_ptr(), grad_y.mutable_data_ptr(), grad.element_size(), true, false);
    }
    if (need_soft) {
      const SoftGradient<T> to{out<T>(grad_t), out<T>(grad_row), out<T>(grad_col)};
      std::vector<T> sorted(hard ? 0 : y.numel());
      soft_gradient<F>(s, soft, in<F>(y), in<F>(grad), false, !mean, hard, w, each, to, sorted.data());
      if (need_y && !hard) convert_all(sorted.data(), y.numel(), out<F>(grad_y));
    }
    if (need_weights) {
      if (hard) {
        weight_gradient(s, in<F>(grad), in<F>(y), out<T>(grad_weights));
      } else {
        std::vector<T> applied(y.numel());
        soft_transform<F>(s, soft, in<F>(y), true, false, applied.data());
        weight_gradient(s, in<F>(grad), applied.data(), out<T>(grad_weights));
      }
    }
  });
  return {grad_y, needed(grad_t, needs & 2), needed(grad_row, needs & 4), needed(grad_col, needs & 8), grad_weights};
}

}  // namespace lps::cpu

STABLE_TORCH_LIBRARY_IMPL(lps_kernels, CPU, m) {
  m.impl("inverse_permute_mean", TORCH_BOX(&lps::cpu::inverse_permute_mean));
  m.impl("inverse_permute_mean_backward", TORCH_BOX(&lps::cpu::inverse_permute_mean_backward));
}
