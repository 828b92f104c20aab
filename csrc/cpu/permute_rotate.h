// What the product ops share: permutations beside the matrices of rotate.h.
#pragma once

#include "cpu/rotate.h"
#include "cpu/soft_matrix.h"

namespace lps::cpu {

// Calls body(numbers of a node), a constant where it is a vector of space: a call for each would cost more than three
// numbers.
template <class Body>
LPS_FN void with_node(int64_t node, const Body& body) {
  if (node == 3) {
    body(std::integral_constant<int64_t, 3>());
  } else {
    body(node);
  }
}

// to[r] = from[perm[r]] for `count` nodes.
template <class T>
void gather_nodes(const T* __restrict from, const int64_t* perm, int64_t count, int64_t node, T* __restrict to) {
  if (node == 0) return;  // memory of nothing may be null
  with_node(node, [&](auto size) {
    for (int64_t r = 0; r < count; ++r) std::memcpy(to + r * size, from + perm[r] * size, size * sizeof(T));
  });
}

// to[perm[r]] += from[r] for `count` nodes.
template <class T>
void scatter_nodes(const T* __restrict from, const int64_t* perm, int64_t count, int64_t node, T* __restrict to) {
  with_node(node, [&](auto size) {
    for (int64_t r = 0; r < count; ++r) {
      for (int64_t j = 0; j < size; ++j) to[perm[r] * size + j] += from[r * size + j];
    }
  });
}

// The permutations of features whose nodes are as in s, all numbers of a node as its channels.
inline Shape permutation_of(const char* op, const Space& s, const Tensor& perm, const OptionalTensor& num_nodes) {
  const bool fits = perm.dim() == 3 && perm.size(0) == s.b && perm.size(1) == s.k && perm.size(2) == s.n;
  STD_TORCH_CHECK(fits && perm.scalar_type() == ScalarType::Long, op, ": expected perm (b, k, n) int64");
  STD_TORCH_CHECK(s.centers == 1, op, ": expected one center for all samples");
  const int64_t* values = in<int64_t>(perm);
  STD_TORCH_CHECK(in_range(values, perm.numel(), s.n), op, ": expected perm with values from 0 to n - 1");
  return {s.b, s.k, s.n, s.node(), 1, values, in<int64_t>(num_nodes)};
}

}  // namespace lps::cpu
