// sample_rotate: matrices, the centroid and the rotated points in one call, and all their gradients in one.
#include "cpu/rotations.h"
#include "cpu/vectors.h"
#include "space.h"

namespace lps::cpu {

static Tensor reshaped(const Tensor& x, std::vector<int64_t> sizes) {
  return torch::stable::view(dense(x), {sizes.data(), sizes.size()});
}

// (b, 1, d): the mean over real nodes and channels of x (b, n, d, c).
static Tensor centroid(const Tensor& x, const OptionalTensor& num_nodes) {
  const int64_t b = x.size(0), n = x.size(1), d = x.size(2), c = x.size(3);
  Tensor center = empty(x, {b, 1, d}, compute_dtype(x.scalar_type()));
  floating_switch(x.scalar_type(), "sample_rotate", [&](auto type) {
    using S = typename decltype(type)::type;
    using T = Compute<S>;
    parallel_for(b, grain_for(1.0 * n * d * c), [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        const int64_t count = count_nodes(in<int64_t>(num_nodes), i, n);
        T* to = out<T>(center) + i * d;
        sum_vectors(in<S>(x) + i * n * d * c, to, count, d, c);
        for (int64_t a = 0; a < d; ++a) to[a] /= static_cast<T>(std::max<int64_t>(count * c, 1));
      }
    });
  });
  return center;
}

static std::tuple<Tensor, Tensor, Tensor, Tensor> sample_rotate(OptionalTensor v, Tensor seed, Tensor x,
                                                                OptionalTensor num_nodes, int64_t k, bool special,
                                                                bool centered) {
  STD_TORCH_CHECK(x.dim() == 4, "sample_rotate: expected x (b, n, d, c)");
  x = dense(x), num_nodes = dense(num_nodes);
  const int64_t b = x.size(0), d = x.size(2);
  STD_TORCH_CHECK(!v || (v->dim() == 4 && v->size(0) == b && v->size(1) == k && v->size(2) == d && v->size(3) == d),
                  "sample_rotate: expected v (b, k, d, d)");
  check_nodes("sample_rotate", num_nodes, b);
  Tensor q = x, degenerate = x;
  if (v) {
    const auto [columns, flags] = gram_schmidt(reshaped(*v, {b * k, d, d}), special);
    q = reshaped(columns, {b, k, d, d}), degenerate = reshaped(flags, {b, k, d});
  } else {
    q = random_orthogonal(seed, b, k, d, special, false, compute_dtype(x.scalar_type()) == ScalarType::Double);
    degenerate = zeros(x, {b, k, d}, ScalarType::Bool);
  }
  OptionalTensor center;
  if (centered) center = centroid(x, num_nodes);
  const Tensor x_k = rotate(x, q, center, num_nodes, 1);
  return {q, degenerate, centered ? *center : empty(q, {b, 0, d}), x_k};
}

// to += from
template <class T>
static void add(const Tensor& to, const OptionalTensor& from) {
  if (!from) return;
  const Tensor other = dense(*from);
  for (int64_t i = 0; i < to.numel(); ++i) out<T>(to)[i] += in<T>(other)[i];
}

static std::tuple<Tensor, Tensor> sample_rotate_backward(OptionalTensor grad_q, OptionalTensor,
                                                         OptionalTensor grad_center, OptionalTensor grad_x_k,
                                                         OptionalTensor v, Tensor, Tensor x, OptionalTensor num_nodes,
                                                         int64_t k, bool special, bool centered, Tensor q,
                                                         Tensor degenerate, Tensor saved_center, int64_t needs) {
  check_gradient("sample_rotate_backward", grad_q, q, q.numel());
  check_gradient("sample_rotate_backward", grad_center, saved_center, saved_center.numel());
  x = dense(x), num_nodes = dense(num_nodes);
  const int64_t b = x.size(0), n = x.size(1), d = x.size(2), c = x.size(3);
  const bool need_v = v && needs & 1, need_x = needs & 2;
  OptionalTensor center;
  if (centered) center = saved_center;
  space_of("sample_rotate_backward", x, q, center, num_nodes, 1, false);
  STD_TORCH_CHECK(q.size(1) == k, "sample_rotate_backward: expected q (b, k, d, d)");
  Tensor to_x = need_x ? zeros(x, {b, n, d, c}) : empty(x, {0}), to_q = zeros(q, {b, k, d, d});
  Tensor to_center = zeros(q, {b, 1, d});
  if (grad_x_k) {
    const int64_t wanted = (need_x ? 1 : 0) | (need_v ? 2 : 0) | (need_x && centered ? 4 : 0);
    const auto [by_x, by_q, by_center] = rotate_backward(grad_x_k, x, q, center, num_nodes, 1, wanted);
    if (need_x) to_x = by_x;
    if (need_v) to_q = by_q;
    if (need_x && centered) to_center = by_center;
  }
  floating_switch(x.scalar_type(), "sample_rotate_backward", [&](auto type) {
    using S = typename decltype(type)::type;
    using T = Compute<S>;
    add<T>(to_q, need_v ? grad_q : std::nullopt);
    if (!need_x || !centered) return;
    add<T>(to_center, grad_center);
    parallel_for(b, grain_for(1.0 * n * d * c), [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        const int64_t count = count_nodes(in<int64_t>(num_nodes), i, n);
        const T share = T(1) / static_cast<T>(std::max<int64_t>(count * c, 1));
        add_vector(out<S>(to_x) + i * n * d * c, in<T>(to_center) + i * d, share, count, d, c);
      }
    });
  });
  if (!need_v) return {empty(x, {0}), to_x};
  const Tensor to_v = gram_schmidt_backward(reshaped(to_q, {b * k, d, d}), std::nullopt, reshaped(*v, {b * k, d, d}),
                                            special, reshaped(q, {b * k, d, d}), reshaped(degenerate, {b * k, d}), 1);
  return {reshaped(to_v, {b, k, d, d}), to_x};
}

}  // namespace lps::cpu

STABLE_TORCH_LIBRARY_IMPL(lps_kernels, CPU, m) {
  m.impl("sample_rotate", TORCH_BOX(&lps::cpu::sample_rotate));
  m.impl("sample_rotate_backward", TORCH_BOX(&lps::cpu::sample_rotate_backward));
}
