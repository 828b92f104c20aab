// The soft permutation applied to features, and the gradient of t, row and col, both by scans in sorted coordinates.
#pragma once

#include <memory>
#include <tuple>

#include "cpu/lane_sums.h"
#include "cpu/packed_sums.h"
#include "cpu/sorted.h"

namespace lps::cpu {

// Bytes of a node from which whole nodes are read one behind the other rather than some channels of each.
constexpr int64_t kLongLine = 2048;

// Sums along axis 0 for edges of columns [low, high), or for nodes of many channels where these are 0 and 1.
template <class T, class FU, class FV>
void add_line_sums(const Sorted<FU>& u, const Sorted<FV>& v, int64_t low, int64_t high, PairSums<T>& sums) {
  auto& [us, vs] = workspace<std::pair<std::vector<Vec<T>>, std::vector<Vec<T>>>>();
  const int64_t size = (high - low) * u.c, vectors = (size + kLanes<T> - 1) / kLanes<T>;
  us.assign(2 * vectors, Vec<T>{}), vs.assign(2 * vectors, Vec<T>{});
  const auto line_of = [&](const auto& x, std::vector<Vec<T>>& buffer) {
    return [&, to = reinterpret_cast<T*>(buffer.data())](int64_t i, int64_t next, int64_t slot) -> const T* {
      return x.line(i, next, low, high, vectors * kLanes<T> == size, to + slot * vectors * kLanes<T>);
    };
  };
  sums.add_lines(line_of(u, us), line_of(v, vs), vectors);
}

// Sums along axis 1 for edges of rows [low, high) in order, up to the row returned: where channels fill vectors in
// memory, or halves of them.
template <class T>
int64_t add_split_lines(const Sorted<T>& u, const Sorted<T>& v, int64_t low, int64_t high, PairSums<T>& sums) {
  const int64_t line = u.n * u.c;
  const auto with = [&](auto parts) {
    constexpr int kParts = decltype(parts)::value;
    const auto add = [&](auto width) {
      for (constexpr int64_t rows = kParts * decltype(width)::value; low + rows <= high; low += rows) {
        const auto lines = [&](const Sorted<T>& x) { return SplitLines<T, kParts>{x.base + low * line, line, x.c}; };
        sums.template add<decltype(width)::value>(lines(u), lines(v));
      }
    };
    add(std::integral_constant<int, 4>()), add(std::integral_constant<int, 1>());
  };
  if (u.c == kLanes<T>) with(std::integral_constant<int, 1>());
  if constexpr (kVectorBytes >= 32) {
    if (2 * u.c == kLanes<T>) with(std::integral_constant<int, 2>());
  }
  return low;
}

// The same with a row in each lane: as many vectors as channels, or four for one channel.
template <class T>
void add_rows_in_lanes(const Sorted<T>& u, const Sorted<T>& v, int64_t low, int64_t high, int64_t count,
                       PairSums<T>& sums) {
  constexpr int64_t lanes = kLanes<T>, most = 4;
  auto& [us, vs] = workspace<std::pair<std::vector<Vec<T>>, std::vector<Vec<T>>>>();
  const int64_t line = u.n * u.c, blocks = u.c == 1 ? most : 1, width = blocks * u.c;
  for (; low < high; low += blocks * lanes) {
    const auto turn = [&](const Sorted<T>& x, std::vector<Vec<T>>& to) {
      to.assign(count * width, Vec<T>{});
      for (int64_t block = 0; block < blocks && low + block * lanes < high; ++block) {
        const int64_t row = low + block * lanes;
        to_lanes(x.base + row * line, std::min(lanes, high - row), count * x.c, line, to.data() + block, blocks);
      }
    };
    turn(u, us), turn(v, vs);
    for (int64_t q = 0; q < width; q += most) {
      const auto lines = [&](std::vector<Vec<T>>& x) {
        return Lines<T>{reinterpret_cast<const T*>(x.data() + q), nullptr, width * lanes};
      };
      const auto add = [&](auto size) {
        if (std::min(most, width - q) == size) sums.template add<decltype(size)::value>(lines(us), lines(vs));
      };
      add(std::integral_constant<int, 1>()), add(std::integral_constant<int, 2>());
      add(std::integral_constant<int, 3>()), add(std::integral_constant<int, 4>());
    }
  }
}

// Channels of edges up to which a row lies in each lane.
constexpr int64_t kFewEdgeChannels = 8;

// Adds U V^T along `axis`, summed over channels: part `part` of `parts` of them.
template <class T, class FU, class FV>
void add_pair_sums(const Sorted<FU>& u, const Sorted<FV>& v, int64_t axis, int64_t part, int64_t parts, int64_t count,
                   PairSums<T>& sums) {
  const int64_t others = u.edges ? count : 1;
  const auto bound = [&](int64_t p) { return p == parts ? others : p * others / parts / kLanes<T> * kLanes<T>; };
  int64_t low = bound(part);
  const int64_t high = bound(part + 1);
  if (count == 0 || low == high || u.c == 0) return;
  const bool long_lines = u.edges ? axis == 0 : u.c * sizeof(T) >= kLongLine;
  if (long_lines) return add_line_sums<T>(u, v, low, high, sums);
  if constexpr (std::is_same_v<FU, T> && std::is_same_v<FV, T>) {
    if (u.edges && !u.order && !v.order) {
      low = add_split_lines<T>(u, v, low, high, sums);
      if (u.c <= kFewEdgeChannels) return add_rows_in_lanes<T>(u, v, low, high, count, sums);
    }
  }
  auto& [us, vs] = workspace<std::pair<std::vector<Vec<T>>, std::vector<Vec<T>>>>();
  with_width<T>((high - low) * u.c, [&](auto width) {
    constexpr int kWidth = decltype(width)::value;
    constexpr int64_t numbers = kWidth * kLanes<T>;
    for (int64_t begin = low * u.c; begin < high * u.c; begin += numbers) {
      const int64_t end = std::min(begin + numbers, high * u.c);
      const Lines<T> from_u = lines_of<T>(u, axis, begin, end, count, numbers, us);
      const Lines<T> from_v = lines_of<T>(v, axis, begin, end, count, numbers, vs);
      sums.template add<kWidth>(from_u, from_v);
    }
  });
}

// w (K (w' x)) along an axis of one sample in sorted coordinates: P^T x for before = row and after = col, P x the other
// way round. `to` is laid out like sorted features, dense.
template <class T, class F>
void soft_product(const RowDecays<T>& decays, const T* before, const T* after, const Sorted<F>& x, int64_t axis,
                  int64_t count, T* to) {
  const int64_t n = x.n, c = x.c, channels = x.edges ? count * c : c;
  if (count == 0 || c == 0) return;
  // Channels of one position that lie together, and how far the next position's are.
  const int64_t together = x.edges && axis == 1 ? c : channels, step = x.edges && axis == 0 ? n * c : c;
  with_width<T>(channels, [&](auto width) {
    constexpr int64_t numbers = decltype(width)::value * kLanes<T>;
    auto& [xs, ys] = workspace<std::pair<std::vector<Vec<T>>, std::vector<Vec<T>>>>();
    xs.resize(count * decltype(width)::value), ys.resize(xs.size());
    T *source = reinterpret_cast<T*>(xs.data()), *result = reinterpret_cast<T*>(ys.data());
    for (int64_t low = 0; low < channels; low += numbers) {
      const int64_t high = std::min(low + numbers, channels);
      x.stage(axis, low, high, count, numbers, source);
      for (int64_t i = 0; i < count * numbers; ++i) source[i] *= before[i / numbers];
      kernel_product<T, decltype(width)::value>(decays, xs.data(), ys.data(), count);
      for (int64_t i = 0; i < count; ++i) {
        for (int64_t other = low / together; other * together < high; ++other) {
          const int64_t begin = std::max(low, other * together), end = std::min(high, (other + 1) * together);
          T* __restrict line = to + other * n * c + i * step - other * together;
          for (int64_t q = begin; q < end; ++q) line[q] = after[i] * result[i * numbers + q - low];
        }
      }
    }
  });
}

// One sample of soft order 1 or 2 features, from sorted coordinates to sorted coordinates. transpose: P^T x, else P x.
template <class T>
struct SoftAction {
  const RowDecays<T>& decays;
  const T *row, *col;
  bool transpose;

  template <class F>
  void operator()(const Sorted<F>& x, int64_t axis, int64_t count, T* to, bool adjoint = false) const {
    const bool forward = transpose != adjoint;
    soft_product<T>(decays, forward ? row : col, forward ? col : row, x, axis, count, to);
  }
};

// y = P^T x, or P y, of every sample; from and to are in sorted coordinates, x (not `each`) is gathered by perm.
template <class F>
void soft_transform(const Shape& s, const Soft<Compute<F>>& soft, const F* from, bool each, bool transpose,
                    Compute<F>* to) {
  using T = Compute<F>;
  parallel_for(s.rows(), 1, [&](int64_t begin, int64_t end) {
    RowDecays<T>& decays = workspace<RowDecays<T>>();
    std::vector<T> half(s.order == 2 ? s.n * s.n * s.c : 0);
    for (int64_t row = begin; row < end; ++row) {
      const int64_t count = s.count(row), size = s.n * s.inner();
      decays.build(soft.t + row * s.n, count, soft.tau);
      const SoftAction<T> act{decays, soft.row + row * s.n, soft.col + row * s.n, transpose};
      const Sorted<F> x{from + (each ? row : row / s.k) * size, each ? nullptr : s.perm_of(row), s.n, s.c,
                        s.order == 2};
      T* result = to + row * size;
      std::fill_n(result, size, T(0));
      if (s.order == 1) {
        act(x, 0, count, result);
      } else {
        act(x, 1, count, half.data());
        act(Sorted<T>{half.data(), nullptr, s.n, s.c, true}, 0, count, result);
      }
    }
  });
}

template <class T>
struct PartialSums {
  std::vector<T> values;
};

// Gradients of t, row and col, each (b, k, n), zero at padding, through P^T x (transpose) or P x. For the former the
// input is (b, ...) seen through perm and grad, that of the output, is (b, k, ...) in order of rank; for the latter the
// input is in order of rank and grad is seen through perm, with samples if each_grad. weights or scale: what a sample
// counts. Where hard is false the gradient of the input goes to grad_input too, in order of rank.
template <class F>
void soft_gradient(const Shape& s, const Soft<Compute<F>>& soft, const F* input, const F* grad, bool transpose,
                   bool each_grad, bool hard, const Compute<F>* weights, Compute<F> scale,
                   const SoftGradient<Compute<F>>& out, Compute<F>* grad_input) {
  using T = Compute<F>;
  const int64_t n = s.n, size = n * s.inner(), channels = s.inner();
  const bool edges = s.order == 2;
  if (hard && !edges && rows_in_lanes<T>(s.rows(), s.c)) {
    return lane_gradient<F>(s, soft, transpose ? input : grad, !transpose && each_grad, transpose ? grad : input,
                            weights, scale, out);
  }
  // What a row's sums become: t comes in units of tau.
  const T inverse = inverse_of<T>(soft.tau);
  const auto finish = [&](int64_t row) {
    const T w = weights ? weights[row] : scale;
    T* __restrict t = out.t + row * n;
    T* __restrict by_row = out.row + row * n, * __restrict by_col = out.col + row * n;
    for (int64_t i = 0; i < n; ++i) t[i] *= w * inverse, by_row[i] *= w, by_col[i] *= w;
  };
  // Few rows are cut into parts, as many whatever the threads: sums do not depend on them.
  const int64_t parts =
      hard ? std::clamp<int64_t>(std::min(channels / 128, 8 / std::max<int64_t>(s.rows(), 1)), 1, 8) : 1;
  std::vector<T>& partial = workspace<PartialSums<T>>().values;
  if (parts > 1) partial.resize(std::max<size_t>(partial.size(), s.rows() * parts * 3 * n));
  const auto view = [&](int64_t row, const F* base, bool each, bool by_rank) {
    return Sorted<F>{base + (each ? row : row / s.k) * size, by_rank ? nullptr : s.perm_of(row), n, s.c, edges};
  };
  // Edges that perm gathers, or that are narrow, are put in order once, for scans that read them three times: here
  // where parts share a row, else row by row.
  const bool ordered = hard && edges && s.c > 0, sharing = ordered && parts > 1;
  constexpr int64_t copies = std::is_same_v<F, T> ? 1 : 2;
  const std::unique_ptr<T[]> shared(sharing ? new T[s.rows() * copies * size] : nullptr);
  const auto put_in_order = [&](int64_t row, int64_t begin, int64_t end, T* to) {
    const int64_t count = s.count(row);
    for (int64_t copy = 0; copy < copies; ++copy) {
      const bool by_rank = copy == 1, of_input = transpose != by_rank;
      const Sorted<F> from = view(row, of_input ? input : grad, of_input ? !transpose : each_grad, by_rank);
      for (int64_t i = begin; i < std::min(end, count); ++i) {
        from.line(i, std::min(i + kAhead, count - 1), 0, count, false, to + copy * size + i * n * s.c);
      }
    }
  };
  if (sharing) {
    for_lines(s, 4.0 + 0.2 * n * s.c, [&](int64_t row, int64_t begin, int64_t end) {
      put_in_order(row, begin, end, shared.get() + row * copies * size);
    });
  }
  parallel_for(s.rows() * parts, grain_for(8.0 * n * channels / parts), [&](int64_t begin, int64_t end) {
    auto& [decays, sums] = workspace<std::pair<RowDecays<T>, PairSums<T>>>();
    std::vector<T> first(hard || !edges ? 0 : size), second(first.size());
    const std::unique_ptr<T[]> own(ordered && !sharing ? new T[copies * size] : nullptr);
    for (int64_t item = begin; item < end; ++item) {
      const int64_t row = item / parts, count = s.count(row);
      const T *rows = soft.row + row * n, *cols = soft.col + row * n;
      T* own_sums = partial.data() + item * 3 * n;
      const SoftGradient<T> to = parts > 1 ? SoftGradient<T>{own_sums, own_sums + n, own_sums + 2 * n}
                                           : SoftGradient<T>{out.t + row * n, out.row + row * n, out.col + row * n};
      for (T* gradient : {to.t, to.row, to.col}) std::fill_n(gradient, n, T(0));
      const Sorted<F> x = view(row, input, !transpose, !transpose), g = view(row, grad, each_grad, transpose);
      const int64_t part = item % parts;
      const bool packed = !edges && s.c <= kLanes<T>;
      if (packed || !hard) decays.build(soft.t + row * n, count, soft.tau);
      sums.start(soft.t + row * n, rows, cols, packed ? 0 : count, soft.tau);
      const auto add = [&](const auto& from, const auto& gradient, int64_t axis) {
        const auto find = [&](const auto& u, const auto& v) {
          if (!packed) return add_pair_sums<T>(u, v, axis, part, parts, count, sums);
          with_packing<T>(s.c, [&](auto width) {
            workspace<PackedSums<T, decltype(width)::value>>().find(decays, rows, cols, u, v, count, to);
          });
        };
        transpose ? find(from, gradient) : find(gradient, from);
      };
      if (hard) {
        if (ordered) {
          T* const values = sharing ? shared.get() + row * copies * size : own.get();
          if (!sharing) put_in_order(row, 0, count, values);
          const Sorted<T> sorted{values, nullptr, n, s.c, true};
          const auto by_rank = [&] {
            if constexpr (copies == 1) return transpose ? g : x;
            return Sorted<T>{values + size, nullptr, n, s.c, true};
          }();
          for (int64_t axis = 0; axis < 2; ++axis) transpose ? add(sorted, by_rank, axis) : add(by_rank, sorted, axis);
        } else {
          add(x, g, 0);
        }
        sums.finish(to);
        if (parts == 1) finish(row);
        continue;
      }
      const SoftAction<T> act{decays, rows, cols, transpose};
      T* result = grad_input + row * size;
      std::fill_n(result, size, T(0));
      if (!edges) {
        add(x, g, 0);
        act(g, 0, count, result, true);
      } else {  // out acts on axis 0 of `first`, which acts on axis 1 of x
        const Sorted<T> between{first.data(), nullptr, n, s.c, true}, back{second.data(), nullptr, n, s.c, true};
        act(x, 1, count, first.data());
        add(between, g, 0);
        act(g, 0, count, second.data(), true);
        add(x, back, 1);
        act(back, 1, count, result, true);
      }
      sums.finish(to);
      const T w = weights ? weights[row] : scale;
      for (int64_t i = 0; i < size; ++i) result[i] *= w;
      finish(row);
    }
  });
  if (parts == 1) return;
  parallel_for(s.rows(), grain_for(3.0 * n * parts), [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      T* const results[] = {out.t + row * n, out.row + row * n, out.col + row * n};
      for (int64_t which = 0; which < 3; ++which) {
        const T* sums = partial.data() + (row * parts * 3 + which) * n;
        T* __restrict to = results[which];
        std::copy_n(sums, n, to);
        for (int64_t part = 1; part < parts; ++part) {
          const T* __restrict from = sums + part * 3 * n;
          for (int64_t i = 0; i < n; ++i) to[i] += from[i];
        }
      }
      finish(row);
    }
  });
}

}  // namespace lps::cpu
