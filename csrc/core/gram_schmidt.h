// Gram-Schmidt of one matrix in registers, and its derivative. N is a scalar or a vector with a matrix a lane, or
// complex of these; columns[j][i] is entry (i, j).
#pragma once

#include <cfloat>

#include "core/number.h"

namespace lps {

// As in lps_kernels/ops/gram_schmidt.py, which says why.
constexpr double kCompletion = 0.4;

template <class T>
constexpr T kTiniest = sizeof(T) == 4 ? T(FLT_MIN) : T(DBL_MIN);

// (eps (4 + sqrt(d)))^2: what squared length rounding leaves of a column of length 1 that depends on the others.
template <class T>
LPS_FN T dependence(int d) {
  const T eps = sizeof(T) == 4 ? T(FLT_EPSILON) : T(DBL_EPSILON);
  const T bound = eps * (T(4) + sqrt(T(d)));
  return bound * bound;
}

// u -= Q Q^H u over the first `count` columns, classically: all inner products first.
template <int D, int COUNT, class N>
LPS_FN void project(const N (*q)[D], N* u) {
  if constexpr (COUNT > 0) {
    N h[COUNT];
    LPS_UNROLL(4)
    for (int l = 0; l < COUNT; ++l) h[l] = inner<D>(q[l], u);
    LPS_UNROLL(4)
    for (int l = 0; l < COUNT; ++l) subtract<D>(u, h[l], q[l]);
  }
}

// What is left of the first standard vector of which enough is left, orthogonal to J columns; not yet of length 1.
template <int D, int J, class N>
LPS_RARE void complete(const N (*q)[D], N* u) {
  using S = Real<N>;
  using L = Lanes<S>;
  using T = Scalar<S>;
  const S zero = L::splat(T(0)), one = L::splat(T(1)), enough = L::splat(T(kCompletion) * T(D - J) / T(D));
  auto searching = zero < one;
  LPS_UNROLL(4)
  for (int i = 0; i < D; ++i) {
    S left = one;
    for (int l = 0; l < J; ++l) left = left - square(q[l][i]);
    const auto here = searching & (left > enough);
    u[i] = Make<N>::real(select(here, one, zero));
    searching = searching & (here == 0);
  }
  project<D, J>(q, u);
  project<D, J>(q, u);
}

template <int D, class N>
LPS_FN Real<N> determinant(const N (*a)[D]) {
  static_assert(D <= 4);
  if constexpr (D == 1) {
    return a[0][0];
  } else if constexpr (D == 2) {
    return a[0][0] * a[1][1] - a[0][1] * a[1][0];
  } else if constexpr (D == 3) {
    return a[0][0] * (a[1][1] * a[2][2] - a[1][2] * a[2][1]) + a[0][1] * (a[1][2] * a[2][0] - a[1][0] * a[2][2]) +
           a[0][2] * (a[1][0] * a[2][1] - a[1][1] * a[2][0]);
  } else {  // by 2 x 2 minors of the first and the last two columns
    const auto low = [&](int i, int j) { return a[0][i] * a[1][j] - a[0][j] * a[1][i]; };
    const auto high = [&](int i, int j) { return a[2][i] * a[3][j] - a[2][j] * a[3][i]; };
    return low(0, 1) * high(2, 3) - low(0, 2) * high(1, 3) + low(0, 3) * high(1, 2) + low(1, 2) * high(0, 3) -
           low(1, 3) * high(0, 2) + low(2, 3) * high(0, 1);
  }
}

// 1 where every entry is finite.
template <int D, int M, class N>
LPS_FN auto all_finite(const N (*v)[D]) {
  const auto zero = Lanes<Real<N>>::splat(0);
  auto sum = zero;
  LPS_UNROLL(4)
  for (int j = 0; j < M; ++j) {
    LPS_UNROLL(4)
    for (int i = 0; i < D; ++i) sum = sum + nought(v[j][i]);
  }
  return sum == zero;
}

// a *= 1 / its largest magnitude, or 1 where `use` is false; that factor.
template <int D, class N, class Mask>
LPS_FN Real<N> normalize_scale(N* a, Real<N> largest, Mask use) {
  const auto one = Lanes<Real<N>>::splat(1);
  const auto factor = one / select(use, largest, one);
  scale_by<D>(a, factor);
  return factor;
}

template <int D, int M, int J, class N, class Mask>
LPS_FN void orthonormalize_column(N (*v)[D], Mask* degenerate) {
  using S = Real<N>;
  using L = Lanes<S>;
  using T = Scalar<S>;
  N* u = v[J];
  const S one = L::splat(T(1)), largest = largest_magnitude<D>(u);
  const auto nonzero = largest >= L::splat(kTiniest<T>);
  normalize_scale<D>(u, largest, nonzero);
  const S start = square_sum<D>(u);
  if constexpr (D == 3 && M == 3 && J == 2 && sizeof(N) == sizeof(S)) {
    // The only direction left, with the sign of the column: fewer operations, and orthogonal for any column.
    const N cross[3] = {v[0][1] * v[1][2] - v[0][2] * v[1][1], v[0][2] * v[1][0] - v[0][0] * v[1][2],
                        v[0][0] * v[1][1] - v[0][1] * v[1][0]};
    const N along = inner<3>(cross, u);
    for (int i = 0; i < 3; ++i) u[i] = cross[i] * along;
  } else {
    project<D, J>(v, u);
    project<D, J>(v, u);
  }
  S left = square_sum<D>(u);
  const auto good = nonzero & (left > start * dependence<T>(D));
  degenerate[J] = good == 0;
  if (L::any(degenerate[J])) {
    N basis[J + 1][D], completed[D];  // copies, so that v itself can stay in registers
    for (int l = 0; l < J; ++l) {
      for (int i = 0; i < D; ++i) basis[l][i] = v[l][i];
    }
    complete<D, J>(basis, completed);
    LPS_UNROLL(4)
    for (int i = 0; i < D; ++i) u[i] = select(good, u[i], completed[i]);
    left = square_sum<D>(u);
  }
  scale_by<D>(u, one / L::root(left));
  if constexpr (J + 1 < M) orthonormalize_column<D, M, J + 1>(v, degenerate);
}

// The first column takes the determinant's sign, where there is one.
template <int D, int M, class N>
LPS_FN void make_special(N (*q)[D]) {
  using S = Real<N>;
  if constexpr (D == M && sizeof(N) == sizeof(S)) {
    const S det = determinant<D>(q), zero = Lanes<S>::splat(0);
    for (int i = 0; i < D; ++i) q[0][i] = det < zero ? zero - q[0][i] : q[0][i];
  }
}

// v becomes q. degenerate[j]: column j is completed from the standard basis, or the matrix is not finite.
template <int D, int M, class N, class Mask>
LPS_FN void gram_schmidt(N (*v)[D], bool special, Mask* degenerate) {
  using S = Real<N>;
  using T = Scalar<S>;
  const auto finite = all_finite<D, M>(v);
  if (Lanes<S>::any(finite == 0)) {
    for (int j = 0; j < M; ++j) {
      for (int i = 0; i < D; ++i) {
        v[j][i] = select(finite, v[j][i], Make<N>::real(Lanes<S>::splat(i == j ? T(1) : T(0))));
      }
    }
  }
  orthonormalize_column<D, M, 0>(v, degenerate);
  LPS_UNROLL(4)
  for (int j = 0; j < M; ++j) degenerate[j] = degenerate[j] | (finite == 0);
  if (special) make_special<D, M>(v);
}

// change_i = conj(r_i) sum_{l < J} p_l q_l + conj(p_i) (v - r_J q_J), p = h / r_J: see below.
template <int D, int J, class N>
LPS_RARE void couple(const N (*q)[D], const N* v, const N* r, const N* h, Real<N> inverse, N (*change)[D]) {
  for (int i = 0; i < D; ++i) {
    const N rest = v[i] - r[J] * q[J][i];
    N along = scale(h[0], inverse) * q[0][i];
    for (int l = 1; l < J; ++l) along = along + scale(h[l], inverse) * q[l][i];
    for (int l = 0; l < J; ++l) change[l][i] = conjugate(r[l]) * along + conjugate(scale(h[l], inverse)) * rest;
  }
}

// One column of the derivative, from the last to the first. With r_ij = <q_i, v_j>, h_i = <q_i, g_j>, n columns:
//     g_v_j = p = (g_j - Re(h_j) q_j - sum_{i < j} h_i q_i) / r_jj
//     g_i  -= conj(r_ij) p + conj(h_i) q_j                                               for i < j
// The chain rule has more terms, Hermitian in (i, l), that cancel because <q_i, dq_l> + <dq_i, q_l> = 0:
//     g_i  -= conj(r_ij) sum_{l < j} p_l q_l + conj(p_i) (v_j - r_jj q_j),  p_l = h_l / r_jj
// They count where one of the columns is completed, hence a constant. r_jj carries the sign of `special`.
template <int D, int M, int J, class N, class Mask>
LPS_FN void gram_schmidt_backward_column(const N (*q)[D], N (*v)[D], const Mask* degenerate, Mask coupled, N (*g)[D]) {
  using S = Real<N>;
  using L = Lanes<S>;
  const S one = L::splat(1), zero = L::splat(0);
  const auto alive = degenerate[J] == 0;
  LPS_UNROLL(4)
  for (int i = 0; i < D; ++i) {
    v[J][i] = select(alive, v[J][i], Make<N>::real(zero));
    g[J][i] = select(alive, g[J][i], Make<N>::real(zero));
  }
  const S factor = normalize_scale<D>(v[J], largest_magnitude<D>(v[J]), alive);
  N r[J + 1], h[J + 1];
  LPS_UNROLL(4)
  for (int i = 0; i <= J; ++i) {
    r[i] = inner<D>(q[i], v[J]);
    h[i] = inner<D>(q[i], g[J]);
  }
  const S inverse = one / select(alive, real_part(r[J]), one);
  N* p = g[J];
  if constexpr (J == D - 1 && sizeof(N) == sizeof(S)) {
    for (int i = 0; i < D; ++i) p[i] = zero;  // a last direction can't turn
  } else {
    subtract<D>(p, Make<N>::real(real_part(h[J])), q[J]);
    LPS_UNROLL(4)
    for (int i = 0; i < J; ++i) subtract<D>(p, h[i], q[i]);
    scale_by<D>(p, inverse);
  }
  LPS_UNROLL(4)
  for (int i = 0; i < J; ++i) {
    subtract<D>(g[i], conjugate(r[i]), p);
    subtract<D>(g[i], conjugate(h[i]), q[J]);
  }
  if constexpr (J > 0) {
    if (L::any(coupled)) {
      N basis[J + 1][D], change[J][D];
      for (int l = 0; l <= J; ++l) {
        for (int i = 0; i < D; ++i) basis[l][i] = q[l][i];
      }
      couple<D, J>(basis, v[J], r, h, inverse, change);
      for (int l = 0; l < J; ++l) {
        for (int i = 0; i < D; ++i) g[l][i] = g[l][i] - select(coupled, change[l][i], Make<N>::real(zero));
      }
    }
  }
  scale_by<D>(p, factor);
  if constexpr (J > 0) gram_schmidt_backward_column<D, M, J - 1>(q, v, degenerate, coupled, g);
}

// g, the gradient of q, becomes that of v, which is scaled.
template <int D, int M, class N, class Mask>
LPS_FN void gram_schmidt_backward(const N (*q)[D], N (*v)[D], const Mask* degenerate, N (*g)[D]) {
  Mask coupled = degenerate[0];
  for (int j = 1; j < M; ++j) coupled = coupled | degenerate[j];
  gram_schmidt_backward_column<D, M, M - 1>(q, v, degenerate, coupled, g);
}

}  // namespace lps
