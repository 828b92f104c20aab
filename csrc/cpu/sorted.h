// Features of one sample in the order of its scores, gathered as scans want them.
#pragma once

#include "cpu/gather.h"
#include "cpu/pair_sums.h"

namespace lps::cpu {

// One sample's features seen in sorted coordinates: line(r) + order(s) c are the channels of node r or edge (r, s).
template <class F>
struct Sorted {
  const F* base;         // of the sample or its input
  const int64_t* order;  // null where they are sorted already
  int64_t n, c;
  bool edges;

  LPS_FN int64_t at(int64_t i) const {
    return order ? order[i] : i;
  }

  // Edges (i, low) to (i, high), or node i where these are 0 and 1: in memory if they lie there so and `direct`, else
  // copied to `to`. Line `next` follows.
  template <class T>
  LPS_FN const T* line(int64_t i, int64_t next, int64_t low, int64_t high, bool direct, T* to) const {
    const int64_t step = edges ? n * c : c, count = high - low;
    const F *from = base + at(i) * step, *ahead = base + at(next) * step;
    if (!order || !edges) {
      prefetch(ahead + low * c, count * c * sizeof(F));
      if constexpr (std::is_same_v<F, T>) {
        if (direct) return from + low * c;
      }
      convert_row(from + low * c, count * c, to);
    } else {
      // Narrow ones to the second half of their place first.
      F* const stored = reinterpret_cast<F*>(to + count * c) - count * c;
      with_size(c * sizeof(F), [&](auto size) {
        gather_line(reinterpret_cast<char*>(stored), reinterpret_cast<const char*>(from), order + low, count, size,
                    reinterpret_cast<const char*>(ahead), n * c * static_cast<int64_t>(sizeof(F)) / count);
      });
      if constexpr (!std::is_same_v<F, T>) convert_row(stored, count * c, to);
    }
    return to;
  }

  // Channels [low, high) of nodes, to rows `width` apart.
  template <class T>
  void copy_nodes(int64_t low, int64_t high, int64_t count, int64_t width, T* to) const {
    copy_lines<T>(base + low, c, high - low, count, width, to);
  }

  // Channels [begin, end) of positions 0..count-1 along `axis`, the other axis counted among the channels, into rows of
  // `width` numbers, the rest of which is zero.
  template <class T>
  void stage(int64_t axis, int64_t begin, int64_t end, int64_t count, int64_t width, T* to) const {
    if (end - begin < width) std::fill_n(to, count * width, T(0));
    if (!edges) {
      copy_nodes(begin, end, count, width, to);
      return;
    }
    for (int64_t other = begin / c; other * c < end; ++other) {
      const int64_t low = std::max(begin, other * c), high = std::min(end, (other + 1) * c);
      const int64_t offset = low - other * c, length = high - low;
      const int64_t step = axis == 0 ? n * c : c;
      const int64_t line = axis == 0 ? c : n * c;
      if (axis == 1) prefetch(base + at(std::min(other + 1, count - 1)) * line, n * c * sizeof(F));
      const F* from = base + at(other) * line + offset;
      copy_lines<T>(from, step, length, count, width, to + (low - begin));
    }
  }

 private:
  template <class T>
  LPS_FN void copy_lines(const F* from, int64_t step, int64_t length, int64_t count, int64_t width, T* to) const {
    with_channels(length, [&](auto size) { copy<T>(from, step, size, count, width, to); });
  }

  template <class T, class Length>
  LPS_FN void copy(const F* from, int64_t step, Length length, int64_t count, int64_t width, T* to) const {
    for (int64_t i = 0; i < count; ++i) {
      const F* __restrict source = from + at(i) * step;
      T* __restrict line = to + i * width;
      convert_row(source, length, line);
    }
  }
};

// Calls body(width as a constant) with as many vectors as `channels` fill, 4 at most.
template <class T, class Body>
void with_width(int64_t channels, const Body& body) {
  if (channels <= kLanes<T>) return body(std::integral_constant<int, 1>());
  if (channels <= 2 * kLanes<T>) return body(std::integral_constant<int, 2>());
  body(std::integral_constant<int, 4>());
}

// Channels [begin, end) of positions 0..count-1 along `axis` as rows of `width` numbers, in `buffer` if they do not lie
// so in memory.
template <class T, class F>
Lines<T> lines_of(const Sorted<F>& x, int64_t axis, int64_t begin, int64_t end, int64_t count, int64_t width,
                  std::vector<Vec<T>>& buffer) {
  if constexpr (std::is_same_v<F, T>) {
    if (!x.edges && end - begin == width) return {x.base + begin, x.order, x.c};
  }
  buffer.resize(count * width / kLanes<T>);
  T* to = reinterpret_cast<T*>(buffer.data());
  x.stage(axis, begin, end, count, width, to);
  return {to, nullptr, width};
}

}  // namespace lps::cpu
