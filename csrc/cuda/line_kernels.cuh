// Products of matrices of any size with lines, and sums of outer products of lines: see line_tile.cuh.
#pragma once

#include "cuda/line_tile.cuh"

namespace lps::cuda {

template <class T>
struct Product {
  Lines<T> lines;
  Numbers y;
  const T *q, *after, *weights;
  int64_t tiles, parts, samples;  // samples: of a block, one after the other
  bool transpose, sum, mean;
};

// Four neighbours at a multiple of four.
template <class T>
struct __align__(16) Four {
  T x[kOwn];
};

// matrix[e][column] of m = q^T where transpose, else q; zero outside of it.
template <int SIDE, class T>
__device__ __forceinline__ void load_matrix(const T* q, int64_t d, int64_t first, int64_t column, bool transpose,
                                            T (*matrix)[SIDE + kOwn]) {
  for (int i = threadIdx.x; i < SIDE * SIDE; i += kLineThreads) {
    const int fast = i % SIDE, slow = i / SIDE, e = transpose ? slow : fast, a = transpose ? fast : slow;
    const int64_t at_e = first + e, at_a = column + a;
    matrix[e][a] = at_e < d && at_a < d ? q[transpose ? at_e * d + at_a : at_a * d + at_e] : T(0);
  }
}

// y = w (m (x - before) + after) of a tile of lanes and of columns. sum: over samples. mean: each counts 1 / k. What
// samples share is read once where a tile holds all entries.
template <class T, int SIDE>
__global__ void __launch_bounds__(kLineThreads) line_product_kernel(Product<T> a) {
  using Tile = LineTile<SIDE>;
  __shared__ T values[kTileRoom<SIDE>], found[kTileRoom<SIDE>];
  __shared__ __align__(16) T matrix[SIDE][SIDE + kOwn];
  __shared__ T before[SIDE], after[SIDE];
  __shared__ int64_t from[Tile::kLanes];
  const Lines<T>& l = a.lines;
  const int64_t part = blockIdx.x % a.parts * SIDE, index = blockIdx.x / a.parts % a.tiles,
                item = blockIdx.x / a.parts / a.tiles, chunks = (l.k + a.samples - 1) / a.samples;
  const int64_t b = item / chunks, first = b * l.k + item % chunks * a.samples,
                last = first + a.samples < (b + 1) * l.k ? first + a.samples : (b + 1) * l.k;
  const Tile tile(index, l.n * l.per, l.c);
  const int lane = threadIdx.x % Tile::kLanes, column = threadIdx.x / Tile::kLanes * kOwn;
  const bool used = lane < tile.lanes(), shared = !l.each && !l.order.given() && l.d <= SIDE && l.centers == 1;
  const int64_t real = count_nodes(l.num_nodes, b, l.n) * l.per;
  const int columns = static_cast<int>(l.d - part < SIDE ? l.d - part : SIDE);
  T total[kOwn] = {};
  for (int64_t row = first; row < last; ++row) {
    const bool load = !shared || row == first;
    __syncthreads();
    if (load) tile.find(l, row, from);
    l.template center<SIDE>(a.after, row, part, after);
    T turned[kOwn] = {};
    for (int64_t start = 0; start < l.d; start += SIDE) {
      if (load) l.template center<SIDE>(l.before, row, start, before);
      __syncthreads();
      if (load) tile.load(l, from, start, before, values);
      load_matrix<SIDE>(a.q + row * l.d * l.d, l.d, start, part, a.transpose, matrix);
      __syncthreads();
      const int entries = static_cast<int>(l.d - start < SIDE ? l.d - start : SIDE);
#pragma unroll 4
      for (int e = 0; used && e < entries; ++e) {
        const T value = values[e * tile.pitch + lane];
        const Four<T> of_column = *reinterpret_cast<const Four<T>*>(&matrix[e][column]);
#pragma unroll
        for (int i = 0; i < kOwn; ++i) turned[i] += of_column.x[i] * value;
      }
    }
    const T w = a.weights != nullptr ? a.weights[row] : a.mean ? T(1) / static_cast<T>(l.k) : T(1);
#pragma unroll
    for (int i = 0; i < kOwn; ++i) {
      const T value = w * (turned[i] + after[column + i]);
      total[i] = a.sum ? total[i] + value : value;
    }
    if (a.sum && row + 1 < last) continue;
    // Through shared memory, so that neighbouring threads write neighbouring numbers.
    __syncthreads();
#pragma unroll
    for (int i = 0; used && i < kOwn; ++i) found[(column + i) * tile.pitch + lane] = total[i];
    __syncthreads();
    typed<T>(a.y, [&](auto* at) {
      at += ((a.sum ? b : row) * l.n * l.per + tile.first_line) * l.d * l.c;
      const int skip = tile.before(at, columns, l.d);
      at += part * l.c;
      tile.each(columns, skip, [&](int, int line, int e, int own, int64_t offset) {
        const T value = tile.first_line + line < real ? found[e * tile.pitch + own] : T(0);
        at[line * l.d * l.c + offset] = static_cast<Pointee<decltype(at)>>(value);
      });
    });
  }
}

template <class T>
struct Outer {
  Lines<T> x, g;
  T* sums;  // (rows, width): the matrix, then totals of g
  int64_t parts, width;
  bool forward, add, totals;
};

// A tile of sums[e, a] (+)= the sum over lanes of (x - before)[e] g[a], or sums[a, e] unless forward. Threads that the
// tile's sums do not need take lanes of their own, whose sums are added in order.
template <class T, int SIDE>
__global__ void __launch_bounds__(kLineThreads) line_outer_kernel(Outer<T> a) {
  using Tile = LineTile<SIDE>;
  constexpr int kMembers = SIDE * SIDE / kOwn, kSets = kLineThreads / kMembers, kShare = Tile::kLanes / kSets;
  constexpr int kRow = SIDE + 1;
  __shared__ T values[kTileRoom<SIDE>], incoming[kTileRoom<SIDE>];
  __shared__ T before[SIDE], nothing[SIDE];
  __shared__ int64_t from[Tile::kLanes], from_g[Tile::kLanes];
  const int64_t part = blockIdx.x % (a.parts * a.parts), row = blockIdx.x / (a.parts * a.parts), d = a.x.d;
  const int64_t first_e = part / a.parts * SIDE, first_a = part % a.parts * SIDE;
  const int64_t lines = count_nodes(a.x.num_nodes, row / a.x.k, a.x.n) * a.x.per;
  const int set = threadIdx.x / kMembers, e = threadIdx.x % kMembers / (SIDE / kOwn),
            column = threadIdx.x % (SIDE / kOwn) * kOwn;
  a.x.template center<SIDE>(a.x.before, row, first_e, before);
  a.g.template center<SIDE>(nullptr, row, first_a, nothing);
  // Entries beyond d, which no load writes, are zero.
  for (int i = threadIdx.x; i < kTileRoom<SIDE>; i += kLineThreads) values[i] = incoming[i] = T(0);
  T total[kOwn] = {}, sum[kOwn] = {};
  const int64_t tiles = (lines + Tile::lines_of(a.x.c) - 1) / Tile::lines_of(a.x.c) * Tile::chunks(a.x.c);
  for (int64_t index = 0; index < tiles; ++index) {
    const Tile tile(index, lines, a.x.c);
    __syncthreads();
    tile.find(a.x, row, from);
    tile.find(a.g, row, from_g);
    __syncthreads();
    tile.load(a.x, from, first_e, before, values);
    tile.load(a.g, from_g, first_a, nothing, incoming);
    __syncthreads();
    const int end = min((set + 1) * kShare, tile.lanes());
#pragma unroll 4
    for (int i = set * kShare; i < end; ++i) {
      const T value = values[e * tile.pitch + i];
#pragma unroll
      for (int own = 0; own < kOwn; ++own) {
        const T g = incoming[(column + own) * tile.pitch + i];
        total[own] += value * g;
        if (e == 0) sum[own] += g;
      }
    }
  }
  static_assert(kSets * SIDE * kRow <= kTileRoom<SIDE>);
  __syncthreads();
#pragma unroll
  for (int own = 0; own < kOwn; ++own) {
    values[(set * SIDE + e) * kRow + column + own] = total[own];
    if (e == 0) incoming[set * SIDE + column + own] = sum[own];
  }
  __syncthreads();
  T* const to = a.sums + row * a.width;
  for (int i = threadIdx.x; i < SIDE * SIDE; i += kLineThreads) {
    // Neighbouring threads write neighbouring numbers.
    const int e_of = a.forward ? i / SIDE : i % SIDE, a_of = a.forward ? i % SIDE : i / SIDE;
    const int64_t at_e = first_e + e_of, at_a = first_a + a_of;
    if (at_e >= d || at_a >= d) continue;
    T added = 0;
    for (int other = 0; other < kSets; ++other) added += values[(other * SIDE + e_of) * kRow + a_of];
    T& target = to[a.forward ? at_e * d + at_a : at_a * d + at_e];
    target = a.add ? target + added : added;
  }
  if (!a.totals || first_e != 0) return;
  for (int i = threadIdx.x; i < SIDE && first_a + i < d; i += kLineThreads) {
    T added = 0;
    for (int other = 0; other < kSets; ++other) added += incoming[other * SIDE + i];
    to[d * d + first_a + i] = added;
  }
}

}  // namespace lps::cuda
