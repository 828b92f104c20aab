// What the product ops share: permutations beside rotations, and the gradient of scores.
#pragma once

#include "cuda/gather.cuh"
#include "cuda/rotations.cuh"
#include "cuda/soft.cuh"
#include "space.h"

namespace lps::cuda {

// The permutations of features (b, k, n, ...), all numbers of a node as its channels.
inline Shape permutation_of(const char* op, const Space& s, const Tensor& perm, const OptionalTensor& num_nodes) {
  const bool fits = perm.dim() == 3 && perm.size(0) == s.b && perm.size(1) == s.k && perm.size(2) == s.n;
  STD_TORCH_CHECK(fits && perm.scalar_type() == ScalarType::Long, op, ": expected perm (b, k, n) int64");
  STD_TORCH_CHECK(s.centers == 1, op, ": expected one center for all samples");
  STD_TORCH_CHECK(s.n < INT32_MAX && s.node() < INT32_MAX, op, ": expected n and a node below 2^31");
  return {s.b, s.k, s.n, s.node(), 1, in<int64_t>(perm), in<int64_t>(num_nodes)};
}

// Gradients of t, row and col from features u and v by rank; nothing for those that bits 1 to 3 of needs leave out.
// inverse: as in soft_gradient().
inline SoftParts score_gradients(const Shape& p, const Tensor& t, const Tensor& row, const Tensor& col, const Tensor& u,
                                 const Tensor& v, double tau, int64_t needs,
                                 const OptionalTensor& inverse = std::nullopt) {
  const SoftParts found = soft_gradient(p, {dense(t), dense(row), dense(col)}, by_rank(u), by_rank(v), tau, 1,
                                        std::nullopt, 1, {}, inverse);
  return {needed(found.t, needs & 2), needed(found.row, needs & 4), needed(found.col, needs & 8)};
}

}  // namespace lps::cuda
