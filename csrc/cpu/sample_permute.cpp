// sample_permute: soft_sort and permute of nodes and edges in one call, and all their gradients in one.
#include "cpu/ops.h"

namespace lps::cpu {

static OptionalTensor as(const OptionalTensor& x, ScalarType dtype) {
  return !x || x->scalar_type() == dtype ? x : OptionalTensor(torch::stable::to(*x, dtype));
}

static std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> sample_permute(Tensor scores, Tensor seed, Tensor x,
                                                                                 OptionalTensor edges,
                                                                                 OptionalTensor num_nodes, double tau,
                                                                                 int64_t n_iter, bool normalize,
                                                                                 bool hard, bool soft) {
  STD_TORCH_CHECK(hard || soft, "sample_permute: expected soft where hard is false");
  const auto [perm, t, row, col] = soft_sort(scores, seed, num_nodes, tau, n_iter, normalize, soft);
  const ScalarType dtype = compute_dtype(x.scalar_type());
  const auto part = [&](const Tensor& p) { return soft ? as(p, dtype) : OptionalTensor(); };
  const OptionalTensor t_x = part(t), row_x = part(row), col_x = part(col);
  const auto act = [&](const Tensor& features, int64_t order) {
    return permute(features, perm, t_x, row_x, col_x, num_nodes, tau, order, hard);
  };
  return {perm, t, row, col, act(x, 1), edges ? act(*edges, 2) : empty(x, {scores.size(0), 0})};
}

// to += from, in the dtype of `to`; where there is no `to` yet it becomes `from`.
static void add(OptionalTensor& to, const Tensor& from, ScalarType dtype) {
  const Tensor other = *as(from, dtype);
  if (!to) {
    to = other;
    return;
  }
  Tensor sum = empty(other, {other.size(0), other.size(1), other.size(2)});
  const Tensor mine = dense(*to);
  floating_switch(dtype, "sample_permute_backward", [&](auto type) {
    using T = Compute<typename decltype(type)::type>;
    for (int64_t i = 0; i < sum.numel(); ++i) out<T>(sum)[i] = in<T>(mine)[i] + in<T>(other)[i];
  });
  to = sum;
}

static std::tuple<Tensor, Tensor, Tensor> sample_permute_backward(
    OptionalTensor grad_perm, OptionalTensor grad_t, OptionalTensor grad_row, OptionalTensor grad_col,
    OptionalTensor grad_x_k, OptionalTensor grad_edges_k, Tensor scores, Tensor seed, Tensor x, OptionalTensor edges,
    OptionalTensor num_nodes, double tau, int64_t n_iter, bool normalize, bool hard, bool soft, Tensor perm, Tensor t,
    Tensor row, Tensor col, int64_t needs) {
  check_gradient("sample_permute_backward", grad_t, t, t.numel());
  check_gradient("sample_permute_backward", grad_row, row, row.numel());
  check_gradient("sample_permute_backward", grad_col, col, col.numel());
  const bool need_scores = needs & 1;
  const ScalarType dtype = compute_dtype(x.scalar_type());
  const auto part = [&](const Tensor& p) { return soft ? as(p, dtype) : OptionalTensor(); };
  const OptionalTensor t_x = part(t), row_x = part(row), col_x = part(col);
  const auto through = [&](const OptionalTensor& grad, const OptionalTensor& features, int64_t order, bool needed) {
    if (!features || (!needed && !need_scores)) return empty(x, {0});
    if (!grad) {
      Tensor none = needed ? empty(*features) : empty(x, {0});
      return torch::stable::zero_(none);
    }
    const int64_t wanted = (needed ? 1 : 0) | (soft && need_scores ? 14 : 0);
    const auto [grad_features, by_t, by_row, by_col] =
        permute_backward(grad, *features, perm, t_x, row_x, col_x, num_nodes, tau, order, hard, wanted);
    if (soft && need_scores) {
      add(grad_t, by_t, t.scalar_type());
      add(grad_row, by_row, t.scalar_type());
      add(grad_col, by_col, t.scalar_type());
    }
    return grad_features;
  };
  const Tensor grad_x = through(grad_x_k, x, 1, needs & 2);
  const Tensor grad_edges = through(grad_edges_k, edges, 2, needs & 4);
  const Tensor grad_scores = soft_sort_backward(grad_perm, grad_t, grad_row, grad_col, scores, seed, num_nodes, tau,
                                                n_iter, normalize, soft, perm, t, row, col, need_scores);
  return {grad_scores, grad_x, grad_edges};
}

}  // namespace lps::cpu

STABLE_TORCH_LIBRARY_IMPL(lps_kernels, CPU, m) {
  m.impl("sample_permute", TORCH_BOX(&lps::cpu::sample_permute));
  m.impl("sample_permute_backward", TORCH_BOX(&lps::cpu::sample_permute_backward));
}
