// permutation_entropy: the entropies of rows and columns of the relaxed permutation matrices.
#include "cuda/permutation_entropy.cuh"

namespace lps::cuda {

template <class T, class Team, int E>
__device__ __forceinline__ T entropy_sum(const Team& team, const EntropyRow<T, Team, E>& of, WarpTotals<T>& totals,
                                         const T* weights, T* staged, Kept<T, Team, E>& w, Kept<T, Team, E>& of_log) {
  T lower[E], higher[E], lower1[E], higher1[E], x[E];
  const T scale = load_weights<E>(team, weights, of.sorted.nodes, staged, w);
#pragma unroll
  for (int e = 0; e < E; ++e) x[e] = w[e] * log(w[e]);
  strict_sums(team, of.decay, totals, x, lower, higher);
#pragma unroll
  for (int e = 0; e < E; ++e) of_log[e] = lower[e] + higher[e];
#pragma unroll
  for (int e = 0; e < E; ++e) x[e] = w[e];
  moment_sums(team, of.sorted, of.decay, of.moment, totals, x, lower, higher, lower1, higher1);
  T sum = 0;
#pragma unroll
  for (int e = 0; e < E; ++e) {
    const T rest = lower[e] + higher[e];
    const EntropyTerms<T> terms = entropy_terms(w[e], log(w[e]), rest, of_log[e], lower1[e] + higher1[e]);
    if (team.lane * E + e < of.sorted.nodes && scale > T(0)) sum += log1p(rest / w[e]) + terms.rest;
  }
  return team.reduce(sum, Add());
}

template <class T, class Team, int E>
__global__ void __launch_bounds__(Team::kThreads)
    permutation_entropy_kernel(EntropyRows<T> rows, T* of_rows, int row_stride) {
  extern __shared__ char shared[];
  const Team team(shared);
  WarpTotals<T> totals{reinterpret_cast<T*>(shared + kTeamBytes<Team>)};
  T* staged = reinterpret_cast<T*>(shared + kTeamBytes<Team> + kTotalsBytes<T, Team> +
                                   static_cast<size_t>(team.slot) * row_stride);
  T* weights = staged + padded_size<E>(team.size() * E);
  const EntropyRow<T, Team, E> of = prepare<T, Team, E>(team, rows, staged);
  const int64_t at = team.row * rows.n;
  T* room = weights + padded_size<E>(team.size() * E);
  Kept<T, Team, E> w(team, room), of_log(team, room);
  T sum = 0;
#pragma unroll 1
  for (int which = 0; which < 2; ++which) {
    sum += entropy_sum(team, of, totals, (which == 0 ? rows.row : rows.col) + at, weights, w, of_log);
  }
  if (team.row < rows.rows && team.lane == 0) of_rows[team.row] = sum * of.share;
}

// Samples lie in blocks of their own, which must not add to one number in an order that is not fixed.
template <class T>
__global__ void sum_samples_kernel(const T* of_rows, T* sums, int64_t b, int64_t k) {
  const int64_t graph = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (graph >= b) return;
  T sum = 0;
  for (int64_t sample = 0; sample < k; ++sample) sum += of_rows[graph * k + sample];
  sums[graph] = sum;
}

static Tensor permutation_entropy(Tensor t, Tensor row, Tensor col, OptionalTensor num_nodes, double tau) {
  check_entropy("permutation_entropy", t, row, col, num_nodes);
  if (t.numel() == 0) return zeros(t, {t.size(0)});
  Tensor of_rows = empty(t, {t.size(0), t.size(1)}), sums = empty(t, {t.size(0)});
  compute_switch(t.scalar_type(), "permutation_entropy", [&](auto zero) {
    using T = decltype(zero);
    with_rows<T>(t, row, col, num_nodes, tau, false,
                 [&](auto type, auto elements, const EntropyRows<T>& rows, int teams, int threads, size_t bytes) {
                   using Team = typename decltype(type)::type;
                   launch("permutation_entropy_kernel", permutation_entropy_kernel<T, Team, elements>, t,
                          blocks(rows.rows, teams), threads, kTeamBytes<Team> + kTotalsBytes<T, Team> + teams * bytes,
                          rows, out<T>(of_rows), bytes);
                 });
    launch("sum_samples_kernel", sum_samples_kernel<T>, t, blocks(t.size(0), 128), 128, 0, in<T>(of_rows), out<T>(sums),
           t.size(0), t.size(1));
  });
  return sums;
}

}  // namespace lps::cuda

STABLE_TORCH_LIBRARY_IMPL(lps_kernels, CUDA, m) {
  m.impl("permutation_entropy", TORCH_BOX(&lps::cuda::permutation_entropy));
}
