// Uniformly distributed matrices of O(d) for d <= 3 from four uniform numbers in (0, 1).
#pragma once

#include "core/normal.h"

namespace lps {

constexpr int kHaarWords = 4, kAngles = 3;  // words a matrix draws, and the largest d that angles describe

// Columns q[j][i], as lps_kernels/ops/random_orthogonal.py: a turn about the last axis for d = 2, Euler's angles with a
// uniform cosine of the middle one for d = 3; then the sign of the last column, unless it is to be a rotation.
template <int D, class S>
LPS_FN void haar_by_angles(const S* u, bool special, S (*q)[D]) {
  using T = Scalar<S>;
  const S zero = Lanes<S>::splat(T(0)), one = Lanes<S>::splat(T(1));
  const S sign = special ? one : select(u[3] < Lanes<S>::splat(T(0.5)), one, zero - one);
  if constexpr (D == 1) {
    q[0][0] = sign;
  } else {
    S x, y;
    on_circle<S>(u[0], &x, &y);
    if constexpr (D == 2) {
      q[0][0] = x, q[0][1] = y;
      q[1][0] = zero - sign * y, q[1][1] = sign * x;
    } else {
      S a, b;
      on_circle<S>(u[1], &a, &b);
      const S height = one - T(2) * u[2], radius = T(2) * Lanes<S>::root(u[2] * (one - u[2]));
      const S p = height * x, r = height * y, s = sign * radius;
      q[0][0] = p * a - y * b, q[0][1] = r * a + x * b, q[0][2] = zero - radius * a;
      q[1][0] = zero - p * b - y * a, q[1][1] = x * a - r * b, q[1][2] = radius * b;
      q[2][0] = s * x, q[2][1] = s * y, q[2][2] = sign * height;
    }
  }
}

}  // namespace lps
