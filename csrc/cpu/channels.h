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
  std::vector<std::pair<int64_t, int64_t>> ties;  // [first, stop) of each group of equal scores

  void build(const T* t, int64_t n, double tau) {
    constexpr int64_t lanes = kLanes<T>;
    const int64_t padded = (n + lanes - 1) / lanes * lanes;
    for (auto* a : {&up, &up_reach, &down, &down_reach}) a->resize(padded);
    const T inverse = inverse_of<T>(tau);
    for (int64_t i = 0; i < n; ++i) {
      const int64_t first = i - i % kBlock, stop = first + kBlock;
      up[i] = i > first ? (t[i] - t[i - 1]) * inverse : T(-kFarApart);
      down[i] = i + 1 < std::min(stop, n) ? (t[i + 1] - t[i]) * inverse : T(-kFarApart);
      up_reach[i] = first > 0 ? (t[i] - t[first - 1]) * inverse : T(-kFarApart);
      down_reach[i] = stop < n ? (t[stop] - t[i]) * inverse : T(-kFarApart);
    }
    for (auto* a : {&up, &up_reach, &down, &down_reach}) {
      std::fill(a->begin() + n, a->end(), T(-kFarApart));
      for (int64_t i = 0; i < padded; i += lanes) store(&(*a)[i], exp_nonpositive<T>(load(&(*a)[i])));
    }
    ties.clear();
    for (int64_t first = 0; first < n;) {
      int64_t stop = first + 1;
      while (stop < n && t[stop] == t[first]) ++stop;
      if (stop > first + 1) ties.emplace_back(first, stop);
      first = stop;
    }
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
        for (int j = 0; j < kWidth; ++j) out[i * kWidth + j] = scan[j].step(d, r, w[i * kWidth + j]);
      },
      end);
  for (auto& s : scan) s = {};
  walk_down(
      n,
      [&](int64_t i) {
        const Vec<T> d = splat<T>(decays.down[i]), r = splat<T>(decays.down_reach[i]);
        for (int j = 0; j < kWidth; ++j) {
          const Vec<T> wi = w[i * kWidth + j];
          out[i * kWidth + j] += scan[j].step(d, r, wi) - wi;
        }
      },
      end);
}

// sums[i] = the sum of v[i]'s lanes, for kLanes vectors: halves are folded pair by pair.
template <class T>
LPS_FN Vec<T> sum_lanes(const Vec<T>* v) {
  constexpr int lanes = kLanes<T>;
  Vec<T> level[lanes];
  for (int i = 0; i < lanes; ++i) level[i] = v[i];
#pragma GCC unroll 4
  for (int segment = lanes, count = lanes; count > 1; segment /= 2, count /= 2) {
    Vec<Int<T>> low{}, high{};
    for (int i = 0; i < lanes; ++i) {
      const int half = segment / 2, from = i / half;  // output segment: from the first or the second vector
      low[i] = from * segment + i % half;
      high[i] = low[i] + half;
    }
    for (int i = 0; i < count / 2; ++i) {
      level[i] = __builtin_shuffle(level[2 * i], level[2 * i + 1], low) +
                 __builtin_shuffle(level[2 * i], level[2 * i + 1], high);
    }
  }
  return level[0];
}

// The gradient of a row's P = row K col with D = dL/dP = U V^T, summed over channels. It adds to
//   d_row[r] = sum_j K[r, j] col[j] D[r, j],  d_col[j] = sum_r K[r, j] row[r] D[r, j],
//   sig[r] = dL/d(t_r / tau).
template <class T>
struct PairSums {
  using V = Vec<T>;
  std::vector<V> ahead, behind, diagonal;  // partial sums in lanes: for u and for v
  std::vector<T> sums;

  template <int kWidth>
  void add(const RowDecays<T>& decays, const T* row, const T* col, const V* u, const V* v, int64_t n, T* d_row,
           T* d_col, T* sig) {
    constexpr int64_t lanes = kLanes<T>;
    const int64_t padded = (n + lanes - 1) / lanes * lanes;
    for (auto* a : {&ahead, &behind}) a->resize(2 * padded);
    diagonal.resize(padded);
    sweep<kWidth, true>(decays, row, col, u, v, n, ahead.data());
    sweep<kWidth, false>(decays, row, col, u, v, n, behind.data());
    for (int64_t i = 0; i < n; ++i) {
      V sum{};
      for (int j = 0; j < kWidth; ++j) sum += u[i * kWidth + j] * v[i * kWidth + j];
      diagonal[i] = sum;
    }
    for (int64_t i = 0; i < n; i += lanes) {
      const V row_ahead = sum_lanes<T>(&ahead[i]), col_ahead = sum_lanes<T>(&ahead[padded + i]);
      const V row_behind = sum_lanes<T>(&behind[i]), col_behind = sum_lanes<T>(&behind[padded + i]);
      const V both = sum_lanes<T>(&diagonal[i]);
      for (int64_t lane = 0; lane < std::min(lanes, n - i); ++lane) {
        const int64_t at = i + lane;
        d_row[at] += row_ahead[lane] + (row_behind[lane] - both[lane] * col[at]);
        d_col[at] += col_ahead[lane] + (col_behind[lane] - both[lane] * row[at]);
        sig[at] += row[at] * (row_ahead[lane] - row_behind[lane]) + col[at] * (col_ahead[lane] - col_behind[lane]);
      }
    }
    for (const auto& [first, stop] : decays.ties) correct_ties<kWidth>(row, col, u, v, first, stop, sig);
  }

 private:
  // to[i] = sum of u_i (K col v)_i, to[padded + i] = sum of v_i (K row u)_i, of one direction, the diagonal included.
  template <int kWidth, bool kUp>
  void sweep(const RowDecays<T>& decays, const T* row, const T* col, const V* u, const V* v, int64_t n, V* to) {
    const T *decay = (kUp ? decays.up : decays.down).data(),
            *reach = (kUp ? decays.up_reach : decays.down_reach).data();
    const int64_t padded = (n + kLanes<T> - 1) / kLanes<T> * kLanes<T>;
    Scan<V> of_u[kWidth], of_v[kWidth];
    walk<kUp>(
        n,
        [&](int64_t i) {
          const V d = splat<T>(decay[i]), r = splat<T>(reach[i]);
          V for_row{}, for_col{};
          for (int j = 0; j < kWidth; ++j) {
            const V ui = u[i * kWidth + j], vi = v[i * kWidth + j];
            for_row += ui * of_v[j].step(d, r, vi * col[i]);
            for_col += vi * of_u[j].step(d, r, ui * row[i]);
          }
          to[i] = for_row;
          to[padded + i] = for_col;
        },
        [&] {
          for (int j = 0; j < kWidth; ++j) of_u[j].end_block(), of_v[j].end_block();
        });
  }

  // Equal scores have no slope between them (d|x|/dx = 0 at 0): take their pairs out of sig.
  template <int kWidth>
  void correct_ties(const T* row, const T* col, const V* u, const V* v, int64_t first, int64_t stop, T* sig) {
    for (const bool up : {true, false}) {
      V of_u[kWidth] = {}, of_v[kWidth] = {};
      for (int64_t step = 0; step < stop - first; ++step) {
        const int64_t i = up ? first + step : stop - 1 - step;
        V pairs{};
        for (int j = 0; j < kWidth; ++j) {
          const V ui = u[i * kWidth + j] * row[i], vi = v[i * kWidth + j] * col[i];
          pairs += ui * of_v[j] + vi * of_u[j];
          of_u[j] += ui;
          of_v[j] += vi;
        }
        T sum = 0;
        for (int lane = 0; lane < kLanes<T>; ++lane) sum += pairs[lane];
        sig[i] += up ? -sum : sum;
      }
    }
  }
};

}  // namespace lps::cpu
