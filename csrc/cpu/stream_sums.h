// The sums of PairSums along the first axis of edges, where the second one and the channels lie in the lanes: rows are
// read in their order in memory, once up and once down, and every scan's state waits in cache.
#pragma once

#include "cpu/channels.h"
#include "cpu/gather.h"

namespace lps::cpu {

// The soft part of a permutation, (b, k, n) each, and its temperature.
template <class T>
struct Soft {
  const T *t, *row, *col;
  double tau;

  explicit operator bool() const {
    return t != nullptr;
  }
};

// What the gradient of t, row and col is made of: d_row, d_col and sig of a row, n each.
template <class T>
struct SoftGradient {
  T *t, *row, *col;
};

template <class T>
struct StreamSums {
  using V = Vec<T>;
  static constexpr int64_t lanes = kLanes<T>;

  // Adds to the gradient of one row. u(i, next), v(i, next): pointers to row i, `channels` numbers, a multiple of the
  // lanes; `next` will be asked for soon.
  template <class U, class W>
  void add(const RowDecays<T>& decays, const T* row, const T* col, const U& u, const W& v, int64_t channels, int64_t n,
           const SoftGradient<T>& to) {
    if (decays.any_tied) {
      sweep<true, true>(decays, row, col, u, v, channels, n, to);
      sweep<false, true>(decays, row, col, u, v, channels, n, to);
    } else {
      sweep<true, false>(decays, row, col, u, v, channels, n, to);
      sweep<false, false>(decays, row, col, u, v, channels, n, to);
    }
  }

 private:
  struct Totals {
    V row{}, col{}, row_slope{}, col_slope{}, both{};
  };
  struct Position {
    V decay, reach, row, col;
    bool tied;  // to the one before in this direction
  };
  std::vector<V> state;  // local and carry of u and of v, and where there are ties the held scans, for each vector

  static T total(V v) {
    T sum = 0;
    for (int64_t lane = 0; lane < lanes; ++lane) sum += v[lane];
    return sum;
  }

  template <bool kUp, bool kTies, class U, class W>
  void sweep(const RowDecays<T>& decays, const T* row, const T* col, const U& u, const W& v, int64_t channels,
             int64_t n, const SoftGradient<T>& to) {
    const int64_t vectors = channels / lanes;
    const T *decay = decays.template decay<kUp>(), *reach = decays.template reach<kUp>();
    state.assign((kTies ? 6 : 4) * vectors, V{});
    for (int64_t step = 0; step < n; ++step) {
      const int64_t i = kUp ? step : n - 1 - step;
      const bool closes = kUp ? i % kBlock == kBlock - 1 : i % kBlock == 0;
      const Position at{splat<T>(decay[i]), splat<T>(reach[i]), splat<T>(row[i]), splat<T>(col[i]),
                        decays.tied[kUp ? i : i + 1] != 0};
      const int64_t next = std::clamp<int64_t>(i + (kUp ? kAhead : -kAhead), 0, n - 1);
      const T *at_u = u(i, next), *at_v = v(i, next);
      const Totals totals =
          closes ? line<kUp, kTies, true>(at, at_u, at_v, vectors) : line<kUp, kTies, false>(at, at_u, at_v, vectors);
      const T for_row = total(totals.row), for_col = total(totals.col), both = kUp ? total(totals.both) : T(0);
      const T row_slope = kTies ? total(totals.row_slope) : for_row;
      const T col_slope = kTies ? total(totals.col_slope) : for_col;
      const T slope = row[i] * row_slope + col[i] * col_slope;
      to.t[i] += kUp ? slope : -slope;
      to.row[i] += for_row + both * col[i];
      to.col[i] += for_col + both * row[i];
    }
  }

  template <bool kUp, bool kTies, bool kCloses>
  Totals line(const Position& at, const T* u, const T* v, int64_t vectors) {
    Totals sums;
    V *local_u = state.data(), *carry_u = local_u + vectors, *local_v = carry_u + vectors, *carry_v = local_v + vectors;
    V *held_u = carry_v + vectors, *held_v = held_u + vectors;
    for (int64_t q = 0; q < vectors; ++q) {
      const V uq = load(u + q * lanes), vq = load(v + q * lanes);
      Scan<V> of_u{local_u[q], carry_u[q]}, of_v{local_v[q], carry_v[q]};
      const V to_u = of_u.step(at.decay, at.reach, uq * at.row), to_v = of_v.step(at.decay, at.reach, vq * at.col);
      local_u[q] = of_u.local, local_v[q] = of_v.local;
      if constexpr (kCloses) {
        of_u.end_block(), of_v.end_block();
        carry_u[q] = of_u.carry, carry_v[q] = of_v.carry;
      }
      sums.row += uq * to_v;
      sums.col += vq * to_u;
      if constexpr (kUp) sums.both += uq * vq;
      if constexpr (kTies) {
        if (!at.tied) held_u[q] = to_u, held_v[q] = to_v;
        sums.row_slope += uq * held_v[q];
        sums.col_slope += vq * held_u[q];
      }
    }
    return sums;
  }
};

}  // namespace lps::cpu
