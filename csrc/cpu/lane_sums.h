// The gradient of t, row and col through nodes of few channels: the sums of PairSums with a row in each lane, where
// channels would leave most lanes empty.
#pragma once

#include <vector>

#include "cpu/convert.h"
#include "cpu/pair_sums.h"
#include "cpu/permute.h"

namespace lps::cpu {

constexpr int64_t kFewChannels = 4;

// Whether rows in lanes take fewer steps than channels in lanes.
template <class T>
bool rows_in_lanes(int64_t rows, int64_t channels) {
  constexpr int64_t lanes = kLanes<T>;
  return channels <= kFewChannels && (rows + lanes - 1) / lanes * channels < rows;
}

template <class T>
struct LaneSums {
  using V = Vec<T>;
  static constexpr int64_t lanes = kLanes<T>;
  Decays<T> decays;
  std::vector<V> row, col, u, v;     // n of the first two, n channels of the others
  std::vector<V> d_row, d_col, d_t;  // the gradient, that of t in units of tau
  std::vector<T> staged;             // what becomes u or v, a row behind the other

  // t, row and col of `count` rows; d_row is where t waits for its decays.
  void read(const Soft<T>& soft, int64_t first, int64_t count, V counts, int64_t n) {
    for (auto* a : {&row, &col, &d_row}) a->resize(n);
    to_lanes(soft.row + first * n, count, n, n, row.data());
    to_lanes(soft.col + first * n, count, n, n, col.data());
    to_lanes(soft.t + first * n, count, n, n, d_row.data());
    decays.build(d_row.data(), counts, n, soft.tau);
  }

  void sum(int64_t n, int64_t c) {
    for (auto* a : {&d_row, &d_col, &d_t}) a->assign(n, V{});
    const auto both_ways = [&](auto channels, auto ties) {
      sweep<channels.value, true, ties.value>(n);
      sweep<channels.value, false, ties.value>(n);
    };
    const auto with = [&](auto channels) {
      if (c != channels.value) return;
      decays.any_tied ? both_ways(channels, std::true_type()) : both_ways(channels, std::false_type());
    };
    with(std::integral_constant<int, 1>());
    with(std::integral_constant<int, 2>());
    with(std::integral_constant<int, 3>());
    with(std::integral_constant<int, 4>());
  }

  // to = w a, row by row.
  void write(std::vector<V>& a, V w, int64_t first, int64_t count, int64_t n, T* to) {
    for (int64_t i = 0; i < n; ++i) a[i] *= w;
    from_lanes(a.data(), count, n, n, to + first * n);
  }

  // Channels of `count` rows into lanes, nodes of each in the order of rank, zero from counts on. from(row),
  // order(row): a row's features and their order, or null where they lie by rank.
  template <class F, class From, class Order>
  void stage(int64_t first, int64_t count, V counts, int64_t n, int64_t c, const From& from, const Order& order,
             std::vector<V>& to) {
    staged.assign(count * n * c, T(0));
    for (int64_t lane = 0; lane < count; ++lane) {
      const F* base = from(first + lane);
      const int64_t* at = order(first + lane);
      T* line = staged.data() + lane * n * c;
      for (int64_t i = 0, real = static_cast<int64_t>(counts[lane]); i < real; ++i) {
        const F* node = base + (at ? at[i] : i) * c;
        for (int64_t q = 0; q < c; ++q) *line++ = convert<T>(node[q]);
      }
    }
    to.resize(n * c);
    to_lanes(staged.data(), count, n * c, n * c, to.data());
  }

 private:
  // One direction, see PairSums.
  template <int kChannels, bool kUp, bool kTies>
  void sweep(int64_t n) {
    const V *decay = decays.template decay<kUp>(), *reach = decays.template reach<kUp>();
    Scan<V> of_u[kChannels], of_v[kChannels];
    Held<T> held_u[kChannels], held_v[kChannels];
    walk<kUp>(
        n,
        [&](int64_t i) {
          const V d = decay[i], r = reach[i], row_i = row[i], col_i = col[i];
          V for_row{}, for_col{}, row_slope{}, col_slope{}, both{};
#pragma GCC unroll 4
          for (int q = 0; q < kChannels; ++q) {
            const V uq = u[i * kChannels + q], vq = v[i * kChannels + q];
            const V to_v = of_v[q].step(d, r, vq * col_i), to_u = of_u[q].step(d, r, uq * row_i);
            for_row += uq * to_v;
            for_col += vq * to_u;
            if constexpr (kUp) both += uq * vq;
            if constexpr (kTies) {
              row_slope += uq * held_v[q].template step<kUp>(decays, i, to_v);
              col_slope += vq * held_u[q].template step<kUp>(decays, i, to_u);
            }
          }
          if constexpr (!kTies) row_slope = for_row, col_slope = for_col;
          const V slope = row_i * row_slope + col_i * col_slope;
          d_t[i] += kUp ? slope : -slope;
          d_row[i] += kUp ? for_row + both * col_i : for_row;
          d_col[i] += kUp ? for_col + both * row_i : for_col;
        },
        [&] {
          for (int q = 0; q < kChannels; ++q) of_u[q].end_block(), of_v[q].end_block();
        });
  }
};

// soft_gradient of nodes through a hard permutation, order 1, where rows_in_lanes. The features that perm gathers are
// `gathered`, with samples if `each`; those in order of rank are `ranked`.
template <class F>
void lane_gradient(const Shape& s, const Soft<Compute<F>>& soft, const F* gathered, bool each, const F* ranked,
                   const Compute<F>* weights, Compute<F> scale, const SoftGradient<Compute<F>>& out) {
  using T = Compute<F>;
  const int64_t n = s.n, size = n * s.c;
  const T inverse = inverse_of<T>(soft.tau);
  const auto gathered_of = [&](int64_t row) { return gathered + (each ? row : row / s.k) * size; };
  const auto ranked_of = [&](int64_t row) { return ranked + row * size; };
  const auto perm_of = [&](int64_t row) { return s.perm_of(row); };
  const auto by_rank = [](int64_t) -> const int64_t* { return nullptr; };
  for_groups<T>(s.rows(), 2.0 * size, [&](int64_t begin, int64_t end) {
    LaneSums<T>& sums = workspace<LaneSums<T>>();
    for (int64_t first = begin; first < end; first += kLanes<T>) {
      const int64_t count = std::min<int64_t>(kLanes<T>, end - first);
      const Vec<T> counts = lane_counts<T>(s.nodes, first, count, s.k, n);
      Vec<T> w = splat<T>(scale);
      for (int64_t lane = 0; weights && lane < count; ++lane) w[lane] = weights[first + lane];
      sums.read(soft, first, count, counts, n);
      sums.template stage<F>(first, count, counts, n, s.c, gathered_of, perm_of, sums.u);
      sums.template stage<F>(first, count, counts, n, s.c, ranked_of, by_rank, sums.v);
      sums.sum(n, s.c);
      sums.write(sums.d_t, w * inverse, first, count, n, out.t);
      sums.write(sums.d_row, w, first, count, n, out.row);
      sums.write(sums.d_col, w, first, count, n, out.col);
    }
  });
}

}  // namespace lps::cpu
