// Scans along one row with its channels in the lanes: products with the soft permutation matrix, and the three sums
// that are its gradient.
#pragma once

#include <limits>
#include <vector>

#include "cpu/lanes.h"

namespace lps::cpu {

// The decays of one row of n sorted scores, and which neighbours are tied.
template <class T>
struct RowDecays : DecaysOf<T> {
  std::vector<Int<T>> tied;  // whether t_i equals t_{i - 1}; n + 1 or more of them

  void build(const T* t, int64_t n, double tau) {
    constexpr int64_t lanes = kLanes<T>;
    static_assert(kBlock % lanes == 0);
    const int64_t padded = (n + lanes) / lanes * lanes;  // beyond n
    for (auto* a : {&this->between, &this->up_reach, &this->down_reach}) a->resize(padded);
    tied.resize(padded);
    scores.assign(1, std::numeric_limits<T>::quiet_NaN());  // so that nothing is tied to what is none, nor near it
    scores.insert(scores.end(), t, t + n);
    scores.resize(1 + padded, scores[0]);
    const T* const score = scores.data() + 1;
    const Units<T> units(tau);
    const auto kernel = [&](Vec<T> low, Vec<T> high) { return exp_nonpositive<T>(units(low - high)); };
    Vec<Int<T>> ties{};
    for (int64_t first = 0; first < padded; first += kBlock) {
      const int64_t stop = std::min(first + kBlock, padded);
      const Vec<T> before = splat<T>(score[first - 1]), after = splat<T>(stop < n ? score[stop] : scores[0]);
      for (int64_t i = first; i < stop; i += lanes) {
        const Vec<T> at = load(score + i), previous = load(score + i - 1);
        const Vec<Int<T>> same = at == previous;
        ties |= same;
        store(tied.data() + i, same);
        store(this->between.data() + i, kernel(at, previous));
        store(this->up_reach.data() + i, kernel(at, before));
        store(this->down_reach.data() + i, kernel(after, at));
      }
      this->between[first] = 0;
    }
    this->any_tied = any<Int<T>>(ties);
  }

 private:
  std::vector<T> scores;
};

// out = K w for n rows of kWidth vectors; out may not be w.
template <class T, int kWidth>
void kernel_product(const RowDecays<T>& decays, const Vec<T>* w, Vec<T>* out, int64_t n) {
  const auto sweep = [&](auto up) {
    const T *decay = decays.template decay<up.value>(), *reach = decays.template reach<up.value>();
    Scan<Vec<T>> scan[kWidth];
    walk<up.value>(
        n,
        [&](int64_t i) {
          const Vec<T> d = splat<T>(decay[i]), r = splat<T>(reach[i]);
          for (int j = 0; j < kWidth; ++j) {
            const Vec<T> wi = w[i * kWidth + j], strict = scan[j].step(d, r, wi);
            out[i * kWidth + j] = up.value ? strict + wi : out[i * kWidth + j] + strict;
          }
        },
        [&] {
          for (auto& s : scan) s.end_block();
        });
  };
  sweep(std::true_type());
  sweep(std::false_type());
}

// Where a pass over channels finds its kWidth vectors at position i: rows of numbers `stride` apart, reordered by
// `order` unless that is null.
template <class T>
struct Lines {
  const T* base;
  const int64_t* order;
  int64_t stride;

  LPS_FN const T* at(int64_t i) const {
    return base + (order ? order[i] : i) * stride;
  }
};

// The gradient of a row's P = row K col with D = dL/dP = U V^T, summed over channels. It adds to
//   d_row[r] = sum_j K[r, j] col[j] D[r, j],  d_col[j] = sum_r K[r, j] row[r] D[r, j],
//   sig[r] = dL/d(t_r / tau).
// Sums stay in lanes over any number of `add`s.
template <class T>
struct PairSums {
  using V = Vec<T>;
  static constexpr int64_t lanes = kLanes<T>;
  std::vector<V> d_row, d_col, sig;

  void start(int64_t n) {
    const int64_t padded = (n + lanes - 1) / lanes * lanes;
    for (auto* a : {&d_row, &d_col, &sig}) a->assign(padded, V{});
  }

  template <int kWidth>
  void add(const RowDecays<T>& decays, const T* row, const T* col, Lines<T> u, Lines<T> v, int64_t n) {
    if (decays.any_tied) {
      sweep<kWidth, true, true>(decays, row, col, u, v, n);
      sweep<kWidth, false, true>(decays, row, col, u, v, n);
    } else {
      sweep<kWidth, true, false>(decays, row, col, u, v, n);
      sweep<kWidth, false, false>(decays, row, col, u, v, n);
    }
  }

  // to[i] += the sum of the lanes of from[i].
  static void add_lanes(const std::vector<V>& from, int64_t n, T* to) {
    for (int64_t i = 0; i < n; i += lanes) {
      V block[lanes];
      for (int64_t lane = 0; lane < lanes; ++lane) block[lane] = from[i + lane];
      const V sums = sum_lanes<T>(block);
      if (i + lanes <= n) {
        store(to + i, load(to + i) + sums);
      } else {
        for (int64_t lane = 0; lane < n - i; ++lane) to[i + lane] += sums[lane];
      }
    }
  }

 private:
  // One direction: at position i its scans are (K col v)_i and (K row u)_i, without the diagonal, which goes with the
  // upward one. Slopes leave out partners of equal score, see Held.
  template <int kWidth, bool kUp, bool kTies>
  void sweep(const RowDecays<T>& decays, const T* row, const T* col, Lines<T> u, Lines<T> v, int64_t n) {
    const T *decay = decays.template decay<kUp>(), *reach = decays.template reach<kUp>();
    Scan<V> of_u[kWidth], of_v[kWidth];
    V held_u[kTies ? kWidth : 1] = {}, held_v[kTies ? kWidth : 1] = {};
    walk<kUp>(
        n,
        [&](int64_t i) {
          const V d = splat<T>(decay[i]), r = splat<T>(reach[i]), row_i = splat<T>(row[i]), col_i = splat<T>(col[i]);
          const T *at_u = u.at(i), *at_v = v.at(i);
          V for_row{}, for_col{}, row_slope{}, col_slope{}, both{};
          for (int j = 0; j < kWidth; ++j) {
            const V ui = load(at_u + j * lanes), vi = load(at_v + j * lanes);
            const V to_v = of_v[j].step(d, r, vi * col_i), to_u = of_u[j].step(d, r, ui * row_i);
            for_row += ui * to_v;
            for_col += vi * to_u;
            if constexpr (kUp) both += ui * vi;
            if constexpr (kTies) {
              if (!decays.tied[kUp ? i : i + 1]) held_v[j] = to_v, held_u[j] = to_u;
              row_slope += ui * held_v[j];
              col_slope += vi * held_u[j];
            }
          }
          if constexpr (!kTies) row_slope = for_row, col_slope = for_col;
          const V slope = row_i * row_slope + col_i * col_slope;
          sig[i] = kUp ? sig[i] + slope : sig[i] - slope;
          d_row[i] += kUp ? for_row + both * col_i : for_row;
          d_col[i] += kUp ? for_col + both * row_i : for_col;
        },
        [&] {
          for (int j = 0; j < kWidth; ++j) of_u[j].end_block(), of_v[j].end_block();
        });
  }
};

}  // namespace lps::cpu
