// What the product ops share: permutations beside the matrices of rotate.h.
#pragma once

#include "cpu/rotate.h"
#include "cpu/soft_matrix.h"

namespace lps::cpu {

// to[r] = from[perm[r]] for `count` nodes.
template <class T>
void gather_nodes(const T* from, const int64_t* perm, int64_t count, int64_t node, T* to) {
  for (int64_t r = 0; r < count; ++r) std::copy_n(from + perm[r] * node, node, to + r * node);
}

// to[perm[r]] += from[r] for `count` nodes.
template <class T>
void scatter_nodes(const T* from, const int64_t* perm, int64_t count, int64_t node, T* to) {
  for (int64_t r = 0; r < count; ++r) {
    for (int64_t j = 0; j < node; ++j) to[perm[r] * node + j] += from[r * node + j];
  }
}

// The permutations of features whose nodes are as in s, all numbers of a node as its channels.
inline Shape permutation_of(const char* op, const Space& s, const Tensor& perm, const OptionalTensor& num_nodes) {
  const bool fits = perm.dim() == 3 && perm.size(0) == s.b && perm.size(1) == s.k && perm.size(2) == s.n;
  STD_TORCH_CHECK(fits && perm.scalar_type() == ScalarType::Long, op, ": expected perm (b, k, n) int64");
  STD_TORCH_CHECK(s.centers == 1, op, ": expected one center for all samples");
  const int64_t* values = in<int64_t>(perm);
  bool inside = true;
  for (int64_t i = 0; i < perm.numel(); ++i) inside &= static_cast<uint64_t>(values[i]) < uint64_t(s.n);
  STD_TORCH_CHECK(inside, op, ": expected perm with values from 0 to n - 1");
  return {s.b, s.k, s.n, s.node(), 1, values, in<int64_t>(num_nodes)};
}

}  // namespace lps::cpu
