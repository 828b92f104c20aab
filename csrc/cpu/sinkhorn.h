// The Sinkhorn iteration on kLanes rows at once, and its exact, unrolled derivative.
//
// K is symmetric, so both half steps are x_{m+1} = 1 / (K x_m), x_0 = 1, and after M = 2 n_iter of them row = x_{M-1},
// col = x_M. A sweep that completes K x_m in one direction has x_{m+1} in hand element by element and starts its scan
// in the same direction, which is the one that the next sweep, coming back, needs: one sweep a half step.
#pragma once

#include "cpu/lanes.h"

namespace lps::cpu {

template <class T>
struct Sinkhorn {
  using V = Vec<T>;

  Decays<T> decays;
  std::vector<V> iterates;     // x_0 .. x_M where kept, else the last two
  std::vector<V> differences;  // D x_0 .. D x_{M-1} where kept: the sum over lower minus that over higher ranks
  std::vector<V> opposite, opposite_held;  // the scan of the sweep before, which came from the other side
  std::vector<V> q, sig;

  // The scalings of n elements after n_iter iterations. keep: all that `backward` needs.
  void forward(int64_t n, int64_t n_iter, bool keep) {
    const int64_t half_steps = 2 * n_iter;
    iterates.resize((keep ? half_steps + 1 : 2) * n);
    differences.resize(keep ? half_steps * n : 0);
    std::fill_n(iterates.begin(), n, splat<T>(1));
    start(iterates.data(), n);
    for (int64_t m = 0; m < half_steps; ++m) {
      const V* x = iterate(m, n, keep);
      V *next = iterate(m + 1, n, keep), *difference = keep ? differences.data() + m * n : nullptr;
      with_flags(m % 2 == 0, decays.any_tied, [&](auto up, auto ties) {
        keep ? forward_sweep<up.value, ties.value, true>(x, next, difference, n)
             : forward_sweep<up.value, ties.value, false>(x, next, difference, n);
      });
    }
  }

  const V* row(int64_t n, int64_t n_iter, bool keep) {
    return iterate(n_iter > 0 ? 2 * n_iter - 1 : 0, n, keep);
  }
  const V* col(int64_t n, int64_t n_iter, bool keep) {
    return iterate(2 * n_iter, n, keep);
  }

  // rho, kap: gradients of log row and log col. Adds the gradient of t / tau to sig. After `forward` that kept.
  void backward(const V* rho, const V* kap, int64_t n, int64_t n_iter) {
    const int64_t half_steps = 2 * n_iter;
    if (half_steps == 0 || n == 0) return;
    q.resize(n);
    const V* last = iterate(half_steps, n, true);
    for (int64_t i = 0; i < n; ++i) q[i] = last[i] * kap[i];
    start(q.data(), n);
    for (int64_t m = half_steps - 1; m >= 0; --m) {
      const V *x = iterate(m, n, true), *extra = m == half_steps - 1 ? rho : nullptr;
      with_flags((half_steps - 1 - m) % 2 == 0, decays.any_tied, [&](auto up, auto ties) {
        backward_sweep<up.value, ties.value>(x, differences.data() + m * n, extra, n);
      });
    }
  }

 private:
  V* iterate(int64_t m, int64_t n, bool keep) {
    return iterates.data() + (keep ? m : m % 2) * n;
  }

  template <class Body>
  static void with_flags(bool up, bool ties, const Body& body) {
    constexpr std::true_type yes{};
    constexpr std::false_type no{};
    up ? (ties ? body(yes, yes) : body(yes, no)) : (ties ? body(no, yes) : body(no, no));
  }

  // The scan that the first sweep, an upward one, finds: that of x downwards.
  void start(const V* x, int64_t n) {
    opposite.resize(n);
    opposite_held.resize(n);
    const V *decay = decays.template decay<false>(), *reach = decays.template reach<false>();
    Scan<V> scan;
    Held<T> held;
    walk_down(
        n,
        [&](int64_t i) {
          opposite[i] = scan.step(decay[i], reach[i], x[i]);
          opposite_held[i] = held.template step<false>(decays, i, opposite[i]);
        },
        [&] { scan.end_block(); });
  }

  template <bool kUp, bool kTies, bool kKeep>
  void forward_sweep(const V* x, V* next, V* difference, int64_t n) {
    const V *decay = decays.template decay<kUp>(), *reach = decays.template reach<kUp>();
    V *other = opposite.data(), *other_held = opposite_held.data();
    Scan<V> now, then;
    Held<T> held_now, held_then;
    walk<kUp>(
        n,
        [&](int64_t i) {
          const V d = decay[i], r = reach[i], xi = x[i], there = other[i];
          const V here = now.step(d, r, xi);
          const V result = reciprocal(here + (there + xi));
          next[i] = result;
          other[i] = then.step(d, r, result);
          if constexpr (kKeep && kTies) {
            const V kept = held_now.template step<kUp>(decays, i, here);
            difference[i] = kUp ? kept - other_held[i] : other_held[i] - kept;
            other_held[i] = held_then.template step<kUp>(decays, i, other[i]);
          } else if constexpr (kKeep) {
            difference[i] = kUp ? here - there : there - here;
          }
        },
        [&] {
          now.end_block();
          then.end_block();
        });
  }

  // With a the gradient of log x_{m+1} and q = x_{m+1} a: sig -= q D x_m + x_m D q, and the gradient of log x_m is -x_m
  // K q
  // (+ rho where x_m is row).
  template <bool kUp, bool kTies>
  void backward_sweep(const V* x, const V* difference, const V* rho, int64_t n) {
    const V *decay = decays.template decay<kUp>(), *reach = decays.template reach<kUp>();
    V *other = opposite.data(), *other_held = opposite_held.data(), *qs = q.data(), *s = sig.data();
    Scan<V> now, then;
    Held<T> held_now, held_then;
    walk<kUp>(
        n,
        [&](int64_t i) {
          const V d = decay[i], r = reach[i], xi = x[i], qi = qs[i], there = other[i];
          const V here = now.step(d, r, qi);
          V of_q = here - there;
          if constexpr (kTies) of_q = held_now.template step<kUp>(decays, i, here) - other_held[i];
          s[i] -= qi * difference[i] + (kUp ? xi * of_q : -(xi * of_q));
          V a = -xi * (here + (there + qi));
          if (rho) a += rho[i];
          const V result = xi * a;
          qs[i] = result;
          other[i] = then.step(d, r, result);
          if constexpr (kTies) other_held[i] = held_then.template step<kUp>(decays, i, other[i]);
        },
        [&] {
          now.end_block();
          then.end_block();
        });
  }
};

}  // namespace lps::cpu
