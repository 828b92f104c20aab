// The soft permutation applied to features, and the gradient of t, row and col, both by scans in order of rank.
//
// Features of one sample are seen as (outer, n, inner): a scan runs along n, the node axis that is acted on, and the
// other axes are channels of it. inner is c, or n c where the first axis of edges is scanned; outer is 1, or n where
// the second one is. A block works on one row and goes through its channels in tiles: L of outer times C of inner.
#pragma once

#include "cuda/soft.cuh"
#include "cuda/ties.cuh"

namespace lps::cuda {

// The soft part of a permutation, (rows, n) each.
template <class T>
struct Soft {
  const int64_t *perm, *num_nodes;
  const T *t, *row, *col;
  const T* weights;  // of samples, or null
  T scale;
  Temperature<T> inverse_tau;
  int64_t k;
  int n, c;
  bool edges;
};

// The axis that is scanned, and how channels are cut: C = 1 << log_c of inner, L of outer.
struct Axis {
  bool first;
  int outer, inner, lines, log_c;

  __host__ __device__ int slots() const {
    return lines << log_c;
  }
  __host__ __device__ int across() const {
    return ((inner - 1) >> log_c) + 1;
  }
  __host__ __device__ int items() const {  // below 2^31 like n c
    return (outer + lines - 1) / lines * across();
  }
};

// Shared memory of a block: what is known of its row, the tiles, and each team's buffers for ties.
template <class T, int E>
struct Workspace {
  T *staged, *tile_u, *tile_v, *lower, *higher;
  unsigned* bounds;
  int *perm, pitch;

  // A pitch of 4 more than a multiple of 32: neighbouring channels of neighbouring ranks meet no bank twice.
  static int pitch_of(int length) {
    return static_cast<int>((padded_size<E>(length) + 27) / 32 * 32 + 4);
  }
  // Bytes for rows of `length` in lanes, `slots` channels and `teams` teams; `tiles` of them.
  static size_t bytes(int length, int n, int slots, int teams, int tiles, bool sums) {
    const size_t row = padded_size<E>(length) * sizeof(T);
    const size_t tile = static_cast<size_t>(pitch_of(length)) * slots * tiles * sizeof(T);
    return row + std::max(tile, sums ? 3 * teams * row : 0) + (sums ? 2 * teams * row : 0) +
           padded_size<E>(length) * sizeof(unsigned) + n * sizeof(int);
  }
  __device__ Workspace(char* shared, int length, int n, int slots, int teams, int slot, int tiles, bool sums, int pitch)
      : pitch(pitch) {
    const int row = static_cast<int>(padded_size<E>(length)), tile = pitch * slots;
    staged = reinterpret_cast<T*>(shared);
    tile_u = staged + row;
    tile_v = tile_u + tile;
    T* rest = tile_u + (sums ? max(tile * tiles, 3 * teams * row) : tile * tiles);
    lower = rest + 2 * slot * row, higher = lower + row;
    bounds = reinterpret_cast<unsigned*>(sums ? rest + 2 * teams * row : rest);
    perm = reinterpret_cast<int*>(bounds + row);
  }
};

// Tile `item` of a view to shared memory, channel by channel: zero at padding.
template <int E, class T>
__device__ __forceinline__ void load_tile(const Soft<T>& soft, const View& view, const Axis& axis, int item,
                                          int64_t row, int nodes, int length, const int* perm, T* tile, int pitch) {
  const int outer0 = item / axis.across() * axis.lines, inner0 = item % axis.across() << axis.log_c;
  const int64_t sample = view.each ? row : row / soft.k;
  for (int line = 0; line < axis.lines; ++line) {
    const int o = outer0 + line;
    const bool real_o = o < axis.outer && (axis.first || o < nodes);
    const int64_t at_o = real_o && view.gather && !axis.first ? perm[o] : o;
    const int64_t base = (sample * axis.outer + at_o) * soft.n;
    T* to = tile + (line << axis.log_c) * pitch;
    for (int at = threadIdx.x; at < length << axis.log_c; at += blockDim.x) {
      const int i = at >> axis.log_c, q = at & ((1 << axis.log_c) - 1);
      int at_q = inner0 + q;
      bool real = real_o && i < nodes && at_q < axis.inner;
      if (real && axis.first && soft.edges) {
        const int other = at_q / soft.c;
        real = other < nodes;
        if (real && view.gather) at_q += (perm[other] - other) * soft.c;
      }
      const int64_t at_i = real && view.gather ? perm[i] : i;
      to[q * pitch + padded<E>(i)] = real ? load<T>(view.x, (base + at_i) * axis.inner + at_q) : T(0);
    }
  }
}

// What a block knows of its row: scores in shared memory, perm, links, and two vectors in lanes.
template <class T, class Team, int E>
__device__ __forceinline__ void load_vectors(const Team& team, const Soft<T>& soft, int64_t row, int nodes,
                                             const Workspace<T, E>& space, const T* first, const T* second,
                                             T (&of_first)[E], T (&of_second)[E]) {
  const int64_t at = row * soft.n;
  const int length = team.size() * E;
  for (int i = threadIdx.x; i < length; i += blockDim.x) {
    space.staged[padded<E>(i)] = i < nodes ? soft.t[at + i] : T(0);
    space.tile_u[padded<E>(i)] = i < nodes ? first[at + i] : T(0);
    space.tile_u[space.pitch + padded<E>(i)] = i < nodes ? second[at + i] : T(0);
  }
  for (int i = threadIdx.x; i < nodes; i += blockDim.x) space.perm[i] = node_at(soft.perm, at + i, soft.n);
  __syncthreads();
#pragma unroll
  for (int e = 0; e < E; ++e) {
    of_first[e] = space.tile_u[padded<E>(team.lane * E + e)];
    of_second[e] = space.tile_u[space.pitch + padded<E>(team.lane * E + e)];
  }
}

// The gradient of row, col and t / tau through P with dL/dP = sum over channels of u v^T, in lanes.
template <class T, int E>
struct PairSums {
  T row[E], col[E], sig[E];
};

template <class T, class Team, int E>
__device__ __forceinline__ void add_pair(const Team& team, const Links<T, Team, E>& decay, WarpTotals<T>& totals,
                                         const Ties<T, E>& ties, const T (&rows)[E], const T (&cols)[E],
                                         const T (&u)[E], const T (&v)[E], PairSums<T, E>& sums) {
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

template <class T>
struct SoftGradient {
  T *t, *row, *col;  // (rows, parts, n) each
};

template <class T, class Team, int E>
__global__ void __launch_bounds__(Team::kThreads)
    soft_gradient_kernel(Soft<T> soft, View u, View v, Axis first, Axis second, SoftGradient<T> to, int parts,
                         int slots, int pitch) {
  extern __shared__ __align__(16) char shared[];
  const Team team(shared);
  const int teams = blockDim.x / team.size(), length = team.size() * E, n = soft.n;
  const int64_t row = blockIdx.x / parts;
  const int part = blockIdx.x % parts;
  const int nodes = count_nodes(soft.num_nodes, row / soft.k, n);
  WarpTotals<T> totals{reinterpret_cast<T*>(shared + kTeamBytes<Team>)};
  const Workspace<T, E> space(shared + kTeamBytes<Team> + kTotalsBytes<T, Team>, length, n, slots, teams, team.slot, 2,
                              true, pitch);
  T rows[E], cols[E];
  load_vectors<T, Team, E>(team, soft, row, nodes, space, soft.row, soft.col, rows, cols);
  const SortedRow<T, E> sorted{space.staged, nodes, soft.inverse_tau};
  Links<T, Team, E> decay;
  decay.build(team, sorted, Decay<T>());
  Ties<T, E> ties{space.bounds, space.lower, space.higher, false};
  ties.build(team, sorted, team.slot == 0);
  PairSums<T, E> sums{};
#pragma unroll 1
  for (int which = 0; which < 2; ++which) {
    const Axis axis = which == 0 ? first : second;
    const int items = axis.lines > 0 ? axis.items() : 0;
#pragma unroll 1
    for (int item = part; item < items; item += parts) {
      __syncthreads();  // the tile before this one has been read
      load_tile<E>(soft, u, axis, item, row, nodes, length, space.perm, space.tile_u, pitch);
      load_tile<E>(soft, v, axis, item, row, nodes, length, space.perm, space.tile_v, pitch);
      __syncthreads();
#pragma unroll 1
      for (int begin = 0; begin < axis.slots(); begin += teams) {
        const int slot = begin + team.slot;
        const bool here = slot < axis.slots();
        T us[E], vs[E];
#pragma unroll
        for (int e = 0; e < E; ++e) {
          const int at = slot * pitch + padded<E>(team.lane * E + e);
          us[e] = here ? space.tile_u[at] : T(0), vs[e] = here ? space.tile_v[at] : T(0);
        }
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
    const int64_t at = (row * parts + part) * n + i;
    to.row[at] = of_row * w, to.col[at] = of_col * w, to.t[at] = sig * soft.inverse_tau.first * w;
  }
}

// y = w after (K (before x)) along one axis of each sample, by rank.
template <class T, class Team, int E>
__global__ void __launch_bounds__(Team::kThreads)
    soft_product_kernel(Soft<T> soft, View x, Axis axis, const T* before, const T* after, Numbers y, int parts,
                        int slots, int pitch) {
  extern __shared__ __align__(16) char shared[];
  const Team team(shared);
  const int teams = blockDim.x / team.size(), length = team.size() * E, n = soft.n;
  const int64_t row = blockIdx.x / parts;
  const int part = blockIdx.x % parts;
  const int nodes = count_nodes(soft.num_nodes, row / soft.k, n);
  WarpTotals<T> totals{reinterpret_cast<T*>(shared + kTeamBytes<Team>)};
  const Workspace<T, E> space(shared + kTeamBytes<Team> + kTotalsBytes<T, Team>, length, n, slots, teams, team.slot, 1,
                              false, pitch);
  T befores[E], afters[E];
  load_vectors<T, Team, E>(team, soft, row, nodes, space, before, after, befores, afters);
  Links<T, Team, E> decay;
  decay.build(team, SortedRow<T, E>{space.staged, nodes, soft.inverse_tau}, Decay<T>());
  const T w = soft.weights ? soft.weights[row] : soft.scale;
#pragma unroll 1
  for (int item = part; item < axis.items(); item += parts) {
    __syncthreads();
    load_tile<E>(soft, x, axis, item, row, nodes, length, space.perm, space.tile_u, pitch);
    __syncthreads();
#pragma unroll 1
    for (int begin = 0; begin < axis.slots(); begin += teams) {
      const int slot = begin + team.slot;
      const bool here = slot < axis.slots();
      T scaled[E], lower[E], higher[E];
#pragma unroll
      for (int e = 0; e < E; ++e) {
        const int at = slot * pitch + padded<E>(team.lane * E + e);
        scaled[e] = here ? space.tile_u[at] * befores[e] : T(0);
      }
      strict_sums(team, decay, totals, scaled, lower, higher);
#pragma unroll
      for (int e = 0; e < E; ++e) {
        const int at = slot * pitch + padded<E>(team.lane * E + e);
        if (here) space.tile_u[at] = (lower[e] + higher[e] + scaled[e]) * (afters[e] * w);
      }
    }
    __syncthreads();
    const int outer0 = item / axis.across() * axis.lines, inner0 = item % axis.across() << axis.log_c;
    for (int line = 0; line < axis.lines && outer0 + line < axis.outer; ++line) {
      const T* from = space.tile_u + (line << axis.log_c) * pitch;
      for (int at = threadIdx.x; at < n << axis.log_c; at += blockDim.x) {
        const int i = at >> axis.log_c, q = at & ((1 << axis.log_c) - 1);
        if (inner0 + q >= axis.inner) continue;
        store(y, ((row * axis.outer + outer0 + line) * n + i) * axis.inner + inner0 + q,
              from[q * pitch + padded<E>(i)]);
      }
    }
  }
}

// (rows, parts, n) to (rows, n), in the order of the parts.
template <class T>
__global__ void sum_parts_kernel(const T* from, T* to, int parts, int n, int64_t count) {
  const int64_t at = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (at >= count) return;
  const int64_t row = at / n, i = at - row * n;
  T sum = 0;
  for (int part = 0; part < parts; ++part) sum += from[(row * parts + part) * n + i];
  to[at] = sum;
}

}  // namespace lps::cuda
