// What permutation_entropy and its gradient share: rows in lanes, their weights, and launches.
#pragma once

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
__device__ __forceinline__ T load_weights(const Team& team, const T* from, int nodes, T* staged, Kept<T, Team, E>& w) {
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

inline void check_entropy(const char* op, Tensor& t, Tensor& row, Tensor& col, OptionalTensor& num_nodes) {
  t = dense(t), row = dense(row), col = dense(col), num_nodes = dense(num_nodes);
  check_same_device(op, t, row, col, num_nodes);
  STD_TORCH_CHECK(t.dim() == 3 && row.numel() == t.numel() && col.numel() == t.numel(), op,
                  ": expected t, row and col of shape (b, k, n)");
  STD_TORCH_CHECK(t.scalar_type() == row.scalar_type() && t.scalar_type() == col.scalar_type() &&
                      t.scalar_type() == compute_dtype(t.scalar_type()),
                  op, ": expected t, row and col in float32 or float64");
  check_nodes(op, num_nodes, t.size(0));
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
    const size_t bytes = ties ? row_bytes<T, E>(size * E, true) + 5 * Kept<T, Team, E>::bytes(size)
                              : 2 * row_bytes<T, E>(size * E, false) + 2 * Kept<T, Team, E>::bytes(size);
    body(type, elements, rows, threads / size, threads, bytes);
  };
  if (n <= 32) return with(Type<WarpTeam<8>>(), std::integral_constant<int, 4>());
  if (n <= 128) return with(Type<WarpTeam<32>>(), std::integral_constant<int, 4>());
  if (n <= 1024) return with(Type<BlockTeam<256>>(), std::integral_constant<int, 4>());
  constexpr int threads = sizeof(T) == 8 ? 256 : 512;
  if (n <= 2048) return with(Type<BlockTeam<threads, true>>(), std::integral_constant<int, 2048 / threads>());
  with(Type<BlockTeam<512, true>>(), std::integral_constant<int, 8>());
}

}  // namespace lps::cuda
