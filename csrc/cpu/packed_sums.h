// The sums of PairSums for nodes whose channels fill no more than two half vectors: u and v share a vector, so that one
// scan serves both and no lane is empty.
#pragma once

#include <vector>

#include "cpu/sorted.h"

namespace lps::cpu {

template <int lanes>
struct SwapHalves {
  static constexpr int at(int i) {
    return (i + lanes / 2) % lanes;
  }
};

// The first halves of a and of b, or the second ones.
template <int lanes, bool second>
struct PickHalves {
  static constexpr int at(int i) {
    return (i < lanes / 2 ? i : i + lanes / 2) + (second ? lanes / 2 : 0);
  }
};

// The sums of the first half of v[0], of v[1] and so on, and then those of the second halves; v has kLanes / 2 vectors.
template <class T, int step = kLanes<T> / 4>
LPS_FN Vec<T> sum_halves(Vec<T>* v) {
  constexpr int lanes = kLanes<T>;
  if constexpr (step == 0) {
    return v[0];
  } else {
#pragma GCC unroll 8
    for (int p = 0; p < step; ++p) {
      const Vec<T> a = v[p], b = v[p + step];
      v[p] = shuffle<T, Interleaved<lanes, step, false>>(a, b) + shuffle<T, Interleaved<lanes, step, true>>(a, b);
    }
    return sum_halves<T, step / 2>(v);
  }
}

// kWidth vectors a node, each of kLanes / 2 channels of u and as many of v.
template <class T, int kWidth>
struct PackedSums {
  using V = Vec<T>;
  static constexpr int lanes = kLanes<T>, half = lanes / 2;
  std::vector<V> packed, upward, held_upward;

  // The gradient of one row, t in units of tau: what PairSums would add to zeros.
  template <class FU, class FV>
  void find(const RowDecays<T>& decays, const T* row, const T* col, const Sorted<FU>& u, const Sorted<FV>& v,
            int64_t count, const SoftGradient<T>& to) {
    packed.resize(count * kWidth), upward.resize(count * kWidth);
    T* const target = reinterpret_cast<T*>(packed.data());
    if (u.c < kWidth * half) std::fill_n(target, count * kWidth * lanes, T(0));
    for (int64_t low = 0; low < u.c; low += half) {
      const int64_t high = std::min<int64_t>(u.c, low + half);
      u.copy_nodes(low, high, count, kWidth * lanes, target + 2 * low);
      v.copy_nodes(low, high, count, kWidth * lanes, target + 2 * low + half);
    }
    if (decays.any_tied) {
      held_upward.resize(count * kWidth);
      both_ways<true>(decays, row, col, count, to);
    } else {
      both_ways<false>(decays, row, col, count, to);
    }
  }

 private:
  // u goes with the first factor and v with the second one.
  static LPS_FN V factors(T for_u, T for_v) {
    return shuffle<T, PickHalves<lanes, false>>(splat<T>(for_u), splat<T>(for_v));
  }

  // Upward scans wait in memory for the downward ones, so that the channels of a position are summed once. Slopes leave
  // out partners of equal score, see Held.
  template <bool kTies>
  void both_ways(const RowDecays<T>& decays, const T* row, const T* col, int64_t n, const SoftGradient<T>& to) {
    V held[kWidth] = {};
    Scan<V> scan[kWidth];
    const auto end = [&] {
      for (auto& s : scan) s.end_block();
    };
    const T *decay = decays.template decay<true>(), *reach = decays.template reach<true>();
    walk_up(
        n,
        [&](int64_t i) {
          const V d = splat<T>(decay[i]), r = splat<T>(reach[i]), by = factors(row[i], col[i]);
          for (int j = 0; j < kWidth; ++j) {
            const int64_t at = i * kWidth + j;
            upward[at] = scan[j].step(d, r, by * packed[at]);
            if constexpr (kTies) {
              if (!decays.tied[i]) held[j] = upward[at];
              held_upward[at] = held[j];
            }
          }
        },
        end);
    decay = decays.template decay<false>(), reach = decays.template reach<false>();
    for (auto& s : scan) s = {};
    for (auto& h : held) h = V{};
    V values[lanes] = {}, slopes[lanes] = {};
    walk_down(
        n,
        [&](int64_t i) {
          const V d = splat<T>(decay[i]), r = splat<T>(reach[i]), by = factors(row[i], col[i]);
          V value{}, slope{};
          for (int j = 0; j < kWidth; ++j) {
            const int64_t at = i * kWidth + j;
            const V own = packed[at], w = by * own, partner = shuffle<T, SwapHalves<lanes>>(own, own);
            const V up = upward[at], down = scan[j].step(d, r, w);
            value += partner * (up + down + w);
            if constexpr (kTies) {
              if (!decays.tied[i + 1]) held[j] = down;
              slope += partner * (held_upward[at] - held[j]);
            } else {
              slope += partner * (up - down);
            }
          }
          values[i % lanes] = value, slopes[i % lanes] = factors(col[i], row[i]) * slope;
          if (i % lanes == 0) write(values, slopes, i, std::min<int64_t>(lanes, n - i), to);
        },
        end);
  }

  // The sums of `count` positions from i on. Of a value the first half belongs to col, the second one to row.
  static void write(const V* values, const V* slopes, int64_t i, int64_t count, const SoftGradient<T>& to) {
    V first[half], second[half], slope[half];
#pragma GCC unroll 8
    for (int p = 0; p < half; ++p) {
      first[p] = shuffle<T, PickHalves<lanes, false>>(values[p], values[p + half]);
      second[p] = shuffle<T, PickHalves<lanes, true>>(values[p], values[p + half]);
      slope[p] = shuffle<T, PickHalves<lanes, false>>(slopes[p], slopes[p + half]) +
                 shuffle<T, PickHalves<lanes, true>>(slopes[p], slopes[p + half]);
    }
    const V sums[] = {sum_halves<T>(first), sum_halves<T>(second), sum_halves<T>(slope)};
    T* const targets[] = {to.col + i, to.row + i, to.t + i};
    for (int which = 0; which < 3; ++which) std::memcpy(targets[which], &sums[which], count * sizeof(T));
  }
};

// Calls body(width as a constant) with as many packed vectors as `channels` want, 2 at most.
template <class T, class Body>
void with_packing(int64_t channels, const Body& body) {
  if (2 * channels <= kLanes<T>) return body(std::integral_constant<int, 1>());
  body(std::integral_constant<int, 2>());
}

}  // namespace lps::cpu
