// Gram-Schmidt of up to kChunk small matrices in lanes, see matrix_lanes.h.
#pragma once

#include <type_traits>

#include "core/usual_gram_schmidt.h"
#include "cpu/matrix_lanes.h"

namespace lps::cpu {

// Up to this d matrices go in lanes.
constexpr int64_t kSmall = 4, kSmallComplex = 3;

// Lanes from `count` on, which hold no matrix.
template <class T>
LPS_FN Vec<Int<T>> beyond(int64_t count) {
  Vec<Int<T>> lane;
  for (int i = 0; i < kLanes<T>; ++i) lane[i] = i;
  return lane >= static_cast<Int<T>>(std::min<int64_t>(count, kLanes<T>));
}

// What follows for the lanes that are not usual; the arrays of the others can stay in registers.
template <int D, int M, class T, class N>
__attribute__((noinline, cold)) void any_forward(const T* at, int lane, N (*q)[D], Vec<Int<T>>* mask) {
  read_columns<D, M>(at, lane, q);
  gram_schmidt<D, M>(q, false, mask);
}

template <int D, int M, class T, class N>
__attribute__((noinline, cold)) void any_backward(const T* v, const T* q, const Int<T>* flags, const T* g, int lane,
                                                  N (*gradient)[D]) {
  N columns[M][D], basis[M][D];
  Vec<Int<T>> mask[M];
  read_columns<D, M>(v, lane, columns);
  read_columns<D, M>(q, lane, basis);
  read_columns<D, M>(g, lane, gradient);
  for (int j = 0; j < M; ++j) mask[j] = load(flags + j * kChunk + lane) != 0;
  gram_schmidt_backward<D, M>(basis, columns, mask, gradient);
}

template <int D, int M, class N, class Mask>
LPS_FN void replace(N (*q)[D], Mask kept, const N (*others)[D]) {
  for (int j = 0; j < M; ++j) {
    for (int i = 0; i < D; ++i) q[j][i] = select(kept, q[j][i], others[j][i]);
  }
}

// Whether any column was completed. A lane's result does not depend on the others.
template <int D, int M, class T, class N>
__attribute__((noinline)) bool forward_lanes(T* at, Int<T>* flags, int64_t count, bool special) {
  Vec<Int<T>> all{};
  for (int lane = 0; lane < count; lane += kLanes<T>) {
    N v[M][D], q[M][D];
    read_columns<D, M>(at, lane, v);
    const Vec<Int<T>> usual = usual_gram_schmidt<D, M>(v, q) | beyond<T>(count - lane);
    Vec<Int<T>> completed[M] = {};
    if (any<Int<T>>(~usual)) {
      N others[M][D];
      Vec<Int<T>> mask[M];
      any_forward<D, M>(at, lane, others, mask);
      replace<D, M>(q, usual, others);
      for (int j = 0; j < M; ++j) all |= completed[j] = mask[j] & ~usual;
    }
    if (special) make_special<D, M>(q);
    write_columns<D, M>(at, lane, q);
    for (int j = 0; j < M; ++j) store<Int<T>>(flags + j * kChunk + lane, completed[j]);
  }
  return any<Int<T>>(all);
}

template <int D, int M, class T, class N>
__attribute__((noinline)) void backward_lanes(const T* v, const T* q, const Int<T>* flags, T* g, int64_t count) {
  for (int lane = 0; lane < count; lane += kLanes<T>) {
    N columns[M][D], basis[M][D], gradient[M][D];
    read_columns<D, M>(v, lane, columns);
    read_columns<D, M>(q, lane, basis);
    read_columns<D, M>(g, lane, gradient);
    Vec<Int<T>> usual = usual_gram_schmidt_backward<D, M>(basis, columns, gradient);
    for (int j = 0; j < M; ++j) usual &= load(flags + j * kChunk + lane) == 0;
    usual |= beyond<T>(count - lane);
    if (any<Int<T>>(~usual)) {
      N others[M][D];
      any_backward<D, M>(v, q, flags, g, lane, others);
      replace<D, M>(gradient, usual, others);
    }
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
