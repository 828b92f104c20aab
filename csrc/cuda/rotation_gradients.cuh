// Gradients of matrices, centers and weights from their parts by tiles: the second launch of a backward.
#pragma once

#include "cuda/launch.cuh"
#include "space.h"

namespace lps::cuda {

// partial (b k, tiles, width): the gradient of q as if weights were 1, then, where width has room, sums (d,) of the
// incoming gradient. Gradients that are empty are not written. forward: of rotate, whose samples have no weights.
// more_q (b, k, d, d): added to the gradient of q.
template <class T>
void finish_gradients(const Space& s, const Tensor& partial, int64_t tiles, int64_t width, const Tensor& q,
                      const OptionalTensor& center, const OptionalTensor& weights, bool forward, bool mean,
                      const Tensor& grad_q, const Tensor& grad_center, const Tensor& grad_weights,
                      const OptionalTensor& more_q = std::nullopt);

}  // namespace lps::cuda
