// The gradient of the soft permutation of one row: sums over pairs of positions and over channels, these in the lanes.
#pragma once

#include <algorithm>
#include <vector>

#include "cpu/channels.h"

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

// Adjacent vectors of positions `stride` apart.
template <class T>
struct Lines {
  const T* base;
  const int64_t* order;  // of the positions, or null
  int64_t stride;

  LPS_FN Vec<T> operator()(int64_t i, int64_t j) const {
    return load(base + (order ? order[i] : i) * stride + j * kLanes<T>);
  }
};

// kParts lines a vector, `apart` from each other.
template <class T, int kParts>
struct SplitLines {
  const T* base;
  int64_t apart, stride;

  LPS_FN Vec<T> operator()(int64_t i, int64_t j) const {
    const T* const at = base + kParts * j * apart + i * stride;
    if constexpr (kParts == 1) {
      return load(at);
    } else {
      return load_halves(at, at + apart);
    }
  }
};

// With P = row K col and D = dL/dP = U V^T, summed over channels:
//   d_row[r] = sum_j K[r, j] col[j] D[r, j],  d_col[j] = sum_r K[r, j] row[r] D[r, j],
//   sig[r] = dL/d(t_r / tau), which leaves out partners of equal score.
//
// A scan would take sum_{j before i} K[i, j] x_j from one position to the next by a decay. Where scores are at most
// kSpan tau apart, K[i, j] = reach_i / reach_j for one reach a position: sums of x_j / reach_j need no decay, and
// reach_i multiplies what is summed over the channels. Such positions are a segment; sums decay where the next begins.
// All this is computed in float64, so that the rounding of decays does not pile up along a row.
template <class T>
struct PairSums {
  using V = Vec<T>;
  static constexpr int64_t lanes = kLanes<T>;

  // A row of n sorted scores; t, row and col are read until `finish`.
  void start(const T* t, const T* row, const T* col, int64_t n, double tau) {
    this->n = n, this->row = row, this->col = col;
    find_segments(t, tau);
    const int64_t padded = (n + lanes - 1) / lanes * lanes;
    totals.assign(padded * (any_tied ? kTied : kUntied), V{});
  }

  // Adds what u(i, j) and v(i, j), for j from 0 to kWidth - 1, are at position i.
  template <int kWidth, class U, class W>
  void add(const U& u, const W& v) {
    if (any_tied) {
      sweep<kWidth, true, true>(u, v);
      sweep<kWidth, false, true>(u, v);
    } else {
      sweep<kWidth, true, false>(u, v);
      sweep<kWidth, false, false>(u, v);
    }
  }

  // The same for `vectors` vectors a position, which are read in their order in memory, once up and once down. u(i,
  // next, slot): a pointer to them; it stays good until slot, 0 or 1, is used again, and `next` will be asked for soon.
  template <class U, class W>
  void add_lines(const U& u, const W& v, int64_t vectors) {
    if (any_tied) {
      sweep_lines<true, true>(u, v, vectors);
      sweep_lines<false, true>(u, v, vectors);
    } else {
      sweep_lines<true, false>(u, v, vectors);
      sweep_lines<false, false>(u, v, vectors);
    }
  }

  // What all `add`s came to.
  void finish(const SoftGradient<T>& to) const {
    const int64_t each = any_tied ? kTied : kUntied;
    for (int64_t first = 0; first < n; first += lanes) {
      V sums[kTied];
      for (int64_t which = 0; which < each; ++which) {
        V block[lanes];
        for (int64_t l = 0; l < lanes; ++l) block[l] = totals[(first + l) * each + which];
        sums[which] = sum_lanes<T>(block);
      }
      if (!any_tied) std::copy_n(sums, 4, sums + kUntied);
      for (int64_t l = 0; l < std::min(lanes, n - first); ++l) {
        const int64_t i = first + l;
        const T above = up.reach[i], below = down.reach[i];
        to.row[i] = above * sums[0][l] + below * sums[2][l] + sums[4][l] * col[i];
        to.col[i] = above * sums[1][l] + below * sums[3][l] + sums[4][l] * row[i];
        to.t[i] =
            row[i] * (above * sums[5][l] - below * sums[7][l]) + col[i] * (above * sums[6][l] - below * sums[8][l]);
      }
    }
  }

 private:
  // Sums a position: of u and of v with what is before, with what is behind, with each other (the diagonal), and where
  // there are ties the first four without them.
  static constexpr int64_t kUntied = 5, kTied = 9;
  static constexpr double kSpan = 8;

  struct Direction {
    std::vector<T> reach, of_u, of_v;  // of every position; the latter two are row / reach and col / reach
    std::vector<T> enter;              // of every segment: what sums decay by where it begins
  };
  int64_t n;
  const T *row, *col;
  Direction up, down;
  std::vector<int64_t> starts;  // of segments, and n
  std::vector<char> tied;       // whether t_i equals t_{i - 1}; n + 1 of them
  bool any_tied;
  std::vector<double> kernel;  // of every position with the first one of its segment
  std::vector<V> totals, state;

  void find_segments(const T* t, double tau) {
    const auto gap = [&](int64_t from, int64_t i) { return (static_cast<double>(t[i]) - t[from]) / tau; };  // <= 0
    starts.clear(), tied.assign(n + 1, false), any_tied = false;
    constexpr int64_t width = kLanes<double>;
    kernel.resize((n + width) / width * width);
    for (int64_t i = 0; i < n; ++i) {
      const double distance = i > 0 ? gap(starts.back(), i) : 0;
      const bool begins = i == 0 || !(distance >= -kSpan);  // or is not a number
      if (begins) starts.push_back(i);
      kernel[i] = begins ? 0 : distance;
      tied[i] = i > 0 && t[i] == t[i - 1];
      any_tied |= tied[i];
    }
    std::fill(kernel.begin() + n, kernel.end(), 0.0);
    for (int64_t i = 0; i < n; i += width) store(&kernel[i], exp_nonpositive<double>(load(&kernel[i])));
    const int64_t segments = starts.size();
    starts.push_back(n);
    for (Direction* d : {&up, &down}) {
      for (auto* a : {&d->reach, &d->of_u, &d->of_v}) a->resize(n);
      d->enter.assign(segments, T(0));
    }
    const auto set = [&](Direction& d, int64_t i, double reach, double inverse) {
      d.reach[i] = static_cast<T>(reach);
      d.of_u[i] = static_cast<T>(row[i] * inverse), d.of_v[i] = static_cast<T>(col[i] * inverse);
    };
    const auto decay = [&](int64_t from, int64_t i) {
      return static_cast<T>(exp_nonpositive<double>(splat<double>(gap(from, i)))[0]);
    };
    for (int64_t s = 0; s < segments; ++s) {
      const int64_t first = starts[s], last = starts[s + 1] - 1;
      if (s > 0) up.enter[s] = decay(starts[s - 1], first);
      if (s + 1 < segments) down.enter[s] = decay(last, starts[s + 2] - 1);
      const double whole = kernel[last];
      for (int64_t i = first; i <= last; ++i) {
        set(up, i, kernel[i], 1 / kernel[i]);
        set(down, i, whole / kernel[i], kernel[i] / whole);
      }
    }
  }

  // Calls enter(decay) where a segment begins after another one, and walk(low, high) for the positions of each.
  template <bool kUp, class Enter, class Walk>
  void for_segments(const Enter& enter, const Walk& walk) const {
    const int64_t segments = static_cast<int64_t>(starts.size()) - 1;
    for (int64_t i = 0; i < segments; ++i) {
      const int64_t s = kUp ? i : segments - 1 - i;
      if (i > 0) enter(splat<T>((kUp ? up : down).enter[s]));
      walk(starts[s], starts[s + 1]);
    }
  }

  // What one position adds in one direction, and its place in the totals.
  template <bool kUp, bool kTies>
  struct Position {
    V row, col, both{}, row_slope{}, col_slope{}, of_u, of_v;
    V* total;
    bool tied;  // to the one before in this direction

    LPS_FN Position(PairSums& sums, int64_t i) {
      const Direction& d = kUp ? sums.up : sums.down;
      total = sums.totals.data() + i * (kTies ? kTied : kUntied);
      of_u = splat<T>(d.of_u[i]), of_v = splat<T>(d.of_v[i]);
      tied = kTies && sums.tied[kUp ? i : i + 1];
      row = total[kUp ? 0 : 2], col = total[kUp ? 1 : 3];
      if constexpr (kUp) both = total[4];
      if constexpr (kTies) row_slope = total[kUp ? 5 : 7], col_slope = total[kUp ? 6 : 8];
    }

    LPS_FN void add(V u, V v, V& sum_u, V& sum_v, V* held_u, V* held_v) {
      row += u * sum_v, col += v * sum_u;
      if constexpr (kUp) both += u * v;
      if constexpr (kTies) {
        if (!tied) *held_u = sum_u, *held_v = sum_v;
        row_slope += u * *held_v, col_slope += v * *held_u;
      }
      sum_u += of_u * u, sum_v += of_v * v;
    }

    LPS_FN void write() const {
      total[kUp ? 0 : 2] = row, total[kUp ? 1 : 3] = col;
      if constexpr (kUp) total[4] = both;
      if constexpr (kTies) total[kUp ? 5 : 7] = row_slope, total[kUp ? 6 : 8] = col_slope;
    }
  };

  template <int kWidth, bool kUp, bool kTies, class U, class W>
  void sweep(const U& u, const W& v) {
    V sum_u[kWidth] = {}, sum_v[kWidth] = {}, held_u[kWidth] = {}, held_v[kWidth] = {};
    for_segments<kUp>(
        [&](V decay) {
          for (int j = 0; j < kWidth; ++j) sum_u[j] *= decay, sum_v[j] *= decay;
        },
        [&](int64_t low, int64_t high) {
          for (int64_t step = low; step < high; ++step) {
            const int64_t i = kUp ? step : high - 1 - (step - low);
            Position<kUp, kTies> at(*this, i);
            for (int j = 0; j < kWidth; ++j) at.add(u(i, j), v(i, j), sum_u[j], sum_v[j], &held_u[j], &held_v[j]);
            at.write();
          }
        });
  }

  template <bool kUp, bool kTies, class U, class W>
  void sweep_lines(const U& u, const W& v, int64_t vectors) {
    state.assign((kTies ? 4 : 2) * vectors, V{});
    for_segments<kUp>(
        [&](V decay) {
          for (int64_t q = 0; q < 2 * vectors; ++q) state[q] *= decay;
        },
        [&](int64_t low, int64_t high) {
          constexpr int64_t forth = kUp ? 1 : -1;
          int64_t i = kUp ? low : high - 1;
          int64_t left = high - low;
          const auto next = [&](int64_t i) { return std::clamp<int64_t>(i + 2 * forth, 0, n - 1); };
          for (; left >= 2; left -= 2, i += 2 * forth) {  // two, so that the sums are read and written half as often
            const T *u0 = u(i, next(i), 0), *v0 = v(i, next(i), 0);
            const T *u1 = u(i + forth, next(i + forth), 1), *v1 = v(i + forth, next(i + forth), 1);
            Position<kUp, kTies> at0(*this, i), at1(*this, i + forth);
            V *sum_u = state.data(), *sum_v = sum_u + vectors, *held_u = sum_v + vectors, *held_v = held_u + vectors;
            for (int64_t q = 0; q < vectors; ++q) {
              V of_u = sum_u[q], of_v = sum_v[q];
              at0.add(load(u0 + q * lanes), load(v0 + q * lanes), of_u, of_v, held_u + q, held_v + q);
              at1.add(load(u1 + q * lanes), load(v1 + q * lanes), of_u, of_v, held_u + q, held_v + q);
              sum_u[q] = of_u, sum_v[q] = of_v;
            }
            at0.write(), at1.write();
          }
          if (left == 1) {
            const T *u0 = u(i, next(i), 0), *v0 = v(i, next(i), 0);
            Position<kUp, kTies> at0(*this, i);
            V *sum_u = state.data(), *sum_v = sum_u + vectors, *held_u = sum_v + vectors, *held_v = held_u + vectors;
            for (int64_t q = 0; q < vectors; ++q) {
              at0.add(load(u0 + q * lanes), load(v0 + q * lanes), sum_u[q], sum_v[q], held_u + q, held_v + q);
            }
            at0.write();
          }
        });
  }
};

}  // namespace lps::cpu
