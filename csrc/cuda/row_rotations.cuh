// Rotations of permuted nodes whose rows lie in shared memory: samples outside, tiles inside.
#pragma once

#include "cuda/rotation.cuh"

namespace lps::cuda {

// Both want rows_fit(), a.order as perm, and return the parts (b k, tiles, width) of the gradients of matrices, nothing
// where `other` is null. `on`: a tensor of the dtype that is computed in.

// From inputs, or from samples of their own where `each`, to samples by rank: q^T (x - center), by the weights where
// there are some or `share`. Sums are those of x = q y, with `from` as the gradient of x and `other` as y.
template <class T>
Tensor rows_to_samples(const Space& s, Turn<T> a, const Tensor& on, const Numbers& to, const Numbers& from, bool each,
                       T share, const Numbers& other);

// From samples by rank to inputs, or to samples of their own: the sum of q y + center, by the weights where there are
// some, and `share`. Sums are those of y = q^T (x - center), with `from` as the gradient of y and `other` as x; the
// center is not added then.
template <class T>
Tensor rows_to_inputs(const Space& s, Turn<T> a, const Tensor& on, const Numbers& to, const Numbers& from, bool each,
                      T share, const Numbers& other);

}  // namespace lps::cuda
