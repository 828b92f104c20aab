// soft_sort's parts: the arguments of both kernels, and how a row lies in lanes.
#pragma once

#include "cuda/laplace.cuh"
#include "cuda/ops.cuh"
#include "cuda/scores.cuh"

namespace lps::cuda {

// Rows of n scores, k to a graph.
template <class T>
struct Rows {
  Numbers scores;
  const int64_t* num_nodes;
  int64_t rows, k;
  int n;
  int64_t n_iter;
  bool normalize, soft;
  Temperature<T> inverse_tau;
};

inline void check_scores(const char* op, const Tensor& scores, const OptionalTensor& num_nodes, double tau,
                         int64_t n_iter) {
  STD_TORCH_CHECK(scores.dim() == 3, op, ": expected scores of shape (b, k, n)");
  check_nodes(op, num_nodes, scores.size(0));
  STD_TORCH_CHECK(tau > 0 && n_iter >= 0, op, ": expected tau > 0 and n_iter >= 0");
  check_row_length("soft_sort", scores.size(2));
}

template <class T>
Rows<T> rows_of(const Tensor& scores, const OptionalTensor& num_nodes, double tau, int64_t n_iter, bool normalize,
                bool soft) {
  return {numbers(scores),
          in<int64_t>(num_nodes),
          scores.size(0) * scores.size(1),
          scores.size(1),
          static_cast<int>(scores.size(2)),
          n_iter,
          normalize,
          soft,
          Temperature<T>(tau)};
}

// x = 1 / (K y).
template <class T, class Team, int E>
__device__ __forceinline__ void half_step(const Team& team, const Links<T, Team, E>& decay, WarpTotals<T>& totals,
                                          const T (&y)[E], T (&x)[E]) {
  T lower[E], higher[E];
  strict_sums(team, decay, totals, y, lower, higher);
#pragma unroll
  for (int e = 0; e < E; ++e) x[e] = reciprocal(lower[e] + (higher[e] + y[e]));
}

constexpr int64_t power_of_two(int64_t n) {
  int64_t power = 1;
  while (power < n) power *= 2;
  return power;
}

// Calls body(Team type, E) with a row of n in lanes: the fewest lanes that hold it in few registers, since shuffles are
// what a scan spends most on, and a block where a warp does not.
template <class Body>
void with_lanes(float, int64_t n, const Body& body) {
  if (n <= 32) return body(Type<WarpTeam<8>>(), std::integral_constant<int, 4>());
  if (n <= 64) return body(Type<WarpTeam<8>>(), std::integral_constant<int, 8>());
  if (n <= 128) return body(Type<WarpTeam<16>>(), std::integral_constant<int, 8>());
  if (n <= 192) return body(Type<WarpTeam<32>>(), std::integral_constant<int, 6>());
  if (n <= 256) return body(Type<WarpTeam<32>>(), std::integral_constant<int, 8>());
  if (n <= 448) return body(Type<WarpTeam<32>>(), std::integral_constant<int, 14>());
  if (n <= 512) return body(Type<WarpTeam<32>>(), std::integral_constant<int, 16>());
  if (n <= 2048) return body(Type<BlockTeam<256>>(), std::integral_constant<int, 8>());
  return body(Type<BlockTeam<512, true>>(), std::integral_constant<int, 8>());
}
template <class Body>
void with_lanes(double, int64_t n, const Body& body) {
  if (n <= 32) return body(Type<WarpTeam<8>>(), std::integral_constant<int, 4>());
  if (n <= 256) return body(Type<WarpTeam<32>>(), std::integral_constant<int, 8>());
  if (n <= 2048) return body(Type<BlockTeam<256>>(), std::integral_constant<int, 8>());
  return body(Type<BlockTeam<512, true>>(), std::integral_constant<int, 8>());
}

// Threads of a block with `most` threads' worth of teams, fewer where the rows are fewer or their shared memory is more
// than `room`.
template <class Team>
int threads_for(int64_t n, int elements, int most, size_t row_bytes, size_t room) {
  if constexpr (Team::kBlock) {
    return block_threads(n, elements);
  } else {
    int threads = most;
    while (threads > kWarp && threads / Team::kSize * row_bytes > room) threads /= 2;
    return threads;
  }
}

}  // namespace lps::cuda
