// Gram-Schmidt of a matrix that a team holds in shared memory, column by column; in global memory where it is too
// large.
#pragma once

#include "core/gram_schmidt.h"
#include "cuda/team.cuh"
#include "cuda/typed.cuh"

namespace lps::cuda {

// Up to this d a matrix belongs to a warp, a row to each lane; beyond, to a block of at most kMostThreads.
constexpr int64_t kWarpMatrix = 32;
constexpr int kMostThreads = 512;

// Rounded on its own: where lanes add each other's products, a fused one would round their copies of a sum in two ways.
struct Sum {
  __device__ __forceinline__ float operator()(float a, float b) const {
    return __fadd_rn(a, b);
  }
  __device__ __forceinline__ double operator()(double a, double b) const {
    return __dadd_rn(a, b);
  }
};
struct Smallest {
  __device__ __forceinline__ int operator()(int a, int b) const {
    return a < b ? a : b;
  }
};

template <class S>
__device__ __forceinline__ S warp_sum(S x) {
  return WarpTeam<kWarp>::reduce(x, Sum());
}
template <class S>
__device__ __forceinline__ Complex<S> warp_sum(Complex<S> x) {
  return {warp_sum(x.re), warp_sum(x.im)};
}

// One matrix: column j begins at a + j * length, an odd number, so that lanes that each read a column meet no bank
// twice.
template <class Team, class N>
struct Columns {
  using T = Real<N>;
  static constexpr int kParts = sizeof(N) / sizeof(T);
  const Team& team;
  N* a;
  int d, m, length;

  // Number e of the matrix in row-major order.
  __device__ T& entry(int e) const {
    const int i = e / kParts / m, j = e / kParts % m;
    return reinterpret_cast<T*>(a)[(j * length + i) * kParts + e % kParts];
  }
  __device__ int entries() const {
    return d * m * kParts;
  }
  __device__ N* column(int j) const {
    return a + j * length;
  }

  // to[l] = <column l, u> for l < count. All of u has to be there.
  __device__ void dots(int count, const N* u, N* to) const {
    if constexpr (!Team::kBlock) {
      if (team.lane >= count) return;
      const N* const own = column(team.lane);
      N sum = conjugate(own[0]) * u[0];
      for (int i = 1; i < d; ++i) sum = sum + conjugate(own[i]) * u[i];
      to[team.lane] = sum;
    } else {
      const int lane = team.lane % kWarp;
      for (int l = team.lane / kWarp; l < count; l += team.size() / kWarp) {
        N sum{};
        for (int i = lane; i < d; i += kWarp) sum = sum + conjugate(column(l)[i]) * u[i];
        sum = warp_sum(sum);
        if (lane == 0) to[l] = sum;
      }
    }
  }

  // u -= Q Q^H u over `count` columns; h holds as many.
  __device__ void project(N* u, int count, N* h) const {
    team.sync();
    dots(count, u, h);
    team.sync();
    team.each(d, [&](int i) {
      N left = u[i];
      for (int l = 0; l < count; ++l) left = left - h[l] * column(l)[i];
      u[i] = left;
    });
  }

  __device__ T square_length(const N* u) const {
    T sum = 0;
    team.each(d, [&](int i) { sum = sum + square(u[i]); });
    return team.reduce(sum, Sum());
  }

  // Divides u by its largest magnitude; false if that is too small to divide by.
  __device__ bool normalize(N* u, T* factor) const {
    T largest = 0;
    team.each(d, [&](int i) {
      const T size = magnitude(u[i]);
      largest = size > largest ? size : largest;
    });
    largest = team.reduce(largest, Largest());
    *factor = largest >= kTiniest<T> ? 1 / largest : T(1);
    team.each(d, [&](int i) { u[i] = scale(u[i], *factor); });
    return largest >= kTiniest<T>;
  }

  // u becomes what is left of the first standard vector of which enough is left beside j columns.
  __device__ void complete(N* u, int j, N* h) const {
    const T enough = T(kCompletion) * T(d - j) / T(d);
    int chosen = d;
    team.each(d, [&](int i) {
      T left = 1;
      for (int l = 0; l < j; ++l) left = left - square(column(l)[i]);
      if (left > enough && i < chosen) chosen = i;
    });
    chosen = team.reduce(chosen, Smallest());
    team.each(d, [&](int i) { u[i] = Make<N>::real(i == chosen ? T(1) : T(0)); });
    project(u, j, h);
    project(u, j, h);
  }

  // The matrix becomes q; flags[j] says that column j is completed.
  __device__ void orthonormalize(bool finite, N* h, bool* flags) const {
    team.sync();
    team.each(finite ? 0 : entries(),
              [&](int e) { entry(e) = e % kParts == 0 && e / kParts / m == e / kParts % m ? T(1) : T(0); });
    team.sync();
    for (int j = 0; j < m; ++j) {
      N* const u = column(j);
      T factor;
      const bool nonzero = normalize(u, &factor);
      const T start = square_length(u);
      if (j > 0) {
        project(u, j, h);
        project(u, j, h);
      }
      T left = square_length(u);
      const bool good = nonzero && left > start * dependence<T>(d);
      if (!good) {
        complete(u, j, h);
        left = square_length(u);
      }
      const T by = 1 / sqrt(left);
      team.each(d, [&](int i) { u[i] = scale(u[i], by); });
      if (team.lane == 0) flags[j] = !(good && finite);
    }
    team.sync();
  }

  // Whether the determinant of an orthonormal matrix is -1: elimination, each row the pivot once. free (d,) marks those
  // that were not; the matrix is overwritten.
  __device__ bool is_reflection(N* free) const {
    bool negative = false;
    team.each(d, [&](int i) { free[i] = N(1); });
    for (int step = 0; step < d; ++step) {
      const N* const u = column(step);
      T largest = 0;
      team.each(d, [&](int i) {
        if (free[i] != N(0)) largest = magnitude(u[i]) > largest ? magnitude(u[i]) : largest;
      });
      largest = team.reduce(largest, Largest());
      int pivot = d - 1, before = 0;
      team.each(d, [&](int i) {
        if (free[i] != N(0) && magnitude(u[i]) == largest && i < pivot) pivot = i;
      });
      pivot = team.reduce(pivot, Smallest());
      team.each(d, [&](int i) { before += free[i] != N(0) && i < pivot; });
      const N value = u[pivot];
      negative ^= (value < N(0)) ^ (team.reduce(before, Add()) % 2 == 1);
      team.each(d, [&](int i) {
        if (i == pivot) free[i] = N(0);
        if (free[i] == N(0)) return;
        const N by = u[i] / value;
        for (int c = step + 1; c < d; ++c) column(c)[i] -= by * column(c)[pivot];
      });
      team.sync();
    }
    return negative;
  }
};

// Shared memory, or global where that is too little, that a team's matrices take, and where each part begins.
template <class N>
struct MatrixSpace {
  int d, m, length, matrices;

  MatrixSpace(int64_t d, int64_t m, int matrices)
      : d(static_cast<int>(d)), m(static_cast<int>(m)), length(static_cast<int>(d | 1)), matrices(matrices) {}
  // The matrices, then two vectors.
  __host__ __device__ size_t numbers() const {
    return static_cast<size_t>(matrices) * m * length + 2 * d;
  }
  // And flags, in whole 16 bytes.
  __host__ __device__ size_t bytes() const {
    return (numbers() * sizeof(N) + m + 15) / 16 * 16;
  }
  __device__ N* matrix(char* own, int i) const {
    return reinterpret_cast<N*>(own) + static_cast<size_t>(i) * m * length;
  }
  __device__ N* vector(char* own, int i) const {
    return matrix(own, matrices) + static_cast<size_t>(i) * d;
  }
  __device__ bool* flags(char* own) const {
    return reinterpret_cast<bool*>(reinterpret_cast<N*>(own) + numbers());
  }
};

template <class Team, class N, class Source>
__global__ void __launch_bounds__(Team::kBlock ? kMostThreads : 128)
    gram_schmidt_large_kernel(Source source, int64_t b, MatrixSpace<N> work, bool special, Real<N>* q, bool* degenerate,
                              char* scratch) {
  extern __shared__ __align__(16) char memory[];
  const Team team(memory);
  if (team.row >= b) return;  // a whole warp
  char* const own = scratch ? scratch + team.row * work.bytes() : memory + kTeamBytes<Team> + team.slot * work.bytes();
  const Columns<Team, N> v{team, work.matrix(own, 0), work.d, work.m, work.length};
  bool* const flags = work.flags(own);
  const bool finite = !team.any_in_warp(!source.read(v));
  v.orthonormalize(finite, work.vector(own, 0), flags);
  if constexpr (sizeof(N) == sizeof(Real<N>)) {
    if (special) {
      const Columns<Team, N> copy{team, work.matrix(own, 1), work.d, work.m, work.length};
      team.each(work.m * work.length, [&](int i) { copy.a[i] = v.a[i]; });
      team.sync();
      if (copy.is_reflection(work.vector(own, 0))) {
        team.each(work.d, [&](int i) { v.a[i] = -v.a[i]; });
      }
      team.sync();
    }
  }
  team.each(v.entries(), [&](int e) { q[team.row * v.entries() + e] = v.entry(e); });
  if (degenerate != nullptr) team.each(work.m, [&](int j) { degenerate[team.row * work.m + j] = flags[j]; });
}

// kernel over b matrices by the team that suits them; with_team(type of team, threads, shared memory, scratch).
template <class N, class Body>
void with_team(const Tensor& like, const MatrixSpace<N>& work, int64_t b, const Body& body) {
  const size_t bytes = work.bytes();
  if (work.d <= kWarpMatrix) {
    const int teams = static_cast<int>(std::clamp<size_t>(kPlainShared / bytes, 1, 4));
    return body(Type<WarpTeam<kWarp>>(), blocks(b, teams), teams * kWarp, teams * bytes, nullptr);
  }
  const int threads = static_cast<int>(std::min<int64_t>(blocks(work.d, kWarp) * kWarp, kMostThreads));
  const bool fits = kTeamBytes<BlockTeam<kMostThreads>> + bytes <= most_shared(like);
  Tensor scratch = empty(like, {fits ? 0 : b * static_cast<int64_t>(bytes)}, ScalarType::Byte);
  body(Type<BlockTeam<kMostThreads>>(), b, threads, kTeamBytes<BlockTeam<kMostThreads>> + (fits ? bytes : 0),
       fits ? nullptr : out<char>(scratch));
}

}  // namespace lps::cuda
