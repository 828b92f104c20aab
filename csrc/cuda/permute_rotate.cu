// permute_rotate: the kernels of rotate, which gather nodes as they read them; scans for the gradient of the scores.
#include "cuda/permute_rotate.cuh"

namespace lps::cuda {

static Tensor permute_rotate(Tensor x, Tensor perm, OptionalTensor, OptionalTensor, OptionalTensor, Tensor q,
                             OptionalTensor center, OptionalTensor num_nodes, double, int64_t order) {
  perm = dense(perm), num_nodes = dense(num_nodes);
  permutation_of("permute_rotate", space_of("permute_rotate", x, q, center, num_nodes, order, false), perm, num_nodes);
  return launch_rotate("permute_rotate", x, perm, q, center, num_nodes, order, false);
}

static std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> permute_rotate_backward(
    OptionalTensor grad_y, Tensor x, Tensor perm, OptionalTensor t, OptionalTensor row, OptionalTensor col, Tensor q,
    OptionalTensor center, OptionalTensor num_nodes, double tau, int64_t order, int64_t needs) {
  constexpr const char* op = "permute_rotate_backward";
  STD_TORCH_CHECK(grad_y, op, ": expected a gradient");
  const Tensor grad = dense(*grad_y);
  perm = dense(perm), num_nodes = dense(num_nodes);
  const Space s = space_of(op, x, q, center, num_nodes, order, false);
  const Shape p = permutation_of(op, s, perm, num_nodes);
  check_gradient(op, grad, x, x.numel() * s.k);
  check_soft(op, x, perm, t, row, col, true);
  check_same_device(op, x, grad, perm, t, row, col);
  const bool inner = needs & (1 | 16 | 32), through = t && (needs & 14);
  const bool fit = rows_fit(op, s, x, (needs & 1) + ((needs & (16 | 32)) != 0), false);
  OptionalTensor inverse;
  if (inner && !fit) inverse = through ? empty(perm, {p.rows(), p.n}, ScalarType::Int) : inverse_of(p, perm);
  const Tensor nothing = empty(q, {0});
  SoftParts soft{nothing, nothing, nothing};
  if (through) {
    // The sums of u v^T do not change where both are turned: y again, and its gradient.
    const Tensor turned = launch_rotate(op, x, perm, q, center, num_nodes, order, true);
    soft = score_gradients(p, *t, *row, *col, turned, grad, tau, needs, inverse);
  }
  const auto [grad_x, grad_q, grad_center] =
      launch_rotate_backward(op, grad, x, fit ? OptionalTensor(perm) : inverse, q, center, num_nodes, order, needs & 1,
                             needs & 16, needs & 32);
  return {grad_x, soft.t, soft.row, soft.col, grad_q, grad_center};
}

}  // namespace lps::cuda

STABLE_TORCH_LIBRARY_IMPL(lps_kernels, CUDA, m) {
  m.impl("permute_rotate", TORCH_BOX(&lps::cuda::permute_rotate));
  m.impl("permute_rotate_backward", TORCH_BOX(&lps::cuda::permute_rotate_backward));
}
