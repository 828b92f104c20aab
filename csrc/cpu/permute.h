// What permute and inverse_permute_mean share: shapes, inverses, loops over lines.
#pragma once

#include <cstring>
#include <vector>

#include "core/macros.h"
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

// Whether all values lie between 0 and n - 1.
inline bool in_range(const int64_t* perm, int64_t size, int64_t n) {
  int64_t sign = 0;  // of one that does not: there is no vector comparison of unsigned numbers
  for (int64_t i = 0; i < size; ++i) sign |= perm[i] | (n - 1 - perm[i]);
  return sign >= 0;
}

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
  check_nodes(op, num_nodes, shape.b);
  STD_TORCH_CHECK(in_range(shape.perm, shape.rows() * shape.n, shape.n), op,
                  ": expected perm with values from 0 to n - 1");
  return shape;
}

// The inverse of every permutation, (b, k, n), until the calling thread asks again.
inline const int64_t* inverse_of(const Shape& s) {
  struct Inverses {
    std::vector<int64_t> values;
  };
  std::vector<int64_t>& inverse = workspace<Inverses>().values;
  if (inverse.size() < static_cast<size_t>(s.rows() * s.n)) inverse.resize(s.rows() * s.n);
  int64_t* to = inverse.data();
  parallel_for(s.rows(), grain_for(s.n), [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      std::fill_n(to + row * s.n, s.n, 0);  // for what is no bijection
      for (int64_t r = 0; r < s.n; ++r) to[row * s.n + s.perm_of(row)[r]] = r;
    }
  });
  return to;
}

// Calls body(row, begin, end) for ranges of ranks of every row, in parallel; `work` is nanoseconds a rank.
template <class Body>
void for_lines(const Shape& s, double work, const Body& body) {
  parallel_for(s.rows() * s.n, grain_for(work), [&](int64_t begin, int64_t end) {
    for (int64_t at = begin; at < end;) {
      const int64_t row = at / s.n, stop = std::min(end, (row + 1) * s.n);
      body(row, at - row * s.n, stop - row * s.n);
      at = stop;
    }
  });
}

// Calls body(channels), a constant where a loop over so few would cost more than its work.
template <class Body>
LPS_FN void with_channels(int64_t channels, const Body& body) {
  switch (channels) {
    case 1:
      return body(std::integral_constant<int64_t, 1>());
    case 2:
      return body(std::integral_constant<int64_t, 2>());
    case 3:
      return body(std::integral_constant<int64_t, 3>());
    case 4:
      return body(std::integral_constant<int64_t, 4>());
    case 8:
      return body(std::integral_constant<int64_t, 8>());
    default:
      return body(channels);
  }
}

// From kPart to 2 kPart bytes: two copies of kPart, which may overlap, move them without a loop.
template <int64_t kPart>
struct UpToTwice {
  int64_t bytes;

  operator int64_t() const {
    return bytes;
  }
};

// `size` bytes, of which nothing else is known.
LPS_FN void copy_bytes(char* __restrict to, const char* __restrict from, int64_t size) {
  std::memcpy(to, from, size);
}
template <int64_t size>
LPS_FN void copy_bytes(char* __restrict to, const char* __restrict from, std::integral_constant<int64_t, size>) {
  std::memcpy(to, from, size);
}
template <int64_t kPart>
LPS_FN void copy_bytes(char* __restrict to, const char* __restrict from, UpToTwice<kPart> size) {
  const int64_t rest = size.bytes - kPart;
  std::memcpy(to, from, kPart);
  std::memcpy(to + rest, from + rest, kPart);
}

// Calls body(bytes) of a node, a constant or an UpToTwice where they are few: to call memcpy costs more than to copy.
template <class Body>
void with_size(int64_t bytes, const Body& body) {
  switch (bytes) {
    case 1:
      return body(std::integral_constant<int64_t, 1>());
    case 2:
      return body(std::integral_constant<int64_t, 2>());
    case 4:
      return body(std::integral_constant<int64_t, 4>());
    case 8:
      return body(std::integral_constant<int64_t, 8>());
    case 12:
      return body(std::integral_constant<int64_t, 12>());
    case 16:
      return body(std::integral_constant<int64_t, 16>());
    case 32:
      return body(std::integral_constant<int64_t, 32>());
    case 64:
      return body(std::integral_constant<int64_t, 64>());
  }
  if (bytes < 2 || bytes > 64) return body(bytes);
  if (bytes < 4) return body(UpToTwice<2>{bytes});
  if (bytes < 8) return body(UpToTwice<4>{bytes});
  if (bytes < 16) return body(UpToTwice<8>{bytes});
  if (bytes < 32) return body(UpToTwice<16>{bytes});
  body(UpToTwice<32>{bytes});
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
