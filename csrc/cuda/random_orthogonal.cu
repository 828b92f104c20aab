// random_orthogonal: angles for d <= 3, else normal numbers and Gram-Schmidt, in one kernel.
#include "cuda/drawn.cuh"
#include "cuda/gram_schmidt_large.cuh"
#include "cuda/rotations.cuh"

namespace lps::cuda {

struct DrawnMatrices {
  const int64_t* seed;

  template <class Team, class N>
  __device__ __forceinline__ bool read(const Columns<Team, N>& to) const {
    using T = Real<N>;
    for (int call = to.team.lane; 4 * call < to.entries(); call += to.team.size()) {
      T drawn[4];
      normals(static_cast<uint64_t>(*seed), call, to.team.row, drawn);
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        if (4 * call + i < to.entries()) to.entry(4 * call + i) = drawn[i];
      }
    }
    return true;
  }
};

template <class T, class N>
static void launch_haar(const Tensor& seed, int64_t rows, int64_t d, bool special, const Tensor& q) {
  bool* const degenerate = nullptr;
  if (held_by_thread<N>(d, d)) {
    return small_switch(d, d, [&](auto D, auto M) {
      if constexpr (D == M && held_by_thread<N>(D, M)) {
        launch("random_orthogonal_kernel", gram_schmidt_small_kernel<D, D, N, Drawn>, q, blocks(rows, kMatrices),
               kMatrices, 0, Drawn{in<int64_t>(seed), special}, rows, special, out<T>(q), degenerate);
      }
    });
  }
  const MatrixSpace<N> work(d, d, special ? 2 : 1);
  with_team(q, work, rows, [&](auto team, int64_t grid, int threads, size_t shared, char* scratch) {
    launch("random_orthogonal_kernel", gram_schmidt_large_kernel<typename decltype(team)::type, N, DrawnMatrices>, q,
           grid, threads, shared, DrawnMatrices{in<int64_t>(seed)}, rows, work, special, out<T>(q), degenerate,
           scratch);
  });
}

Tensor random_orthogonal(Tensor seed, int64_t b, int64_t k, int64_t d, bool special, bool unitary, bool wide) {
  STD_TORCH_CHECK(seed.numel() == 1, "random_orthogonal: expected a seed of one element");
  STD_TORCH_CHECK(b >= 0 && k >= 0 && d >= 0, "random_orthogonal: expected sizes of 0 or more");
  STD_TORCH_CHECK(!special || !unitary, "random_orthogonal: expected real matrices for a determinant of 1");
  STD_TORCH_CHECK(d < (1 << 14), "backend 'cuda': random_orthogonal indexes a matrix by 32 bits, got d = ", d,
                  "; backend='reference' has no such limit");
  std::vector<int64_t> sizes = {b, k, d, d};
  if (unitary) sizes.push_back(2);
  Tensor q = empty(seed, sizes, wide ? ScalarType::Double : ScalarType::Float);
  if (q.numel() == 0) return q;
  compute_switch(q.scalar_type(), "random_orthogonal", [&](auto number) {
    using T = decltype(number);
    unitary ? launch_haar<T, Complex<T>>(seed, b * k, d, false, q) : launch_haar<T, T>(seed, b * k, d, special, q);
  });
  return q;
}

}  // namespace lps::cuda

STABLE_TORCH_LIBRARY_IMPL(lps_kernels, CUDA, m) {
  m.impl("random_orthogonal", TORCH_BOX(&lps::cuda::random_orthogonal));
}
