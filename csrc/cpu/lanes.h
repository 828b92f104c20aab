// Rows side by side in the lanes of vectors, so that a recurrence along a row is one vector operation a step.
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "core/laplace.h"
#include "cpu/parallel.h"
#include "cpu/simd.h"

namespace lps::cpu {

constexpr int64_t kBlock = 32;  // of the scans, see core/laplace.h

// rows: `count` rows of n, `stride` apart -> lanes[i * apart][row]; lanes without a row are zero.
template <class T>
void to_lanes(const T* rows, int64_t count, int64_t n, int64_t stride, Vec<T>* lanes, int64_t apart = 1) {
  constexpr int64_t width = kLanes<T>;
  int64_t i = 0;
  for (; i + width <= n; i += width) {
    Vec<T> block[width];
    for (int64_t lane = 0; lane < width; ++lane) {
      block[lane] = lane < count ? load(rows + lane * stride + i) : splat<T>(0);
    }
    transpose<T>(block);
    for (int64_t j = 0; j < width; ++j) lanes[(i + j) * apart] = block[j];
  }
  for (; i < n; ++i) {
    for (int64_t lane = 0; lane < width; ++lane) lanes[i * apart][lane] = lane < count ? rows[lane * stride + i] : T(0);
  }
}

template <class T>
void from_lanes(const Vec<T>* lanes, int64_t count, int64_t n, int64_t stride, T* rows, int64_t apart = 1) {
  constexpr int64_t width = kLanes<T>;
  int64_t i = 0;
  for (; i + width <= n; i += width) {
    Vec<T> block[width];
    for (int64_t j = 0; j < width; ++j) block[j] = lanes[(i + j) * apart];
    transpose<T>(block);
    for (int64_t lane = 0; lane < count; ++lane) store(rows + lane * stride + i, block[lane]);
  }
  for (; i < n; ++i) {
    for (int64_t lane = 0; lane < count; ++lane) rows[lane * stride + i] = lanes[i * apart][lane];
  }
}

template <class T>
T inverse_of(double tau) {
  return static_cast<T>(std::min(1.0 / tau, static_cast<double>(std::numeric_limits<T>::max())));
}

// Differences of scores in units of tau. 1 / tau comes in two parts: rounded to one float it would bend every decay of
// a row the same way.
template <class T>
struct Units {
  T high, low;

  explicit Units(double tau)
      : high(inverse_of<T>(tau)), low(high < std::numeric_limits<T>::max() ? static_cast<T>(1.0 / tau - high) : T(0)) {}
  template <class V>
  LPS_FN V operator()(V difference) const {
    return difference * high + difference * low;
  }
};

// The number of nodes of each of `count` rows.
template <class T>
Vec<T> lane_counts(const int64_t* nodes, int64_t row, int64_t count, int64_t k, int64_t n) {
  Vec<T> counts{};
  for (int64_t lane = 0; lane < count; ++lane) counts[lane] = static_cast<T>(count_nodes(nodes, (row + lane) / k, n));
  return counts;
}

// Calls body(first row, rows) for groups of kLanes rows, in parallel; `work` is nanoseconds a row.
template <class T, class Body>
void for_groups(int64_t rows, double work, const Body& body) {
  constexpr int64_t lanes = kLanes<T>;
  parallel_for((rows + lanes - 1) / lanes, grain_for(work * lanes),
               [&](int64_t begin, int64_t end) { body(begin * lanes, std::min(end * lanes, rows)); });
}

// Which of positions 0..n-1 are real, lane by lane.
template <class T>
LPS_FN Vec<Int<T>> before(int64_t i, Vec<T> counts) {
  return splat<T>(static_cast<T>(i)) < counts;
}

// The scans' decays, of kLanes rows (Number a vector) or of one (a number). Up walks to higher ranks, down to lower
// ones. `between` is K of neighbours i - 1 and i, zero where a block starts and at n, so that it serves both
// directions.
template <class Number>
struct DecaysOf {
  std::vector<Number> between, up_reach, down_reach;  // n + 1 or more of the first
  bool any_tied = false;

  // Of position i, as in Scan.
  template <bool kUp>
  const Number* decay() const {
    return between.data() + (kUp ? 0 : 1);
  }
  template <bool kUp>
  const Number* reach() const {
    return (kUp ? up_reach : down_reach).data();
  }
};

template <class T>
struct Decays : DecaysOf<Vec<T>> {
  std::vector<Vec<Int<T>>> tied;  // whether t_i equals t_{i - 1}

  // Padding, from counts on, is isolated. t is in lanes; counts holds each lane's number of nodes.
  void build(const Vec<T>* t, Vec<T> counts, int64_t n, double tau) {
    this->between.resize(n + 1), this->up_reach.resize(n), this->down_reach.resize(n), tied.resize(n + 1);
    const Units<T> units(tau);
    const Vec<T> far = splat<T>(static_cast<T>(-kFarApart)), zero{};
    const auto kernel = [&](Vec<T> low, Vec<T> high, Vec<Int<T>> real) {
      const Vec<T> gap = units(low - high);
      return real ? exp_nonpositive<T>(gap > far ? gap : far) : zero;
    };
    Vec<Int<T>> ties{};
    for (int64_t first = 0; first < n; first += kBlock) {
      const int64_t stop = std::min(first + kBlock, n);
      const Vec<Int<T>> next = before<T>(stop, counts);
      for (int64_t i = first; i < stop; ++i) {
        const Vec<Int<T>> real = before<T>(i, counts);
        this->between[i] = i > first ? kernel(t[i], t[i - 1], real) : zero;
        this->up_reach[i] = first > 0 ? kernel(t[i], t[first - 1], real) : zero;
        this->down_reach[i] = stop < n ? kernel(t[stop], t[i], next) : zero;
        tied[i] = i > 0 ? (t[i] == t[i - 1]) & real : Vec<Int<T>>{};
        ties |= tied[i];
      }
    }
    this->between[n] = zero, tied[n] = Vec<Int<T>>{};
    this->any_tied = any<Int<T>>(ties);
  }
};

// A scan without the partners of equal score: there is no slope between them (d|x|/dx = 0 at 0), so that where slopes
// are summed a group of equal scores keeps what its first member found.
template <class T>
struct Held {
  Vec<T> value{};

  template <bool kUp>
  LPS_FN Vec<T> step(const Decays<T>& decays, int64_t i, Vec<T> strict) {
    value = decays.tied[kUp ? i : i + 1] ? value : strict;
    return value;
  }
};

// Calls step(i) for every position upwards and end() after each block.
template <class Step, class End>
LPS_FN void walk_up(int64_t n, const Step& step, const End& end) {
  for (int64_t first = 0; first < n; first += kBlock) {
    const int64_t stop = std::min(first + kBlock, n);
    for (int64_t i = first; i < stop; ++i) step(i);
    end();
  }
}

template <class Step, class End>
LPS_FN void walk_down(int64_t n, const Step& step, const End& end) {
  for (int64_t first = (n - 1) / kBlock * kBlock; first >= 0 && n > 0; first -= kBlock) {
    for (int64_t i = std::min(first + kBlock, n) - 1; i >= first; --i) step(i);
    end();
  }
}

template <bool kUp, class Step, class End>
LPS_FN void walk(int64_t n, const Step& step, const End& end) {
  if constexpr (kUp) {
    walk_up(n, step, end);
  } else {
    walk_down(n, step, end);
  }
}

}  // namespace lps::cpu
