// Nodes of features in the registers of a warp: a lane holds all D, or D x D, space entries of a node and a channel.
#pragma once

#include "cuda/numbers.cuh"
#include "cuda/team.cuh"

namespace lps::cuda {

constexpr int kTileWarps = 4;  // of a block, most
constexpr int kTileThreads = kTileWarps * kWarp;
// From this c on runs of channels are long enough to be read entry by entry; fewer pass through shared memory, where
// the tile, some whole nodes, lies in order.
constexpr int64_t kWide = 32;

// `COUNT` space entries. A tile is kItems times 32 lanes: for vectors enough that what its ends share with other tiles,
// and the matrix, are little beside it.
template <class T, int COUNT>
struct Tile {
  static constexpr int kItems = COUNT <= 4 ? 4 : 1, kLanes = kItems * kWarp, kSteps = kItems * COUNT;
  // An even count would bring lanes to the same banks: a gap every 128 bytes spreads them.
  static constexpr int kGap = COUNT % 2 == 0 ? 128 / sizeof(T) : 1 << 30;
  static constexpr int kNumbers = kSteps * kWarp + kSteps * kWarp / kGap;
  using Entries = T[kItems][COUNT];

  T* const buffer;  // (kNumbers,) shared, the warp's own
  const int64_t c;
  const int lane;
  int nodes;             // whole ones of the tile; 0 where lanes read directly
  int64_t first;         // node
  int64_t node[kItems];  // of the row, beyond all where there is none
  int64_t at[kItems];    // where its first entry lies in the row

  static __host__ __device__ int64_t tiles(int64_t n, int64_t c) {
    const int64_t work = c >= kWide ? n * c : n, each = c >= kWide ? kLanes : kLanes / c;
    return (work + each - 1) / each;
  }

  __device__ Tile(T* buffer, int64_t index, int64_t c) : buffer(buffer), c(c), lane(threadIdx.x % kWarp) {
    nodes = c >= kWide ? 0 : kLanes / static_cast<int>(c);
    first = index * nodes;
#pragma unroll
    for (int t = 0; t < kItems; ++t) {
      const int own = t * kWarp + lane;
      if (nodes > 0) {
        const int local = own / static_cast<int>(c);
        node[t] = local < nodes ? first + local : INT64_MAX;
        at[t] = (first + local) * COUNT * c + own % static_cast<int>(c);
      } else {
        node[t] = (index * kLanes + own) / c;
        at[t] = node[t] * COUNT * c + (index * kLanes + own) % c;
      }
    }
  }

  static __device__ int padded(int i) {
    return i + i / kGap;
  }
  __device__ int local(int t, int e) const {
    return padded(static_cast<int>(at[t] - first * COUNT * c) + e * static_cast<int>(c));
  }
  // Numbers of the tile before node `end` of the row.
  __device__ int size(int64_t end) const {
    const int64_t left = end - first;
    return static_cast<int>(left < 0 ? 0 : left < nodes ? left : nodes) * COUNT * static_cast<int>(c);
  }

  // Entries of nodes before `count`, zero of others.
  template <class S>
  __device__ void load(const S* row, int64_t count, Entries& v) const {
    if (nodes == 0) {
#pragma unroll
      for (int t = 0; t < kItems; ++t) {
#pragma unroll
        for (int e = 0; e < COUNT; ++e) v[t][e] = node[t] < count ? static_cast<T>(row[at[t] + e * c]) : T(0);
      }
      return;
    }
    const S* const from = row + first * COUNT * c;
    const int end = size(count);
    T held[kSteps];
#pragma unroll
    for (int s = 0; s < kSteps; ++s) held[s] = s * kWarp + lane < end ? static_cast<T>(from[s * kWarp + lane]) : T(0);
#pragma unroll
    for (int s = 0; s < kSteps; ++s) buffer[padded(s * kWarp + lane)] = held[s];
    __syncwarp();
#pragma unroll
    for (int t = 0; t < kItems; ++t) {
#pragma unroll
      for (int e = 0; e < COUNT; ++e) v[t][e] = node[t] < count ? buffer[local(t, e)] : T(0);
    }
    __syncwarp();
  }

  // Undoes load, with zeros from node `count` to node n.
  template <class S>
  __device__ void store(S* row, int64_t count, int64_t n, const Entries& v) const {
    if (nodes == 0) {
#pragma unroll
      for (int t = 0; t < kItems; ++t) {
#pragma unroll
        for (int e = 0; e < COUNT; ++e) {
          if (node[t] < n) row[at[t] + e * c] = static_cast<S>(node[t] < count ? v[t][e] : T(0));
        }
      }
      return;
    }
#pragma unroll
    for (int t = 0; t < kItems; ++t) {
#pragma unroll
      for (int e = 0; e < COUNT; ++e) {
        if (node[t] < n) buffer[local(t, e)] = node[t] < count ? v[t][e] : T(0);
      }
    }
    __syncwarp();
    S* const to = row + first * COUNT * c;
    const int end = size(n);
#pragma unroll
    for (int s = 0; s < kSteps; ++s) {
      if (s * kWarp + lane < end) to[s * kWarp + lane] = static_cast<S>(buffer[padded(s * kWarp + lane)]);
    }
    __syncwarp();
  }

  // The nodes that an order (n,) names in place of the tile's; -1 where that is padding or no node at all.
  __device__ void ordered(const int64_t* order, int64_t count, int64_t (&source)[kItems]) const {
#pragma unroll
    for (int t = 0; t < kItems; ++t) {
      const int64_t found = node[t] < count ? order[node[t]] : -1;
      source[t] = found < count ? found : -1;
    }
  }

  // Entries of those nodes, zero where there is none.
  template <class S>
  __device__ void gather(const S* row, const int64_t (&source)[kItems], Entries& v) const {
#pragma unroll
    for (int t = 0; t < kItems; ++t) {
      const S* const from = row + (source[t] - node[t]) * COUNT * c + at[t];
#pragma unroll
      for (int e = 0; e < COUNT; ++e) v[t][e] = source[t] >= 0 ? static_cast<T>(from[e * c]) : T(0);
    }
  }
};

}  // namespace lps::cuda
