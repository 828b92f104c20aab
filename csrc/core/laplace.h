// Products with the SoftSort kernel K[i, j] = exp(-|t_i - t_j| / tau) of sorted scores, as scans: the mathematics of
// one row, or of as many rows as V has lanes. V is a float, a double or a vector of them.
#pragma once

#include "core/macros.h"

namespace lps {

// Gaps are clipped here, in units of tau: the decay is zero, and zero times the gap is too.
constexpr double kFarApart = 1e4;

// One direction of K x without its diagonal: strict_i = sum over j before i of K[i, j] x_j. The diagonal is left out
// rather than subtracted later, which would lose all digits of what is far smaller.
//
// The row is cut into blocks. `decay` is K between neighbours, zero at the first element of a block, and `reach` is K
// between the element and the last one of the block before: taken from the difference of their scores, not from a
// product of decays, so that rounding does not pile up along a row.
template <class V>
struct Scan {
  V local{}, carry{}, strict{}, last{};

  LPS_FN V step(V decay, V reach, V x) {
    strict = decay * local + reach * carry;
    local = decay * local + x;
    last = x;
    return strict;
  }
  LPS_FN void end_block() {
    carry = strict + last;
  }
};

// The same with its first moment, sum over j before i of K[i, j] (|t_i - t_j| / tau) x_j. `gap` and `reach_gap` are the
// distances, in units of tau, that belong to `decay` and `reach`.
template <class V>
struct MomentScan {
  Scan<V> sum;
  V local{}, carry{}, moment{};

  LPS_FN void step(V decay, V reach, V gap, V reach_gap, V x) {
    local = decay * (local + gap * sum.local);
    moment = local + reach * (carry + reach_gap * sum.carry);
    sum.step(decay, reach, x);
  }
  LPS_FN void end_block() {
    sum.end_block();
    carry = moment;
  }
};

// The entropy of q_j = K[i, j] w_j / y_i with y = K w = w + e. moment is the first moment of w, e_log that of w log w
// without the diagonal. `rest` = H - log(y / w); written so that nothing cancels where q is nearly uniform.
template <class V>
struct EntropyTerms {
  V y, rest;
};

template <class V>
LPS_FN EntropyTerms<V> entropy_terms(V w, V log_w, V e, V e_log, V moment) {
  const V y = w + e;
  return {y, (moment + log_w * e - e_log) / y};
}

}  // namespace lps
