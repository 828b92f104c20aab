// Nodes and edges read in the order of a permutation or of its inverse: gather.cu, and sums over samples: sums.cu.
#pragma once

#include "cuda/features.cuh"

namespace lps::cuda {

constexpr int kThreads = 256;
// Shared memory for lines of edges and for indices; longer ones are read where they lie.
constexpr int64_t kLineBytes = 64 << 10, kIndices = 4096;

// A read of features: which line of which sample, and what a sample counts.
struct Gather {
  const int64_t* perm;     // (rows, n), or null
  const int32_t* inverse;  // the same, where perm is null
  const int64_t* num_nodes;
  int64_t k;
  int n, packs;  // packs to a node
  bool each;     // the source has samples

  __device__ int node(int64_t row, int rank) const {
    return perm ? node_at(perm, row * n + rank, n) : node_at(inverse, row * n + rank, n);
  }
  __device__ int64_t source(int64_t row) const {
    return each ? row : row / k;
  }
};

// Multiplies by the weight of a sample, or moves bits where Scale is NoScale.
struct NoScale {
  template <class P>
  __device__ P operator()(P pack, int64_t) const {
    return pack;
  }
};
template <class T>
struct Scale {
  const T* weights;  // (rows,), or null
  T scale;

  __device__ T of(int64_t row) const {
    return weights ? weights[row] : scale;
  }
  template <class F, int V>
  __device__ Pack<F, V> operator()(Pack<F, V> pack, int64_t row) const {
    const T w = of(row);
#pragma unroll
    for (int i = 0; i < V; ++i) narrow(w * widen<T>(pack.x[i]), pack.x[i]);
    return pack;
  }
};

// Nodes that one launch moves, or sums, beside edges.
struct Nodes {
  Tensor from, to;
};
using OptionalNodes = std::optional<Nodes>;

// The inverse of every permutation, (rows, n) int32.
Tensor inverse_of(const Shape& s, const Tensor& perm);

// y[row, r] = x[perm[r]] or x[inverse[r]], bits alone. each: x has samples.
void move(const Shape& s, const Tensor& x, const Tensor& y, const OptionalTensor& inverse, bool each,
          const OptionalNodes& nodes = std::nullopt);

// y[row, r] = w x[perm[r]]: the gradient of a weighted sum over samples.
void gather_scaled(const Shape& s, const Tensor& x, const Tensor& y, const OptionalTensor& weights, double scale,
                   bool each);

// x[perm[r]] = sum over samples of w y[sample, r], and so for edges; x and y may differ in dtype. inverse: of perm,
// made where it is missing.
void sum_samples(const Shape& s, const Tensor& perm, const Tensor& y, const Tensor& x, const OptionalTensor& weights,
                 double scale, OptionalTensor inverse = std::nullopt, const OptionalNodes& nodes = std::nullopt);

// grad_weights[row] = <grad x, P y> of one sample.
void weight_gradient(const Shape& s, const Tensor& grad, const Tensor& y, const Tensor& grad_weights, bool each);

}  // namespace lps::cuda
