// permutation_entropy_backward: the gradient of both entropies for t, row and col.
#include "cuda/permutation_entropy.cuh"

namespace lps::cuda {

// Of entropy_sum times `upstream`: the gradient of the weights, and sig less that of t / tau.
//   dL/dlog w = -w (h v + log w (K h) - K1 h + K b),  h = upstream / y, b = h u, u = v - log w, all without diagonal
//   dL/d(t / tau) = -h (D(w log w) - D1(w) + u D(w)) - w (log w D(h) - D1(h) + D(b))
template <class T, class Team, int E>
__device__ __forceinline__ void entropy_gradient(const Team& team, const EntropyRow<T, Team, E>& of,
                                                 WarpTotals<T>& totals, const Ties<T, E>& ties, const T* weights,
                                                 T upstream, T* staged, Kept<T, Team, E>& w, Kept<T, Team, E>& of_log,
                                                 Kept<T, Team, E>& slope_log, Kept<T, Team, E>& gradient,
                                                 Kept<T, Team, E>& sig) {
  T lower[E], higher[E], lower1[E], higher1[E], slope[E], h[E];
  const T scale = load_weights<E>(team, weights, of.sorted.nodes, staged, w);
#pragma unroll
  for (int e = 0; e < E; ++e) h[e] = w[e] * log(w[e]);
  strict_sums(team, of.decay, totals, h, lower, higher);
  ties.difference(team, lower, higher, slope);
#pragma unroll
  for (int e = 0; e < E; ++e) slope_log[e] = slope[e], of_log[e] = lower[e] + higher[e];
#pragma unroll
  for (int e = 0; e < E; ++e) h[e] = w[e];
  moment_sums(team, of.sorted, of.decay, of.moment, totals, h, lower, higher, lower1, higher1);
  ties.difference(team, lower, higher, slope);
  T b[E];
#pragma unroll
  for (int e = 0; e < E; ++e) {
    const bool alive = team.lane * E + e < of.sorted.nodes && scale > T(0);
    const EntropyTerms<T> terms =
        entropy_terms(w[e], log(w[e]), lower[e] + higher[e], of_log[e], lower1[e] + higher1[e]);
    const T u = terms.rest - log(w[e]);
    h[e] = alive ? upstream / terms.y : T(0);
    b[e] = h[e] * u;
    gradient[e] = h[e] * terms.rest;
    sig[e] -= h[e] * (slope_log[e] - (lower1[e] - higher1[e]) + u * slope[e]);
  }
  strict_sums(team, of.decay, totals, b, lower, higher);
  ties.difference(team, lower, higher, slope);
#pragma unroll
  for (int e = 0; e < E; ++e) {
    gradient[e] += lower[e] + higher[e];
    sig[e] -= w[e] * slope[e];
  }
  moment_sums(team, of.sorted, of.decay, of.moment, totals, h, lower, higher, lower1, higher1);
  ties.difference(team, lower, higher, slope);
#pragma unroll
  for (int e = 0; e < E; ++e) {
    const bool alive = team.lane * E + e < of.sorted.nodes && scale > T(0);
    gradient[e] += log(w[e]) * (lower[e] + higher[e]) - (lower1[e] + higher1[e]);
    gradient[e] = alive ? -scale * gradient[e] : T(0);
    sig[e] -= w[e] * (log(w[e]) * slope[e] - (lower1[e] - higher1[e]));
  }
}

template <int E, class T, class Team>
__device__ __forceinline__ void write_lanes(const Team& team, const Kept<T, Team, E>& x, T unit, int n, bool alive,
                                            T* staged, T* to) {
  team.sync();
#pragma unroll
  for (int e = 0; e < E; ++e) staged[padded<E>(team.lane * E + e)] = x[e] * unit;
  team.sync();
  for (int i = team.lane; alive && i < n; i += team.size()) to[i] = staged[padded<E>(i)];
}

template <class T, class Team, int E>
__global__ void __launch_bounds__(Team::kThreads)
    permutation_entropy_backward_kernel(EntropyRows<T> rows, const T* grad, T* grad_t, T* grad_row, T* grad_col,
                                        int row_stride) {
  extern __shared__ char shared[];
  const Team team(shared);
  const int length = static_cast<int>(padded_size<E>(team.size() * E));
  WarpTotals<T> totals{reinterpret_cast<T*>(shared + kTeamBytes<Team>)};
  T* staged = reinterpret_cast<T*>(shared + kTeamBytes<Team> + kTotalsBytes<T, Team> +
                                   static_cast<size_t>(team.slot) * row_stride);
  Ties<T, E> ties{reinterpret_cast<unsigned*>(staged + 3 * length), staged + length, staged + 2 * length, false};
  const EntropyRow<T, Team, E> of = prepare<T, Team, E>(team, rows, staged);
  ties.build(team, of.sorted);
  const bool alive = team.row < rows.rows;
  const int64_t at = team.row * rows.n;
  const T upstream = alive ? of.share * grad[team.row / rows.k] : T(0);
  T* room = reinterpret_cast<T*>(ties.bounds + length + length % 2);
  Kept<T, Team, E> w(team, room), of_log(team, room), slope_log(team, room), gradient(team, room), sig(team, room);
#pragma unroll
  for (int e = 0; e < E; ++e) sig[e] = T(0);
#pragma unroll 1
  for (int which = 0; which < 2; ++which) {
    entropy_gradient(team, of, totals, ties, (which == 0 ? rows.row : rows.col) + at, upstream, ties.lower, w, of_log,
                     slope_log, gradient, sig);
    write_lanes<E>(team, gradient, T(1), rows.n, alive, ties.lower, (which == 0 ? grad_row : grad_col) + at);
  }
  write_lanes<E>(team, sig, rows.inverse_tau.first, rows.n, alive, ties.lower, grad_t + at);
}

static std::tuple<Tensor, Tensor, Tensor> permutation_entropy_backward(OptionalTensor grad, Tensor t, Tensor row,
                                                                       Tensor col, OptionalTensor num_nodes, double tau,
                                                                       int64_t needs) {
  check_entropy("permutation_entropy_backward", t, row, col, num_nodes);
  STD_TORCH_CHECK(grad, "permutation_entropy_backward: expected a gradient (b,)");
  check_gradient("permutation_entropy_backward", grad, t, t.size(0));
  const Tensor upstream = dense(*grad);
  check_same_device("permutation_entropy_backward", t, upstream);
  Tensor grad_t = empty(t), grad_row = empty(t), grad_col = empty(t);
  if (t.numel() > 0) {
    compute_switch(t.scalar_type(), "permutation_entropy_backward", [&](auto zero) {
      using T = decltype(zero);
      with_rows<T>(t, row, col, num_nodes, tau, true,
                   [&](auto type, auto elements, const EntropyRows<T>& rows, int teams, int threads, size_t bytes) {
                     using Team = typename decltype(type)::type;
                     launch("permutation_entropy_backward_kernel",
                            permutation_entropy_backward_kernel<T, Team, elements>, t, blocks(rows.rows, teams),
                            threads, kTeamBytes<Team> + kTotalsBytes<T, Team> + teams * bytes, rows, in<T>(upstream),
                            out<T>(grad_t), out<T>(grad_row), out<T>(grad_col), bytes);
                   });
    });
  }
  return {needed(grad_t, needs & 1), needed(grad_row, needs & 2), needed(grad_col, needs & 4)};
}

}  // namespace lps::cuda

STABLE_TORCH_LIBRARY_IMPL(lps_kernels, CUDA, m) {
  m.impl("permutation_entropy_backward", TORCH_BOX(&lps::cuda::permutation_entropy_backward));
}
