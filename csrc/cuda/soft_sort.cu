// soft_sort: a sort by descending score with random ties, and the Sinkhorn scalings of its relaxation.
#include "cuda/soft_sort.cuh"
#include "cuda/ties.cuh"

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

static void check_scores(const char* op, const Tensor& scores, const OptionalTensor& num_nodes, double tau,
                         int64_t n_iter) {
  STD_TORCH_CHECK(scores.dim() == 3, op, ": expected scores of shape (b, k, n)");
  STD_TORCH_CHECK(!num_nodes || num_nodes->numel() == scores.size(0), op, ": expected num_nodes of shape (b,)");
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

// The gradient of t / tau through the iterations. kept: room for the iterate before each iteration, n_iter rows, each
// lane's own where it reads them.
template <class T, class Team, int E>
__device__ __forceinline__ void sinkhorn_backward(const Team& team, const Links<T, Team, E>& decay,
                                                  WarpTotals<T>& totals, const Ties<T, E>& ties, int64_t n_iter,
                                                  T* kept, const T (&rho)[E], T (&a)[E], T (&sig)[E]) {
  const int stride = team.size() * E;
  T x[E], y[E], lower[E], higher[E], of_x[E], of_y[E], of_q[E], q[E];
#pragma unroll
  for (int e = 0; e < E; ++e) y[e] = T(1), sig[e] = T(0);
#pragma unroll 1
  for (int64_t iteration = 0; iteration < n_iter; ++iteration) {
#pragma unroll
    for (int e = 0; e < E; ++e) kept[iteration * stride + e * team.size() + team.lane] = y[e];
    half_step(team, decay, totals, y, x);
    half_step(team, decay, totals, x, y);
  }
#pragma unroll 1
  for (int64_t iteration = n_iter - 1; iteration >= 0; --iteration) {
#pragma unroll
    for (int e = 0; e < E; ++e) y[e] = kept[iteration * stride + e * team.size() + team.lane];
    strict_sums(team, decay, totals, y, lower, higher);
    ties.difference(team, lower, higher, of_y);
#pragma unroll
    for (int e = 0; e < E; ++e) x[e] = reciprocal(lower[e] + (higher[e] + y[e]));
    strict_sums(team, decay, totals, x, lower, higher);
    ties.difference(team, lower, higher, of_x);
    // With a the gradient of log z, z = 1 / (K x), and q = z a: that of log x is -x K q, and sig -= q D x + x D q.
#pragma unroll
    for (int e = 0; e < E; ++e) q[e] = reciprocal(lower[e] + (higher[e] + x[e])) * a[e];
    strict_sums(team, decay, totals, q, lower, higher);
    ties.difference(team, lower, higher, of_q);
#pragma unroll
    for (int e = 0; e < E; ++e) {
      sig[e] -= q[e] * of_x[e] + x[e] * of_q[e];
      const T of_log_x = -x[e] * (lower[e] + (higher[e] + q[e]));
      q[e] = x[e] * (of_log_x + (iteration == n_iter - 1 ? rho[e] : T(0)));
    }
    strict_sums(team, decay, totals, q, lower, higher);
    ties.difference(team, lower, higher, of_q);
#pragma unroll
    for (int e = 0; e < E; ++e) {
      sig[e] -= q[e] * of_y[e] + y[e] * of_q[e];
      a[e] = -y[e] * (lower[e] + (higher[e] + q[e]));
    }
  }
}

template <class T>
struct SavedRows {
  const int64_t* perm;
  const T *t, *row, *col, *grad_t, *grad_row, *grad_col;
  Numbers grad;
  T* scratch;  // null where iterates lie in shared memory
  bool through;
};

template <class T, class Team, int E>
__global__ void __launch_bounds__(Team::kThreads)
    soft_sort_backward_kernel(Rows<T> rows, SavedRows<T> saved, int row_stride, int64_t groups) {
  extern __shared__ char shared[];
  Team team(shared);
  const int teams = blockDim.x / team.size(), size = team.size(), n = rows.n;
  const int length = static_cast<int>(padded_size<E>(size * E));
  WarpTotals<T> totals{reinterpret_cast<T*>(shared + kTeamBytes<Team>)};
  T* staged = reinterpret_cast<T*>(shared + kTeamBytes<Team> + kTotalsBytes<T, Team> +
                                   static_cast<size_t>(team.slot) * row_stride);
  Ties<T, E> ties{reinterpret_cast<unsigned*>(staged + 3 * length), staged + length, staged + 2 * length, false};
  T* kept = saved.scratch
                ? saved.scratch + (static_cast<int64_t>(blockIdx.x) * teams + team.slot) * rows.n_iter * size * E
                : reinterpret_cast<T*>(ties.bounds + length + length % 2);
#pragma unroll 1
  for (int64_t group = blockIdx.x; group < groups; group += gridDim.x) {
    team.row = group * teams + team.slot;
    const bool alive = team.row < rows.rows;
    const int64_t at = alive ? team.row * n : 0;
    const int nodes = alive ? count_nodes(rows.num_nodes, team.row / rows.k, n) : 0;
    team.sync();
    for (int i = team.lane; i < size * E; i += size) staged[padded<E>(i)] = i < nodes ? saved.t[at + i] : T(0);
    team.sync();
    T g[E];
    if (saved.through) {
      // Through shared memory, so that rows are read in order.
      T rho[E], a[E];
      for (int i = team.lane; i < size * E; i += size) {
        const bool real = i < nodes;
        ties.lower[padded<E>(i)] = real && saved.grad_row ? saved.grad_row[at + i] * saved.row[at + i] : T(0);
        ties.higher[padded<E>(i)] = real && saved.grad_col ? saved.grad_col[at + i] * saved.col[at + i] : T(0);
      }
      team.sync();
#pragma unroll
      for (int e = 0; e < E; ++e) {
        rho[e] = ties.lower[padded<E>(team.lane * E + e)];
        a[e] = ties.higher[padded<E>(team.lane * E + e)];
      }
      const SortedRow<T, E> sorted{staged, nodes, rows.inverse_tau};
      Links<T, Team, E> decay;
      decay.build(team, sorted, Decay<T>());
      ties.build(team, sorted);
      team.sync();
      sinkhorn_backward(team, decay, totals, ties, rows.n_iter, kept, rho, a, g);
    }
    // From here on element i of the row is of lane i % size. In rank order, then by the inverse of perm to the scores.
    team.sync();
#pragma unroll
    for (int e = 0; e < E; ++e) ties.lower[padded<E>(team.lane * E + e)] = saved.through ? g[e] : T(0);
    team.sync();
    T z[E], along = 0;
    bool real[E];
#pragma unroll
    for (int e = 0; e < E; ++e) {
      const int i = e * size + team.lane;
      real[e] = i < nodes;
      z[e] = real[e] ? load<T>(rows.scores, at + i) : T(0);
      const T unit = rows.inverse_tau.first;
      g[e] = real[e] ? ties.lower[padded<E>(i)] * unit + (saved.grad_t ? saved.grad_t[at + i] : T(0)) : T(0);
      along += staged[padded<E>(i)] * g[e];
    }
    const Norm<T> norm = norm_of<E>(team, z, real);
    along = team.reduce(along, Add());
#pragma unroll
    for (int e = 0; e < E; ++e) {
      const int i = e * size + team.lane;
      if (rows.normalize) g[e] = norm.divide(norm.clamped() ? g[e] : g[e] - staged[padded<E>(i)] * along);
      if (i < n && alive) {
        const int64_t node = saved.perm[at + i];
        ties.higher[padded<E>(node >= 0 && node < n ? static_cast<int>(node) : i)] = real[e] && !norm.bad ? g[e] : T(0);
      }
    }
    team.sync();
    for (int i = team.lane; alive && i < n; i += size) store(saved.grad, at + i, ties.higher[padded<E>(i)]);
  }
}

// Iterates of all rows at work that lie in global memory: within an H100's L2 of 50 MB, and enough rows to fill it.
constexpr int64_t kScratch = 32 << 20;
constexpr int64_t kBusy = 264;
// Shared memory of a block with iterates: two or more blocks to a multiprocessor.
constexpr size_t kRoom = 100 << 10;

template <class T, class Team, int E>
void launch_soft_sort_backward(const Rows<T>& rows, SavedRows<T> saved, const Tensor& like) {
  const int size = team_size<Team>(block_threads(rows.n, E));
  const size_t iterates = saved.through ? rows.n_iter * size * E * sizeof(T) : 0;
  const size_t fixed = row_bytes<T, E>(size * E, true) + sizeof(T) * 2, room = std::min(kRoom, most_shared(like));
  const size_t smallest = (Team::kBlock ? 1 : kWarp / Team::kSize) * (fixed + iterates);
  const bool in_shared = smallest <= room;
  const size_t stride = (fixed + (in_shared ? iterates : 0) + 15) / 16 * 16;
  const int threads = threads_for<Team>(rows.n, E, 128, stride, room), teams = threads / team_size<Team>(threads);
  const int64_t groups = blocks(rows.rows, teams);
  int64_t grid = std::min(groups, kMaxBlocks);
  std::optional<Tensor> scratch;
  if (!in_shared) {
    grid = std::min(groups, std::max(kScratch / static_cast<int64_t>(iterates * teams), kBusy));
    scratch = empty(like, {grid * teams, rows.n_iter, size * E}, compute_dtype(like.scalar_type()));
    saved.scratch = out<T>(*scratch);
  }
  launch("soft_sort_backward_kernel", soft_sort_backward_kernel<T, Team, E>, like, grid, threads,
         kTeamBytes<Team> + kTotalsBytes<T, Team> + teams * stride, rows, saved, stride, groups);
}

Tensor soft_sort_backward(OptionalTensor, OptionalTensor grad_t, OptionalTensor grad_row, OptionalTensor grad_col,
                          Tensor scores, Tensor, OptionalTensor num_nodes, double tau, int64_t n_iter, bool normalize,
                          bool soft, Tensor perm, Tensor t, Tensor row, Tensor col, int64_t needs) {
  check_scores("soft_sort_backward", scores, num_nodes, tau, n_iter);
  if (needs == 0) return empty(scores, {0});
  scores = dense(scores), num_nodes = dense(num_nodes);
  grad_t = dense(grad_t), grad_row = dense(grad_row), grad_col = dense(grad_col);
  perm = dense(perm), t = dense(t), row = dense(row), col = dense(col);
  check_same_device("soft_sort_backward", scores, num_nodes, grad_t, grad_row, grad_col, perm, t, row, col);
  STD_TORCH_CHECK(perm.numel() == scores.numel() && t.numel() == scores.numel(),
                  "soft_sort_backward: expected perm and t of the shape of scores");
  Tensor grad = empty(scores);
  if (scores.numel() == 0) return grad;
  compute_switch(scores.scalar_type(), "soft_sort_backward", [&](auto zero) {
    using T = decltype(zero);
    const bool through = soft && n_iter > 0 && (grad_row || grad_col);
    const SavedRows<T> saved{in<int64_t>(perm), in<T>(t),        in<T>(row),    in<T>(col), in<T>(grad_t),
                             in<T>(grad_row),   in<T>(grad_col), numbers(grad), nullptr,    through};
    const Rows<T> rows = rows_of<T>(scores, num_nodes, tau, n_iter, normalize, soft);
    with_lanes(zero, scores.size(2), [&](auto type, auto elements) {
      launch_soft_sort_backward<T, typename decltype(type)::type, elements>(rows, saved, scores);
    });
  });
  return grad;
}

}  // namespace lps::cuda

STABLE_TORCH_LIBRARY_IMPL(lps_kernels, CUDA, m) {
  m.impl("soft_sort", TORCH_BOX(&lps::cuda::soft_sort));
  m.impl("soft_sort_backward", TORCH_BOX(&lps::cuda::soft_sort_backward));
}
