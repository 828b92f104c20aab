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

// The columns of q from J on of all matrices that are usual. Column by column, because the roots and divisions of one
// vector of matrices wait for each other, and those of one column of several vectors do not.
template <int D, int M, class T, class N, int J = 0>
LPS_FN void usual_columns(const T* v, int64_t count, T* q, Int<T>* usual) {
  for (int lane = 0; lane < count; lane += kLanes<T>) {
    N from[D], columns[J + 1][D];
    read_column<D, M>(v, J, lane, from);
    read_columns<D, M, J>(q, lane, columns);
    Vec<Int<T>> mask = J > 0 ? load(usual + lane) : ~Vec<Int<T>>{};
    usual_column<D, M, J>(from, columns, &mask);
    write_column<D, M>(q, J, lane, columns[J]);
    store<Int<T>>(usual + lane, mask);
  }
  if constexpr (J + 1 < M) usual_columns<D, M, T, N, J + 1>(v, count, q, usual);
}

// q of v. Whether any column was completed. A lane's result does not depend on the others.
template <int D, int M, class T, class N>
__attribute__((noinline)) bool forward_lanes(const T* v, int64_t count, bool special, T* q, Int<T>* flags) {
  alignas(64) Int<T> are_usual[kChunk];
  usual_columns<D, M, T, N>(v, count, q, are_usual);
  Vec<Int<T>> all{};
  for (int lane = 0; lane < count; lane += kLanes<T>) {
    const Vec<Int<T>> usual = load(are_usual + lane) | beyond<T>(count - lane);
    Vec<Int<T>> completed[M] = {};
    if (any<Int<T>>(~usual)) {
      N columns[M][D], others[M][D];
      Vec<Int<T>> mask[M];
      read_columns<D, M>(q, lane, columns);
      any_forward<D, M>(v, lane, others, mask);
      replace<D, M>(columns, usual, others);
      write_columns<D, M>(q, lane, columns);
      for (int j = 0; j < M; ++j) all |= completed[j] = mask[j] & ~usual;
    }
    if (special) {
      N columns[M][D];
      read_columns<D, M>(q, lane, columns);
      make_special<D, M>(columns);
      write_columns<D, M>(q, lane, columns);
    }
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
