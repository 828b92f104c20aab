// Features are seen as (b, k or nothing, lines, d, c): a line is a node for vectors and for the first axis of tensors,
// whose other axis counts as channels then, and one of d lines of a node for the second. So one product and one sum of
// outer products serve both directions and both orders; tensors take a launch for each axis.
#include "cuda/rotation_gradients.cuh"
#include "cuda/rotation_lines.cuh"
#include "cuda/tile.cuh"

namespace lps::cuda {

// Lanes (lines and channels), entries and columns of a tile. A thread adds up four numbers of it.
constexpr int kSide = 32, kLineThreads = 256, kOwn = kSide * kSide / kLineThreads;

template <class T>
struct Lines {
  Numbers x;
  const T* before;  // the center that is subtracted
  Order order;
  const int64_t* num_nodes;
  int64_t n, k, d, c, per, centers;
  bool each;  // x has samples

  // Where a lane's entries begin in x, by its order; -1 at padding and beyond the row.
  __device__ int64_t source(int64_t lane, int64_t row) const {
    const int64_t b = row / k, count = count_nodes(num_nodes, b, n), line = lane / c, node = line / per;
    if (node >= count) return -1;
    const int64_t found = order.given() ? order.at(row * n + node) : node;
    if (found < 0 || found >= count) return -1;
    return ((each ? row : b) * n * per + found * per + line % per) * d * c + lane % c;
  }
  __device__ const T* center(const T* centers_at, int64_t row) const {
    return centers_at + (centers == 1 ? row / k : row) * d;
  }
  // tile[e][lane] of entries first + e; neighbouring threads read neighbouring numbers.
  __device__ void load(const int64_t* from, int64_t row, int64_t first, T (*tile)[kSide + 1]) const {
    typed<T>(x, [&](const auto* at) {
#pragma unroll
      for (int i = 0; i < kOwn; ++i) {
        const int index = i * kLineThreads + threadIdx.x;
        const int e = c == 1 ? index % kSide : index / kSide, lane = c == 1 ? index / kSide : index % kSide;
        T value = 0;
        if (from[lane] >= 0 && first + e < d) {
          value = static_cast<T>(at[from[lane] + (first + e) * c]);
          if (before != nullptr) value -= center(before, row)[first + e];
        }
        tile[e][lane] = value;
      }
    });
  }
};

template <class T>
struct Product {
  Lines<T> lines;
  Numbers y;
  const T *q, *after, *weights;
  int64_t blocks, parts;
  bool transpose, sum, mean;
};

// y = w (m (x - before) + after), m = q^T where transpose, else q, of a block of lanes and of columns. sum: over
// samples. mean: each counts 1 / k.
template <class T>
__global__ void __launch_bounds__(kLineThreads) line_product_kernel(Product<T> a) {
  __shared__ T values[kSide][kSide + 1], matrix[kSide][kSide + 1];
  __shared__ int64_t from[kSide];
  const Lines<T>& l = a.lines;
  const int64_t part = blockIdx.x % a.parts, block = blockIdx.x / a.parts % a.blocks,
                item = blockIdx.x / a.parts / a.blocks;
  const int64_t first_row = a.sum ? item * l.k : item, rows = a.sum ? l.k : 1;
  const int lane = threadIdx.x % kSide, group = threadIdx.x / kSide;
  T total[kOwn] = {};
  for (int64_t row = first_row; row < first_row + rows; ++row) {
    __syncthreads();
    if (threadIdx.x < kSide) from[threadIdx.x] = l.source(block * kSide + threadIdx.x, row);
    T turned[kOwn] = {};
    for (int64_t start = 0; start < l.d; start += kSide) {
      __syncthreads();
      l.load(from, row, start, values);
#pragma unroll
      for (int i = 0; i < kOwn; ++i) {
        const int fast = lane, slow = group + i * (kLineThreads / kSide);
        const int e = a.transpose ? slow : fast, column = a.transpose ? fast : slow;
        const int64_t at_e = start + e, at_a = part * kSide + column;
        const bool inside = at_e < l.d && at_a < l.d;
        matrix[e][column] =
            inside ? a.q[row * l.d * l.d + (a.transpose ? at_e * l.d + at_a : at_a * l.d + at_e)] : T(0);
      }
      __syncthreads();
      for (int e = 0; e < kSide; ++e) {
#pragma unroll
        for (int i = 0; i < kOwn; ++i) turned[i] += matrix[e][group + i * (kLineThreads / kSide)] * values[e][lane];
      }
    }
    const T w = a.weights != nullptr ? a.weights[row] : a.mean ? T(1) / static_cast<T>(l.k) : T(1);
#pragma unroll
    for (int i = 0; i < kOwn; ++i) {
      const int64_t column = part * kSide + group + i * (kLineThreads / kSide);
      const T shift = a.after != nullptr && column < l.d ? l.center(a.after, row)[column] : T(0);
      total[i] += w * (turned[i] + shift);
    }
  }
  // Through shared memory, so that neighbouring threads write neighbouring numbers.
  __syncthreads();
#pragma unroll
  for (int i = 0; i < kOwn; ++i) values[group + i * (kLineThreads / kSide)][lane] = total[i];
  __syncthreads();
  const int64_t count = l.k > 0 ? count_nodes(l.num_nodes, first_row / l.k, l.n) : l.n;
  typed<T>(a.y, [&](auto* at) {
#pragma unroll
    for (int i = 0; i < kOwn; ++i) {
      const int index = i * kLineThreads + threadIdx.x;
      const int column = l.c == 1 ? index % kSide : index / kSide, own = l.c == 1 ? index / kSide : index % kSide;
      const int64_t line = (block * kSide + own) / l.c, channel = (block * kSide + own) % l.c;
      const int64_t target = part * kSide + column;
      if (line >= l.n * l.per || target >= l.d) continue;
      const T value = line / l.per < count ? values[column][own] : T(0);
      at[((item * l.n * l.per + line) * l.d + target) * l.c + channel] = static_cast<Pointee<decltype(at)>>(value);
    }
  });
}

template <class T>
struct Outer {
  Lines<T> x, g;
  T* sums;  // (rows, width): the matrix, then totals of g
  int64_t parts, width;
  bool forward, add, totals;
};

// A tile of sums[e, a] (+)= the sum over lanes of (x - before)[e] g[a], or sums[a, e] unless forward.
template <class T>
__global__ void __launch_bounds__(kLineThreads) line_outer_kernel(Outer<T> a) {
  __shared__ T values[kSide][kSide + 1], incoming[kSide][kSide + 1];
  __shared__ int64_t from[kSide], from_g[kSide];
  const int64_t part = blockIdx.x % (a.parts * a.parts), row = blockIdx.x / (a.parts * a.parts);
  const int64_t first_e = part / a.parts * kSide, first_a = part % a.parts * kSide, d = a.x.d;
  const int64_t lanes = count_nodes(a.x.num_nodes, row / a.x.k, a.x.n) * a.x.per * a.x.c;
  const int lane = threadIdx.x % kSide, group = threadIdx.x / kSide;
  T total[kOwn] = {}, sum = 0;
  for (int64_t start = 0; start < lanes; start += kSide) {
    __syncthreads();
    if (threadIdx.x < kSide) {
      from[threadIdx.x] = a.x.source(start + threadIdx.x, row);
      from_g[threadIdx.x] = a.g.source(start + threadIdx.x, row);
    }
    __syncthreads();
    a.x.load(from, row, first_e, values);
    a.g.load(from_g, row, first_a, incoming);
    __syncthreads();
    for (int i = 0; i < kSide; ++i) {
#pragma unroll
      for (int e = 0; e < kOwn; ++e) {
        total[e] += values[group + e * (kLineThreads / kSide)][i] * incoming[lane][i];
      }
      if (group == 0) sum += incoming[lane][i];
    }
  }
  T* const to = a.sums + row * a.width;
#pragma unroll
  for (int i = 0; i < kOwn; ++i) {
    const int64_t e = first_e + group + i * (kLineThreads / kSide), column = first_a + lane;
    if (e >= d || column >= d) continue;
    T& target = to[a.forward ? e * d + column : column * d + e];
    target = a.add ? target + total[i] : total[i];
  }
  if (a.totals && group == 0 && first_e == 0 && first_a + lane < d) to[d * d + first_a + lane] = sum;
}

// One space axis of features.
template <class T>
struct Axis {
  const Space& s;
  const Tensor& q;
  const OptionalTensor& nodes;
  int64_t per, c;

  Lines<T> lines(const Tensor& x, bool each, const OptionalTensor& order, const OptionalTensor& before) const {
    return {numbers(x), in<T>(before), order_of(order), in<int64_t>(nodes), s.n, s.k, s.d, c, per, s.centers, each};
  }
  struct Last {
    OptionalTensor after, weights;
    bool sum = false, mean = false;
  };
  void product(const Tensor& y, const Tensor& x, bool transpose, bool each, const OptionalTensor& order,
               const OptionalTensor& before, const Last& last) const {
    const int64_t lanes = lps::cuda::blocks(s.n * per * c, kSide), parts = lps::cuda::blocks(s.d, kSide);
    const Product<T> a{lines(x, each, order, before),
                       numbers(y),
                       in<T>(q),
                       in<T>(last.after),
                       in<T>(last.weights),
                       lanes,
                       parts,
                       transpose,
                       last.sum,
                       last.mean};
    launch("line_product_kernel", line_product_kernel<T>, q, (last.sum ? s.b : s.b * s.k) * lanes * parts, kLineThreads,
           0, a);
  }
  void outer(const Tensor& sums, const Lines<T>& x, const Lines<T>& g, bool forward, bool add, bool totals) const {
    const int64_t parts = lps::cuda::blocks(s.d, kSide);
    const Outer<T> a{x, g, out<T>(sums), parts, s.d * s.d + s.d, forward, add, totals};
    launch("line_outer_kernel", line_outer_kernel<T>, q, s.b * s.k * parts * parts, kLineThreads, 0, a);
  }
};

// Both axes of tensors, the only one of vectors.
template <class T>
struct Axes {
  const Space& s;
  const Tensor& q;
  Axis<T> first, second;

  Axes(const Space& s, const Tensor& q, const OptionalTensor& nodes)
      : s(s), q(q), first{s, q, nodes, 1, s.order == 1 ? s.c : s.d * s.c}, second{s, q, nodes, s.d, s.c} {}

  void product(const Tensor& y, const Tensor& x, bool transpose, bool each, const OptionalTensor& order,
               const OptionalTensor& before, const typename Axis<T>::Last& last) const {
    if (s.order == 1) return first.product(y, x, transpose, each, order, before, last);
    const Tensor half = empty(q, sizes_of(s, true));
    first.product(half, x, transpose, each, order, std::nullopt, {});
    second.product(y, half, transpose, true, std::nullopt, std::nullopt, last);
  }

  // (b k, d d + d): the gradient of q as if weights were 1, and sums of g over nodes and channels.
  Tensor gradient(const Tensor& x, const Tensor& g, bool forward, bool each, bool each_grad,
                  const OptionalTensor& order, const OptionalTensor& before) const {
    const Tensor sums = empty(q, {s.b * s.k, s.d * s.d + s.d});
    const OptionalTensor none;
    if (s.order == 1) {
      first.outer(sums, first.lines(x, each, none, before), first.lines(g, each_grad, order, none), forward, false,
                  true);
      return sums;
    }
    const Tensor half = empty(q, sizes_of(s, true));  // x with the other axis turned
    second.product(half, x, forward, each, none, none, {});
    first.outer(sums, first.lines(half, true, none, none), first.lines(g, each_grad, order, none), forward, false,
                false);
    first.product(half, x, forward, each, none, none, {});
    second.outer(sums, second.lines(half, true, none, none), second.lines(g, each_grad, order, none), forward, true,
                 true);
    return sums;
  }
};

template <class T>
void turn_lines(const Space& s, const Tensor& y, const Tensor& x, const Tensor& q, const OptionalTensor& center,
                const OptionalTensor& perm, const OptionalTensor& nodes) {
  Axes<T>(s, q, nodes).product(y, x, true, false, perm, center, {});
}

template <class T>
void turn_lines_backward(const Space& s, const Tensor& grad_y, const Tensor& x, const Tensor& q,
                         const OptionalTensor& center, const OptionalTensor& inverse, const OptionalTensor& nodes,
                         const Tensor& grad_x, const Tensor& grad_q, const Tensor& grad_center,
                         const OptionalTensor& more_q) {
  const Axes<T> axes(s, q, nodes);
  if (grad_x.numel() > 0) {
    axes.product(grad_x, grad_y, false, true, inverse, std::nullopt, {std::nullopt, std::nullopt, true, false});
  }
  if (grad_q.numel() == 0 && grad_center.numel() == 0) return;
  const Tensor sums = axes.gradient(x, grad_y, true, false, true, inverse, center);
  finish_gradients<T>(s, sums, 1, s.d * s.d + s.d, q, std::nullopt, std::nullopt, true, false, grad_q, grad_center,
                      empty(q, {0}), more_q);
}

template <class T>
void turn_lines_back(const Space& s, const Tensor& x, const Tensor& y, const Tensor& q, const OptionalTensor& center,
                     const OptionalTensor& inverse, const OptionalTensor& nodes, const OptionalTensor& weights,
                     bool mean) {
  Axes<T>(s, q, nodes)
      .product(x, y, false, true, inverse, std::nullopt, {center, mean ? weights : std::nullopt, mean, mean});
}

template <class T>
void turn_lines_back_backward(const Space& s, const Tensor& grad_x, const Tensor& y, const Tensor& q,
                              const OptionalTensor& center, const OptionalTensor& perm, const OptionalTensor& nodes,
                              const OptionalTensor& weights, bool mean, const Tensor& grad_y, const Tensor& grad_q,
                              const Tensor& grad_center, const Tensor& grad_weights) {
  const Axes<T> axes(s, q, nodes);
  if (grad_y.numel() > 0) {
    axes.product(grad_y, grad_x, true, !mean, perm, std::nullopt, {std::nullopt, weights, false, mean});
  }
  if (grad_q.numel() == 0 && grad_center.numel() == 0 && grad_weights.numel() == 0) return;
  const Tensor sums = axes.gradient(y, grad_x, false, true, !mean, perm, std::nullopt);
  finish_gradients<T>(s, sums, 1, s.d * s.d + s.d, q, center, weights, false, mean, grad_q, grad_center, grad_weights);
}

#define LPS_INSTANTIATE(T)                                                                                           \
  template void turn_lines<T>(const Space&, const Tensor&, const Tensor&, const Tensor&, const OptionalTensor&,      \
                              const OptionalTensor&, const OptionalTensor&);                                         \
  template void turn_lines_backward<T>(const Space&, const Tensor&, const Tensor&, const Tensor&,                    \
                                       const OptionalTensor&, const OptionalTensor&, const OptionalTensor&,          \
                                       const Tensor&, const Tensor&, const Tensor&, const OptionalTensor&);          \
  template void turn_lines_back<T>(const Space&, const Tensor&, const Tensor&, const Tensor&, const OptionalTensor&, \
                                   const OptionalTensor&, const OptionalTensor&, const OptionalTensor&, bool);       \
  template void turn_lines_back_backward<T>(                                                                         \
      const Space&, const Tensor&, const Tensor&, const Tensor&, const OptionalTensor&, const OptionalTensor&,       \
      const OptionalTensor&, const OptionalTensor&, bool, const Tensor&, const Tensor&, const Tensor&, const Tensor&);
LPS_INSTANTIATE(float)
LPS_INSTANTIATE(double)

}  // namespace lps::cuda
