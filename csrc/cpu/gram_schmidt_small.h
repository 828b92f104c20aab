// Gram-Schmidt of up to kChunk small matrices in lanes, see matrix_lanes.h.
#pragma once

#include <type_traits>

#include "core/gram_schmidt.h"
#include "cpu/matrix_lanes.h"

namespace lps::cpu {

// Up to this d matrices go in lanes.
constexpr int64_t kSmall = 4, kSmallComplex = 3;

// Whether any column was completed.
template <int D, int M, class T, class N>
__attribute__((noinline)) bool forward_lanes(T* at, Int<T>* flags, int64_t count, bool special) {
  Vec<Int<T>> all{};
  for (int lane = 0; lane < count; lane += kLanes<T>) {
    N columns[M][D];
    Vec<Int<T>> mask[M];
    read_columns<D, M>(at, lane, columns);
    gram_schmidt<D, M>(columns, special, mask);
    write_columns<D, M>(at, lane, columns);
    for (int j = 0; j < M; ++j) {
      store<Int<T>>(flags + j * kChunk + lane, mask[j]);
      all |= mask[j];
    }
  }
  return any<Int<T>>(all);
}

template <int D, int M, class T, class N>
__attribute__((noinline)) void backward_lanes(T* v, const T* q, const Int<T>* flags, T* g, int64_t count) {
  for (int lane = 0; lane < count; lane += kLanes<T>) {
    N columns[M][D], basis[M][D], gradient[M][D];
    Vec<Int<T>> mask[M];
    read_columns<D, M>(v, lane, columns);
    read_columns<D, M>(q, lane, basis);
    read_columns<D, M>(g, lane, gradient);
    for (int j = 0; j < M; ++j) mask[j] = load(flags + j * kChunk + lane) != 0;
    gram_schmidt_backward<D, M>(basis, columns, mask, gradient);
    write_columns<D, M>(g, lane, gradient);
  }
}

// Calls body(d, m) with both as constants, for 1 <= m <= d <= kSmall.
template <class Body>
inline void small_switch(int64_t d, int64_t m, const Body& body) {
  const auto with = [&](auto D, auto M) {
    if (d == D && m == M) body(D, M);
  };
  const auto each = [&](auto D) {
    with(D, std::integral_constant<int, 1>());
    if constexpr (D >= 2) with(D, std::integral_constant<int, 2>());
    if constexpr (D >= 3) with(D, std::integral_constant<int, 3>());
    if constexpr (D >= 4) with(D, std::integral_constant<int, 4>());
  };
  each(std::integral_constant<int, 1>());
  each(std::integral_constant<int, 2>());
  each(std::integral_constant<int, 3>());
  each(std::integral_constant<int, 4>());
}

}  // namespace lps::cpu
