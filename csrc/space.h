// The sizes of a rotation op's features, checked.
#pragma once

#include "tensor.h"

namespace lps {

// b inputs, k samples, n nodes, d dimensions, c channels; order 1: vectors, order 2: tensors.
struct Space {
  int64_t b, k, n, d, c, order, centers;
  const int64_t* nodes;

  int64_t node() const {  // numbers of a node
    return order == 2 ? d * d * c : d * c;
  }
  int64_t size() const {
    return n * node();
  }
  // How many nodes of input b are real; where `nodes` is memory of this processor.
  int64_t count(int64_t b) const {
    return nodes ? std::min(std::max<int64_t>(nodes[b], 0), n) : n;
  }
  // Which center, of (b, 1 or k), is that of a row.
  int64_t center(int64_t row) const {
    return centers == 1 ? row / k : row;
  }
};

inline Space space_of(const char* op, const Tensor& x, const Tensor& q, const OptionalTensor& center,
                      const OptionalTensor& num_nodes, int64_t order, bool has_samples) {
  const int64_t lead = has_samples ? 2 : 1;
  STD_TORCH_CHECK(order == 1 || order == 2, op, ": expected order 1 or 2");
  STD_TORCH_CHECK(q.dim() == 4 && q.size(2) == q.size(3), op, ": expected q (b, k, d, d)");
  STD_TORCH_CHECK(q.scalar_type() == compute_dtype(x.scalar_type()), op, ": expected q in the computing dtype");
  const int64_t b = q.size(0), k = q.size(1), d = q.size(2);
  bool fits = x.dim() == lead + order + 2 && x.size(0) == b && (!has_samples || x.size(1) == k);
  for (int64_t i = 0; fits && i < order; ++i) fits = x.size(lead + 1 + i) == d;
  STD_TORCH_CHECK(fits, op, ": features and q do not fit");
  if (center) {
    fits = order == 1 && center->dim() == 3 && center->size(0) == b && center->size(2) == d;
    fits = fits && (center->size(1) == 1 || center->size(1) == k) && center->scalar_type() == q.scalar_type();
    STD_TORCH_CHECK(fits, op, ": expected center (b, 1 or k, d) in the computing dtype");
  }
  check_nodes(op, num_nodes, b);
  return {b, k, x.size(lead), d, x.size(x.dim() - 1), order, center ? center->size(1) : 1, in<int64_t>(num_nodes)};
}

inline std::vector<int64_t> sizes_of(const Space& s, bool samples) {
  std::vector<int64_t> sizes = {s.b};
  if (samples) sizes.push_back(s.k);
  sizes.push_back(s.n);
  for (int64_t i = 0; i < s.order; ++i) sizes.push_back(s.d);
  sizes.push_back(s.c);
  return sizes;
}

}  // namespace lps
