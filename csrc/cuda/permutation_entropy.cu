// permutation_entropy: the entropies of rows and columns of the relaxed permutation matrices, and their gradient.
#include "cuda/moments.cuh"
#include "cuda/numbers.cuh"
#include "cuda/ties.cuh"

namespace lps::cuda {

// One row in lanes: its links, and what it counts, 1 / (k num_nodes).
template <class T, class Team, int E>
struct EntropyRow {
  Links<T, Team, E> decay, moment;
  SortedRow<T, E> sorted;
  T share;
};

template <class T>
struct EntropyRows {
  const T *t, *row, *col;
  const int64_t* num_nodes;
  int64_t rows, k;
  int n;
  Temperature<T> inverse_tau;
};

template <int E, class T, class Team>
__device__ __forceinline__ void load_row(const Team& team, const T* from, int count, T* staged) {
  team.sync();
  for (int i = team.lane; i < team.size() * E; i += team.size()) staged[padded<E>(i)] = i < count ? from[i] : T(0);
  team.sync();
}

template <class T, class Team, int E>
__device__ __forceinline__ EntropyRow<T, Team, E> prepare(const Team& team, const EntropyRows<T>& rows, T* staged) {
  const bool alive = team.row < rows.rows;
  const int nodes = alive ? count_nodes(rows.num_nodes, team.row / rows.k, rows.n) : 0;
  load_row<E>(team, rows.t + team.row * rows.n, nodes, staged);
  const T share = T(1) / (static_cast<T>(nodes > 0 ? nodes : 1) * static_cast<T>(rows.k));
  EntropyRow<T, Team, E> of{{}, {}, {staged, nodes, rows.inverse_tau}, share};
  of.decay.build(team, of.sorted, Decay<T>());
  of.moment.build(team, of.sorted, MomentDecay<T>());
  return of;
}

// Weights scaled to mean one, which changes no entropy and keeps log w small where q is nearly uniform, then one where
// they are no weights. Returns the scale, zero for a row of zeros, whose scores were not finite.
template <int E, class T, class Team>
__device__ __forceinline__ T load_weights(const Team& team, const T* from, int nodes, T* staged, T (&w)[E]) {
  load_row<E>(team, from, nodes, staged);
  T total = 0;
#pragma unroll
  for (int e = 0; e < E; ++e) {
    w[e] = staged[padded<E>(team.lane * E + e)];
    total += w[e];
  }
  total = team.reduce(total, Add());
  const T scale = total > T(0) ? static_cast<T>(nodes) / total : T(0);
#pragma unroll
  for (int e = 0; e < E; ++e) {
    w[e] *= scale;
    if (!(team.lane * E + e < nodes && w[e] > T(0))) w[e] = T(1);
  }
  return scale;
}

template <class T, class Team, int E>
__device__ __forceinline__ T entropy_sum(const Team& team, const EntropyRow<T, Team, E>& of, WarpTotals<T>& totals,
                                         const T* weights, T* staged) {
  T w[E], of_log[E], lower[E], higher[E], lower1[E], higher1[E];
  const T scale = load_weights<E>(team, weights, of.sorted.nodes, staged, w);
#pragma unroll
  for (int e = 0; e < E; ++e) of_log[e] = w[e] * log(w[e]);
  strict_sums(team, of.decay, totals, of_log, lower, higher);
#pragma unroll
  for (int e = 0; e < E; ++e) of_log[e] = lower[e] + higher[e];
  moment_sums(team, of.sorted, of.decay, of.moment, totals, w, lower, higher, lower1, higher1);
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
  T sum = 0;
#pragma unroll 1
  for (int which = 0; which < 2; ++which) {
    sum += entropy_sum(team, of, totals, (which == 0 ? rows.row : rows.col) + at, weights);
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

// Of entropy_sum times `upstream`: the gradient of the weights, and sig less that of t / tau.
//   dL/dlog w = -w (h v + log w (K h) - K1 h + K b),  h = upstream / y, b = h u, u = v - log w, all without diagonal
//   dL/d(t / tau) = -h (D(w log w) - D1(w) + u D(w)) - w (log w D(h) - D1(h) + D(b))
template <class T, class Team, int E>
__device__ __forceinline__ void entropy_gradient(const Team& team, const EntropyRow<T, Team, E>& of,
                                                 WarpTotals<T>& totals, const Ties<T, E>& ties, const T* weights,
                                                 T upstream, T* staged, T (&gradient)[E], T (&sig)[E]) {
  T w[E], lower[E], higher[E], lower1[E], higher1[E], slope[E], of_log[E], slope_log[E], h[E];
  const T scale = load_weights<E>(team, weights, of.sorted.nodes, staged, w);
#pragma unroll
  for (int e = 0; e < E; ++e) of_log[e] = w[e] * log(w[e]);
  strict_sums(team, of.decay, totals, of_log, lower, higher);
  ties.difference(team, lower, higher, slope_log);
#pragma unroll
  for (int e = 0; e < E; ++e) of_log[e] = lower[e] + higher[e];
  moment_sums(team, of.sorted, of.decay, of.moment, totals, w, lower, higher, lower1, higher1);
  ties.difference(team, lower, higher, slope);
  T(&b)[E] = of_log;
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
__device__ __forceinline__ void write_lanes(const Team& team, const T (&x)[E], T unit, int n, bool alive, T* staged,
                                            T* to) {
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
  T sig[E], gradient[E];
#pragma unroll
  for (int e = 0; e < E; ++e) sig[e] = T(0);
#pragma unroll 1
  for (int which = 0; which < 2; ++which) {
    entropy_gradient(team, of, totals, ties, (which == 0 ? rows.row : rows.col) + at, upstream, ties.lower, gradient,
                     sig);
    write_lanes<E>(team, gradient, T(1), rows.n, alive, ties.lower, (which == 0 ? grad_row : grad_col) + at);
  }
  write_lanes<E>(team, sig, rows.inverse_tau.first, rows.n, alive, ties.lower, grad_t + at);
}

static void check(const char* op, Tensor& t, Tensor& row, Tensor& col, OptionalTensor& num_nodes) {
  t = dense(t), row = dense(row), col = dense(col), num_nodes = dense(num_nodes);
  check_same_device(op, t, row, col, num_nodes);
  STD_TORCH_CHECK(t.dim() == 3 && row.numel() == t.numel() && col.numel() == t.numel(), op,
                  ": expected t, row and col of shape (b, k, n)");
  STD_TORCH_CHECK(t.scalar_type() == row.scalar_type() && t.scalar_type() == col.scalar_type() &&
                      t.scalar_type() == compute_dtype(t.scalar_type()),
                  op, ": expected t, row and col in float32 or float64");
  STD_TORCH_CHECK(!num_nodes || num_nodes->numel() == t.size(0), op, ": expected num_nodes of shape (b,)");
  check_row_length(op, t.size(2));
}

// Calls body(Team type, E, rows, teams a block, threads, bytes a team).
template <class T, class Body>
void with_rows(const Tensor& t, const Tensor& row, const Tensor& col, const OptionalTensor& num_nodes, double tau,
               bool ties, const Body& body) {
  const int64_t n = t.size(2);
  const EntropyRows<T> rows{
      in<T>(t),  in<T>(row),          in<T>(col),         in<int64_t>(num_nodes), t.size(0) * t.size(1),
      t.size(1), static_cast<int>(n), Temperature<T>(tau)};
  const auto with = [&](auto type, auto elements) {
    using Team = typename decltype(type)::type;
    constexpr int E = elements;
    const int threads = Team::kBlock ? block_threads(n, E) : Team::kThreads;
    const int size = team_size<Team>(threads);
    const size_t bytes = ties ? row_bytes<T, E>(size * E, true) : 2 * row_bytes<T, E>(size * E, false);
    body(type, elements, rows, threads / size, threads, bytes);
  };
  if (n <= 32) return with(Type<WarpTeam<8>>(), std::integral_constant<int, 4>());
  if (n <= 128) return with(Type<WarpTeam<32>>(), std::integral_constant<int, 4>());
  if (n <= 1024) return with(Type<BlockTeam<256>>(), std::integral_constant<int, 4>());
  with(Type<BlockTeam<512>>(), std::integral_constant<int, 8>());
}

static Tensor permutation_entropy(Tensor t, Tensor row, Tensor col, OptionalTensor num_nodes, double tau) {
  check("permutation_entropy", t, row, col, num_nodes);
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

static std::tuple<Tensor, Tensor, Tensor> permutation_entropy_backward(OptionalTensor grad, Tensor t, Tensor row,
                                                                       Tensor col, OptionalTensor num_nodes, double tau,
                                                                       int64_t needs) {
  check("permutation_entropy_backward", t, row, col, num_nodes);
  STD_TORCH_CHECK(grad && grad->numel() == t.size(0), "permutation_entropy_backward: expected a gradient (b,)");
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
  m.impl("permutation_entropy", TORCH_BOX(&lps::cuda::permutation_entropy));
  m.impl("permutation_entropy_backward", TORCH_BOX(&lps::cuda::permutation_entropy_backward));
}
