// inverse_permute_mean: samples gathered back to node order and averaged; its gradient gathers by rank and is scanned
// for the scores.
#include "cuda/gather.cuh"
#include "cuda/soft.cuh"

namespace lps::cuda {

static void check_weights(const char* op, const Shape& s, const Tensor& y, const OptionalTensor& weights) {
  if (!weights) return;
  check_same_device(op, y, weights);
  STD_TORCH_CHECK(weights->numel() == s.rows() && weights->scalar_type() == compute_dtype(y.scalar_type()), op,
                  ": expected weights (b, k) in the dtype that y is computed in");
}

// P y of every sample, by rank.
static Tensor soft_inverse(const Shape& s, const SoftParts& soft, const Tensor& y, double tau, ScalarType dtype) {
  const Tensor result = empty(y, sizes_of(s, true), dtype);
  if (s.order == 1) {
    soft_product(s, soft, false, by_rank(y), tau, 0, result);
    return result;
  }
  const Tensor half = empty(soft.t, sizes_of(s, true));
  soft_product(s, soft, false, by_rank(y), tau, 1, half);
  soft_product(s, soft, false, by_rank(half), tau, 0, result);
  return result;
}

static Tensor inverse_permute_mean(Tensor y, Tensor perm, OptionalTensor t, OptionalTensor row, OptionalTensor col,
                                   OptionalTensor num_nodes, OptionalTensor weights, double tau, int64_t order,
                                   bool hard, bool mean) {
  y = dense(y), perm = dense(perm), num_nodes = dense(num_nodes), t = dense(t), row = dense(row), col = dense(col);
  weights = dense(weights);
  const Shape s = shape_of("inverse_permute_mean", y, perm, num_nodes, order, true);
  check_soft("inverse_permute_mean", y, perm, t, row, col, hard);
  check_weights("inverse_permute_mean", s, y, weights);
  Tensor x = empty(y, sizes_of(s, !mean));
  if (mean && s.k == 0) return mean_of_none(x, weights.has_value());
  if (!hard) {
    y = soft_inverse(s, {*t, *row, *col}, y, tau, mean ? t->scalar_type() : y.scalar_type());
  }
  if (mean) {
    sum_samples(s, perm, y, x, weights, 1.0 / static_cast<double>(s.k));
  } else {
    move(s, y, x, inverse_of(s, perm), true);
  }
  return x;
}

struct Share {
  const OptionalTensor& weights;
  double scale;
  bool each;  // the gradient has samples
};

// Of x = sum of w P y with a soft P: the gradient of y, and those of t, row and col.
static SoftParts soft_backward(const Shape& s, const SoftParts& soft, const Tensor& grad, const Tensor& y, double tau,
                               const Share& share, const Tensor& grad_y) {
  const View of_grad = by_node(grad, share.each);
  if (s.order == 1) {
    soft_product(s, soft, true, of_grad, tau, 0, grad_y, share.weights, share.scale);
    return soft_gradient(s, soft, of_grad, by_rank(y), tau, 1, share.weights, share.scale);
  }
  const Tensor half = empty(soft.t, sizes_of(s, true));
  soft_product(s, soft, false, by_rank(y), tau, 1, half);
  const SoftParts first = soft_gradient(s, soft, of_grad, by_rank(half), tau, 1, share.weights, share.scale);
  soft_product(s, soft, true, of_grad, tau, 0, half);
  soft_product(s, soft, true, by_rank(half), tau, 1, grad_y, share.weights, share.scale);
  return soft_gradient(s, soft, by_rank(half), by_rank(y), tau, 2, share.weights, share.scale, first);
}

static std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> inverse_permute_mean_backward(
    OptionalTensor grad_x, Tensor y, Tensor perm, OptionalTensor t, OptionalTensor row, OptionalTensor col,
    OptionalTensor num_nodes, OptionalTensor weights, double tau, int64_t order, bool hard, bool mean, int64_t needs) {
  const char* name = "inverse_permute_mean_backward";
  y = dense(y), perm = dense(perm), num_nodes = dense(num_nodes), t = dense(t), row = dense(row), col = dense(col);
  weights = dense(weights);
  const Shape s = shape_of(name, y, perm, num_nodes, order, true);
  STD_TORCH_CHECK(grad_x, name, ": expected a gradient");
  const Tensor grad = dense(*grad_x);
  shape_of(name, grad, perm, num_nodes, order, !mean);
  check_gradient(name, grad, y, mean ? s.b * s.n * s.inner() : y.numel());
  check_soft(name, y, perm, t, row, col, hard);
  check_weights(name, s, y, weights);
  const OptionalTensor none;
  const Share share{mean ? weights : none, mean ? 1.0 / static_cast<double>(std::max<int64_t>(s.k, 1)) : 1.0, !mean};
  const bool need_y = needs & 1, need_weights = weights && (needs & 16);
  Tensor grad_y = need_y || !hard ? empty(y) : empty(y, {0});
  Tensor grad_weights = need_weights ? empty(*weights) : empty(y, {0});
  std::optional<SoftParts> parts;
  if (!hard) {
    parts = soft_backward(s, {*t, *row, *col}, grad, y, tau, share, grad_y);
  } else {
    if (need_y && mean) gather_scaled(s, grad, grad_y, share.weights, share.scale, false);
    if (need_y && !mean) move(s, grad, grad_y, std::nullopt, true);
    if (t && (needs & 14)) {
      parts = soft_gradient(s, {*t, *row, *col}, by_node(grad, share.each), by_rank(y), tau, order == 2 ? 3 : 1,
                            share.weights, share.scale);
    }
  }
  if (need_weights) {
    if (!hard) y = soft_inverse(s, {*t, *row, *col}, y, tau, t->scalar_type());
    weight_gradient(s, grad, y, grad_weights, share.each);
  }
  const auto of = [&](const Tensor SoftParts::* part, int64_t bit) {
    return parts && (needs & bit) ? (*parts).*part : empty(y, {0});
  };
  return {needed(grad_y, need_y), of(&SoftParts::t, 2), of(&SoftParts::row, 4), of(&SoftParts::col, 8), grad_weights};
}

}  // namespace lps::cuda

STABLE_TORCH_LIBRARY_IMPL(lps_kernels, CUDA, m) {
  m.impl("inverse_permute_mean", TORCH_BOX(&lps::cuda::inverse_permute_mean));
  m.impl("inverse_permute_mean_backward", TORCH_BOX(&lps::cuda::inverse_permute_mean_backward));
}
