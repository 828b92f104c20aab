// Nodes of features in the registers of a warp: a lane holds all D, or D x D, space entries of a node and a channel.
#pragma once

#include "cuda/team.cuh"
#include "cuda/typed.cuh"

namespace lps::cuda {

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

// How many numbers after the beginning of a sector of 32 bytes an address lies.
template <class Address>
__device__ __forceinline__ int within_sector(const Address* p) {
  return static_cast<int>(reinterpret_cast<uintptr_t>(p) % 32 / sizeof(Address));
}

// A tile is kItems times 32 lanes with COUNT numbers each: for vectors 128 bytes an entry, enough that what its ends
// share with other tiles, and the matrix, are little beside it.
template <class T, int COUNT>
struct Tile {
  static constexpr int kItems = COUNT <= 4 ? 16 / sizeof(T) : 1, kLanes = kItems * kWarp, kSteps = kItems * COUNT;
  // An even count would bring lanes to the same banks: a gap every 128 bytes spreads them.
  static constexpr int kGap = COUNT % 2 == 0 ? 128 / sizeof(T) : 1 << 30;
  static constexpr int kNumbers = kSteps * kWarp + kSteps * kWarp / kGap;
  // Of a block, most: as many as registers and 48 KB of buffers are enough for.
  static constexpr int kWarps = sizeof(T) == 4 && COUNT <= 4 ? 12 : 8, kThreads = kWarps * kWarp;
  using Entries = T[kItems][COUNT];
  using Places = int64_t[kItems];

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

  static __host__ __device__ int padded(int i) {
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

  // Own entries of a lane: from base[t] on, c apart, where use[t].
  template <class Address>
  __device__ void read(const Address* from, const Places& base, const bool (&use)[kItems], Entries& v) const {
#pragma unroll
    for (int t = 0; t < kItems; ++t) {
#pragma unroll
      for (int e = 0; e < COUNT; ++e) v[t][e] = use[t] ? static_cast<T>(from[base[t] + e * c]) : T(0);
    }
  }
  // The same from a row in shared memory.
  __device__ void read_row(const T* row, const Places& base, const bool (&use)[kItems], Entries& v) const {
#pragma unroll
    for (int t = 0; t < kItems; ++t) {
      const int own = static_cast<int>(base[t]), apart = static_cast<int>(c);
#pragma unroll
      for (int e = 0; e < COUNT; ++e) v[t][e] = use[t] ? row[padded(own + e * apart)] : T(0);
    }
  }
  // The block's threads copy `size` numbers of x into shared memory.
  static __device__ void load_row(const Numbers& x, int64_t offset, int64_t size, T* row) {
    __syncthreads();
    typed<T>(x, [&](const auto* from) {
      from += offset;
      for (int64_t i = static_cast<int>(threadIdx.x) - within_sector(from); i < size; i += blockDim.x) {
        if (i >= 0) row[padded(static_cast<int>(i))] = static_cast<T>(from[i]);
      }
    });
    __syncthreads();
  }
  // Undoes load_row, with zeros from number `live` to `size`; a barrier has to come before.
  static __device__ void store_row(const Numbers& x, int64_t offset, int64_t live, int64_t size, T scale,
                                   const T* row) {
    typed<T>(x, [&](auto* to) {
      to += offset;
      for (int64_t i = static_cast<int>(threadIdx.x) - within_sector(to); i < size; i += blockDim.x) {
        if (i < 0) continue;
        const T value = i < live ? scale * row[padded(static_cast<int>(i))] : T(0);
        to[i] = static_cast<Pointee<decltype(to)>>(value);
      }
    });
  }

  // Steps through memory begin where sectors do, or each would touch one more of them; so there is one more step.

  // Entries of nodes before `count`, zero of others, of the row that begins at offset.
  __device__ void load(const Numbers& x, int64_t offset, int64_t count, Entries& v) const {
    if (nodes == 0) {
      bool use[kItems];
#pragma unroll
      for (int t = 0; t < kItems; ++t) use[t] = node[t] < count;
      typed<T>(x, [&](const auto* from) { read(from + offset, at, use, v); });
      return;
    }
    T held[kSteps + 1];
    int skew = 0;
    const int end = size(count);
    typed<T>(x, [&](const auto* from) {
      from += offset + first * COUNT * c;
      skew = within_sector(from);
#pragma unroll
      for (int s = 0; s <= kSteps; ++s) {
        const int i = s * kWarp + lane - skew;
        held[s] = i >= 0 && i < end ? static_cast<T>(from[i]) : T(0);
      }
    });
#pragma unroll
    for (int s = 0; s <= kSteps; ++s) {
      const int i = s * kWarp + lane - skew;
      if (i >= 0 && i < kSteps * kWarp) buffer[padded(i)] = held[s];
    }
    __syncwarp();
#pragma unroll
    for (int t = 0; t < kItems; ++t) {
#pragma unroll
      for (int e = 0; e < COUNT; ++e) v[t][e] = node[t] < count ? buffer[local(t, e)] : T(0);
    }
    __syncwarp();
  }

  // Undoes load, with zeros from node `count` to node n.
  __device__ void store(const Numbers& x, int64_t offset, int64_t count, int64_t n, const Entries& v) const {
    if (nodes == 0) {
      typed<T>(x, [&](auto* to) {
        to += offset;
#pragma unroll
        for (int t = 0; t < kItems; ++t) {
#pragma unroll
          for (int e = 0; e < COUNT; ++e) {
            const T value = node[t] < count ? v[t][e] : T(0);
            if (node[t] < n) to[at[t] + e * c] = static_cast<Pointee<decltype(to)>>(value);
          }
        }
      });
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
    const int end = size(n);
    typed<T>(x, [&](auto* to) {
      to += offset + first * COUNT * c;
#pragma unroll
      for (int s = 0; s <= kSteps; ++s) {
        const int i = s * kWarp + lane - within_sector(to);
        if (i >= 0 && i < end) to[i] = static_cast<Pointee<decltype(to)>>(buffer[padded(i)]);
      }
    });
    __syncwarp();
  }

  // What lane j % 32 holds for node j of the tile.
  __device__ int of_node(const int (&held)[kItems], int j) const {
    int result = -1;
#pragma unroll
    for (int t = 0; t < kItems; ++t) {
      if (t * kWarp >= nodes) break;
      const int other = __shfl_sync(kAll, held[t], j % kWarp);
      if (j / kWarp == t) result = other;
    }
    return result;
  }

  // Where the nodes lie that an order names, from `start` on, in place of the tile's; live says false where that is
  // padding or no node at all.
  __device__ void find(const Order& order, int64_t start, int64_t count, Places& base, bool (&live)[kItems]) const {
#pragma unroll
    for (int t = 0; t < kItems; ++t) {
      const int64_t found = node[t] < count ? order.at(start + node[t]) : -1;
      live[t] = found >= 0 && found < count;
      base[t] = live[t] ? (found - node[t]) * COUNT * c + at[t] : 0;
    }
  }

  // Their entries; zero where they are not live.
  __device__ void gather(const Numbers& x, int64_t offset, const Order& order, int64_t start, int64_t count, Entries& v,
                         bool (&live)[kItems]) const {
    if (nodes > 0) return gather_runs(x, offset, order, start, count, v, live);
    Places base;
    find(order, start, count, base, live);
    typed<T>(x, [&](const auto* from) { read(from + offset, base, live, v); });
  }

  // The same where a node is short: all of its numbers at once, through the tile's buffer.
  __device__ void gather_runs(const Numbers& x, int64_t offset, const Order& order, int64_t start, int64_t count,
                              Entries& v, bool (&live)[kItems]) const {
    int found[kItems];
#pragma unroll
    for (int t = 0; t < kItems; ++t) {
      const int j = t * kWarp + lane;
      const int64_t other = j < nodes && first + j < count ? order.at(start + first + j) : -1;
      found[t] = other >= 0 && other < count ? static_cast<int>(other) : -1;
    }
    const int run = COUNT * static_cast<int>(c);
    T read[kSteps];
    typed<T>(x, [&](const auto* from) {
      from += offset;
      int j = lane / run, within = lane % run;
#pragma unroll
      for (int s = 0; s < kSteps; ++s) {
        const int other = of_node(found, j);
        read[s] = j < nodes && other >= 0 ? static_cast<T>(from[static_cast<int64_t>(other) * run + within]) : T(0);
        j += kWarp / run, within += kWarp % run;
        if (within >= run) within -= run, ++j;
      }
    });
#pragma unroll
    for (int s = 0; s < kSteps; ++s) buffer[padded(s * kWarp + lane)] = read[s];
    __syncwarp();
#pragma unroll
    for (int t = 0; t < kItems; ++t) {
      const int own = (t * kWarp + lane) / static_cast<int>(c);
      live[t] = of_node(found, own) >= 0 && own < nodes;
#pragma unroll
      for (int e = 0; e < COUNT; ++e) v[t][e] = live[t] ? buffer[local(t, e)] : T(0);
    }
    __syncwarp();
  }
};

}  // namespace lps::cuda
