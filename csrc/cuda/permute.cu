// permute: gathers by rank; its gradient gathers back, sums over samples, and is scanned for the scores.
#include "cuda/gather.cuh"
#include "cuda/ops.cuh"
#include "cuda/soft.cuh"

namespace lps::cuda {

Tensor permute(Tensor x, Tensor perm, OptionalTensor t, OptionalTensor row, OptionalTensor col,
               OptionalTensor num_nodes, double tau, int64_t order, bool hard) {
  x = dense(x), perm = dense(perm), num_nodes = dense(num_nodes), t = dense(t), row = dense(row), col = dense(col);
  const Shape s = shape_of("permute", x, perm, num_nodes, order, false);
  Tensor y = empty(x, sizes_of(s, true));
  if (hard) {
    move(s, x, y, std::nullopt, false);
    return y;
  }
  check_soft("permute", x, perm, t, row, col, hard);
  const SoftParts soft{*t, *row, *col};
  if (order == 1) {
    soft_product(s, soft, true, by_node(x, false), tau, 0, y);
  } else {
    const Tensor half = empty(x, sizes_of(s, true), t->scalar_type());
    soft_product(s, soft, true, by_node(x, false), tau, 1, half);
    soft_product(s, soft, true, by_rank(half), tau, 0, y);
  }
  return y;
}

std::pair<Tensor, Tensor> permute_both(Tensor x, Tensor edges, Tensor perm, OptionalTensor num_nodes) {
  x = dense(x), edges = dense(edges), perm = dense(perm), num_nodes = dense(num_nodes);
  const Shape of_x = shape_of("permute", x, perm, num_nodes, 1, false);
  const Shape s = shape_of("permute", edges, perm, num_nodes, 2, false);
  const Nodes nodes{x, empty(x, sizes_of(of_x, true))};
  const Tensor edges_k = empty(edges, sizes_of(s, true));
  if (edges_k.numel() == 0) move(of_x, x, nodes.to, std::nullopt, false);
  move(s, edges, edges_k, std::nullopt, false, nodes);
  return {nodes.to, edges_k};
}

// Of y = P^T x with a soft P: the gradient of x by rank, and those of t, row and col.
static std::pair<Tensor, SoftParts> soft_backward(const Shape& s, const SoftParts& soft, const Tensor& x,
                                                  const Tensor& grad, double tau, const SoftMore& more) {
  Tensor back = empty(soft.t, sizes_of(s, true));
  if (s.order == 1) {
    soft_product(s, soft, false, by_rank(grad), tau, 0, back);
    return {back, soft_gradient(s, soft, by_node(x, false), by_rank(grad), tau, 1, std::nullopt, 1, more)};
  }
  const Tensor half = empty(soft.t, sizes_of(s, true));
  soft_product(s, soft, true, by_node(x, false), tau, 1, half);
  const SoftParts first = soft_gradient(s, soft, by_rank(half), by_rank(grad), tau, 1, std::nullopt, 1, more);
  soft_product(s, soft, false, by_rank(grad), tau, 0, half);
  soft_product(s, soft, false, by_rank(half), tau, 1, back);
  return {back, soft_gradient(s, soft, by_node(x, false), by_rank(half), tau, 2, std::nullopt, 1, first)};
}

PermuteGradients permute_gradients(const OptionalTensor& grad_y, Tensor x, Tensor perm, OptionalTensor t,
                                   OptionalTensor row, OptionalTensor col, OptionalTensor num_nodes, double tau,
                                   int64_t order, bool hard, int64_t needs, const SoftMore& more,
                                   OptionalTensor& inverse, OptionalNodes nodes, bool need_nodes) {
  x = dense(x), perm = dense(perm), num_nodes = dense(num_nodes), t = dense(t), row = dense(row), col = dense(col);
  const Shape s = shape_of("permute_backward", x, perm, num_nodes, order, false);
  STD_TORCH_CHECK(grad_y, "permute_backward: expected a gradient");
  const Tensor grad = dense(*grad_y);
  shape_of("permute_backward", grad, perm, num_nodes, order, true);
  check_gradient("permute_backward", grad, x, x.numel() * s.k);
  check_soft("permute_backward", x, perm, t, row, col, hard);
  PermuteGradients found{needs & 1 ? empty(x) : empty(x, {0}), empty(x, {0}), std::nullopt};
  Beside beside;
  if (nodes) {
    nodes = Nodes{dense(nodes->from), dense(nodes->to)};
    shape_of("permute_backward", nodes->from, perm, num_nodes, 1, false);
    const Shape of_nodes = shape_of("permute_backward", nodes->to, perm, num_nodes, 1, true);
    check_gradient("permute_backward", nodes->to, nodes->from, nodes->from.numel() * s.k);
    beside = {by_node(nodes->from, false), by_rank(nodes->to), static_cast<int>(of_nodes.c)};
    if (need_nodes) found.nodes = empty(nodes->from);
  }
  Tensor back = grad;
  if (!hard) {
    std::tie(back, found.soft) = soft_backward(s, {*t, *row, *col}, x, grad, tau, more);
  } else if (t && (needs & 14)) {
    const bool in_passing = (needs & 1) && !inverse && x.numel() > 0;
    if (in_passing) inverse = empty(perm, {s.rows(), s.n}, ScalarType::Int);
    found.soft = soft_gradient(s, {*t, *row, *col}, by_node(x, false), by_rank(grad), tau, order == 2 ? 3 : 1,
                               std::nullopt, 1, more, in_passing ? inverse : std::nullopt, beside);
  }
  OptionalNodes sums;
  if (need_nodes) sums = Nodes{nodes->to, found.nodes};
  if (needs & 1) {
    if (!inverse && x.numel() > 0) inverse = inverse_of(s, perm);
    sum_samples(s, perm, back, found.x, std::nullopt, 1, inverse, sums);
  } else if (sums) {
    sum_samples(s.of_nodes(sums->to), perm, sums->from, sums->to, std::nullopt, 1, inverse);
  }
  return found;
}

static std::tuple<Tensor, Tensor, Tensor, Tensor> permute_backward(OptionalTensor grad_y, Tensor x, Tensor perm,
                                                                   OptionalTensor t, OptionalTensor row,
                                                                   OptionalTensor col, OptionalTensor num_nodes,
                                                                   double tau, int64_t order, bool hard,
                                                                   int64_t needs) {
  OptionalTensor inverse;
  const PermuteGradients found =
      permute_gradients(grad_y, x, perm, t, row, col, num_nodes, tau, order, hard, needs, {}, inverse);
  const auto of = [&](const Tensor SoftParts::* part, int64_t bit) {
    return found.soft && (needs & bit) ? (*found.soft).*part : empty(x, {0});
  };
  return {found.x, of(&SoftParts::t, 2), of(&SoftParts::row, 4), of(&SoftParts::col, 8)};
}

}  // namespace lps::cuda

STABLE_TORCH_LIBRARY_IMPL(lps_kernels, CUDA, m) {
  m.impl("permute", TORCH_BOX(&lps::cuda::permute));
  m.impl("permute_backward", TORCH_BOX(&lps::cuda::permute_backward));
}
