// soft_sort_backward: the Sinkhorn iterations again, then backwards through them to the scores.
#include "cuda/soft_sort.cuh"
#include "cuda/ties.cuh"

namespace lps::cuda {

// The gradient of t / tau through the iterations. kept: room for the iterate before each iteration, n_iter rows, each
// lane's own where it reads them.
template <class T, class Team, int E>
__device__ __forceinline__ void sinkhorn_backward(const Team& team, const Links<T, Team, E>& decay,
                                                  WarpTotals<T>& totals, const Ties<T, E>& ties, int64_t n_iter,
                                                  T* kept, const Kept<T, Team, E>& rho, Kept<T, Team, E>& of_x,
                                                  Kept<T, Team, E>& of_y, Kept<T, Team, E>& a, Kept<T, Team, E>& sig) {
  const int stride = team.size() * E;
  T x[E], y[E], lower[E], higher[E], of_q[E], q[E];
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
    ties.difference(team, lower, higher, of_q);
#pragma unroll
    for (int e = 0; e < E; ++e) of_y[e] = of_q[e], x[e] = reciprocal(lower[e] + (higher[e] + y[e]));
    strict_sums(team, decay, totals, x, lower, higher);
    ties.difference(team, lower, higher, of_q);
    // With a the gradient of log z, z = 1 / (K x), and q = z a: that of log x is -x K q, and sig -= q D x + x D q.
#pragma unroll
    for (int e = 0; e < E; ++e) of_x[e] = of_q[e], q[e] = reciprocal(lower[e] + (higher[e] + x[e])) * a[e];
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
      if (kParks<T, Team, E>) y[e] = kept[iteration * stride + e * team.size() + team.lane];
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
  T* room = reinterpret_cast<T*>(ties.bounds + length + length % 2);
  Kept<T, Team, E> rho(team, room), of_x(team, room), of_y(team, room), a(team, room), sig(team, room);
  T* kept = saved.scratch
                ? saved.scratch + (static_cast<int64_t>(blockIdx.x) * teams + team.slot) * rows.n_iter * size * E
                : room;
#pragma unroll 1
  for (int64_t group = blockIdx.x; group < groups; group += gridDim.x) {
    team.row = group * teams + team.slot;
    const bool alive = team.row < rows.rows;
    const int64_t at = alive ? team.row * n : 0;
    const int nodes = alive ? count_nodes(rows.num_nodes, team.row / rows.k, n) : 0;
    team.sync();
    for (int i = team.lane; i < size * E; i += size) staged[padded<E>(i)] = i < nodes ? saved.t[at + i] : T(0);
    team.sync();
    if (saved.through) {
      // Through shared memory, so that rows are read in order.
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
      sinkhorn_backward(team, decay, totals, ties, rows.n_iter, kept, rho, of_x, of_y, a, sig);
    }
    // From here on element i of the row is of lane i % size. In rank order, then by the inverse of perm to the scores.
    team.sync();
#pragma unroll
    for (int e = 0; e < E; ++e) ties.lower[padded<E>(team.lane * E + e)] = saved.through ? sig[e] : T(0);
    team.sync();
    T z[E], g[E], along = 0;
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
  const size_t fixed = row_bytes<T, E>(size * E, true) + sizeof(T) * 2 + 5 * Kept<T, Team, E>::bytes(size);
  const size_t room = std::min(kRoom, most_shared(like));
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
  check_gradient("soft_sort_backward", grad_t, t, t.numel());
  check_gradient("soft_sort_backward", grad_row, row, row.numel());
  check_gradient("soft_sort_backward", grad_col, col, col.numel());
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
  m.impl("soft_sort_backward", TORCH_BOX(&lps::cuda::soft_sort_backward));
}
