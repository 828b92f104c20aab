// Nodes of features in the registers of a warp: a lane holds all D, or D x D, space entries of a node and a channel.
#pragma once

#include "cuda/team.cuh"
#include "cuda/typed.cuh"

namespace lps::cuda {

constexpr int kTileWarps = 4;  // of a block, most
constexpr int kTileThreads = kTileWarps * kWarp;
// From this c on runs of channels are long enough to be read entry by entry; fewer pass through shared memory, where
// the tile, some whole nodes, lies in order.
constexpr int64_t kWide = 32;

// Which node, or rank, is read in place of each: (b, k, n) of either type, or none.
struct Order {
  const int64_t* perm = nullptr;
  const int32_t* inverse = nullptr;

  __host__ __device__ bool given() const {
    return perm != nullptr || inverse != nullptr;
  }
  __device__ int64_t at(int64_t i) const {
    return perm != nullptr ? perm[i] : inverse[i];
  }
};

inline Order order_of(const OptionalTensor& x) {
  if (!x) return {};
  if (x->scalar_type() == ScalarType::Int) return {nullptr, in<int32_t>(x)};
  return {in<int64_t>(x), nullptr};
}

// A tile is kItems times 32 lanes with COUNT numbers each: for vectors 128 bytes an entry, enough that what its ends
// share with other tiles, and the matrix, are little beside it.
template <class T, int COUNT>
struct Tile {
  static constexpr int kItems = COUNT <= 4 ? 16 / sizeof(T) : 1, kLanes = kItems * kWarp, kSteps = kItems * COUNT;
  // An even count would bring lanes to the same banks: a gap every 128 bytes spreads them.
  static constexpr int kGap = COUNT % 2 == 0 ? 128 / sizeof(T) : 1 << 30;
  static constexpr int kNumbers = kSteps * kWarp + kSteps * kWarp / kGap;
  using Entries = T[kItems][COUNT];
  using Places = int64_t[kItems];
  static constexpr int kAlways = COUNT * kWarp;

  T* const buffer;  // (kNumbers,) shared, the warp's own
  const int64_t c;
  const int lane;
  int nodes;      // whole ones of the tile; 0 where lanes read directly
  int64_t first;  // node
  Places node;    // of the row, beyond all where there is none
  Places at;      // where its first entry lies in the row

  static int64_t tiles(int64_t n, int64_t c) {
    return c >= kWide ? blocks(n * c, kLanes) : blocks(n, kLanes / c);
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

  // What a lane reads or writes: numbers from base[t] on, `stride` apart, below limit[t] of it. In order where the tile
  // passes through shared memory, else its own.
  struct Run {
    Places base;
    int limit[kItems];  // entry e is there where e * kWarp is below
    int64_t stride;
  };
  __device__ Run run(int64_t end) const {
    Run r;
    r.stride = nodes > 0 ? kWarp : c;
    const int64_t left = end > first ? end - first : 0, whole = left < nodes ? left : nodes;
#pragma unroll
    for (int t = 0; t < kItems; ++t) {
      const int before = t * COUNT * kWarp + lane;
      r.base[t] = nodes > 0 ? first * COUNT * c + before : at[t];
      r.limit[t] = nodes > 0 ? static_cast<int>(whole * COUNT * c) - before : node[t] < end ? kAlways : 0;
    }
    return r;
  }
  __device__ void read(const Numbers& x, int64_t offset, const Run& r, Entries& v) const {
    typed<T>(x, [&](const auto* from) {
#pragma unroll
      for (int t = 0; t < kItems; ++t) {
#pragma unroll
        for (int e = 0; e < COUNT; ++e) {
          v[t][e] = e * kWarp < r.limit[t] ? static_cast<T>(from[offset + r.base[t] + e * r.stride]) : T(0);
        }
      }
    });
  }

  // Entries of nodes before `count`, zero of others, of the row that begins at offset.
  __device__ void load(const Numbers& x, int64_t offset, int64_t count, Entries& v) const {
    read(x, offset, run(count), v);
    if (nodes == 0) return;
#pragma unroll
    for (int s = 0; s < kSteps; ++s) buffer[padded(s * kWarp + lane)] = v[s / COUNT][s % COUNT];
    __syncwarp();
#pragma unroll
    for (int t = 0; t < kItems; ++t) {
#pragma unroll
      for (int e = 0; e < COUNT; ++e) v[t][e] = node[t] < count ? buffer[local(t, e)] : T(0);
    }
    __syncwarp();
  }

  // Undoes load, with zeros from node `count` to node n; v is lost.
  __device__ void store(const Numbers& x, int64_t offset, int64_t count, int64_t n, Entries& v) const {
#pragma unroll
    for (int t = 0; t < kItems; ++t) {
#pragma unroll
      for (int e = 0; e < COUNT; ++e) {
        if (node[t] >= count) v[t][e] = T(0);
        if (nodes > 0 && node[t] < n) buffer[local(t, e)] = v[t][e];
      }
    }
    if (nodes > 0) {
      __syncwarp();
#pragma unroll
      for (int s = 0; s < kSteps; ++s) v[s / COUNT][s % COUNT] = buffer[padded(s * kWarp + lane)];
      __syncwarp();
    }
    const Run r = run(n);
    typed<T>(x, [&](auto* to) {
#pragma unroll
      for (int t = 0; t < kItems; ++t) {
#pragma unroll
        for (int e = 0; e < COUNT; ++e) {
          if (e * kWarp < r.limit[t]) {
            to[offset + r.base[t] + e * r.stride] = static_cast<Pointee<decltype(to)>>(v[t][e]);
          }
        }
      }
    });
  }

  // Entries of the nodes that an order names, from `start` on, in place of the tile's; zero where that is padding or no
  // node at all, for which live says false.
  __device__ void gather(const Numbers& x, int64_t offset, const Order& order, int64_t start, int64_t count, Entries& v,
                         bool (&live)[kItems]) const {
    Run r;
    r.stride = c;
#pragma unroll
    for (int t = 0; t < kItems; ++t) {
      const int64_t found = node[t] < count ? order.at(start + node[t]) : -1;
      live[t] = found >= 0 && found < count;
      r.base[t] = live[t] ? (found - node[t]) * COUNT * c + at[t] : 0;
      r.limit[t] = live[t] ? kAlways : 0;
    }
    read(x, offset, r, v);
  }
};

}  // namespace lps::cuda
