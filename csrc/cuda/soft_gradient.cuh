// The gradient of t, row and col through a soft permutation of features: soft.cu and edge_gradient.cu.
#pragma once

#include "cuda/soft_matrix.cuh"
#include "cuda/ties.cuh"

namespace lps::cuda {

// The gradient of row, col and t / tau through P with dL/dP = sum over channels of u v^T, in lanes.
template <class T, int E>
struct PairSums {
  T row[E], col[E], sig[E];
};

template <class T, class Team, int E, class Vector>
__device__ __forceinline__ void add_pair(const Team& team, const Links<T, Team, E>& decay, WarpTotals<T>& totals,
                                         const Ties<T, E>& ties, const Vector& rows, const Vector& cols,
                                         const Vector& u, const Vector& v, PairSums<T, E>& sums) {
  T scaled[E], lower[E], higher[E], slope[E];
#pragma unroll
  for (int e = 0; e < E; ++e) scaled[e] = v[e] * cols[e];
  strict_sums(team, decay, totals, scaled, lower, higher);
  ties.difference(team, lower, higher, slope);
#pragma unroll
  for (int e = 0; e < E; ++e) {
    sums.row[e] += u[e] * (lower[e] + higher[e] + scaled[e]);
    scaled[e] = u[e] * rows[e];
    sums.sig[e] += scaled[e] * slope[e];
  }
  strict_sums(team, decay, totals, scaled, lower, higher);
  ties.difference(team, lower, higher, slope);
#pragma unroll
  for (int e = 0; e < E; ++e) {
    sums.col[e] += v[e] * (lower[e] + higher[e] + scaled[e]);
    sums.sig[e] += v[e] * cols[e] * slope[e];
  }
}

// u or v, part by part: an address of either would put both into local memory.
__device__ __forceinline__ View side_of(int side, const View& u, const View& v) {
  return {{side == 0 ? u.x.data : v.x.data, side == 0 ? u.x.kind : v.x.kind},
          side == 0 ? u.gather : v.gather,
          side == 0 ? u.each : v.each};
}

template <class T>
struct SoftGradient {
  T *t, *row, *col;                       // (rows, parts, n) each
  const T *more_t, *more_row, *more_col;  // (rows, n) each, to be added, or null
  int32_t* inverse;                       // (rows, n), of perm, or null

  __device__ void write(int64_t at, T of_t, T of_row, T of_col) const {
    t[at] = of_t + (more_t ? more_t[at] : T(0));
    row[at] = of_row + (more_row ? more_row[at] : T(0));
    col[at] = of_col + (more_col ? more_col[at] : T(0));
  }
};

template <class T>
SoftGradient<T> gradient_to(const SoftParts& to, const SoftMore& more, const OptionalTensor& inverse = std::nullopt) {
  return {out<T>(to.t),
          out<T>(to.row),
          out<T>(to.col),
          in<T>(more.t),
          in<T>(more.row),
          in<T>(more.col),
          inverse ? out<int32_t>(*inverse) : nullptr};
}

// One block a multiprocessor is asked for: without a word ptxas keeps to 128 registers and spills.
template <class T, class Team, int E>
__global__ void __launch_bounds__(Team::kThreads, 1)
    soft_gradient_kernel(Soft<T> soft, View u, View v, Beside beside, Axis first, Axis second, Axis third,
                         SoftGradient<T> to, int parts, int slots, int pitch) {
  extern __shared__ __align__(16) char shared[];
  const Team team(shared);
  const int teams = blockDim.x / team.size(), length = team.size() * E, n = soft.n;
  const int64_t row = blockIdx.x / static_cast<unsigned>(parts);
  const int part = blockIdx.x % static_cast<unsigned>(parts);
  const int nodes = count_nodes(soft.num_nodes, soft.graph(row), n);
  WarpTotals<T> totals{reinterpret_cast<T*>(shared + kTeamBytes<Team>)};
  const Workspace<T, E> space(shared + kTeamBytes<Team> + kTotalsBytes<T, Team>, length, n, slots, teams, team.slot, 2,
                              true, pitch);
  T* room = reinterpret_cast<T*>(space.inverse + n + n % 2);
  Kept<T, Team, E> rows(team, room), cols(team, room);
  load_vectors<T, Team, E>(team, soft, row, nodes, space, soft.row, soft.col, rows, cols);
  const SortedRow<T, E> sorted{space.staged, nodes, soft.inverse_tau};
  Links<T, Team, E> decay;
  decay.build(team, sorted, Decay<T>());
  Ties<T, E> ties{space.bounds, space.lower, space.higher, false};
  ties.build(team, sorted, team.slot == 0);
  PairSums<T, E> sums{};
#pragma unroll 1
  for (int which = 0; which < 3; ++which) {
    const Axis axis = which == 0 ? first : which == 1 ? second : third;
    const int items = axis.lines > 0 ? axis.items() : 0;
#pragma unroll 1
    for (int item = part; item < items; item += parts) {
      __syncthreads();  // the tile before this one has been read
#pragma unroll 1
      for (int side = 0; side < 2; ++side) {  // one copy of what is inlined
        T* const tile = side == 0 ? space.tile_u : space.tile_v;
        const View view = which < 2 ? side_of(side, u, v) : side_of(side, beside.u, beside.v);
        load_tile(soft, view, axis, item, row, nodes, length, space, tile);
      }
      __syncthreads();
#pragma unroll 1
      for (int begin = 0; begin < axis.slots(); begin += teams) {
        const int slot = begin + team.slot;
        const bool here = slot < axis.slots();
        const int at = slot * pitch + padded<E>(team.lane * E);
        const Kept<T, Team, E> us(space.tile_u + at, here), vs(space.tile_v + at, here);
        add_pair(team, decay, totals, ties, rows, cols, us, vs, sums);
      }
    }
  }
  // Teams are added in their order.
  const int stride = static_cast<int>(padded_size<E>(length));
  __syncthreads();
#pragma unroll
  for (int e = 0; e < E; ++e) {
    T* at = space.tile_u + 3 * team.slot * stride + padded<E>(team.lane * E + e);
    at[0] = sums.row[e], at[stride] = sums.col[e], at[2 * stride] = sums.sig[e];
  }
  __syncthreads();
  const T w = soft.weights ? soft.weights[row] : soft.scale;
  for (int i = threadIdx.x; i < n; i += blockDim.x) {
    T of_row = 0, of_col = 0, sig = 0;
    for (int other = 0; other < teams; ++other) {
      const T* at = space.tile_u + 3 * other * stride + padded<E>(i);
      of_row += at[0], of_col += at[stride], sig += at[2 * stride];
    }
    if (to.inverse && part == 0 && i < nodes) to.inverse[row * n + i] = space.inverse[i];
    to.write((row * parts + part) * n + i, sig * soft.inverse_tau.first * w, of_row * w, of_col * w);
  }
}

// (rows, parts, n) to (rows, n), in the order of the parts.
template <class T>
__global__ void sum_parts_kernel(SoftGradient<T> from, SoftGradient<T> to, int parts, int n, int64_t count) {
  const int64_t at = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (at >= count) return;
  const int64_t row = at / n, first = row * parts * n + at - row * n;
  T of_t = 0, of_row = 0, of_col = 0;
  for (int part = 0; part < parts; ++part) {
    const int64_t i = first + static_cast<int64_t>(part) * n;
    of_t += from.t[i], of_row += from.row[i], of_col += from.col[i];
  }
  to.write(at, of_t, of_row, of_col);
}

}  // namespace lps::cuda
