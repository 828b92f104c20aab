// The soft permutation applied to features by scans in order of rank; its gradient is in soft_gradient.cuh.
//
// Features of one sample are seen as (outer, n, inner): a scan runs along n, the node axis that is acted on, and the
// other axes are channels of it. inner is c, or n c where the first axis of edges is scanned; outer is 1, or n where
// the second one is. A block works on one row and goes through its channels in tiles: L of outer times C of inner.
#pragma once

#include "cuda/laplace.cuh"
#include "cuda/soft.cuh"
#include "cuda/typed.cuh"

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

  // Rows are blocks, and divisions of 64 bits are calls.
  __device__ int64_t graph(int64_t row) const {
    return static_cast<uint32_t>(row) / static_cast<uint32_t>(k);
  }
};

template <class T>
Soft<T> soft_of(const Shape& s, const OptionalTensor& t, const OptionalTensor& row, const OptionalTensor& col,
                const OptionalTensor& weights, double scale, double tau) {
  return {s.perm,
          s.num_nodes,
          in<T>(t),
          in<T>(row),
          in<T>(col),
          in<T>(weights),
          static_cast<T>(scale),
          Temperature<T>(tau),
          s.k,
          static_cast<int>(s.n),
          static_cast<int>(s.c)};
}

// The axis that is scanned, and how channels are cut: C = 1 << log_c of inner, L of outer.
// pairs: whether inner has another node axis of the sample.
struct Axis {
  bool first, pairs;
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
  uint16_t *perm, *inverse;  // 16 bits, or the longest rows would not fit on every device
  int pitch;

  // A pitch of 4 more than a multiple of 32: neighbouring channels of neighbouring ranks meet no bank twice.
  static int pitch_of(int length) {
    return static_cast<int>((padded_size<E>(length) + 27) / 32 * 32 + 4);
  }
  // Bytes for rows of `length` in lanes, `slots` channels and `teams` teams; `tiles` of them.
  static size_t bytes(int length, int n, int slots, int teams, int tiles, bool sums) {
    const size_t row = padded_size<E>(length) * sizeof(T);
    const size_t tile = static_cast<size_t>(pitch_of(length)) * slots * tiles * sizeof(T);
    // Three sums of each team lie in the place of tiles and buffers for ties.
    return row + std::max(tile, sums ? teams * row : 0) + (sums ? 2 * teams * row : 0) +
           padded_size<E>(length) * sizeof(unsigned) + 2 * (n + n % 2) * sizeof(uint16_t);
  }
  __device__ Workspace(char* shared, int length, int n, int slots, int teams, int slot, int tiles, bool sums, int pitch)
      : pitch(pitch) {
    const int row = static_cast<int>(padded_size<E>(length)), tile = pitch * slots;
    staged = reinterpret_cast<T*>(shared);
    tile_u = staged + row;
    tile_v = tile_u + tile;
    T* rest = tile_u + (sums ? max(tile * tiles, teams * row) : tile * tiles);
    lower = rest + 2 * slot * row, higher = lower + row;
    bounds = reinterpret_cast<unsigned*>(sums ? rest + 2 * teams * row : rest);
    perm = reinterpret_cast<uint16_t*>(bounds + row), inverse = perm + n + n % 2;
  }
};

// Tile `item` of a view to shared memory, channel by channel: zero at padding. What is gathered is read in the order in
// which it lies and goes to its ranks.
template <class T, int E>
__device__ __forceinline__ void load_tile(const Soft<T>& soft, const View& view, const Axis& axis, int item,
                                          int64_t row, int nodes, int length, const Workspace<T, E>& space, T* tile) {
  const int outer0 = item / axis.across() * axis.lines, inner0 = item % axis.across() << axis.log_c;
  const int64_t sample = view.each ? row : soft.graph(row);
  // A thread keeps its channel: a block's threads are a multiple of the channels.
  const int q = threadIdx.x & ((1 << axis.log_c) - 1), begin = threadIdx.x >> axis.log_c;
  const int step = blockDim.x >> axis.log_c;
  int at_q = inner0 + q;
  bool real_q = at_q < axis.inner;
  if (real_q && axis.pairs) {
    const int other = at_q / soft.c;
    real_q = other < nodes;
    if (real_q && view.gather) at_q += (space.perm[other] - other) * soft.c;
  }
  typed<T>(view.x, [&](const auto* from) {
    for (int line = 0; line < axis.lines; ++line) {
      const int o = outer0 + line;
      const bool real = real_q && o < axis.outer && (axis.first || o < nodes);
      const int64_t at_o = real && view.gather && !axis.first ? space.perm[o] : o;
      const auto* at = from + ((sample * axis.outer + at_o) * soft.n + begin) * axis.inner + at_q;
      T* to = tile + ((line << axis.log_c) + q) * space.pitch;
      const int stop = real ? nodes : 0;
      int i = begin;
#pragma unroll 4
      for (; i < stop; i += step) {
        to[padded<E>(view.gather ? space.inverse[i] : i)] = static_cast<T>(*at);
        at += static_cast<int64_t>(step) * axis.inner;
      }
      for (; i < length; i += step) to[padded<E>(i)] = T(0);
    }
  });
}

// What a block knows of its row: scores in shared memory, perm, links, and two vectors in lanes.
template <class T, class Team, int E, class Vector>
__device__ __forceinline__ void load_vectors(const Team& team, const Soft<T>& soft, int64_t row, int nodes,
                                             const Workspace<T, E>& space, const T* first, const T* second,
                                             Vector& of_first, Vector& of_second) {
  const int64_t at = row * soft.n;
  const int length = team.size() * E;
  for (int i = threadIdx.x; i < length; i += blockDim.x) {
    space.staged[padded<E>(i)] = i < nodes ? soft.t[at + i] : T(0);
    space.tile_u[padded<E>(i)] = i < nodes ? first[at + i] : T(0);
    space.tile_u[space.pitch + padded<E>(i)] = i < nodes ? second[at + i] : T(0);
  }
  for (int i = threadIdx.x; i < nodes; i += blockDim.x) {
    space.perm[i] = static_cast<uint16_t>(node_at(soft.perm, at + i, nodes));
    space.inverse[i] = static_cast<uint16_t>(i);
  }
  __syncthreads();
  for (int i = threadIdx.x; i < nodes; i += blockDim.x) space.inverse[space.perm[i]] = static_cast<uint16_t>(i);
#pragma unroll
  for (int e = 0; e < E; ++e) {
    of_first[e] = space.tile_u[padded<E>(team.lane * E + e)];
    of_second[e] = space.tile_u[space.pitch + padded<E>(team.lane * E + e)];
  }
}

// y = w after (K (before x)) along one axis of each sample, by rank. Without a word ptxas keeps to 80 registers and
// spills; five blocks of warps leave 96.
template <class T, class Team, int E>
__global__ void __launch_bounds__(Team::kThreads, Team::kBlock ? 1 : 5)
    soft_product_kernel(Soft<T> soft, View x, Axis axis, const T* before, const T* after, Numbers y, int parts,
                        int slots, int pitch) {
  extern __shared__ __align__(16) char shared[];
  const Team team(shared);
  const int teams = blockDim.x / team.size(), length = team.size() * E, n = soft.n;
  const int64_t row = blockIdx.x / static_cast<unsigned>(parts);
  const int part = blockIdx.x % static_cast<unsigned>(parts);
  const int nodes = count_nodes(soft.num_nodes, soft.graph(row), n);
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
    load_tile(soft, x, axis, item, row, nodes, length, space, space.tile_u);
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
    const int q = threadIdx.x & ((1 << axis.log_c) - 1);
    for (int line = 0; line < axis.lines && outer0 + line < axis.outer; ++line) {
      const T* from = space.tile_u + ((line << axis.log_c) + q) * pitch;
      const int64_t base = (row * axis.outer + outer0 + line) * n * axis.inner + inner0 + q;
      for (int i = threadIdx.x >> axis.log_c; inner0 + q < axis.inner && i < n; i += blockDim.x >> axis.log_c) {
        store(y, base + static_cast<int64_t>(i) * axis.inner, from[padded<E>(i)]);
      }
    }
  }
}

}  // namespace lps::cuda
