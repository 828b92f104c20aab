// gram_schmidt: matrices up to 4 x 4 one a thread, up to 32 x 32 one a warp, larger ones one a block.
#include "cuda/gram_schmidt_large.cuh"
#include "cuda/gram_schmidt_small.cuh"
#include "cuda/rotations.cuh"

namespace lps::cuda {

// As gram_schmidt_backward_column in core/gram_schmidt.h, all rows of a column at once.
template <class Team, class N>
__global__ void __launch_bounds__(Team::kBlock ? kMostThreads : 128)
    gram_schmidt_backward_large_kernel(const Real<N>* grad, Numbers v, const Real<N>* q, const bool* degenerate,
                                       int64_t b, MatrixSpace<N> work, Numbers grad_v, char* scratch) {
  using T = Real<N>;
  extern __shared__ __align__(16) char memory[];
  const Team team(memory);
  if (team.row >= b) return;
  char* const own = scratch ? scratch + team.row * work.bytes() : memory + kTeamBytes<Team> + team.slot * work.bytes();
  const int d = work.d, m = work.m;
  const Columns<Team, N> columns{team, work.matrix(own, 0), d, m, work.length};
  const Columns<Team, N> basis{team, work.matrix(own, 1), d, m, work.length};
  const Columns<Team, N> g{team, work.matrix(own, 2), d, m, work.length};
  N *const r = work.vector(own, 0), *const h = work.vector(own, 1);
  bool* const flags = work.flags(own);
  const int64_t first = team.row * columns.entries();
  typed<T>(v, [&](const auto* at) {
    for (int e = team.lane; e < g.entries(); e += team.size()) columns.entry(e) = static_cast<T>(at[first + e]);
  });
  for (int e = team.lane; e < g.entries(); e += team.size()) basis.entry(e) = q[first + e];
  for (int e = team.lane; e < g.entries(); e += team.size()) g.entry(e) = grad[first + e];
  bool any = false;
  team.each(m, [&](int j) { any |= flags[j] = degenerate[team.row * m + j]; });
  const bool coupled = team.any_in_warp(any);
  team.sync();
  for (int j = m - 1; j >= 0; --j) {
    N *const vj = columns.column(j), *const gj = g.column(j);
    const N* const qj = basis.column(j);
    if (flags[j]) {
      team.each(d, [&](int i) { gj[i] = N{}; });
      continue;
    }
    T factor;
    columns.normalize(vj, &factor);
    team.sync();
    basis.dots(j + 1, vj, r);
    basis.dots(j + 1, gj, h);
    team.sync();
    const T inverse = 1 / real_part(r[j]), own_h = real_part(h[j]);
    team.each(d, [&](int i) {
      N along{};
      for (int l = 0; l < j; ++l) along = along + h[l] * basis.column(l)[i];
      N p = scale(gj[i] - scale(qj[i], own_h) - along, inverse);
      if (j == d - 1 && sizeof(N) == sizeof(T)) p = N{};  // a last direction can't turn
      const N to_r = coupled ? p + scale(along, inverse) : p;
      const N to_h = coupled ? qj[i] + scale(vj[i] - r[j] * qj[i], inverse) : qj[i];
      for (int l = 0; l < j; ++l) {
        N& target = g.column(l)[i];
        target = target - conjugate(r[l]) * to_r - conjugate(h[l]) * to_h;
      }
      gj[i] = scale(p, factor);
    });
    team.sync();
  }
  team.sync();
  typed<T>(grad_v, [&](auto* at) {
    for (int e = team.lane; e < g.entries(); e += team.size()) {
      at[first + e] = static_cast<Pointee<decltype(at)>>(g.entry(e));
    }
  });
}

// Matrices of memory for the large kernels.
struct GivenMatrices {
  Numbers v;

  template <class Team, class N>
  __device__ __forceinline__ bool read(const Columns<Team, N>& to) const {
    using T = Real<N>;
    T sum = 0;
    typed<T>(v, [&](const auto* at) {
      at += to.team.row * to.entries();
      for (int e = to.team.lane; e < to.entries(); e += to.team.size()) {
        const T x = static_cast<T>(at[e]);
        sum = sum + nought(x);
        to.entry(e) = x;
      }
    });
    return sum == 0;
  }
};

static void check_shape(const Tensor& v, bool special) {
  STD_TORCH_CHECK(v.dim() == 3 || (v.dim() == 4 && v.size(3) == 2), "gram_schmidt: expected v of shape (b, d, m)");
  STD_TORCH_CHECK(v.size(2) <= v.size(1), "gram_schmidt: expected no more columns than rows");
  STD_TORCH_CHECK(!special || (v.dim() == 3 && v.size(1) == v.size(2)), "gram_schmidt: expected real square matrices");
  STD_TORCH_CHECK(v.size(1) * v.size(2) < (1 << 28), "backend 'cuda': gram_schmidt indexes a matrix by 32 bits, got ",
                  v.size(1), " x ", v.size(2), "; backend='reference' has no such limit");
}

// Calls body(N): the numbers of the matrices.
template <class T, class Body>
static void with_numbers(bool complex, const Body& body) {
  complex ? body(Type<Complex<T>>()) : body(Type<T>());
}

std::tuple<Tensor, Tensor> gram_schmidt(Tensor v, bool special) {
  check_shape(v, special);
  v = dense(v);
  const int64_t b = v.size(0), d = v.size(1), m = v.size(2);
  const bool complex = v.dim() == 4;
  Tensor q = empty(v, std::vector<int64_t>(v.sizes().begin(), v.sizes().end()), compute_dtype(v.scalar_type()));
  Tensor degenerate = empty(v, {b, m}, ScalarType::Bool);
  if (b == 0 || m == 0) return {q, degenerate};
  compute_switch(v.scalar_type(), "gram_schmidt", [&](auto number) {
    using T = decltype(number);
    with_numbers<T>(complex, [&](auto entry) {
      using N = typename decltype(entry)::type;
      if (held_by_thread<N>(d, m)) {
        return small_switch(d, m, [&](auto D, auto M) {
          if constexpr (held_by_thread<N>(D, M)) {
            launch("gram_schmidt_small_kernel", gram_schmidt_small_kernel<D, M, N, Given>, v, blocks(b, kMatrices),
                   kMatrices, 0, Given{numbers(v)}, b, special, out<T>(q), out<bool>(degenerate));
          }
        });
      }
      const MatrixSpace<N> work(d, m, special ? 2 : 1);
      with_team(v, work, b, [&](auto team, int64_t grid, int threads, size_t shared, char* scratch) {
        launch("gram_schmidt_large_kernel", gram_schmidt_large_kernel<typename decltype(team)::type, N, GivenMatrices>,
               v, grid, threads, shared, GivenMatrices{numbers(v)}, b, work, special, out<T>(q), out<bool>(degenerate),
               scratch);
      });
    });
  });
  return {q, degenerate};
}

Tensor gram_schmidt_backward(OptionalTensor grad_q, OptionalTensor, Tensor v, bool special, Tensor q, Tensor degenerate,
                             int64_t needs) {
  check_shape(v, special);
  if (!(needs & 1)) return empty(v, {0});
  std::vector<int64_t> sizes(v.sizes().begin(), v.sizes().end());
  if (!grad_q) return zeros(v, sizes);
  const Tensor grad = dense(*grad_q);
  v = dense(v), q = dense(q), degenerate = dense(degenerate);
  const int64_t b = v.size(0), d = v.size(1), m = v.size(2);
  STD_TORCH_CHECK(grad.numel() == v.numel() && q.numel() == v.numel() && degenerate.numel() == b * m,
                  "gram_schmidt_backward: expected gradients and outputs of the forward's shape");
  STD_TORCH_CHECK(grad.scalar_type() == q.scalar_type() && q.scalar_type() == compute_dtype(v.scalar_type()),
                  "gram_schmidt_backward: expected gradients and outputs of the forward's dtype");
  check_same_device("gram_schmidt_backward", v, grad, q, degenerate);
  Tensor grad_v = empty(v, sizes);
  if (b == 0 || m == 0) return grad_v;
  compute_switch(v.scalar_type(), "gram_schmidt_backward", [&](auto number) {
    using T = decltype(number);
    with_numbers<T>(v.dim() == 4, [&](auto entry) {
      using N = typename decltype(entry)::type;
      if (held_by_thread<N>(d, m)) {
        return small_switch(d, m, [&](auto D, auto M) {
          if constexpr (held_by_thread<N>(D, M)) {
            launch("gram_schmidt_backward_small_kernel", gram_schmidt_backward_small_kernel<D, M, N>, v,
                   blocks(b, kMatrices), kMatrices, 0, in<T>(grad), numbers(v), in<T>(q), in<bool>(degenerate), b,
                   numbers(grad_v));
          }
        });
      }
      const MatrixSpace<N> work(d, m, 3);
      with_team(v, work, b, [&](auto team, int64_t grid, int threads, size_t shared, char* scratch) {
        launch("gram_schmidt_backward_large_kernel",
               gram_schmidt_backward_large_kernel<typename decltype(team)::type, N>, v, grid, threads, shared,
               in<T>(grad), numbers(v), in<T>(q), in<bool>(degenerate), b, work, numbers(grad_v), scratch);
      });
    });
  });
  return grad_v;
}

}  // namespace lps::cuda

STABLE_TORCH_LIBRARY_IMPL(lps_kernels, CUDA, m) {
  m.impl("gram_schmidt", TORCH_BOX(&lps::cuda::gram_schmidt));
  m.impl("gram_schmidt_backward", TORCH_BOX(&lps::cuda::gram_schmidt_backward));
}
