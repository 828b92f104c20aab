// permutation_entropy: the entropies of the rows and columns of the relaxed permutation matrices, and their gradient.
#include "cpu/lanes.h"
#include "cpu/parallel.h"

namespace lps::cpu {

// The entropies of q[i, j] = K[i, j] w[j] / (K w)[i] on kLanes rows. w is scaled to mean one first, which changes no
// entropy and makes log w small where q is nearly uniform: float32 keeps the gradient there.
template <class T>
struct Entropy {
  using V = Vec<T>;

  Decays<T> decays;
  T inverse_tau = 1;
  std::vector<V> t, w, log_w, e, e_log, moment, difference, log_difference, moment_difference, h, b;
  V scale{};

  void prepare(const V* scores, V counts, int64_t n, double tau) {
    decays.build(scores, counts, n, tau);
    t.assign(scores, scores + n);
    inverse_tau = inverse_of<T>(tau);
  }

  // The sum over the real nodes, lane by lane. Lanes whose w is zero, of scores that were not finite, give zero.
  // kSlopes: `gradient` follows.
  template <bool kSlopes>
  V value(const V* weights, V counts, int64_t n) {
    for (auto* a : {&w, &log_w, &e, &e_log, &moment}) a->resize(n);
    for (auto* a : {&difference, &log_difference, &moment_difference}) a->resize(kSlopes ? n : 0);
    V total{};
    for (int64_t i = 0; i < n; ++i) total += before<T>(i, counts) ? weights[i] : splat<T>(0);
    scale = total > T(0) ? counts / total : splat<T>(0);
    for (int64_t i = 0; i < n; ++i) {
      const V scaled = weights[i] * scale;
      w[i] = (before<T>(i, counts) & (scaled > T(0))) ? scaled : splat<T>(1);
      log_w[i] = log_positive<T>(w[i]);
    }
    scan<true, kSlopes>(n);
    scan<false, kSlopes>(n);
    V sum{};
    for (int64_t i = 0; i < n; ++i) {
      const EntropyTerms<V> terms = entropy_terms(w[i], log_w[i], e[i], e_log[i], moment[i]);
      const V entropy = log1p_nonnegative<T>(e[i] / w[i]) + terms.rest;
      sum += before<T>(i, counts) ? entropy : splat<T>(0);
    }
    return total > T(0) ? sum : splat<T>(0);
  }

  // After `value`: the gradient of `upstream` times the sum. Writes that of the weights, adds that of t / tau to sig.
  //   dL/dlog w = -w (h v + log w (K h) - K1 h + K b),  h = upstream / y, b = h u, u = v - log w, all without diagonal
  //   dL/d(t / tau) = -h (D(w log w) - D1(w) + u D(w)) - w (log w D(h) - D1(h) + D(b))
  void gradient(V upstream, V counts, int64_t n, V* d_weights, V* sig) {
    h.resize(n), b.resize(n);
    const V alive = scale > T(0) ? counts : splat<T>(0);
    for (int64_t i = 0; i < n; ++i) {
      const EntropyTerms<V> terms = entropy_terms(w[i], log_w[i], e[i], e_log[i], moment[i]);
      const V u = terms.rest - log_w[i];
      h[i] = before<T>(i, alive) ? upstream / terms.y : splat<T>(0);
      b[i] = h[i] * u;
      d_weights[i] = h[i] * terms.rest;
      sig[i] -= h[i] * (log_difference[i] - moment_difference[i] + u * difference[i]);
    }
    gradient_scan<true>(n, d_weights, sig);
    gradient_scan<false>(n, d_weights, sig);
    for (int64_t i = 0; i < n; ++i) d_weights[i] = before<T>(i, alive) ? -scale * d_weights[i] : splat<T>(0);
  }

 private:
  template <bool kUp>
  V gap(int64_t i) const {
    if (kUp ? i % kBlock == 0 : i % kBlock == kBlock - 1 || i + 1 == static_cast<int64_t>(t.size())) return V{};
    return clipped(kUp ? t[i - 1] - t[i] : t[i] - t[i + 1]);
  }
  template <bool kUp>
  V reach_gap(int64_t i) const {
    const int64_t first = i - i % kBlock, stop = first + kBlock;
    if (kUp ? first == 0 : stop >= static_cast<int64_t>(t.size())) return V{};
    return clipped(kUp ? t[first - 1] - t[i] : t[i] - t[stop]);
  }
  V clipped(V difference) const {
    const V scaled = difference * inverse_tau, far = splat<T>(static_cast<T>(kFarApart));
    return scaled > far ? far : scaled;
  }

  template <bool kUp, bool kSlopes>
  void scan(int64_t n) {
    const V *decay = decays.template decay<kUp>(), *reach = decays.template reach<kUp>();
    MomentScan<V> of_w;
    Scan<V> of_log;
    Held<T> held, held_log;
    walk<kUp>(
        n,
        [&](int64_t i) {
          of_w.step(decay[i], reach[i], gap<kUp>(i), reach_gap<kUp>(i), w[i]);
          const V sum = of_w.sum.strict, sum_log = of_log.step(decay[i], reach[i], w[i] * log_w[i]);
          e[i] = kUp ? sum : e[i] + sum;
          e_log[i] = kUp ? sum_log : e_log[i] + sum_log;
          moment[i] = kUp ? of_w.moment : moment[i] + of_w.moment;
          if constexpr (kSlopes) {
            const V part = held.template step<kUp>(decays, i, sum);
            const V part_log = held_log.template step<kUp>(decays, i, sum_log);
            difference[i] = kUp ? part : difference[i] - part;
            log_difference[i] = kUp ? part_log : log_difference[i] - part_log;
            moment_difference[i] = kUp ? of_w.moment : moment_difference[i] - of_w.moment;
          }
        },
        [&] { of_w.end_block(), of_log.end_block(); });
  }

  template <bool kUp>
  void gradient_scan(int64_t n, V* d_weights, V* sig) {
    const V *decay = decays.template decay<kUp>(), *reach = decays.template reach<kUp>();
    MomentScan<V> of_h;
    Scan<V> of_b;
    Held<T> held_h, held_b;
    walk<kUp>(
        n,
        [&](int64_t i) {
          of_h.step(decay[i], reach[i], gap<kUp>(i), reach_gap<kUp>(i), h[i]);
          const V sum_h = of_h.sum.strict, sum_b = of_b.step(decay[i], reach[i], b[i]);
          d_weights[i] += log_w[i] * sum_h - of_h.moment + sum_b;
          const V slope = log_w[i] * held_h.template step<kUp>(decays, i, sum_h) - of_h.moment +
                          held_b.template step<kUp>(decays, i, sum_b);
          sig[i] = kUp ? sig[i] - w[i] * slope : sig[i] + w[i] * slope;
        },
        [&] { of_h.end_block(), of_b.end_block(); });
  }
};

template <class T>
struct Vectors {
  const T *t, *row, *col;
};

// Calls body(entropy, first row, rows, counts, row and col in lanes) for groups of rows.
template <class T, class Body>
void for_entropy_groups(int64_t rows, int64_t k, int64_t n, const int64_t* nodes, double tau, Vectors<T> from,
                        const Body& body) {
  for_groups<T>(rows, 40.0 * n, [&](int64_t begin, int64_t end) {
    Entropy<T>& entropy = workspace<Entropy<T>>();
    std::vector<Vec<T>> t(n), row(n), col(n);
    for (int64_t first = begin; first < end; first += kLanes<T>) {
      const int64_t count = std::min<int64_t>(kLanes<T>, end - first);
      const Vec<T> counts = lane_counts<T>(nodes, first, count, k, n);
      to_lanes(from.t + first * n, count, n, n, t.data());
      to_lanes(from.row + first * n, count, n, n, row.data());
      to_lanes(from.col + first * n, count, n, n, col.data());
      entropy.prepare(t.data(), counts, n, tau);
      body(entropy, first, count, counts, row.data(), col.data());
    }
  });
}

// 1 / (k num_nodes) of a row's graph: what the sum of its entropies counts.
static double share(const int64_t* nodes, int64_t row, int64_t k, int64_t n) {
  return 1.0 / (std::max<int64_t>(count_nodes(nodes, row / k, n), 1) * std::max<int64_t>(k, 1));
}

static int64_t check(const char* op, Tensor& t, Tensor& row, Tensor& col, OptionalTensor& num_nodes) {
  t = dense(t), row = dense(row), col = dense(col), num_nodes = dense(num_nodes);
  STD_TORCH_CHECK(t.dim() == 3 && row.numel() == t.numel() && col.numel() == t.numel(), op,
                  ": expected t, row and col of shape (b, k, n)");
  STD_TORCH_CHECK(t.scalar_type() == row.scalar_type() && t.scalar_type() == col.scalar_type() &&
                      t.scalar_type() == compute_dtype(t.scalar_type()),
                  op, ": expected t, row and col in float32 or float64");
  check_nodes(op, num_nodes, t.size(0));
  return t.size(0) * t.size(1);
}

static Tensor permutation_entropy(Tensor t, Tensor row, Tensor col, OptionalTensor num_nodes, double tau) {
  const int64_t rows = check("permutation_entropy", t, row, col, num_nodes), k = t.size(1), n = t.size(2);
  Tensor result = zeros(t, {t.size(0)});
  const int64_t* nodes = in<int64_t>(num_nodes);
  floating_switch(t.scalar_type(), "permutation_entropy", [&](auto type) {
    using T = Compute<typename decltype(type)::type>;
    std::vector<T> sums(rows, T(0));
    for_entropy_groups<T>(rows, k, n, nodes, tau, {in<T>(t), in<T>(row), in<T>(col)},
                          [&](Entropy<T>& entropy, int64_t first, int64_t count, Vec<T> counts, const Vec<T>* rows_of,
                              const Vec<T>* cols_of) {
                            const Vec<T> of_columns = entropy.template value<false>(rows_of, counts, n);
                            const Vec<T> both = of_columns + entropy.template value<false>(cols_of, counts, n);
                            for (int64_t lane = 0; lane < count; ++lane) sums[first + lane] = both[lane];
                          });
    T* to = out<T>(result);
    for (int64_t at = 0; at < rows; ++at) to[at / k] += static_cast<T>(sums[at] * share(nodes, at, k, n));
  });
  return result;
}

static std::tuple<Tensor, Tensor, Tensor> permutation_entropy_backward(OptionalTensor grad, Tensor t, Tensor row,
                                                                       Tensor col, OptionalTensor num_nodes, double tau,
                                                                       int64_t needs) {
  const int64_t rows = check("permutation_entropy_backward", t, row, col, num_nodes), k = t.size(1), n = t.size(2);
  STD_TORCH_CHECK(grad, "permutation_entropy_backward: expected a gradient (b,)");
  check_gradient("permutation_entropy_backward", grad, t, t.size(0));
  const Tensor upstream = dense(*grad);
  Tensor grad_t = empty(t), grad_row = torch::stable::empty_like(t);
  Tensor grad_col = empty(t);
  const int64_t* nodes = in<int64_t>(num_nodes);
  floating_switch(t.scalar_type(), "permutation_entropy_backward", [&](auto type) {
    using T = Compute<typename decltype(type)::type>;
    for_entropy_groups<T>(rows, k, n, nodes, tau, {in<T>(t), in<T>(row), in<T>(col)},
                          [&](Entropy<T>& entropy, int64_t first, int64_t count, Vec<T> counts, const Vec<T>* rows_of,
                              const Vec<T>* cols_of) {
                            Vec<T> of_row{};
                            for (int64_t lane = 0; lane < count; ++lane) {
                              const int64_t at = first + lane;
                              of_row[lane] = static_cast<T>(in<T>(upstream)[at / k] * share(nodes, at, k, n));
                            }
                            std::vector<Vec<T>> sig(n, splat<T>(0)), d_weights(n);
                            const auto one = [&](const Vec<T>* weights, T* to) {
                              entropy.template value<true>(weights, counts, n);
                              entropy.gradient(of_row, counts, n, d_weights.data(), sig.data());
                              from_lanes(d_weights.data(), count, n, n, to + first * n);
                            };
                            one(rows_of, out<T>(grad_row));
                            one(cols_of, out<T>(grad_col));
                            for (Vec<T>& s : sig) s *= entropy.inverse_tau;
                            from_lanes(sig.data(), count, n, n, out<T>(grad_t) + first * n);
                          });
  });
  return {needed(grad_t, needs & 1), needed(grad_row, needs & 2), needed(grad_col, needs & 4)};
}

}  // namespace lps::cpu

STABLE_TORCH_LIBRARY_IMPL(lps_kernels, CPU, m) {
  m.impl("permutation_entropy", TORCH_BOX(&lps::cpu::permutation_entropy));
  m.impl("permutation_entropy_backward", TORCH_BOX(&lps::cpu::permutation_entropy_backward));
}
