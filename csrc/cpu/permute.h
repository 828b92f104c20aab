// What permute and inverse_permute_mean are made of: gathers, scattered means, and the sums that are the scores'
// gradient.
#pragma once

#include <memory>

#include "cpu/channels.h"
#include "cpu/parallel.h"

namespace lps::cpu {

// b inputs, k samples, n nodes, c channels; order 1: nodes, order 2: edges.
struct Shape {
  int64_t b, k, n, c, order;
  const int64_t *perm, *nodes;

  int64_t rows() const {
    return b * k;
  }
  int64_t inner() const {  // channels behind the first node axis
    return order == 2 ? n * c : c;
  }
  int64_t count(int64_t row) const {
    return count_nodes(nodes, row / k, n);
  }
  const int64_t* perm_of(int64_t row) const {
    return perm + row * n;
  }
};

inline Shape shape_of(const char* op, const Tensor& x, const Tensor& perm, const OptionalTensor& num_nodes,
                      int64_t order, bool has_samples) {
  const int64_t lead = has_samples ? 2 : 1;
  STD_TORCH_CHECK(perm.dim() == 3 && perm.scalar_type() == ScalarType::Long, op, ": expected perm (b, k, n) int64");
  STD_TORCH_CHECK(order == 1 || order == 2, op, ": expected order 1 or 2");
  const Shape shape{perm.size(0), perm.size(1),      perm.size(2),          x.size(x.dim() - 1),
                    order,        in<int64_t>(perm), in<int64_t>(num_nodes)};
  bool fits = x.dim() == lead + order + 1 && x.size(0) == shape.b && (!has_samples || x.size(1) == shape.k);
  for (int64_t i = 0; fits && i < order; ++i) fits = x.size(lead + i) == shape.n;
  STD_TORCH_CHECK(fits, op, ": features and perm do not fit");
  STD_TORCH_CHECK(!num_nodes || num_nodes->numel() == shape.b, op, ": expected num_nodes of shape (b,)");
  bool inside = true;
  for (int64_t i = 0; i < perm.numel(); ++i) inside &= static_cast<uint64_t>(shape.perm[i]) < uint64_t(shape.n);
  STD_TORCH_CHECK(inside, op, ": expected perm with values from 0 to n - 1");
  return shape;
}

// The inverse of every permutation, (b, k, n).
inline std::vector<int64_t> inverse_of(const Shape& s) {
  std::vector<int64_t> inverse(s.rows() * s.n, 0);
  parallel_for(s.rows(), grain_for(s.n), [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      for (int64_t r = 0; r < s.n; ++r) inverse[row * s.n + s.perm_of(row)[r]] = r;
    }
  });
  return inverse;
}

// Calls body(size) with the bytes of one node's channels, as a constant where it is a small power of two.
template <class Body>
void with_size(int64_t bytes, const Body& body) {
  switch (bytes) {
    case 4:
      return body(std::integral_constant<int64_t, 4>());
    case 8:
      return body(std::integral_constant<int64_t, 8>());
    case 16:
      return body(std::integral_constant<int64_t, 16>());
    case 32:
      return body(std::integral_constant<int64_t, 32>());
    case 64:
      return body(std::integral_constant<int64_t, 64>());
    default:
      return body(bytes);
  }
}

// y[row, r] = x[perm[r]] and y[row, r, s] = x[perm[r], perm[s]], zero at padding. Any dtype: it moves bytes.
// x has an axis of samples where `each`; back: the other way round, x[row, r] goes to y[row, perm[r]].
inline void move_nodes(const Shape& s, const void* from, void* to, int64_t itemsize, bool each, bool back) {
  const int64_t lines = s.rows() * s.n, line = s.inner() * itemsize;
  const std::vector<int64_t> inverse = back ? inverse_of(s) : std::vector<int64_t>();
  with_size(s.c * itemsize, [&](auto size) {
    parallel_for(lines, grain_for(4.0 + 0.05 * line), [&](int64_t begin, int64_t end) {
      for (int64_t at = begin; at < end; ++at) {
        const int64_t row = at / s.n, r = at % s.n, count = s.count(row);
        char* dst = static_cast<char*>(to) + at * line;
        if (r >= count) {
          std::memset(dst, 0, line);
          continue;
        }
        const int64_t* order = back ? &inverse[row * s.n] : s.perm_of(row);
        const char* src = static_cast<const char*>(from) + ((each ? row : row / s.k) * s.n + order[r]) * line;
        if (s.order == 1) {
          std::memcpy(dst, src, size);
          continue;
        }
        for (int64_t i = 0; i < count; ++i) std::memcpy(dst + i * size, src + order[i] * size, size);
        std::memset(dst + count * size, 0, (s.n - count) * size);
      }
    });
  });
}

// x[perm[r]] = sum over samples of w y[sample, r], and so for edges; w = weights or the constant `scale`. Each target
// adds its samples in order, so the result does not depend on the threads.
template <class From, class To>
void scatter_sum(const Shape& s, const From* y, const Compute<To>* weights, Compute<To> scale, To* x) {
  using T = Compute<To>;
  const int64_t c = s.c;
  if (s.order == 2) {
    const std::vector<int64_t> inverse = inverse_of(s);
    parallel_for(s.b * s.n, grain_for(0.5 * s.k * s.inner()), [&](int64_t begin, int64_t end) {
      std::vector<T> sum(s.inner());
      for (int64_t at = begin; at < end; ++at) {
        const int64_t b = at / s.n, node = at % s.n, count = count_nodes(s.nodes, b, s.n);
        std::fill(sum.begin(), sum.end(), T(0));
        for (int64_t row = b * s.k; node < count && row < (b + 1) * s.k; ++row) {
          const From* line = y + (row * s.n + inverse[row * s.n + node]) * s.inner();
          const T w = weights ? weights[row] : scale;
          for (int64_t i = 0; i < count; ++i) {
            T* to = &sum[s.perm_of(row)[i] * c];
            for (int64_t j = 0; j < c; ++j) to[j] += w * static_cast<T>(line[i * c + j]);
          }
        }
        for (int64_t i = 0; i < s.inner(); ++i) x[at * s.inner() + i] = static_cast<To>(sum[i]);
      }
    });
    return;
  }
  // Few inputs: threads share one by ranges of target nodes.
  const int64_t parts =
      std::clamp<int64_t>(torch::stable::get_num_threads() / std::max<int64_t>(s.b, 1), 1, s.n / 32 + 1);
  const int64_t part = (s.n + parts - 1) / std::max<int64_t>(parts, 1);
  parallel_for(s.b * parts, grain_for(0.5 * s.k * part * c), [&](int64_t begin, int64_t end) {
    std::vector<T> sum(part * c);
    for (int64_t item = begin; item < end; ++item) {
      const int64_t b = item / parts, low = item % parts * part, high = std::min(low + part, s.n);
      const int64_t count = count_nodes(s.nodes, b, s.n);
      if (low >= high) continue;
      std::fill(sum.begin(), sum.end(), T(0));
      for (int64_t row = b * s.k; row < (b + 1) * s.k; ++row) {
        const From* from = y + row * s.n * c;
        const int64_t* perm = s.perm_of(row);
        const T w = weights ? weights[row] : scale;
        for (int64_t r = 0; r < count; ++r) {
          const int64_t node = perm[r];
          if (node < low || node >= high) continue;
          T* to = &sum[(node - low) * c];
          for (int64_t j = 0; j < c; ++j) to[j] += w * static_cast<T>(from[r * c + j]);
        }
      }
      To* to = x + (b * s.n + low) * c;
      for (int64_t i = 0; i < (high - low) * c; ++i) to[i] = low * c + i < count * c ? static_cast<To>(sum[i]) : To(0);
    }
  });
}

// y[row, r] = w x[perm[r]], and so for edges: the gradient of scatter_sum.
template <class F>
void gather_scaled(const Shape& s, const F* x, const Compute<F>* weights, Compute<F> scale, F* y) {
  using T = Compute<F>;
  parallel_for(s.rows() * s.n, grain_for(0.5 * s.inner()), [&](int64_t begin, int64_t end) {
    for (int64_t at = begin; at < end; ++at) {
      const int64_t row = at / s.n, r = at % s.n, count = s.count(row), c = s.c;
      const int64_t* perm = s.perm_of(row);
      const T w = weights ? weights[row] : scale;
      F* dst = y + at * s.inner();
      const F* src = x + (row / s.k * s.n + perm[r]) * s.inner();
      if (r >= count) {
        std::fill_n(dst, s.inner(), F(0));
      } else if (s.order == 1) {
        for (int64_t j = 0; j < c; ++j) dst[j] = static_cast<F>(w * static_cast<T>(src[j]));
      } else {
        for (int64_t i = 0; i < count; ++i) {
          for (int64_t j = 0; j < c; ++j) dst[i * c + j] = static_cast<F>(w * static_cast<T>(src[perm[i] * c + j]));
        }
        std::fill(dst + count * c, dst + s.inner(), F(0));
      }
    }
  });
}

template <class T, class F>
void convert(const T* from, int64_t size, F* to) {
  parallel_for(size, 1 << 16, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) to[i] = static_cast<F>(from[i]);
  });
}

// t, row and col come all or not at all, with features that are computed in their dtype.
inline void check_soft(const char* op, const Tensor& x, const Tensor& perm, const OptionalTensor& t,
                       const OptionalTensor& row, const OptionalTensor& col, bool hard) {
  STD_TORCH_CHECK(t || hard, op, ": expected t, row and col where hard is false");
  for (const OptionalTensor& part : {t, row, col}) {
    STD_TORCH_CHECK(part.has_value() == t.has_value(), op, ": expected all of t, row and col, or none");
    if (!part) continue;
    STD_TORCH_CHECK(part->numel() == perm.numel(), op, ": expected t, row and col of shape (b, k, n)");
    STD_TORCH_CHECK(part->scalar_type() == compute_dtype(x.scalar_type()), op, ": t, row, col of another dtype");
  }
}

}  // namespace lps::cpu
