// Gram-Schmidt of matrices that need neither scaling nor completion, which is nearly all: a third of the operations of
// core/gram_schmidt.h, without branches, and a mask of those that are such.
#pragma once

#include "core/gram_schmidt.h"

namespace lps {

// Lengths whose squares and inverses keep all digits, with room for a gradient.
constexpr double kShort = 1e-15, kLong = 1e15;

template <class S>
LPS_FN auto between(S x, double low, double high) {
  using T = Scalar<S>;
  return (x > Lanes<S>::splat(static_cast<T>(low))) & (x < Lanes<S>::splat(static_cast<T>(high)));
}

// Column J of q, of M, from those before it and that of v; as gram_schmidt without `special`, where *usual stays true.
template <int D, int M, int J, class N, class Mask>
LPS_FN void usual_column(const N* v, N (*q)[D], Mask* usual) {
  using S = Real<N>;
  using T = Scalar<S>;
  const S one = Lanes<S>::splat(T(1)), zero = one - one, start = square_sum<D>(v);
  *usual = *usual & between(start, kShort * kShort, kLong * kLong);
  N* u = q[J];
  if constexpr (D == 3 && M == 3 && J == 2 && sizeof(N) == sizeof(S)) {  // the only direction left, as in the column
    u[0] = q[0][1] * q[1][2] - q[0][2] * q[1][1];
    u[1] = q[0][2] * q[1][0] - q[0][0] * q[1][2];
    u[2] = q[0][0] * q[1][1] - q[0][1] * q[1][0];
    const S along = inner<3>(u, v);
    *usual = *usual & (along * along > start * dependence<T>(D));
    const S inverse = T(1.5) - T(0.5) * square_sum<3>(u);  // of its length, which is 1 but for rounding
    scale_by<3>(u, select(along < zero, zero - inverse, inverse));
  } else {
    LPS_UNROLL(4)
    for (int i = 0; i < D; ++i) u[i] = v[i];
    project<D, J>(q, u);
    project<D, J>(q, u);
    const S left = J > 0 ? square_sum<D>(u) : start;
    if constexpr (J > 0) *usual = *usual & (left > start * dependence<T>(D));
    scale_by<D>(u, one / Lanes<S>::root(left));
  }
}

// As gram_schmidt_backward_column. A last direction cannot turn: nothing of its v is needed.
template <int D, int J, class N, class Mask>
LPS_FN void usual_backward_column(const N (*q)[D], const N (*v)[D], N (*g)[D], Mask* usual) {
  using S = Real<N>;
  using T = Scalar<S>;
  constexpr bool last = J == D - 1 && sizeof(N) == sizeof(S);
  N h[J + 1];
  LPS_UNROLL(4)
  for (int i = 0; i <= J; ++i) h[i] = inner<D>(q[i], g[J]);
  LPS_UNROLL(4)
  for (int i = 0; i < J; ++i) subtract<D>(g[i], conjugate(h[i]), q[J]);
  N* p = g[J];
  if constexpr (last) {
    for (int i = 0; i < D; ++i) p[i] = Make<N>::real(Lanes<S>::splat(T(0)));
  } else {
    const N length = inner<D>(q[J], v[J]);
    *usual = *usual & between(magnitude(length), kShort, kLong);
    subtract<D>(p, Make<N>::real(real_part(h[J])), q[J]);
    LPS_UNROLL(4)
    for (int i = 0; i < J; ++i) subtract<D>(p, h[i], q[i]);
    scale_by<D>(p, Lanes<S>::splat(T(1)) / real_part(length));
    LPS_UNROLL(4)
    for (int i = 0; i < J; ++i) {
      const N r = inner<D>(q[i], v[J]);
      *usual = *usual & (magnitude(r) < Lanes<S>::splat(T(kLong)));
      subtract<D>(g[i], conjugate(r), p);
    }
  }
  if constexpr (J > 0) usual_backward_column<D, J - 1>(q, v, g, usual);
}

// g, the gradient of q, becomes that of v where the result is true and no column was completed.
template <int D, int M, class N>
LPS_FN auto usual_gram_schmidt_backward(const N (*q)[D], const N (*v)[D], N (*g)[D]) {
  const auto zero = Lanes<Real<N>>::splat(0);
  auto usual = zero == zero;
  usual_backward_column<D, M - 1>(q, v, g, &usual);
  return usual;
}

}  // namespace lps
