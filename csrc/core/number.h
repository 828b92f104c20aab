// What the mathematics of core/ computes with: one number, a vector of them with one group element a lane, or complex
// numbers of either.
#pragma once

#include <cmath>

#include "core/macros.h"

namespace lps {

// What a scalar and a vector of scalars do not spell alike. cpu/matrix_lanes.h has it for vectors.
template <class S>
struct Lanes {
  using Scalar = S;
  static LPS_FN S splat(S x) {
    return x;
  }
  static LPS_FN S root(S x) {
    return sqrt(x);
  }
  static LPS_FN bool any(bool mask) {
    return mask;
  }
};

template <class S>
using Scalar = typename Lanes<S>::Scalar;

template <class S>
struct Complex {
  S re, im;
};

template <class N>
struct RealOf {
  using type = N;
};
template <class S>
struct RealOf<Complex<S>> {
  using type = S;
};
// The real numbers beside N.
template <class N>
using Real = typename RealOf<N>::type;

template <class S>
LPS_FN Complex<S> operator+(Complex<S> a, Complex<S> b) {
  return {a.re + b.re, a.im + b.im};
}
template <class S>
LPS_FN Complex<S> operator-(Complex<S> a, Complex<S> b) {
  return {a.re - b.re, a.im - b.im};
}
template <class S>
LPS_FN Complex<S> operator*(Complex<S> a, Complex<S> b) {
  return {a.re * b.re - a.im * b.im, a.re * b.im + a.im * b.re};
}

template <class S>
LPS_FN S conjugate(S a) {
  return a;
}
template <class S>
LPS_FN Complex<S> conjugate(Complex<S> a) {
  return {a.re, S{} - a.im};
}

template <class S>
LPS_FN S square(S a) {
  return a * a;
}
template <class S>
LPS_FN S square(Complex<S> a) {
  return a.re * a.re + a.im * a.im;
}

template <class S>
LPS_FN S magnitude(S a) {
  return a < Lanes<S>::splat(0) ? S{} - a : a;
}
template <class S>
LPS_FN S magnitude(Complex<S> a) {
  const S re = magnitude(a.re), im = magnitude(a.im);
  return re < im ? im : re;
}

// 0 where a is finite, else NaN.
template <class S>
LPS_FN S nought(S a) {
  return a - a;
}
template <class S>
LPS_FN S nought(Complex<S> a) {
  return (a.re - a.re) + (a.im - a.im);
}

template <class S>
LPS_FN S real_part(S a) {
  return a;
}
template <class S>
LPS_FN S real_part(Complex<S> a) {
  return a.re;
}

template <class S>
LPS_FN S scale(S a, S by) {
  return a * by;
}
template <class S>
LPS_FN Complex<S> scale(Complex<S> a, S by) {
  return {a.re * by, a.im * by};
}

template <class M, class S>
LPS_FN S select(M mask, S a, S b) {
  return mask ? a : b;
}
template <class M, class S>
LPS_FN Complex<S> select(M mask, Complex<S> a, Complex<S> b) {
  return {mask ? a.re : b.re, mask ? a.im : b.im};
}

template <class N>
struct Make {
  static LPS_FN N real(Real<N> x) {
    return x;
  }
};
template <class S>
struct Make<Complex<S>> {
  static LPS_FN Complex<S> real(S x) {
    return {x, S{}};
  }
};

// sum_i conj(a[i]) b[i]
template <int D, class N>
LPS_FN N inner(const N* a, const N* b) {
  N sum = conjugate(a[0]) * b[0];
  LPS_UNROLL(4)
  for (int i = 1; i < D; ++i) sum = sum + conjugate(a[i]) * b[i];
  return sum;
}

// a -= by b
template <int D, class N>
LPS_FN void subtract(N* a, N by, const N* b) {
  LPS_UNROLL(4)
  for (int i = 0; i < D; ++i) a[i] = a[i] - by * b[i];
}

template <int D, class N>
LPS_FN Real<N> square_sum(const N* a) {
  Real<N> sum = square(a[0]);
  LPS_UNROLL(4)
  for (int i = 1; i < D; ++i) sum = sum + square(a[i]);
  return sum;
}

template <int D, class N>
LPS_FN Real<N> largest_magnitude(const N* a) {
  Real<N> largest = magnitude(a[0]);
  LPS_UNROLL(4)
  for (int i = 1; i < D; ++i) {
    const Real<N> size = magnitude(a[i]);
    largest = size > largest ? size : largest;
  }
  return largest;
}

template <int D, class N>
LPS_FN void scale_by(N* a, Real<N> by) {
  LPS_UNROLL(4)
  for (int i = 0; i < D; ++i) a[i] = scale(a[i], by);
}

}  // namespace lps
