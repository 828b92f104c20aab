// One vector of space for all nodes: added to each, or their sum.
#pragma once

#include <algorithm>
#include <vector>

#include "cpu/convert.h"
#include "cpu/parallel.h"

namespace lps::cpu {

template <class T>
struct VectorBuffer {
  std::vector<T> values;
};

// Numbers of nodes (d, c) side by side, as one row that fills some vectors; 0 where there are few nodes.
inline int64_t side_by_side(int64_t n, int64_t d, int64_t c) {
  return n * d * c < 256 ? 0 : std::clamp<int64_t>(64 / (d * c), 1, 64) * d * c;
}

// Calls body(number, a) for the numbers of n nodes, a is that of the vector.
template <class Body>
LPS_FN void each_number(int64_t n, int64_t d, int64_t c, const Body& body) {
  for (int64_t i = 0; i < n; ++i) {
    for (int64_t a = 0; a < d; ++a) {
      for (int64_t j = 0; j < c; ++j) body((i * d + a) * c + j, a);
    }
  }
}

// to += from, summed in T.
template <class T, class To, class From>
LPS_FN void add_row(To* __restrict to, const From* __restrict from, int64_t size) {
  for (int64_t i = 0; i < size; ++i) to[i] = convert<To>(convert<T>(to[i]) + convert<T>(from[i]));
}

// x[i, a, :] += by v[a] of n nodes.
template <class T, class S>
void add_vector(S* x, const T* v, T by, int64_t n, int64_t d, int64_t c) {
  if (const int64_t row = side_by_side(n, d, c)) {
    std::vector<T>& repeated = workspace<VectorBuffer<T>>().values;
    repeated.resize(row);
    each_number(row / (d * c), d, c, [&](int64_t i, int64_t a) { repeated[i] = by * v[a]; });
    for (const S* end = x + n * d * c; x < end; x += row) {
      add_row<T>(x, repeated.data(), std::min<int64_t>(row, end - x));
    }
  } else {
    each_number(n, d, c, [&](int64_t i, int64_t a) { x[i] = convert<S>(convert<T>(x[i]) + by * v[a]); });
  }
}

// v[a] = sum of x[i, a, :] over n nodes.
template <class T, class S>
void sum_vectors(const S* x, T* v, int64_t n, int64_t d, int64_t c) {
  std::fill_n(v, d, T(0));
  if (const int64_t row = side_by_side(n, d, c)) {
    std::vector<T>& sums = workspace<VectorBuffer<T>>().values;
    sums.assign(row, T(0));
    for (const S* end = x + n * d * c; x < end; x += row) {
      add_row<T>(sums.data(), x, std::min<int64_t>(row, end - x));
    }
    each_number(row / (d * c), d, c, [&](int64_t i, int64_t a) { v[a] += sums[i]; });
  } else {
    each_number(n, d, c, [&](int64_t i, int64_t a) { v[a] += convert<T>(x[i]); });
  }
}

}  // namespace lps::cpu
