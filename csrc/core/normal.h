// Uniform numbers in (0, 1) to points of the unit circle and to standard normal numbers, as in lps_kernels/random.py.
#pragma once

#include "core/number.h"

namespace lps {

struct InverseFactorials {
  double of[20];
  constexpr InverseFactorials() : of() {
    of[0] = 1;
    for (int i = 1; i < 20; ++i) of[i] = of[i - 1] / i;
  }
};

// Of angles in [-pi / 4, pi / 4]: Taylor series to below half an ulp, by Horner's rule.
template <class S>
LPS_FN void sine_cosine(S angle, S* sine, S* cosine) {
  using T = Scalar<S>;
  constexpr int terms = sizeof(T) == 4 ? 5 : 9;
  constexpr InverseFactorials inverse;
  const S x2 = angle * angle;
  S s = Lanes<S>::splat(T(inverse.of[2 * terms + 1])), c = Lanes<S>::splat(T(inverse.of[2 * terms]));
  LPS_UNROLL(9)
  for (int i = terms - 1; i >= 0; --i) {
    s = T(inverse.of[2 * i + 1]) - s * x2;
    c = T(inverse.of[2 * i]) - c * x2;
  }
  *sine = s * angle;
  *cosine = c;
}

// (cos, sin) of a turn's part in (0, 1).
template <class S>
LPS_FN void on_circle(S turn, S* x, S* y) {
  using T = Scalar<S>;
  const S quarters = turn * T(4);
  const S zero = Lanes<S>::splat(T(0)), half = Lanes<S>::splat(T(0.5)), one = half + half;
  S quadrant = select(quarters >= half, one, zero);
  quadrant = quadrant + select(quarters >= half + one, one, zero);
  quadrant = quadrant + select(quarters >= half + one + one, one, zero);
  quadrant = quadrant + select(quarters >= half + one + one + one, one, zero);
  S sine, cosine;
  sine_cosine<S>((quarters - quadrant) * T(1.5707963267948966), &sine, &cosine);
  const auto odd = (quadrant == one) | (quadrant == one + one + one);
  const auto left = (quadrant == one) | (quadrant == one + one);
  const auto below = (quadrant == one + one) | (quadrant == one + one + one);
  const S first = select(odd, sine, cosine), second = select(odd, cosine, sine);
  *x = select(left, zero - first, first);
  *y = select(below, zero - second, second);
}

// Box and Muller. The logarithm is the caller's: radius^2 = -2 log(u).
template <class S>
LPS_FN void box_muller(S radius, S turn, S* first, S* second) {
  S x, y;
  on_circle<S>(turn, &x, &y);
  *first = radius * x;
  *second = radius * y;
}

}  // namespace lps
