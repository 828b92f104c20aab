// The Sinkhorn iteration on kGroups x kLanes rows at once, and its exact, unrolled derivative. Two groups go side by
// side where rows are so short that a sweep would wait for its own scan.
//
// K is symmetric, so both half steps are x_{m+1} = 1 / (K x_m), x_0 = 1, and after M = 2 n_iter of them row = x_{M-1},
// col = x_M. A sweep that completes K x_m in one direction has x_{m+1} in hand element by element and starts its scan
// in the same direction, which is the one that the next sweep, coming back, needs: one sweep a half step.
#pragma once

#include "cpu/lanes.h"

namespace lps::cpu {

template <class T, int kGroups>
struct Sinkhorn {
  using V = Vec<T>;
  // With two groups, rows are one block of the scans, which then carry nothing.
  static constexpr bool kCarries = kGroups == 1;

  // All but the decays: position i of group g at i kGroups + g.
  Decays<T> decays[kGroups];
  std::vector<V> iterates;     // x_0 .. x_M where kept, else the last two
  std::vector<V> differences;  // D x_0 .. D x_{M-1} where kept: the sum over lower minus that over higher ranks
  std::vector<V> opposite, opposite_held;  // the scan of the sweep before, which came from the other side
  std::vector<V> q, sig;

  // The scalings of n elements after n_iter iterations. keep: all that `backward` needs.
  void forward(int64_t n, int64_t n_iter, bool keep) {
    const int64_t half_steps = 2 * n_iter, size = n * kGroups;
    iterates.resize((keep ? half_steps + 1 : 2) * size);
    differences.resize(keep ? half_steps * size : 0);
    std::fill_n(iterates.begin(), size, splat<T>(1));
    start(iterates.data(), n);
    for (int64_t m = 0; m < half_steps; ++m) {
      const V* x = iterate(m, n, keep);
      V *next = iterate(m + 1, n, keep), *difference = keep ? differences.data() + m * size : nullptr;
      with_flags(m % 2 == 0, any_tied(), [&](auto up, auto ties) {
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
    const int64_t half_steps = 2 * n_iter, size = n * kGroups;
    if (half_steps == 0 || n == 0) return;
    q.resize(size);
    const V* last = iterate(half_steps, n, true);
    for (int64_t i = 0; i < size; ++i) q[i] = last[i] * kap[i];
    start(q.data(), n);
    for (int64_t m = half_steps - 1; m >= 0; --m) {
      const V *x = iterate(m, n, true), *extra = m == half_steps - 1 ? rho : nullptr;
      with_flags((half_steps - 1 - m) % 2 == 0, any_tied(), [&](auto up, auto ties) {
        backward_sweep<up.value, ties.value>(x, differences.data() + m * size, extra, n);
      });
    }
  }

 private:
  V* iterate(int64_t m, int64_t n, bool keep) {
    return iterates.data() + (keep ? m : m % 2) * n * kGroups;
  }

  bool any_tied() const {
    bool any = false;
    for (const Decays<T>& d : decays) any |= d.any_tied;
    return any;
  }

  template <class Body>
  static void with_flags(bool up, bool ties, const Body& body) {
    constexpr std::true_type yes{};
    constexpr std::false_type no{};
    up ? (ties ? body(yes, yes) : body(yes, no)) : (ties ? body(no, yes) : body(no, no));
  }

  // step(g, at, decays of g, decay, reach) for every group at every position.
  template <bool kUp, class Step, class End>
  LPS_FN void walk_groups(int64_t n, const Step& step, const End& end) {
    const V *decay[kGroups], *reach[kGroups];
    for (int g = 0; g < kGroups; ++g) {
      decay[g] = decays[g].template decay<kUp>(), reach[g] = decays[g].template reach<kUp>();
    }
    walk<kUp>(
        n,
        [&](int64_t i) {
#pragma GCC unroll 2
          for (int g = 0; g < kGroups; ++g) step(g, i, i * kGroups + g, decay[g][i], kCarries ? reach[g][i] : V{});
        },
        [&] {
          for (int g = 0; kCarries && g < kGroups; ++g) end(g);
        });
  }

  static LPS_FN V scan_step(Scan<V>& scan, V decay, V reach, V x) {
    if constexpr (kCarries) return scan.step(decay, reach, x);
    const V strict = decay * scan.local;
    scan.local = strict + x;
    return strict;
  }

  // The scan that the first sweep, an upward one, finds: that of x downwards.
  void start(const V* x, int64_t n) {
    opposite.resize(n * kGroups);
    opposite_held.resize(n * kGroups);
    Scan<V> scan[kGroups];
    Held<T> held[kGroups];
    walk_groups<false>(
        n,
        [&](int g, int64_t i, int64_t at, V decay, V reach) {
          opposite[at] = scan_step(scan[g], decay, reach, x[at]);
          opposite_held[at] = held[g].template step<false>(decays[g], i, opposite[at]);
        },
        [&](int g) { scan[g].end_block(); });
  }

  template <bool kUp, bool kTies, bool kKeep>
  void forward_sweep(const V* x, V* next, V* difference, int64_t n) {
    V *other = opposite.data(), *other_held = opposite_held.data();
    Scan<V> now[kGroups], then[kGroups];
    Held<T> held_now[kGroups], held_then[kGroups];
    walk_groups<kUp>(
        n,
        [&](int g, int64_t i, int64_t at, V d, V r) {
          const V xi = x[at], there = other[at];
          const V here = scan_step(now[g], d, r, xi);
          const V result = reciprocal(here + (there + xi));
          next[at] = result;
          other[at] = scan_step(then[g], d, r, result);
          if constexpr (kKeep && kTies) {
            const V kept = held_now[g].template step<kUp>(decays[g], i, here);
            difference[at] = kUp ? kept - other_held[at] : other_held[at] - kept;
            other_held[at] = held_then[g].template step<kUp>(decays[g], i, other[at]);
          } else if constexpr (kKeep) {
            difference[at] = kUp ? here - there : there - here;
          }
        },
        [&](int g) {
          now[g].end_block();
          then[g].end_block();
        });
  }

  // With a the gradient of log x_{m+1} and q = x_{m+1} a: sig -= q D x_m + x_m D q, and the gradient of log x_m is -x_m
  // K q
  // (+ rho where x_m is row).
  template <bool kUp, bool kTies>
  void backward_sweep(const V* x, const V* difference, const V* rho, int64_t n) {
    V *other = opposite.data(), *other_held = opposite_held.data(), *qs = q.data(), *s = sig.data();
    Scan<V> now[kGroups], then[kGroups];
    Held<T> held_now[kGroups], held_then[kGroups];
    walk_groups<kUp>(
        n,
        [&](int g, int64_t i, int64_t at, V d, V r) {
          const V xi = x[at], qi = qs[at], there = other[at];
          const V here = scan_step(now[g], d, r, qi);
          V of_q = here - there;
          if constexpr (kTies) of_q = held_now[g].template step<kUp>(decays[g], i, here) - other_held[at];
          s[at] -= qi * difference[at] + (kUp ? xi * of_q : -(xi * of_q));
          V a = -xi * (here + (there + qi));
          if (rho) a += rho[at];
          const V result = xi * a;
          qs[at] = result;
          other[at] = scan_step(then[g], d, r, result);
          if constexpr (kTies) other_held[at] = held_then[g].template step<kUp>(decays[g], i, other[at]);
        },
        [&](int g) {
          now[g].end_block();
          then[g].end_block();
        });
  }
};

}  // namespace lps::cpu
