// sample_permute: soft_sort, then permute of nodes and edges, and all their gradients in one call.
//
// Launches follow one another: a row is sorted by one warp or block, and its edges, n times as many, want to be read
// and written by many. Where the permutation is hard, nodes go with edges.
#include "cuda/ops.cuh"
#include "cuda/soft.cuh"

namespace lps::cuda {

static Tensor as(const Tensor& x, ScalarType dtype) {
  return x.scalar_type() == dtype ? x : torch::stable::to(x, dtype);
}

static std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> sample_permute(Tensor scores, Tensor seed, Tensor x,
                                                                                 OptionalTensor edges,
                                                                                 OptionalTensor num_nodes, double tau,
                                                                                 int64_t n_iter, bool normalize,
                                                                                 bool hard, bool soft) {
  STD_TORCH_CHECK(hard || soft, "sample_permute: expected soft where hard is false");
  const auto [perm, t, row, col] = soft_sort(scores, seed, num_nodes, tau, n_iter, normalize, soft);
  if (hard && edges) {
    const auto [x_k, edges_k] = permute_both(x, *edges, perm, num_nodes);
    return {perm, t, row, col, x_k, edges_k};
  }
  const ScalarType dtype = compute_dtype(x.scalar_type());
  const auto part = [&](const Tensor& p) { return soft ? OptionalTensor(as(p, dtype)) : OptionalTensor(); };
  const OptionalTensor t_x = part(t), row_x = part(row), col_x = part(col);
  const Tensor x_k = permute(x, perm, t_x, row_x, col_x, num_nodes, tau, 1, hard);
  const Tensor edges_k =
      edges ? permute(*edges, perm, t_x, row_x, col_x, num_nodes, tau, 2, hard) : empty(x, {scores.size(0), 0});
  return {perm, t, row, col, x_k, edges_k};
}

static std::tuple<Tensor, Tensor, Tensor> sample_permute_backward(
    OptionalTensor grad_perm, OptionalTensor grad_t, OptionalTensor grad_row, OptionalTensor grad_col,
    OptionalTensor grad_x_k, OptionalTensor grad_edges_k, Tensor scores, Tensor seed, Tensor x, OptionalTensor edges,
    OptionalTensor num_nodes, double tau, int64_t n_iter, bool normalize, bool hard, bool soft, Tensor perm, Tensor t,
    Tensor row, Tensor col, int64_t needs) {
  check_same_device("sample_permute_backward", t, grad_t, grad_row, grad_col);
  check_gradient("sample_permute_backward", grad_t, t, t.numel());
  check_gradient("sample_permute_backward", grad_row, row, row.numel());
  check_gradient("sample_permute_backward", grad_col, col, col.numel());
  const bool need_scores = needs & 1;
  const ScalarType dtype = compute_dtype(x.scalar_type());
  const auto part = [&](const Tensor& p) { return soft ? OptionalTensor(as(p, dtype)) : OptionalTensor(); };
  const OptionalTensor t_x = part(t), row_x = part(row), col_x = part(col);
  OptionalTensor inverse;
  const bool together = hard && edges && edges->numel() > 0 && grad_x_k && grad_edges_k && (needs & 5);
  Tensor grad_x = empty(x, {0});
  const auto through = [&](const OptionalTensor& grad, const OptionalTensor& features, int64_t order, bool needed) {
    if (!features || (!needed && !need_scores)) return empty(x, {0});
    if (!grad) {
      Tensor none = needed ? empty(*features) : empty(x, {0});
      return torch::stable::zero_(none);
    }
    const int64_t wanted = (needed ? 1 : 0) | (soft && need_scores ? 14 : 0);
    const bool in_passing = t.scalar_type() == dtype;
    const bool with_nodes = together && order == 2;
    const auto [grad_features, grad_nodes, found] =
        permute_gradients(grad, *features, perm, t_x, row_x, col_x, num_nodes, tau, order, hard, wanted,
                          in_passing ? SoftMore(grad_t, grad_row, grad_col) : SoftMore(), inverse,
                          with_nodes ? OptionalNodes(Nodes{x, *grad_x_k}) : std::nullopt, with_nodes && (needs & 2));
    if (with_nodes) grad_x = grad_nodes;
    if (found && need_scores) {
      const auto add_to = [&](OptionalTensor& to, const Tensor& from) {
        to = to && !in_passing ? add(dense(*to), as(from, t.scalar_type())) : as(from, t.scalar_type());
      };
      add_to(grad_t, found->t), add_to(grad_row, found->row), add_to(grad_col, found->col);
    }
    return grad_features;
  };
  if (!together) grad_x = through(grad_x_k, x, 1, needs & 2);
  const Tensor grad_edges = through(grad_edges_k, edges, 2, needs & 4);
  const Tensor grad_scores = soft_sort_backward(grad_perm, grad_t, grad_row, grad_col, scores, seed, num_nodes, tau,
                                                n_iter, normalize, soft, perm, t, row, col, need_scores);
  return {grad_scores, grad_x, grad_edges};
}

}  // namespace lps::cuda

STABLE_TORCH_LIBRARY_IMPL(lps_kernels, CUDA, m) {
  m.impl("sample_permute", TORCH_BOX(&lps::cuda::sample_permute));
  m.impl("sample_permute_backward", TORCH_BOX(&lps::cuda::sample_permute_backward));
}
