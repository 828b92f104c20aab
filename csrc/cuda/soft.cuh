// The soft permutation applied to features, and the gradient of t, row and col: soft.cu.
#pragma once

#include "cuda/features.cuh"

namespace lps::cuda {

// Features to be read by rank: those in order of nodes through perm (`gather`), those without samples for each.
struct View {
  Numbers x;
  bool gather, each;
};

inline View by_node(const Tensor& x, bool each) {
  return {numbers(x), true, each};
}
inline View by_rank(const Tensor& x) {
  return {numbers(x), false, true};
}

// Nodes whose permutation has the same scores as that of edges: as much is added to the gradient of these.
struct Beside {
  View u, v;
  int c = 0;
};

struct SoftParts {
  Tensor t, row, col;
};
// What is added to gradients of t, row and col, so that each use of them adds its own in passing.
struct SoftMore {
  OptionalTensor t, row, col;

  SoftMore() = default;
  SoftMore(OptionalTensor t, OptionalTensor row, OptionalTensor col) : t(dense(t)), row(dense(row)), col(dense(col)) {}
  SoftMore(const SoftParts& parts) : t(parts.t), row(parts.row), col(parts.col) {}
};

// Gradients of t, row and col, (b, k, n) each, from dL/dP = sum over channels of u v^T along each of `axes` (bit 0: the
// first, bit 1: the second), and of nodes beside edges, times a weight or `scale`, and `more`. inverse (rows, n) int32:
// where the inverse of perm goes, which kernels know anyhow.
SoftParts soft_gradient(const Shape& s, const SoftParts& soft, const View& u, const View& v, double tau, int axes,
                        const OptionalTensor& weights = std::nullopt, double scale = 1, const SoftMore& more = {},
                        const OptionalTensor& inverse = std::nullopt, const Beside& beside = {});

// The same for both axes of edges in one reading where they fit, or two: u by node, v by rank. False where rows are too
// long, or too few to keep a device busy with a block each, or nodes are more than fit in their place.
bool edge_gradient(const Shape& s, const SoftParts& soft, const View& u, const View& v, double tau,
                   const OptionalTensor& weights, double scale, const SoftMore& more, const OptionalTensor& inverse,
                   const Beside& beside, const SoftParts& to);

// y = w after (K (before x)) along an axis, by rank: P^T x for before = row and after = col, P x the other way round.
void soft_product(const Shape& s, const SoftParts& soft, bool transpose, const View& x, double tau, int axis,
                  const Tensor& y, const OptionalTensor& weights = std::nullopt, double scale = 1);

// a + b of one shape and dtype.
Tensor add(const Tensor& a, const Tensor& b);

}  // namespace lps::cuda
