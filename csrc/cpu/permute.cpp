// permute: gathers by rank; its gradient scatters back and sums for the scores.
#include "cpu/ops.h"
#include "cpu/soft_matrix.h"

namespace lps::cpu {

Tensor permute(Tensor x, Tensor perm, OptionalTensor t, OptionalTensor row, OptionalTensor col,
               OptionalTensor num_nodes, double tau, int64_t order, bool hard) {
  x = dense(x), perm = dense(perm), num_nodes = dense(num_nodes), t = dense(t), row = dense(row), col = dense(col);
  const Shape s = shape_of("permute", x, perm, num_nodes, order, false);
  std::vector<int64_t> sizes = {s.b, s.k, s.n, s.c};
  if (order == 2) sizes.insert(sizes.begin() + 2, s.n);
  Tensor y = empty(x, sizes);
  if (hard) {
    move_nodes(s, x.const_data_ptr(), y.mutable_data_ptr(), x.element_size(), false, false);
    return y;
  }
  check_soft("permute", x, perm, t, row, col, hard);
  floating_switch(x.scalar_type(), "permute", [&](auto type) {
    using F = typename decltype(type)::type;
    using T = Compute<F>;
    std::vector<T> result(y.numel());
    soft_transform<F>(s, {in<T>(t), in<T>(row), in<T>(col), tau}, in<F>(x), false, true, result.data());
    convert_all(result.data(), y.numel(), out<F>(y));
  });
  return y;
}

std::tuple<Tensor, Tensor, Tensor, Tensor> permute_backward(OptionalTensor grad_y, Tensor x, Tensor perm,
                                                            OptionalTensor t, OptionalTensor row, OptionalTensor col,
                                                            OptionalTensor num_nodes, double tau, int64_t order,
                                                            bool hard, int64_t needs) {
  x = dense(x), perm = dense(perm), num_nodes = dense(num_nodes), t = dense(t), row = dense(row), col = dense(col);
  const Shape s = shape_of("permute_backward", x, perm, num_nodes, order, false);
  STD_TORCH_CHECK(grad_y, "permute_backward: expected a gradient");
  const Tensor grad = dense(*grad_y);
  shape_of("permute_backward", grad, perm, num_nodes, order, true);
  check_gradient("permute_backward", grad, x, x.numel() * s.k);
  check_soft("permute_backward", x, perm, t, row, col, hard);
  const bool need_x = needs & 1, need_soft = t && (!hard || (needs & 14));
  Tensor grad_x = need_x ? empty(x) : empty(x, {0});
  const ScalarType dtype = compute_dtype(x.scalar_type());
  const auto like_t = [&](int64_t bit) {
    return need_soft || needs & bit ? empty(x, {s.b, s.k, s.n}, dtype) : empty(x, {0}, dtype);
  };
  Tensor grad_t = like_t(2), grad_row = like_t(4), grad_col = like_t(8);
  floating_switch(x.scalar_type(), "permute_backward", [&](auto type) {
    using F = typename decltype(type)::type;
    using T = Compute<F>;
    if (need_x && hard) scatter_sum<F, F>(s, in<F>(grad), nullptr, T(1), out<F>(grad_x));
    if (!need_soft) return;
    const Soft<T> soft{in<T>(t), in<T>(row), in<T>(col), tau};
    const SoftGradient<T> to{out<T>(grad_t), out<T>(grad_row), out<T>(grad_col)};
    std::vector<T> sorted(hard ? 0 : s.rows() * s.n * s.inner());
    soft_gradient<F>(s, soft, in<F>(x), in<F>(grad), true, true, hard, nullptr, T(1), to, sorted.data());
    if (need_x && !hard) scatter_sum<T, F>(s, sorted.data(), nullptr, T(1), out<F>(grad_x));
  });
  return {grad_x, needed(grad_t, needs & 2), needed(grad_row, needs & 4), needed(grad_col, needs & 8)};
}

}  // namespace lps::cpu

STABLE_TORCH_LIBRARY_IMPL(lps_kernels, CPU, m) {
  m.impl("permute", TORCH_BOX(&lps::cpu::permute));
  m.impl("permute_backward", TORCH_BOX(&lps::cpu::permute_backward));
}
