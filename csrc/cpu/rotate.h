// What the rotation ops share: the action of a matrix on one row of features, and sums over samples.
#pragma once

#include <vector>

#include "cpu/lane_points.h"
#include "cpu/parallel.h"
#include "cpu/permute.h"
#include "cpu/vectors.h"
#include "space.h"

namespace lps::cpu {

// Features as matrices take them: nodes one behind the other, or as one node with long rows, see Action.
template <class T>
struct Arranged {
  const T* values;
  int64_t nodes, channels;
};

// The whole action of one matrix on one row of features, with the buffers that it needs. Nodes with fewer channels than
// a vector has lanes may be arranged in planes: row e holds the channels of all nodes in number e of a node. That pays
// for sums and inner products, and for others where d is large.
template <int D, class T>
struct Action {
  const Space& s;
  const bool planar;
  std::vector<T> matrix, half, source, result;

  explicit Action(const Space& s, bool planes = D == 0)
      : s(s),
        planar(planes && !quads() && s.d > 1 && s.c > 0 && s.c < kLanes<T> && !by_rows()),
        matrix(matrix_size<T>(s.d)) {}

  // Whether there are few enough numbers a node to hold them in a Quad.
  bool quads() const {
    return D > 0 && s.order == 1 && s.c == 1;
  }

  // Whether channels that repeat to fill a vector do without planes: those of tensors if they are few or wide enough.
  bool by_rows() const {
    const bool fits = s.order == 1 || (s.c == 1 ? s.n < 2 * kLanes<T> : s.d * s.c >= kLanes<T>);
    return fits && with_repeats<T>(s.c, [](auto) {});
  }

  // Numbers that n nodes take, arranged.
  int64_t size(int64_t n) const {
    return planar ? s.node() / s.c * plane(n) : n * s.node();
  }

  Arranged<T> arrange(const T* x, int64_t n, std::vector<T>& buffer) const {
    if (!planar) return {x, n, s.c};
    buffer.resize(size(n));
    T* const to = buffer.data();
    const int64_t turned = s.c == 1 ? turn_blocks<false>(x, to, n) : 0;
    each_channels(turned, n, [=](int64_t row, int64_t place, auto bytes) { copy(to + place, x + row, bytes); });
    for (int64_t p = 0; p < s.node() / s.c; ++p) {
      T* const at = buffer.data() + p * plane(n);
      std::fill(at + n * s.c, at + plane(n), T(0));
    }
    return {buffer.data(), 1, plane(n)};
  }
  // Back from what is arranged.
  void restore(const T* from, int64_t n, T* y) const {
    const int64_t turned = s.c == 1 ? turn_blocks<true>(from, y, n) : 0;
    each_channels(turned, n, [=](int64_t row, int64_t place, auto bytes) { copy(y + row, from + place, bytes); });
  }

  // y (+)= by q x, or q^T x, and both sides of a tensor; y is arranged too.
  template <bool kAdd>
  void turn(const T* q, bool transpose, T by, const Arranged<T>& x, T* y) {
    const auto [values, nodes, c] = x;
    read_matrix(q, s.d, transpose, by, matrix.data());
    if (s.order == 1) return apply_matrix<D, kAdd>(matrix.data(), values, y, nodes, s.d, c);
    half.resize(nodes * s.d * s.d * c);
    apply_matrix<D, false>(matrix.data(), values, half.data(), nodes, s.d, s.d * c);
    if (by != T(1)) read_matrix(q, s.d, transpose, T(1), matrix.data());
    apply_matrix<D, kAdd>(matrix.data(), half.data(), y, nodes * s.d, s.d, c);
  }

  // y = by q x of n nodes, not arranged.
  void apply(const T* q, bool transpose, T by, const Arranged<T>& x, T* y, int64_t n) {
    if constexpr (D > 0) {
      if (quads()) return PointsOf<D, T>(q, transpose, by).write(x.values, y, n);
    }
    if (!planar) return turn<false>(q, transpose, by, x, y);
    result.resize(size(n));
    turn<false>(q, transpose, by, x, result.data());
    restore(result.data(), n, y);
  }
  void apply(const T* q, bool transpose, T by, const T* x, T* y, int64_t n) {
    apply(q, transpose, by, arrange(x, n, source), y, n);
  }

  // y = q^T x of an input for k samples, one behind the other, with `size` numbers each, zero behind n nodes; quads().
  void write_samples(const T* q, const T* x, T* y, int64_t size, int64_t k, int64_t n) {
    for (int64_t row = 0; row < k; ++row, q += D * D, y += size) {
      PointsOf<D, T>(q, true, T(1)).write(x, y, n);
      if (n * D < size) std::fill(y + n * D, y + size, T(0));
    }
  }

  // g, the gradient of q in q^T x (transpose) or q x; it has matrix_size.
  void gradient(const T* q, bool transpose, const Arranged<T>& x, const Arranged<T>& grad, T* g) {
    const auto [values, nodes, c] = x;
    const auto add = [&](auto onto, const T* from, int64_t n, int64_t width) {
      add_outer<D, decltype(onto)::value>(transpose ? from : grad.values, transpose ? grad.values : from, g, n, s.d,
                                          width);
    };
    if (s.order == 1) return add(std::false_type(), values, nodes, c);
    half.resize(nodes * s.d * s.d * c);
    read_matrix(q, s.d, transpose, T(1), matrix.data());
    apply_matrix<D, false>(matrix.data(), values, half.data(), nodes * s.d, s.d, c);  // the first axis still as it was
    add(std::false_type(), half.data(), nodes, s.d * c);
    apply_matrix<D, false>(matrix.data(), values, half.data(), nodes, s.d, s.d * c);
    add(std::true_type(), half.data(), nodes * s.d, c);
  }
  void gradient(const T* q, bool transpose, const T* x, const T* grad, T* g, int64_t n) {
    gradient(q, transpose, arrange(x, n, source), arrange(grad, n, result), g);
  }

 private:
  // Numbers of a plane: whole vectors.
  int64_t plane(int64_t n) const {
    return (n * s.c + kLanes<T> - 1) / kLanes<T> * kLanes<T>;
  }

  template <class Size>
  static LPS_FN void copy(T* to, const T* from, Size bytes) {
    copy_bytes(reinterpret_cast<char*>(to), reinterpret_cast<const char*>(from), bytes);
  }

  // Nodes without channels to planes, or back, by blocks of whole vectors, the last of a node over numbers of the one
  // before; how many nodes were. What is written beyond a node is overwritten by the next one.
  template <bool kBack>
  int64_t turn_blocks(const T* from, T* to, int64_t n) const {
    constexpr int64_t lanes = kLanes<T>;
    const int64_t planes = s.node(), size = plane(n), whole = whole_rows<T>(n, planes), count = std::min(lanes, planes);
    int64_t i = 0;
    for (; i + lanes <= whole; i += lanes) {
      for (int64_t done = 0; done < planes; done += lanes) {
        const int64_t e = std::max<int64_t>(std::min(done, planes - lanes), 0);
        Vec<T> block[lanes] = {};
#pragma GCC unroll 16
        for (int64_t l = 0; l < lanes; ++l) {
          if (!kBack) block[l] = load(from + (i + l) * planes + e);
          if (kBack && l < count) block[l] = load(from + (e + l) * size + i);
        }
        transpose<T>(block);
#pragma GCC unroll 16
        for (int64_t l = 0; l < lanes; ++l) {
          if (kBack) store(to + (i + l) * planes + e, block[l]);
          if (!kBack && l < count) store(to + (e + l) * size + i, block[l]);
        }
      }
    }
    return i;
  }

  // Calls body(where they lie, where they are arranged, bytes) for the channels of every number of nodes [first, n).
  template <class Body>
  void each_channels(int64_t first, int64_t n, const Body& body) const {
    const int64_t c = s.c, planes = s.node() / c, size = plane(n);
    with_size(c * sizeof(T), [=](auto bytes) {
      for (int64_t p = 0; p < planes; ++p) {
        for (int64_t i = first; i < n; ++i) body((i * planes + p) * c, p * size + i * c, bytes);
      }
    });
  }
};

// The sum of by q x over samples, n nodes.
template <int D, class T>
struct Sum {
  using Parts = PointsOf<D ? D : 2, T>;
  Action<D, T>& act;
  std::vector<typename Parts::Part> parts;
  std::vector<T> values, restored;

  Sum(Action<D, T>& act, int64_t n) : act(act), parts(act.quads() ? Parts::parts(n) : 0), values(act.size(n)) {}

  void start() {
    std::fill(parts.begin(), parts.end(), typename Parts::Part{});
    if (!act.quads()) std::fill(values.begin(), values.end(), T(0));
  }

  void add(const T* q, T by, const Arranged<T>& x, int64_t n) {
    if constexpr (D > 0) {
      if (act.quads()) return Parts(q, false, by).add(x.values, parts.data(), n);
    }
    act.template turn<true>(q, false, by, x, values.data());
  }

  // add of k samples, each with a matrix and `stride` numbers of nodes; by weights, or all by `share`.
  void add_samples(const T* q, const T* weights, T share, const T* x, int64_t stride, int64_t k, int64_t n) {
    if constexpr (D > 0) {
      if (act.quads()) return Parts::add_samples(q, weights, share, x, stride, k, parts.data(), n);
    }
    if (act.s.order == 1 && act.s.d > 1 && act.by_rows()) return add_rows(q, weights, share, x, stride, k, n);
    for (int64_t row = 0; row < k; ++row) {
      add(q + row * act.s.d * act.s.d, weights ? weights[row] : share, act.arrange(x + row * stride, n, act.source), n);
    }
  }

  // The same by rows of matrices, of some samples at a time.
  void add_rows(const T* q, const T* weights, T share, const T* x, int64_t stride, int64_t k, int64_t n) {
    const int64_t d = act.s.d, most = std::max<int64_t>(4096 / (d * d * act.s.c), 1);
    act.matrix.resize(std::min(most, k) * d * d + kLanes<T>);
    for (int64_t row = 0; row < k; row += most) {
      const int64_t count = std::min(most, k - row);
      for (int64_t i = row; i < row + count; ++i) {
        read_matrix(q + i * d * d, d, false, weights ? weights[i] : share, act.matrix.data() + (i - row) * d * d);
      }
      with_repeats<T>(act.s.c, [&](auto C) {
        apply_rows<C, true>(act.matrix.data(), x + row * stride, values.data(), n, d, count, stride);
      });
    }
  }

  // The sums, n nodes one behind the other.
  T* finish(int64_t n) {
    if (act.quads()) Parts::finish(parts.data(), n, values.data());
    if (!act.planar) return values.data();
    restored.resize(n * act.s.node());
    act.restore(values.data(), n, restored.data());
    return restored.data();
  }
};

// x - center of the first `count` nodes, in the computing dtype; x itself where that is the same.
template <class T, class S>
const T* centered(const Space& s, const S* x, const T* center, int64_t count, std::vector<T>& buffer) {
  if constexpr (std::is_same_v<T, S>) {
    if (!center) return x;
  }
  buffer.resize(s.size());
  const int64_t size = count * s.node();
  convert_row(x, size, buffer.data());
  if (center) add_vector(buffer.data(), center, T(-1), count, s.d, s.c);
  return buffer.data();
}

template <class T>
void write_scaled(const T* from, int64_t size, T by, T* to) {
  for (int64_t i = 0; i < size; ++i) to[i] = by * from[i];
}

// <g, q y> over all nodes, or twice <g, q y q^T>, from the gradient of q.
template <class T>
T along_matrix(const T* grad, const T* q, int64_t d) {
  T sum = 0;
  for (int64_t i = 0; i < d * d; ++i) sum += grad[i] * q[i];
  return sum;
}

}  // namespace lps::cpu
