// Nodes and edges moved by permutations: gathers, scattered sums over samples, and what keeps the memory busy
// meanwhile.
#pragma once

#include "cpu/convert.h"
#include "cpu/permute.h"

namespace lps::cpu {

// Asks for the cache lines of the next `bytes` from p, to read or to write, while there is other work. (Were it not
// always inlined, GCC would find it without effect and drop its calls.)
template <bool kWrite = false>
LPS_FN void prefetch(const void* p, int64_t bytes) {
  for (int64_t i = 0; i < bytes; i += 64) __builtin_prefetch(static_cast<const char*>(p) + i, kWrite);
}

// Lines are read in the order of a permutation, which no processor foresees: so many ahead are asked for.
constexpr int64_t kAhead = 2;

// to[i] = from[order[i]], items of `size` bytes. Asks for the line at `next`, if any, `part` bytes at each step: all at
// once they would stall. Long items are written in streams that processors foresee.
template <class Size, class Part>
LPS_FN void gather_line(char* __restrict to, const char* __restrict from, const int64_t* __restrict order,
                        int64_t count, Size size, const char* next, Part part) {
  constexpr int64_t kStep = 8;
  int64_t i = 0;
  for (; i + kStep <= count; i += kStep) {
    if (next) prefetch(next + i * part, kStep * part);
    if (size <= 128) prefetch<true>(to + i * size + 512, kStep * size);
#pragma GCC unroll 8
    for (int64_t j = 0; j < kStep; ++j) copy_bytes(to + (i + j) * size, from + order[i + j] * size, size);
  }
  if (next) prefetch(next + i * part, (count - i) * part);
  for (; i < count; ++i) copy_bytes(to + i * size, from + order[i] * size, size);
}

// y[row, r] = x[perm[r]] and y[row, r, s] = x[perm[r], perm[s]], zero at padding. Any dtype: it moves bytes.
// x has an axis of samples where `each`; back: the other way round, x[row, r] goes to y[row, perm[r]].
inline void move_nodes(const Shape& s, const void* from, void* to, int64_t itemsize, bool each, bool back) {
  const int64_t line = s.inner() * itemsize;
  if (line == 0) return;
  const int64_t* inverse = back ? inverse_of(s) : nullptr;
  const bool cached = !each && s.k > 1 && s.n * line <= 1 << 18;  // by the first sample
  with_size(s.c * itemsize, [&](auto size) {
    for_lines(s, 4.0 + 0.05 * line, [&](int64_t row, int64_t begin, int64_t end) {
      const int64_t count = s.count(row), *order = back ? &inverse[row * s.n] : s.perm_of(row);
      char* dst = static_cast<char*>(to) + row * s.n * line;
      const char* src = static_cast<const char*>(from) + (each ? row : row / s.k) * s.n * line;
      const int64_t real = std::clamp(count, begin, end);
      if (s.order == 1) {
        for (int64_t r = begin; r < real; ++r) copy_bytes(dst + r * size, src + order[r] * size, size);
      } else {
        for (int64_t r = begin; r < real; ++r) {
          char* to_line = dst + r * line;
          const char* next = cached ? nullptr : src + order[std::min(r + kAhead, count - 1)] * line;
          gather_line(to_line, src + order[r] * line, order, count, size, next, size);
          std::memset(to_line + count * size, 0, (s.n - count) * size);
        }
      }
      std::memset(dst + real * line, 0, (end - real) * line);
    });
  });
}

// to += w from, and to = w from, of one node's channels.
template <class T, class F, class Channels>
LPS_FN void add_scaled(T* __restrict to, const F* __restrict from, T w, Channels c) {
  int64_t j = 0;
  if constexpr (kWidens<F> && std::is_same_v<T, float>) {
    for (; j + kLanes<T> <= c; j += kLanes<T>) store(to + j, load(to + j) + w * widen(from + j));
  }
  for (; j < c; ++j) to[j] += w * convert<T>(from[j]);
}

template <class T, class To, class From, class Channels>
LPS_FN void copy_scaled(To* __restrict to, const From* __restrict from, T w, Channels c) {
  int64_t j = 0;
  if constexpr (kWidens<From> && kWidens<To>) {
    for (; j + kLanes<T> <= c; j += kLanes<T>) narrow(w * widen(from + j), to + j);
  }
  for (; j < c; ++j) to[j] = convert<To>(w * convert<T>(from[j]));
}

// Where a result is summed: in its own place if that is wide enough, else in `spare`.
template <class T, class To>
LPS_FN T* own_line(To* to, std::vector<T>& spare) {
  if constexpr (std::is_same_v<To, T>) {
    return to;
  } else {
    return spare.data();
  }
}

// The first `count` numbers of `size`, summed there, and zeros behind them.
template <class T, class To>
LPS_FN void finish_line(const T* sum, To* to, int64_t count, int64_t size) {
  if constexpr (!std::is_same_v<To, T>) convert_row(sum, count, to);
  std::fill(to + count, to + size, To(0));
}

template <class From, class To, class Channels>
void scatter_sum_edges(const Shape& s, const From* y, const Compute<To>* weights, Compute<To> scale, To* x,
                       Channels c) {
  using T = Compute<To>;
  const int64_t* inverse = inverse_of(s);
  const int64_t size = s.inner();
  parallel_for(s.b * s.n, grain_for(0.5 * s.k * size), [&](int64_t begin, int64_t end) {
    std::vector<T> spare(std::is_same_v<To, T> ? 0 : size);
    for (int64_t at = begin; at < end; ++at) {
      const int64_t b = at / s.n, node = at % s.n, count = count_nodes(s.nodes, b, s.n);
      if (node >= count) {
        std::fill_n(x + at * size, size, To(0));
        continue;
      }
      T* const sum = own_line<T>(x + at * size, spare);
      const int64_t next = std::min(node + kAhead, count - 1);
      for (int64_t row = b * s.k; row < (b + 1) * s.k; ++row) {
        const From* line = y + (row * s.n + inverse[row * s.n + node]) * size;
        const From* ahead = y + (row * s.n + inverse[row * s.n + next]) * size;
        const int64_t* perm = s.perm_of(row);
        const T w = weights ? weights[row] : scale;
        const bool first = row == b * s.k;
        for (int64_t i = 0; i < count; ++i) {
          if (i * c * sizeof(From) % 64 < c * sizeof(From)) {
            prefetch(ahead + i * c, 64);
            prefetch<true>(sum + size + i * c, 64);
          }
          first ? copy_scaled(sum + perm[i] * c, line + i * c, w, c)
                : add_scaled(sum + perm[i] * c, line + i * c, w, c);
        }
      }
      finish_line(sum, x + at * size, s.k == 0 ? 0 : count * c, size);
    }
  });
}

template <class From, class To, class Channels>
void scatter_sum_of(const Shape& s, const From* y, const Compute<To>* weights, Compute<To> scale, To* x, Channels c) {
  using T = Compute<To>;
  if (s.order == 2) return scatter_sum_edges(s, y, weights, scale, x, c);
  // Few inputs: threads share one by ranges of target nodes. Samples are read in their order in memory and added where
  // they belong, which the cache holds; to read them in the order of the targets takes half as long again.
  const int64_t parts =
      std::clamp<int64_t>(torch::stable::get_num_threads() / std::max<int64_t>(s.b, 1), 1, s.n / 32 + 1);
  const int64_t part = (s.n + parts - 1) / std::max<int64_t>(parts, 1);
  parallel_for(s.b * parts, grain_for(0.5 * s.k * part * c), [&](int64_t begin, int64_t end) {
    std::vector<T> spare(std::is_same_v<To, T> ? 0 : part * c);
    for (int64_t item = begin; item < end; ++item) {
      const int64_t b = item / parts, low = item % parts * part, high = std::min(low + part, s.n);
      const int64_t count = count_nodes(s.nodes, b, s.n), real = std::clamp(count, low, std::max(low, high));
      if (low >= high) continue;
      To* to = x + (b * s.n + low) * c;
      T* const sum = own_line<T>(to, spare);
      for (int64_t row = b * s.k; row < (b + 1) * s.k; ++row) {
        const From* from = y + row * s.n * c;
        const int64_t* perm = s.perm_of(row);
        const T w = weights ? weights[row] : scale;
        const bool first = row == b * s.k;
        for (int64_t r = 0; r < count; ++r) {
          const int64_t node = perm[r] - low;
          if (node < 0 || node >= real - low) continue;
          first ? copy_scaled(sum + node * c, from + r * c, w, c) : add_scaled(sum + node * c, from + r * c, w, c);
        }
      }
      finish_line(sum, to, s.k == 0 ? 0 : (real - low) * c, (high - low) * c);
    }
  });
}

// x[perm[r]] = sum over samples of w y[sample, r], and so for edges; w = weights or the constant `scale`. Each target
// adds its samples in order, so the result does not depend on the threads.
template <class From, class To>
void scatter_sum(const Shape& s, const From* y, const Compute<To>* weights, Compute<To> scale, To* x) {
  if constexpr (std::is_same_v<From, To>) {  // one sample of edges is only moved, which is faster the other way round
    if (s.order == 2 && s.k == 1 && !weights && scale == 1) return move_nodes(s, y, x, sizeof(To), true, true);
  }
  with_channels(s.c, [&](auto channels) { scatter_sum_of(s, y, weights, scale, x, channels); });
}

template <class F, class Channels>
void gather_scaled_of(const Shape& s, const F* x, const Compute<F>* weights, Compute<F> scale, F* y, Channels c) {
  using T = Compute<F>;
  for_lines(s, 1.0 + 0.3 * s.inner(), [&](int64_t row, int64_t begin, int64_t end) {
    const int64_t count = s.count(row), *perm = s.perm_of(row);
    const T w = weights ? weights[row] : scale;
    const F* base = x + row / s.k * s.n * s.inner();
    for (int64_t r = begin; r < end; ++r) {
      F* dst = y + (row * s.n + r) * s.inner();
      const F* src = base + perm[r] * s.inner();
      if (r >= count) {
        std::fill_n(dst, s.inner(), F(0));
      } else if (s.order == 1) {
        copy_scaled(dst, src, w, c);
      } else {
        const F* ahead = base + perm[std::min(r + kAhead, count - 1)] * s.inner();
        for (int64_t i = 0; i < count; ++i) {
          if (i * c * sizeof(F) % 64 < c * sizeof(F)) {
            prefetch(ahead + i * c, 64);
            prefetch<true>(dst + i * c + s.inner(), 64);
          }
          copy_scaled(dst + i * c, src + perm[i] * c, w, c);
        }
        std::fill(dst + count * c, dst + s.inner(), F(0));
      }
    }
  });
}

// y[row, r] = w x[perm[r]], and so for edges: the gradient of scatter_sum.
template <class F>
void gather_scaled(const Shape& s, const F* x, const Compute<F>* weights, Compute<F> scale, F* y) {
  with_channels(s.c, [&](auto channels) { gather_scaled_of(s, x, weights, scale, y, channels); });
}

template <class T, class F>
void convert_all(const T* from, int64_t size, F* to) {
  parallel_for(size, 1 << 16, [&](int64_t begin, int64_t end) { convert_row(from + begin, end - begin, to + begin); });
}

}  // namespace lps::cpu
