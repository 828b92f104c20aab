// rotate: each input is centered once and rotated for all of its samples.
#include "cpu/rotate.h"

#include "cpu/rotations.h"

namespace lps::cpu {

template <int D, class S>
static void rotate_rows(const Space& s, const S* x, const Compute<S>* q, const Compute<S>* center, int64_t begin,
                        int64_t end, S* y) {
  using T = Compute<S>;
  Action<D, T> act(s);
  std::vector<T> buffer, arranged, result(std::is_same_v<S, T> ? 0 : s.size());
  for (int64_t row = begin, b = begin / s.k; row < end; ++b) {
    const int64_t count = s.count(b), real = count * s.node(), last = std::min((b + 1) * s.k, end);
    if constexpr (std::is_same_v<S, T> && D > 0) {
      if (s.centers == 1 && act.quads()) {
        const T* input = centered<T>(s, x + b * s.size(), center ? center + b * D : nullptr, count, buffer);
        act.write_samples(q + row * D * D, input, y + row * s.size(), s.size(), last - row, count);
        row = last;
        continue;
      }
    }
    Arranged<T> input{};
    for (const int64_t first = row; row < last; ++row) {
      if (row == first || s.centers > 1) {
        const T* center_row = center ? center + s.center(row) * s.d : nullptr;
        input = act.arrange(centered<T>(s, x + b * s.size(), center_row, count, buffer), count, arranged);
      }
      S* to = y + row * s.size();
      if constexpr (std::is_same_v<S, T>) {
        act.apply(q + row * s.d * s.d, true, T(1), input, to, count);
      } else {
        act.apply(q + row * s.d * s.d, true, T(1), input, result.data(), count);
        convert_row(result.data(), real, to);
      }
      if (real < s.size()) std::fill(to + real, to + s.size(), S(0));
    }
  }
}

Tensor rotate(Tensor x, Tensor q, OptionalTensor center, OptionalTensor num_nodes, int64_t order) {
  x = dense(x), q = dense(q), center = dense(center), num_nodes = dense(num_nodes);
  const Space s = space_of("rotate", x, q, center, num_nodes, order, false);
  Tensor y = empty(x, sizes_of(s, true));
  floating_switch(x.scalar_type(), "rotate", [&](auto type) {
    using S = typename decltype(type)::type;
    using T = Compute<S>;
    with_dimension(s.d, [&](auto D) {
      parallel_for(s.b * s.k, grain_for(1.0 * s.size()), [&](int64_t begin, int64_t end) {
        rotate_rows<D>(s, in<S>(x), in<T>(q), in<T>(center), begin, end, out<S>(y));
      });
    });
  });
  return y;
}

// Gradients of one input and of its samples' matrices and centers, in one pass over grad.
template <int D, class S>
static void rotate_backward_inputs(const Space& s, const S* grad, const S* x, const Compute<S>* q,
                                   const Compute<S>* center, int64_t begin, int64_t end, S* grad_x, Compute<S>* grad_q,
                                   Compute<S>* grad_center) {
  using T = Compute<S>;
  Action<D, T> act(s, true);
  Sum<D, T> sum(act, grad_x ? s.n : 0);
  std::vector<T> input_buffer, grad_buffer, arranged_input, arranged_grad, total(s.d), matrix(matrix_size<T>(s.d));
  for (int64_t b = begin; b < end; ++b) {
    const int64_t count = s.count(b), size = count * s.node();
    sum.start();
    // Where samples lie arranged, all at once.
    const bool together = std::is_same_v<S, T> && !act.planar;
    if constexpr (std::is_same_v<S, T>) {
      if (grad_x && together) {
        sum.add_samples(q + b * s.k * s.d * s.d, nullptr, T(1), grad + b * s.k * s.size(), s.size(), s.k, count);
      }
    }
    Arranged<T> input{};
    for (int64_t row = b * s.k; row < (b + 1) * s.k; ++row) {
      const T* matrix_q = q + row * s.d * s.d;
      const T* g = centered<T>(s, grad + row * s.size(), static_cast<const T*>(nullptr), count, grad_buffer);
      const Arranged<T> arranged = act.arrange(g, count, arranged_grad);
      if (grad_x && !together) sum.add(matrix_q, T(1), arranged, count);
      if (grad_q) {
        if (row == b * s.k || s.centers > 1) {
          const T* center_row = center ? center + s.center(row) * s.d : nullptr;
          input = act.arrange(centered<T>(s, x + b * s.size(), center_row, count, input_buffer), count, arranged_input);
        }
        act.gradient(matrix_q, true, input, arranged, matrix.data());
        std::copy_n(matrix.data(), s.d * s.d, grad_q + row * s.d * s.d);
      }
      if (!grad_center) continue;
      sum_vectors(g, total.data(), count, s.d, s.c);
      T* to = grad_center + s.center(row) * s.d;
      for (int64_t e = 0; e < s.d; ++e) {
        if (row == b * s.k || s.centers > 1) to[e] = T(0);
        for (int64_t a = 0; a < s.d; ++a) to[e] -= matrix_q[e * s.d + a] * total[a];
      }
    }
    if (!grad_x) continue;
    S* to = grad_x + b * s.size();
    const T* from = sum.finish(count);
    convert_row(from, size, to);
    std::fill(to + size, to + s.size(), S(0));
  }
}

std::tuple<Tensor, Tensor, Tensor> rotate_backward(OptionalTensor grad_y, Tensor x, Tensor q, OptionalTensor center,
                                                   OptionalTensor num_nodes, int64_t order, int64_t needs) {
  STD_TORCH_CHECK(grad_y, "rotate_backward: expected a gradient");
  const Tensor grad = dense(*grad_y);
  x = dense(x), q = dense(q), center = dense(center), num_nodes = dense(num_nodes);
  const Space s = space_of("rotate_backward", x, q, center, num_nodes, order, false);
  space_of("rotate_backward", grad, q, center, num_nodes, order, true);
  check_gradient("rotate_backward", grad, x, x.numel() * s.k);
  const bool need_x = needs & 1, need_q = needs & 2, need_center = center && needs & 4;
  Tensor grad_x = need_x ? empty(x, sizes_of(s, false)) : empty(x, {0});
  Tensor grad_q = need_q ? empty(q, {s.b, s.k, s.d, s.d}) : empty(q, {0});
  Tensor grad_center = need_center ? zeros(q, {s.b, s.centers, s.d}) : empty(q, {0});
  floating_switch(x.scalar_type(), "rotate_backward", [&](auto type) {
    using S = typename decltype(type)::type;
    using T = Compute<S>;
    with_dimension(s.d, [&](auto D) {
      parallel_for(s.b, grain_for(2.0 * s.k * s.size()), [&](int64_t begin, int64_t end) {
        rotate_backward_inputs<D>(s, in<S>(grad), in<S>(x), in<T>(q), in<T>(center), begin, end,
                                  need_x ? out<S>(grad_x) : nullptr, need_q ? out<T>(grad_q) : nullptr,
                                  need_center ? out<T>(grad_center) : nullptr);
      });
    });
  });
  return {grad_x, grad_q, grad_center};
}

}  // namespace lps::cpu

STABLE_TORCH_LIBRARY_IMPL(lps_kernels, CPU, m) {
  m.impl("rotate", TORCH_BOX(&lps::cpu::rotate));
  m.impl("rotate_backward", TORCH_BOX(&lps::cpu::rotate_backward));
}
