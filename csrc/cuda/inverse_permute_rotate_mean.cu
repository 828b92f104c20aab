// inverse_permute_rotate_mean: inverse_rotate_mean, whose kernels gather nodes by rank as they read.
#include "cuda/permute_rotate.cuh"

namespace lps::cuda {

static Tensor inverse_permute_rotate_mean(Tensor y, Tensor perm, OptionalTensor, OptionalTensor, OptionalTensor,
                                          Tensor q, OptionalTensor center, OptionalTensor num_nodes,
                                          OptionalTensor weights, double, int64_t order, bool mean) {
  constexpr const char* op = "inverse_permute_rotate_mean";
  perm = dense(perm), num_nodes = dense(num_nodes);
  const Space s = space_of(op, y, q, center, num_nodes, order, true);
  const Shape p = permutation_of(op, s, perm, num_nodes);
  check_same_device(op, y, perm, num_nodes);
  const Tensor from = rows_fit(op, s, y, 1, false) ? perm : inverse_of(p, perm);
  return launch_inverse(op, y, from, q, center, num_nodes, weights, order, mean);
}

static std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> inverse_permute_rotate_mean_backward(
    OptionalTensor grad_x, Tensor y, Tensor perm, OptionalTensor t, OptionalTensor row, OptionalTensor col, Tensor q,
    OptionalTensor center, OptionalTensor num_nodes, OptionalTensor weights, double tau, int64_t order, bool mean,
    int64_t needs) {
  constexpr const char* op = "inverse_permute_rotate_mean_backward";
  y = dense(y), perm = dense(perm), num_nodes = dense(num_nodes);
  const Shape p = permutation_of(op, space_of(op, y, q, center, num_nodes, order, true), perm, num_nodes);
  check_soft(op, y, perm, t, row, col, true);
  check_same_device(op, y, perm, t, row, col);
  const bool need_y = needs & 1, need_soft = t && (needs & 14);
  // The sums for the scores take the gradient of y as it is computed, not as it is rounded to half precision.
  const bool wide = need_soft && y.scalar_type() != q.scalar_type();
  const InverseNeeds need{need_y || need_soft, (needs & 16) != 0, (needs & 32) != 0, (needs & 64) != 0, wide};
  auto [grad_y, grad_q, grad_center, grad_weights] =
      launch_inverse_backward(op, grad_x, y, perm, q, center, num_nodes, weights, order, mean, need);
  const Tensor nothing = empty(q, {0});
  SoftParts soft{nothing, nothing, nothing};
  if (need_soft) soft = score_gradients(p, *t, *row, *col, grad_y, y, tau, needs);
  if (need_y && wide) {
    Tensor narrow = empty(y);
    grad_y = torch::stable::copy_(narrow, grad_y);
  }
  return {needed(grad_y, need_y), soft.t, soft.row, soft.col, grad_q, grad_center, grad_weights};
}

}  // namespace lps::cuda

STABLE_TORCH_LIBRARY_IMPL(lps_kernels, CUDA, m) {
  m.impl("inverse_permute_rotate_mean", TORCH_BOX(&lps::cuda::inverse_permute_rotate_mean));
  m.impl("inverse_permute_rotate_mean_backward", TORCH_BOX(&lps::cuda::inverse_permute_rotate_mean_backward));
}
