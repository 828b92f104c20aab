// Lines of d x c numbers and tiles of them in shared memory, for matrices on space of any size: rotation_lines.cu.
//
// Features are seen as (b, k or nothing, lines, d, c): a line is a node for vectors and for the first axis of tensors,
// whose other axis counts as channels then, and one of d lines of a node for the second. So one product and one sum of
// outer products serve both directions and both orders; tensors take a launch for each axis.
#pragma once

#include "cuda/tile.cuh"

namespace lps::cuda {

// A tile has SIDE entries of 1024 / SIDE lanes, one for each line and channel: as few entries as d allows, or most of
// the tile would be empty. A thread adds up four numbers of it.
constexpr int kLineThreads = 256, kTileNumbers = 1024, kOwn = kTileNumbers / kLineThreads;
template <int SIDE>
constexpr int kTileLanes = kTileNumbers / SIDE;
// Gaps between entries in shared memory: see LineTile::pitch.
template <int SIDE>
constexpr int kTileRoom = SIDE * (kTileLanes<SIDE> + kWarp);

template <class T>
struct Lines {
  Numbers x;
  const T* before;  // the center that is subtracted
  Order order;
  const int64_t* num_nodes;
  int64_t n, k, d, c, per, centers;
  bool each;  // x has samples

  // Where a line begins in x, by its order; -1 at padding and beyond the row.
  __device__ int64_t source(int64_t line, int64_t row) const {
    const int64_t b = row / k, count = count_nodes(num_nodes, b, n), node = line / per;
    if (node >= count) return -1;
    const int64_t found = order.given() ? order.at(row * n + node) : node;
    if (found < 0 || found >= count) return -1;
    return ((each ? row : b) * n * per + found * per + line % per) * d * c;
  }
  // Entries `first` + e of a center, or zeros where there is none: shared memory that all threads read often.
  template <int SIDE>
  __device__ void center(const T* centers_at, int64_t row, int64_t first, T* to) const {
    const int e = threadIdx.x;
    if (e >= SIDE) return;
    to[e] = centers_at != nullptr && first + e < d ? centers_at[(centers == 1 ? row / k : row) * d + first + e] : T(0);
  }
};

// Which lines and channels are a tile's: whole lines, or where one has more channels than lanes an even share of them.
template <int SIDE>
struct LineTile {
  static constexpr int kLanes = kTileLanes<SIDE>;
  int64_t first_line, first_channel, c;
  int lines, width;
  // How far apart entries lie: odd and like a line's width, so that neither neighbours in memory nor entries of a lane
  // meet in a bank.
  int pitch;

  static __host__ __device__ int64_t lines_of(int64_t c) {
    return c < 1 ? kLanes : c < kLanes ? kLanes / c : 1;
  }
  static __host__ __device__ int64_t chunks(int64_t c) {
    return (c + kLanes - 1) / kLanes;
  }
  static __host__ __device__ int64_t width_of(int64_t c) {  // shares of channels begin with sectors
    return c <= kLanes ? c : ((c + chunks(c) - 1) / chunks(c) + 7) / 8 * 8;
  }
  static int64_t count(int64_t lines, int64_t c) {
    return c == 0 ? 0 : (lines + lines_of(c) - 1) / lines_of(c) * chunks(c);
  }
  __device__ LineTile(int64_t index, int64_t all_lines, int64_t c) : c(c) {
    const int64_t most = width_of(c), most_lines = lines_of(c), parts = chunks(c);
    first_line = index / parts * most_lines, first_channel = index % parts * most;
    const int64_t left = all_lines - first_line, channels = c - first_channel;
    lines = static_cast<int>(left < most_lines ? left : most_lines);
    width = static_cast<int>(channels < 0 ? 0 : channels < most ? channels : most);
    pitch = kLanes + (static_cast<int>(most | 1) & (kWarp - 1));
  }
  __device__ int lanes() const {
    return lines * width;
  }
  // Numbers of the tile's lines that follow each other in memory where all d entries of whole lines are meant, from the
  // beginning of a sector: how many come before the first.
  template <class Address>
  __device__ int before(const Address* first, int entries, int64_t d) const {
    return entries == d && width == c ? within_sector(first) : 0;
  }
  // body(s, line, e, lane, offset in the line) of this thread's numbers in the order in which they lie in memory.
  template <class Body>
  __device__ __forceinline__ void each(int entries, int skip, const Body& body) const {
    const int run = entries * width, end = lines * run;
    const float by_run = 1.f / static_cast<float>(run), by_width = 1.f / static_cast<float>(width);
#pragma unroll
    for (int s = 0; s <= kOwn; ++s) {
      const int i = s * kLineThreads + static_cast<int>(threadIdx.x) - skip;
      if (i < 0 || i >= end) continue;
      // Exact: numbers are few, and half of one away from where the quotient would change.
      const int line = static_cast<int>((i + .5f) * by_run), rest = i - line * run;
      const int e = static_cast<int>((rest + .5f) * by_width), channel = rest - e * width;
      body(s, line, e, line * width + channel, e * c + first_channel + channel);
    }
  }

  // Where lines begin in x, for load(). No barrier.
  template <class T>
  __device__ void find(const Lines<T>& of, int64_t row, int64_t* from) const {
    for (int i = threadIdx.x; i < lines; i += kLineThreads) from[i] = of.source(first_line + i, row);
  }
  // tile[e * pitch + lane] of entries `first` + e, less center[e]: neighbouring threads read neighbouring numbers.
  template <class T>
  __device__ __forceinline__ void load(const Lines<T>& of, const int64_t* from, int64_t first, const T* center,
                                       T* tile) const {
    const int entries = static_cast<int>(of.d - first < SIDE ? of.d - first : SIDE);
    T values[kOwn + 1];
    int to[kOwn + 1];
#pragma unroll
    for (int s = 0; s <= kOwn; ++s) to[s] = -1;
    typed<T>(of.x, [&](const auto* at) {
      const int skip = of.order.given() || from[0] < 0 ? 0 : before(at + from[0], entries, of.d);
      at += first * c;
      each(entries, skip, [&](int s, int line, int e, int lane, int64_t offset) {
        const int64_t begin = from[line];
        values[s] = begin >= 0 ? static_cast<T>(at[begin + offset]) - center[e] : T(0);
        to[s] = e * pitch + lane;
      });
    });
#pragma unroll
    for (int s = 0; s <= kOwn; ++s) {
      if (to[s] >= 0) tile[to[s]] = values[s];
    }
  }
};

// Calls body(SIDE) with as many entries of a tile as d needs, 32 at most.
template <class Body>
void side_switch(int64_t d, const Body& body) {
  if (d <= 8) return body(std::integral_constant<int, 8>());
  if (d <= 16) return body(std::integral_constant<int, 16>());
  body(std::integral_constant<int, 32>());
}

}  // namespace lps::cuda
