// inverse_rotate_mean: each sample is read once, rotated back and added to its input's mean.
#include "cpu/rotate.h"

namespace lps::cpu {

// Nodes of one input that are averaged together: their sums stay in the first-level cache over all samples.
constexpr int64_t kNodeBlock = 512;

// Nodes [low, high) of inputs: block `item` of input b.
template <int D, class S>
static void mean_block(const Space& s, const S* y, const Compute<S>* q, const Compute<S>* center,
                       const Compute<S>* weights, int64_t b, int64_t low, int64_t high, Sum<D, Compute<S>>& sum,
                       std::vector<Compute<S>>& buffer, S* x) {
  using T = Compute<S>;
  const int64_t count = std::clamp<int64_t>(s.count(b) - low, 0, high - low), size = count * s.node();
  sum.start();
  const T share = T(1) / static_cast<T>(s.k);
  const S* from = y + b * s.k * s.size() + low * s.node();
  if constexpr (std::is_same_v<S, T>) {
    const int64_t first = b * s.k;
    sum.add_samples(q + first * s.d * s.d, weights ? weights + first : nullptr, share, from, s.size(), s.k, count);
  } else {
    for (int64_t row = b * s.k; row < (b + 1) * s.k; ++row, from += s.size()) {
      const T* input = centered<T>(s, from, static_cast<const T*>(nullptr), count, buffer);
      sum.add(q + row * s.d * s.d, weights ? weights[row] : share, sum.act.arrange(input, count, sum.act.source),
              count);
    }
  }
  S* to = x + b * s.size() + low * s.node();
  T* const mean = sum.finish(count);
  if (center && s.centers == 1) {
    T total = 0;
    for (int64_t row = b * s.k; row < (b + 1) * s.k; ++row) total += weights ? weights[row] : share;
    add_vector(mean, center + b * s.d, total, count, s.d, s.c);
  } else if (center) {
    std::vector<T> shift(s.d, T(0));
    for (int64_t row = b * s.k; row < (b + 1) * s.k; ++row) {
      const T w = weights ? weights[row] : share;
      for (int64_t a = 0; a < s.d; ++a) shift[a] += w * center[row * s.d + a];
    }
    add_vector(mean, shift.data(), T(1), count, s.d, s.c);
  }
  convert_row(mean, size, to);
  std::fill(to + size, to + (high - low) * s.node(), S(0));
}

template <int D, class S>
static void each_row(const Space& s, const S* y, const Compute<S>* q, const Compute<S>* center, int64_t row,
                     Action<D, Compute<S>>& act, std::vector<Compute<S>>& buffer, std::vector<Compute<S>>& result,
                     S* x) {
  using T = Compute<S>;
  const int64_t count = s.count(row / s.k), size = count * s.node();
  const T* input = centered<T>(s, y + row * s.size(), static_cast<const T*>(nullptr), count, buffer);
  act.apply(q + row * s.d * s.d, false, T(1), input, result.data(), count);
  S* to = x + row * s.size();
  if (center) add_vector(result.data(), center + s.center(row) * s.d, T(1), count, s.d, s.c);
  convert_row(result.data(), size, to);
  std::fill(to + size, to + s.size(), S(0));
}

static Tensor inverse_rotate_mean(Tensor y, Tensor q, OptionalTensor center, OptionalTensor num_nodes,
                                  OptionalTensor weights, int64_t order, bool mean) {
  y = dense(y), q = dense(q), center = dense(center), num_nodes = dense(num_nodes), weights = dense(weights);
  const Space s = space_of("inverse_rotate_mean", y, q, center, num_nodes, order, true);
  check_weights("inverse_rotate_mean", weights, s.b * s.k, q.scalar_type());
  Tensor x = empty(y, sizes_of(s, !mean));
  if (mean && s.k == 0) return mean_of_none(x, weights.has_value());
  const int64_t blocks = (s.n + kNodeBlock - 1) / kNodeBlock, block = std::min(s.n, kNodeBlock);
  floating_switch(y.scalar_type(), "inverse_rotate_mean", [&](auto type) {
    using S = typename decltype(type)::type;
    using T = Compute<S>;
    with_dimension(s.d, [&](auto D) {
      const int64_t items = mean ? s.b * blocks : s.b * s.k;
      const double work = 1.0 * s.node() * (mean ? s.k * block : s.n);
      parallel_for(items, grain_for(work), [&](int64_t begin, int64_t end) {
        Action<D, T> act(s, mean || D == 0);
        Sum<D, T> sum(act, mean ? block : 0);
        std::vector<T> buffer, result(mean ? 0 : s.size());
        for (int64_t item = begin; item < end; ++item) {
          if (mean) {
            const int64_t low = item % blocks * kNodeBlock, high = std::min(low + kNodeBlock, s.n);
            mean_block<D>(s, in<S>(y), in<T>(q), in<T>(center), in<T>(weights), item / blocks, low, high, sum, buffer,
                          out<S>(x));
          } else {
            each_row<D>(s, in<S>(y), in<T>(q), in<T>(center), item, act, buffer, result, out<S>(x));
          }
        }
      });
    });
  });
  return x;
}

template <class S>
struct Gradients {
  S* y;
  Compute<S>*q, *center, *weights;
};

template <int D, class S>
static void inverse_backward_rows(const Space& s, const S* grad, const S* y, const Compute<S>* q,
                                  const Compute<S>* center, const Compute<S>* weights, bool mean, int64_t begin,
                                  int64_t end, const Gradients<S>& to) {
  using T = Compute<S>;
  Action<D, T> act(s, true);
  std::vector<T> grad_buffer, arranged_grad, input_buffer, result(s.size()), matrix(matrix_size<T>(s.d)), total(s.d);
  Arranged<T> g{};
  for (int64_t row = begin; row < end; ++row) {
    const int64_t b = row / s.k, count = s.count(b), size = count * s.node();
    const T w = !mean ? T(1) : weights ? weights[row] : T(1) / static_cast<T>(s.k);
    const T* matrix_q = q + row * s.d * s.d;
    if (!mean || row == begin || row % s.k == 0) {
      const T* values =
          centered<T>(s, grad + (mean ? b : row) * s.size(), static_cast<const T*>(nullptr), count, grad_buffer);
      if (center) sum_vectors(values, total.data(), count, s.d, s.c);
      g = act.arrange(values, count, arranged_grad);
    }
    if (to.y) {
      act.apply(matrix_q, true, w, g, result.data(), count);
      S* result_y = to.y + row * s.size();
      convert_row(result.data(), size, result_y);
      std::fill(result_y + size, result_y + s.size(), S(0));
    }
    T* sum = to.center ? to.center + s.center(row) * s.d : nullptr;
    for (int64_t a = 0; sum && a < s.d; ++a) {
      const bool first = s.centers > 1 || row % s.k == 0 || row == begin;
      sum[a] = (first ? T(0) : sum[a]) + w * total[a];
    }
    if (!to.q && !to.weights) continue;
    const T* input = centered<T>(s, y + row * s.size(), static_cast<const T*>(nullptr), count, input_buffer);
    act.gradient(matrix_q, false, act.arrange(input, count, act.source), g, matrix.data());
    if (to.q) write_scaled(matrix.data(), s.d * s.d, w, to.q + row * s.d * s.d);
    if (!to.weights) continue;
    T along = along_matrix(matrix.data(), matrix_q, s.d) / static_cast<T>(s.order);
    for (int64_t a = 0; center && a < s.d; ++a) along += total[a] * center[s.center(row) * s.d + a];
    to.weights[row] = along;
  }
}

static std::tuple<Tensor, Tensor, Tensor, Tensor> inverse_rotate_mean_backward(OptionalTensor grad_x, Tensor y,
                                                                               Tensor q, OptionalTensor center,
                                                                               OptionalTensor num_nodes,
                                                                               OptionalTensor weights, int64_t order,
                                                                               bool mean, int64_t needs) {
  STD_TORCH_CHECK(grad_x, "inverse_rotate_mean_backward: expected a gradient");
  const Tensor grad = dense(*grad_x);
  y = dense(y), q = dense(q), center = dense(center), num_nodes = dense(num_nodes), weights = dense(weights);
  const Space s = space_of("inverse_rotate_mean_backward", y, q, center, num_nodes, order, true);
  space_of("inverse_rotate_mean_backward", grad, q, center, num_nodes, order, !mean);
  check_gradient("inverse_rotate_mean_backward", grad, y, mean ? s.b * s.size() : y.numel());
  check_weights("inverse_rotate_mean_backward", weights, s.b * s.k, q.scalar_type());
  const bool need_y = needs & 1, need_q = needs & 2, need_center = center && needs & 4, need_w = weights && needs & 8;
  Tensor grad_y = need_y ? empty(y, sizes_of(s, true)) : empty(y, {0});
  Tensor grad_q = need_q ? empty(q, {s.b, s.k, s.d, s.d}) : empty(q, {0});
  Tensor grad_center = need_center ? zeros(q, {s.b, s.centers, s.d}) : empty(q, {0});
  Tensor grad_weights = need_w ? zeros(q, {s.b, s.k}) : empty(q, {0});
  floating_switch(y.scalar_type(), "inverse_rotate_mean_backward", [&](auto type) {
    using S = typename decltype(type)::type;
    using T = Compute<S>;
    const Gradients<S> to{need_y ? out<S>(grad_y) : nullptr, need_q ? out<T>(grad_q) : nullptr,
                          need_center ? out<T>(grad_center) : nullptr, need_w ? out<T>(grad_weights) : nullptr};
    with_dimension(s.d, [&](auto D) {
      // By inputs: a center may belong to all samples of one.
      parallel_for(s.b, grain_for(2.0 * s.k * s.size()), [&](int64_t begin, int64_t end) {
        inverse_backward_rows<D>(s, in<S>(grad), in<S>(y), in<T>(q), in<T>(center), in<T>(weights), mean, begin * s.k,
                                 end * s.k, to);
      });
    });
  });
  return {grad_y, grad_q, grad_center, grad_weights};
}

}  // namespace lps::cpu

STABLE_TORCH_LIBRARY_IMPL(lps_kernels, CPU, m) {
  m.impl("inverse_rotate_mean", TORCH_BOX(&lps::cpu::inverse_rotate_mean));
  m.impl("inverse_rotate_mean_backward", TORCH_BOX(&lps::cpu::inverse_rotate_mean_backward));
}
