// Scans along one row with its channels in the lanes: products with the soft permutation matrix, and the three sums
// that are its gradient.
#pragma once

#include <vector>

#include "cpu/lanes.h"

namespace lps::cpu {

// The decays of one row of n sorted scores, and which neighbours are tied.
template <class T>
struct RowDecays {
  std::vector<T> up, up_reach, down, down_reach;
  std::vector<char> tied;  // whether t_i equals t_{i - 1}; n + 1 of them
  bool any_tied = false;

  void build(const T* t, int64_t n, double tau) {
    constexpr int64_t lanes = kLanes<T>;
    const int64_t padded = (n + lanes - 1) / lanes * lanes;
    for (auto* a : {&up, &up_reach, &down, &down_reach}) a->resize(padded);
    const Units<T> units(tau);
    for (int64_t i = 0; i < n; ++i) {
      const int64_t first = i - i % kBlock, stop = first + kBlock;
      up[i] = i > first ? units(t[i] - t[i - 1]) : T(-kFarApart);
      down[i] = i + 1 < std::min(stop, n) ? units(t[i + 1] - t[i]) : T(-kFarApart);
      up_reach[i] = first > 0 ? units(t[i] - t[first - 1]) : T(-kFarApart);
      down_reach[i] = stop < n ? units(t[stop] - t[i]) : T(-kFarApart);
    }
    for (auto* a : {&up, &up_reach, &down, &down_reach}) {
      std::fill(a->begin() + n, a->end(), T(-kFarApart));
      for (int64_t i = 0; i < padded; i += lanes) store(&(*a)[i], exp_nonpositive<T>(load(&(*a)[i])));
    }
    tied.assign(n + 1, 0);
    any_tied = false;
    for (int64_t i = 1; i < n; ++i) any_tied |= (tied[i] = t[i] == t[i - 1]);
  }
};

// out = K w for n rows of kWidth vectors; out may not be w.
template <class T, int kWidth>
void kernel_product(const RowDecays<T>& decays, const Vec<T>* w, Vec<T>* out, int64_t n) {
  Scan<Vec<T>> scan[kWidth];
  const auto end = [&] {
    for (auto& s : scan) s.end_block();
  };
  walk_up(
      n,
      [&](int64_t i) {
        const Vec<T> d = splat<T>(decays.up[i]), r = splat<T>(decays.up_reach[i]);
        for (int j = 0; j < kWidth; ++j) {
          const Vec<T> wi = w[i * kWidth + j];
          out[i * kWidth + j] = scan[j].step(d, r, wi) + wi;
        }
      },
      end);
  for (auto& s : scan) s = {};
  walk_down(
      n,
      [&](int64_t i) {
        const Vec<T> d = splat<T>(decays.down[i]), r = splat<T>(decays.down_reach[i]);
        for (int j = 0; j < kWidth; ++j) out[i * kWidth + j] += scan[j].step(d, r, w[i * kWidth + j]);
      },
      end);
}

// The gradient of a row's P = row K col with D = dL/dP = U V^T, summed over channels. It adds to
//   d_row[r] = sum_j K[r, j] col[j] D[r, j],  d_col[j] = sum_r K[r, j] row[r] D[r, j],
//   sig[r] = dL/d(t_r / tau).
template <class T>
struct PairSums {
  using V = Vec<T>;
  static constexpr int64_t lanes = kLanes<T>;
  std::vector<V> lower, higher, diagonal;

  template <int kWidth>
  void add(const RowDecays<T>& decays, const T* row, const T* col, const V* u, const V* v, int64_t n, T* d_row,
           T* d_col, T* sig) {
    const int64_t padded = (n + lanes - 1) / lanes * lanes;
    for (auto* a : {&lower, &higher}) a->resize(4 * padded);
    diagonal.resize(padded);
    if (decays.any_tied) {
      sweep<kWidth, true, true>(decays, row, col, u, v, n, lower.data());
      sweep<kWidth, false, true>(decays, row, col, u, v, n, higher.data());
    } else {
      sweep<kWidth, true, false>(decays, row, col, u, v, n, lower.data());
      sweep<kWidth, false, false>(decays, row, col, u, v, n, higher.data());
    }
    for (int64_t i = 0; i < n; ++i) {
      V sum{};
      for (int j = 0; j < kWidth; ++j) sum += u[i * kWidth + j] * v[i * kWidth + j];
      diagonal[i] = sum;
    }
    const int64_t held = decays.any_tied ? 2 * padded : 0;
    for (int64_t i = 0; i < n; i += lanes) {
      const auto total = [&](const std::vector<V>& of, int64_t at) {
        V block[lanes];
        std::copy_n(&of[at + i], lanes, block);
        return sum_lanes<T>(block);
      };
      const V both = total(diagonal, 0);
      const V row_low = total(lower, 0), row_high = total(higher, 0);
      const V col_low = total(lower, padded), col_high = total(higher, padded);
      V row_slope = row_low - row_high, col_slope = col_low - col_high;
      if (held) {
        row_slope = total(lower, held) - total(higher, held);
        col_slope = total(lower, held + padded) - total(higher, held + padded);
      }
      const V for_row = row_low + row_high, for_col = col_low + col_high;
      for (int64_t lane = 0; lane < std::min(lanes, n - i); ++lane) {
        const int64_t at = i + lane;
        d_row[at] += for_row[lane] + both[lane] * col[at];
        d_col[at] += for_col[lane] + both[lane] * row[at];
        sig[at] += row[at] * row_slope[lane] + col[at] * col_slope[lane];
      }
    }
  }

 private:
  // Partial sums in lanes, of one direction: to[i] of u_i (K col v)_i, to[padded + i] of v_i (K row u)_i; 2 padded
  // further on the same without partners of equal score, as the slopes want them, see Held.
  template <int kWidth, bool kUp, bool kTies>
  void sweep(const RowDecays<T>& decays, const T* row, const T* col, const V* u, const V* v, int64_t n, V* to) {
    const T *decay = (kUp ? decays.up : decays.down).data(),
            *reach = (kUp ? decays.up_reach : decays.down_reach).data();
    const int64_t padded = (n + lanes - 1) / lanes * lanes;
    Scan<V> of_u[kWidth], of_v[kWidth];
    V held_u[kTies ? kWidth : 1] = {}, held_v[kTies ? kWidth : 1] = {};
    walk<kUp>(
        n,
        [&](int64_t i) {
          const V d = splat<T>(decay[i]), r = splat<T>(reach[i]);
          V for_row{}, for_col{}, row_slope{}, col_slope{};
          for (int j = 0; j < kWidth; ++j) {
            const V ui = u[i * kWidth + j], vi = v[i * kWidth + j];
            const V at_v = of_v[j].step(d, r, vi * col[i]), at_u = of_u[j].step(d, r, ui * row[i]);
            for_row += ui * at_v;
            for_col += vi * at_u;
            if constexpr (kTies) {
              if (!decays.tied[kUp ? i : i + 1]) held_v[j] = at_v, held_u[j] = at_u;
              row_slope += ui * held_v[j];
              col_slope += vi * held_u[j];
            }
          }
          to[i] = for_row;
          to[padded + i] = for_col;
          if constexpr (kTies) {
            to[2 * padded + i] = row_slope;
            to[3 * padded + i] = col_slope;
          }
        },
        [&] {
          for (int j = 0; j < kWidth; ++j) of_u[j].end_block(), of_v[j].end_block();
        });
  }
};

}  // namespace lps::cpu
