// Two uniform numbers in (0, 1) to two standard normal ones, as in lps_kernels/random.py: Box and Muller.
#pragma once

#include "core/number.h"

namespace lps {

// Of quarter turns as an angle in [-pi / 4, pi / 4]: Taylor series to below half an ulp.
template <class S>
LPS_FN void sine_cosine(S angle, S* sine, S* cosine) {
  using T = Scalar<S>;
  constexpr int terms = sizeof(T) == 4 ? 5 : 9;
  const S x2 = angle * angle;
  S s = Lanes<S>::splat(T(1)), c = s;
  LPS_UNROLL(9)
  for (int i = terms; i > 0; --i) {
    s = T(1) - s * x2 * T(1.0 / (2 * i * (2 * i + 1)));
    c = T(1) - c * x2 * T(1.0 / (2 * i * (2 * i - 1)));
  }
  *sine = s * angle;
  *cosine = c;
}

// log is the caller's: -2 log(u) = radius^2.
template <class S>
LPS_FN void box_muller(S radius, S turn, S* first, S* second) {
  using T = Scalar<S>;
  const S quarters = turn * T(4);  // in (0, 4)
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
  const S x = select(odd, sine, cosine), y = select(odd, cosine, sine);
  *first = radius * select(left, zero - x, x);
  *second = radius * select(below, zero - y, y);
}

}  // namespace lps
