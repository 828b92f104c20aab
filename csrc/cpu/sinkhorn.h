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
  std::vector<V> iterates;  // x_0 .. x_M where kept, else the last two
  std::vector<V> opposite;  // the scan of the sweep before, which came from the other side
  std::vector<V> q, sig, q_x;

  // The scalings of n elements after n_iter iterations. keep: all iterates, for `backward`.
  void forward(int64_t n, int64_t n_iter, bool keep) {
    const int64_t half_steps = 2 * n_iter;
    iterates.resize((keep ? half_steps + 1 : 2) * n);
    opposite.resize(n);
    std::fill_n(iterates.begin(), n, splat<T>(1));
    if (!keep) std::fill_n(iterates.begin() + n, n, splat<T>(1));
    start<false>(&iterates[0], n);
    for (int64_t m = 0; m < half_steps; ++m) {
      const V* x = iterate(m, n, keep);
      V* next = iterate(m + 1, n, keep);
      m % 2 == 0 ? forward_sweep<true>(x, next, n) : forward_sweep<false>(x, next, n);
    }
  }

  const V* row(int64_t n, int64_t n_iter, bool keep) {
    return iterate(n_iter > 0 ? 2 * n_iter - 1 : 0, n, keep);
  }
  const V* col(int64_t n, int64_t n_iter, bool keep) {
    return iterate(2 * n_iter, n, keep);
  }

  // rho, kap: gradients of log row and log col. Adds the gradient of t / tau to sig. Uses iterates that were kept.
  void backward(const V* rho, const V* kap, int64_t n, int64_t n_iter) {
    const int64_t half_steps = 2 * n_iter;
    if (half_steps == 0 || n == 0) return;
    q.resize(n);
    const V* last = iterate(half_steps, n, true);
    for (int64_t i = 0; i < n; ++i) q[i] = last[i] * kap[i];
    if (decays.any_tied) q_x.assign(n, splat<T>(0));
    start<false>(q.data(), n);
    for (int64_t m = half_steps - 1; m >= 0; --m) {
      const V *x = iterate(m, n, true), *next = iterate(m + 1, n, true);
      const bool up = (half_steps - 1 - m) % 2 == 0;
      const V* extra = m == half_steps - 1 ? rho : nullptr;
      if (decays.any_tied) {
        up ? backward_sweep<true, true>(x, next, extra, n) : backward_sweep<false, true>(x, next, extra, n);
      } else {
        up ? backward_sweep<true, false>(x, next, extra, n) : backward_sweep<false, false>(x, next, extra, n);
      }
    }
    if (decays.any_tied) correct_ties(n);
  }

 private:
  V* iterate(int64_t m, int64_t n, bool keep) {
    return &iterates[(keep ? m : m % 2) * n];
  }

  // The scan that the first sweep finds: that of x in the other direction.
  template <bool kUp>
  void start(const V* x, int64_t n) {
    opposite.resize(n);
    const V *decay = (kUp ? decays.up : decays.down).data(),
            *reach = (kUp ? decays.up_reach : decays.down_reach).data();
    Scan<V> scan;
    walk<kUp>(n, [&](int64_t i) { opposite[i] = scan.step(decay[i], reach[i], x[i]); }, [&] { scan.end_block(); });
  }

  template <bool kUp>
  void forward_sweep(const V* x, V* next, int64_t n) {
    const V *decay = (kUp ? decays.up : decays.down).data(),
            *reach = (kUp ? decays.up_reach : decays.down_reach).data();
    V* other = opposite.data();
    Scan<V> now, then;
    walk<kUp>(
        n,
        [&](int64_t i) {
          const V d = decay[i], r = reach[i], xi = x[i];
          const V result = reciprocal(now.step(d, r, xi) + (other[i] - xi));
          next[i] = result;
          other[i] = then.step(d, r, result);
        },
        [&] {
          now.end_block();
          then.end_block();
        });
  }

  // With a the gradient of log x_{m+1} and q = x_{m+1} a: sig -= q D x_m + x_m D q, D the difference of the two strict
  // scans, and the gradient of log x_m is -x_m K q (+ rho where x_m is row). The other scan of x_m follows from
  // K x_m = 1 / x_{m+1}.
  template <bool kUp, bool kTies>
  void backward_sweep(const V* x, const V* next, const V* rho, int64_t n) {
    const V *decay = (kUp ? decays.up : decays.down).data(),
            *reach = (kUp ? decays.up_reach : decays.down_reach).data();
    V *other = opposite.data(), *qs = q.data(), *s = sig.data(), *qx = q_x.data();
    Scan<V> scan_q, scan_x, then;
    walk<kUp>(
        n,
        [&](int64_t i) {
          const V d = decay[i], r = reach[i], xi = x[i], qi = qs[i];
          const V here = scan_q.step(d, r, qi), there = other[i];
          const V difference_x = T(2) * scan_x.step(d, r, xi) - (xi + reciprocal(next[i]));
          const V change = qi * difference_x + xi * (here - there);
          s[i] = kUp ? s[i] - change : s[i] + change;
          if constexpr (kTies) qx[i] += qi * xi;
          V a = -xi * (here + (there - qi));
          if (rho) a += rho[i];
          const V result = xi * a;
          qs[i] = result;
          other[i] = then.step(d, r, result);
        },
        [&] {
          scan_q.end_block();
          scan_x.end_block();
          then.end_block();
        });
  }

  // Equal scores have no slope between them (d|x|/dx = 0 at 0): take back what the sweeps counted inside each group.
  // x_m is constant in a group, so sum over m of q x is all that is needed.
  void correct_ties(int64_t n) {
    for (int lane = 0; lane < kLanes<T>; ++lane) {
      for (int64_t first = 0; first < n;) {
        int64_t stop = first + 1;
        while (stop < n && decays.tied[stop][lane]) ++stop;
        T total = 0, before_r = 0;
        for (int64_t r = first; r < stop; ++r) total += q_x[r][lane];
        for (int64_t r = first; r < stop && stop > first + 1; ++r) {
          const T own = q_x[r][lane], after_r = total - before_r - own;
          sig[r][lane] += static_cast<T>((r - first) - (stop - 1 - r)) * own + before_r - after_r;
          before_r += own;
        }
        first = stop;
      }
    }
  }
};

}  // namespace lps::cpu
