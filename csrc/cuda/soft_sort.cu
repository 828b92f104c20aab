// soft_sort: a sort by descending score with random ties, and the Sinkhorn scalings of its relaxation.
#include "cuda/soft_sort.cuh"

namespace lps::cuda {

// A row of shared memory, or of `values` where it is real, in order to global memory.
template <int E, class T, class Team, class To>
__device__ __forceinline__ void write_row(const Team& team, const T* shared, int n, bool alive, To* to) {
  for (int i = team.lane; alive && i < n; i += team.size()) to[i] = shared[padded<E>(i)];
}

template <class T, class Team, int E>
__global__ void __launch_bounds__(Team::kThreads)
    soft_sort_kernel(Rows<T> rows, const int64_t* seed, int64_t* perm, T* t, T* row_out, T* col_out, int row_stride) {
  constexpr int S = static_cast<int>(power_of_two(E));
  extern __shared__ char shared[];
  const Team team(shared);
  WarpTotals<T> totals{reinterpret_cast<T*>(shared + kTeamBytes<Team>)};
  T* staged = reinterpret_cast<T*>(shared + kTeamBytes<Team> + kTotalsBytes<T, Team> +
                                   static_cast<size_t>(team.slot) * row_stride);
  const bool alive = team.row < rows.rows;
  const int64_t at = team.row * rows.n;
  const int n = rows.n, nodes = alive ? count_nodes(rows.num_nodes, team.row / rows.k, n) : 0;

  T z[S];
  bool real[S];
#pragma unroll
  for (int e = 0; e < S; ++e) {
    const int i = e * team.size() + team.lane;
    real[e] = i < nodes;
    z[e] = real[e] ? load<T>(rows.scores, at + i) : T(0);
  }
  const Norm<T> norm = norm_of<S>(team, z, real);
  int order[S];
  T sorted[S];
  sort_scores<S>(team, z, nodes, static_cast<uint64_t>(*seed), staged, order, sorted);
  team.sync();
  int* indices = reinterpret_cast<int*>(staged);
#pragma unroll
  for (int e = 0; e < S; ++e) indices[padded<E>(team.lane * S + e)] = order[e];
  team.sync();
  write_row<E>(team, indices, n, alive, perm + at);
  team.sync();
  const T instead = rows.soft ? T(0) : static_cast<T>(NAN);
#pragma unroll
  for (int e = 0; e < S; ++e) {
    const int rank = team.lane * S + e;
    const T value = norm.bad ? instead : rows.normalize ? norm.divide(sorted[e]) : sorted[e];
    staged[padded<E>(rank)] = rank < nodes ? value : T(0);
  }
  team.sync();
  write_row<E>(team, staged, n, alive, t + at);
  if (!rows.soft) return;

  Links<T, Team, E> decay;
  decay.build(team, SortedRow<T, E>{staged, nodes, rows.inverse_tau}, Decay<T>());
  T x[E], y[E];
#pragma unroll
  for (int e = 0; e < E; ++e) x[e] = y[e] = T(1);
#pragma unroll 1
  for (int64_t iteration = 0; iteration < rows.n_iter; ++iteration) {
    half_step(team, decay, totals, y, x);
    half_step(team, decay, totals, x, y);
  }
  const int kept = norm.bad ? 0 : nodes;
#pragma unroll
  for (int which = 0; which < 2; ++which) {
    team.sync();
#pragma unroll
    for (int e = 0; e < E; ++e) {
      const int rank = team.lane * E + e;
      staged[padded<E>(rank)] = rank < kept ? (which == 0 ? x[e] : y[e]) : T(0);
    }
    team.sync();
    write_row<E>(team, staged, n, alive, (which == 0 ? row_out : col_out) + at);
  }
}

std::tuple<Tensor, Tensor, Tensor, Tensor> soft_sort(Tensor scores, Tensor seed, OptionalTensor num_nodes, double tau,
                                                     int64_t n_iter, bool normalize, bool soft) {
  check_scores("soft_sort", scores, num_nodes, tau, n_iter);
  STD_TORCH_CHECK(seed.numel() == 1, "soft_sort: expected a seed of one element");
  scores = dense(scores), num_nodes = dense(num_nodes);
  check_same_device("soft_sort", scores, seed, num_nodes);
  const int64_t b = scores.size(0), k = scores.size(1), n = scores.size(2);
  const ScalarType dtype = compute_dtype(scores.scalar_type());
  Tensor perm = empty(scores, {b, k, n}, ScalarType::Long), t = empty(scores, {b, k, n}, dtype);
  Tensor row = empty(scores, {b, k, soft ? n : 0}, dtype), col = empty(scores, {b, k, soft ? n : 0}, dtype);
  if (n == 0) return {perm, t, row, col};
  compute_switch(scores.scalar_type(), "soft_sort", [&](auto zero) {
    using T = decltype(zero);
    with_lanes(zero, n, [&](auto type, auto elements) {
      using Team = typename decltype(type)::type;
      constexpr int E = elements, S = static_cast<int>(power_of_two(E));
      const int threads = threads_for<Team>(n, E, 128, 0, 0), size = team_size<Team>(threads);
      const int teams = threads / size;
      const size_t row_bytes = std::max(padded_size<E>(size * S) * sizeof(T), sort_bytes<T, S, Team>(size));
      const size_t stride = (row_bytes + 15) / 16 * 16;
      const size_t bytes = kTeamBytes<Team> + kTotalsBytes<T, Team> + teams * stride;
      launch("soft_sort_kernel", soft_sort_kernel<T, Team, E>, scores, blocks(b * k, teams), threads, bytes,
             rows_of<T>(scores, num_nodes, tau, n_iter, normalize, soft), in<int64_t>(seed), out<int64_t>(perm),
             out<T>(t), out<T>(row), out<T>(col), stride);
    });
  });
  return {perm, t, row, col};
}

}  // namespace lps::cuda

STABLE_TORCH_LIBRARY_IMPL(lps_kernels, CUDA, m) {
  m.impl("soft_sort", TORCH_BOX(&lps::cuda::soft_sort));
}
