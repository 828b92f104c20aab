// Nodes of features in the registers of a warp: a lane holds all D, or D x D, space entries of a node and a channel.
#pragma once

#include "cuda/team.cuh"
#include "cuda/typed.cuh"

namespace lps::cuda {

constexpr int kTileWarps = 8;  // of a block, most
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
  // Each of `nodes` below count becomes what is read in its place, of the row that begins at start.
  template <int N>
  __device__ __forceinline__ void replace(int64_t (&nodes)[N], int64_t start, int64_t count) const {
    if (perm != nullptr) return replace(perm + start, nodes, count);
    replace(inverse + start, nodes, count);
  }
  template <class I, int N>
  static __device__ __forceinline__ void replace(const I* by, int64_t (&nodes)[N], int64_t count) {
#pragma unroll
    for (int t = 0; t < N; ++t) {
      if (nodes[t] < count) nodes[t] = by[nodes[t]];
    }
  }
};

inline Order order_of(const OptionalTensor& x) {
  if (!x) return {};
  if (x->scalar_type() == ScalarType::Int) return {nullptr, in<int32_t>(x)};
  return {in<int64_t>(x), nullptr};
}

// How many numbers after the beginning of a sector of 32 bytes an address lies.
template <class Address>
__device__ __forceinline__ int within_sector(const Address* p) {
  return static_cast<int>(reinterpret_cast<uintptr_t>(p) % 32 / sizeof(Address));
}

// A tile is kItems times 32 lanes with COUNT numbers each: for vectors 128 bytes an entry, enough that what its ends
// share with other tiles, and the matrix, are little beside it. Numbers pass through shared memory, so that what
// depends on how they lie in memory is in loops: unrolled for three dtypes it was nine tenths of each kernel.
template <class T, int COUNT>
struct Tile {
  static constexpr int kItems = COUNT <= 4 ? 16 / sizeof(T) : 1, kLanes = kItems * kWarp, kSize = kLanes * COUNT;
  // Negative, whatever is added within a node.
  static constexpr int64_t kNone = INT64_MIN / 2;
  // Loads that a lane has under way at once.
  static constexpr int kAtOnce = 8;
  // An even count would bring lanes to the same banks: a gap every 128 bytes spreads them.
  static constexpr int kGap = COUNT % 2 == 0 ? 128 / sizeof(T) : 1 << 30;
  using Entries = T[kItems][COUNT];
  using Places = int64_t[kItems];
  using Flags = bool[kItems];
  struct Buffer {  // shared, the warp's own
    T numbers[kSize + kSize / kGap];
    int64_t from[kLanes];  // where each node, or lane of a long one, begins in the row; kNone where there is none
  };

  Buffer& buffer;
  const int c, run, lane;  // run: numbers of a node
  const int nodes;         // whole ones of the tile; 0 where nodes are long, whose lanes lie side by side instead
  const int inverse;       // of run, in units of 2^-20: exact for what a tile holds
  int64_t first;           // node
  Places node;             // of the row, beyond all where there is none
  int own[kItems], channel[kItems];

  static int64_t tiles(int64_t n, int64_t c) {
    return c >= kWide ? blocks(n * c, kLanes) : blocks(n, kLanes / c);
  }

  __device__ Tile(Buffer& buffer, int64_t index, int64_t channels)
      : buffer(buffer),
        c(static_cast<int>(channels)),
        run(COUNT * c),
        lane(threadIdx.x % kWarp),
        nodes(c >= kWide ? 0 : kLanes / c),
        inverse((1 << 20) / run + 1) {
    first = nodes > 0 ? index * nodes : index * kLanes / c;
    int at = nodes > 0 ? lane : static_cast<int>(index * kLanes - first * c) + lane;
#pragma unroll
    for (int t = 0; t < kItems; ++t) {
      const int local = nodes > 0 ? node_of(COUNT * at) : at / c;
      node[t] = nodes == 0 || local < nodes ? first + local : INT64_MAX;
      own[t] = nodes > 0 ? local : t * kWarp + lane;
      channel[t] = at - local * c;
      at += kWarp;
    }
  }

  static __host__ __device__ int padded(int i) {
    return i + i / kGap;
  }
  // The node of number i of a tile of whole ones.
  __device__ int node_of(int i) const {
    return i * inverse >> 20;
  }
  // Where own entries lie in the buffer, and how far apart.
  __device__ int slot(int t) const {
    return nodes > 0 ? own[t] * run + channel[t] : own[t];
  }
  __device__ int apart() const {
    return nodes > 0 ? c : kLanes;
  }

  // Finds nodes before `count`: those that an order names, from `start` on, or the tile's; the row begins at offset.
  __device__ void find(int64_t offset, const Order& order, int64_t start, int64_t count) const {
    Places found;
#pragma unroll
    for (int t = 0; t < kItems; ++t) {
      found[t] = nodes == 0 ? node[t] : t * kWarp + lane < nodes ? first + t * kWarp + lane : INT64_MAX;
    }
    if (order.given()) order.replace(found, start, count);
    __syncwarp();
#pragma unroll
    for (int t = 0; t < kItems; ++t) {
      const bool real = found[t] >= 0 && found[t] < count;
      buffer.from[t * kWarp + lane] = real ? offset + found[t] * run + (nodes > 0 ? 0 : channel[t]) : kNone;
    }
    __syncwarp();
  }

  // Calls body(from, slot) for all numbers of the tile, kAtOnce of a lane each time: where they lie in memory and in
  // the buffer, both negative where there is none. skew: numbers by which the tile begins within a sector; steps begin
  // where sectors do, or each would touch one more of them.
  template <class Body>
  __device__ void each(int skew, const Body& body) const {
    const int total = nodes > 0 ? nodes * run : kSize;
#pragma unroll 1
    for (int begin = nodes > 0 ? lane - skew : lane; begin < total; begin += kAtOnce * kWarp) {
      int64_t from[kAtOnce];
      int slots[kAtOnce];
#pragma unroll
      for (int u = 0; u < kAtOnce; ++u) {
        const int i = begin + u * kWarp;
        const bool here = i >= 0 && i < total;
        const int part = nodes > 0 ? node_of(i) : i % kLanes;
        from[u] = here ? buffer.from[part] + (nodes > 0 ? i - part * run : i / kLanes * c) : kNone;
        slots[u] = here ? padded(i) : -1;
      }
      body(from, slots);
    }
  }

  // How many numbers after the beginning of a sector the tile begins, of the row at offset.
  __device__ int skew(const Numbers& x, int64_t offset) const {
    const int size = x.kind == kWhole ? sizeof(T) : 2;
    return static_cast<int>((reinterpret_cast<uintptr_t>(x.data) / size + offset + first * run) % (32 / size));
  }

  // The block's threads copy `size` numbers of x into shared memory.
  static __device__ void hold_row(const Numbers& x, int64_t offset, int64_t size, T* row) {
    __syncthreads();
    typed<T>(x, [&](const auto* from) {
      from += offset;
#pragma unroll 4
      for (int64_t i = static_cast<int>(threadIdx.x) - within_sector(from); i < size; i += blockDim.x) {
        if (i >= 0) row[padded(static_cast<int>(i))] = static_cast<T>(from[i]);
      }
    });
    __syncthreads();
  }

  // Entries of nodes before `count` of the row that begins at offset, of those that an order names from `start` on
  // where there is one; zero of others, for which live says false. held: the row of x in shared memory, or null.
  __device__ void load(const Numbers& x, int64_t offset, const T* held, const Order& order, int64_t start,
                       int64_t count, Entries& v, Flags& live) const {
    find(held != nullptr ? 0 : offset, order, start, count);
    if (held == nullptr) {
      each(order.given() ? 0 : skew(x, offset), [&](const int64_t (&from)[kAtOnce], const int (&slots)[kAtOnce]) {
        T read[kAtOnce];
        typed<T>(x, [&](const auto* at) {
#pragma unroll
          for (int u = 0; u < kAtOnce; ++u) read[u] = from[u] >= 0 ? static_cast<T>(at[from[u]]) : T(0);
        });
#pragma unroll
        for (int u = 0; u < kAtOnce; ++u) {
          if (slots[u] >= 0) buffer.numbers[slots[u]] = read[u];
        }
      });
      __syncwarp();
    }
    const T* const numbers = held != nullptr ? held : buffer.numbers;
    const int step = held != nullptr ? c : apart();
#pragma unroll
    for (int t = 0; t < kItems; ++t) {
      const int64_t from = buffer.from[own[t]];
      live[t] = from >= 0;
      const int at = held != nullptr ? static_cast<int>(from) + (nodes > 0 ? channel[t] : 0) : slot(t);
#pragma unroll
      for (int e = 0; e < COUNT; ++e) v[t][e] = live[t] ? numbers[padded(at + e * step)] : T(0);
    }
  }

  // To the row that begins at offset, with zeros from node `count` to node n.
  __device__ void store(const Numbers& x, int64_t offset, int64_t count, int64_t n, const Entries& v) const {
    find(offset, Order(), 0, n);
#pragma unroll
    for (int t = 0; t < kItems; ++t) {
#pragma unroll
      for (int e = 0; e < COUNT; ++e) {
        if (node[t] < n) buffer.numbers[padded(slot(t) + e * apart())] = node[t] < count ? v[t][e] : T(0);
      }
    }
    __syncwarp();
    each(skew(x, offset), [&](const int64_t (&to)[kAtOnce], const int (&slots)[kAtOnce]) {
      T written[kAtOnce];
#pragma unroll
      for (int u = 0; u < kAtOnce; ++u) written[u] = to[u] >= 0 ? buffer.numbers[slots[u]] : T(0);
      typed<T>(x, [&](auto* at) {
#pragma unroll
        for (int u = 0; u < kAtOnce; ++u) {
          if (to[u] >= 0) at[to[u]] = static_cast<Pointee<decltype(at)>>(written[u]);
        }
      });
    });
  }
};

}  // namespace lps::cuda
