// The rotation ops that sample_rotate and the products are made of.
#pragma once

#include "cuda/launch.cuh"

namespace lps::cuda {

std::tuple<Tensor, Tensor> gram_schmidt(Tensor v, bool special);
Tensor gram_schmidt_backward(OptionalTensor grad_q, OptionalTensor grad_degenerate, Tensor v, bool special, Tensor q,
                             Tensor degenerate, int64_t needs);
Tensor random_orthogonal(Tensor seed, int64_t b, int64_t k, int64_t d, bool special, bool unitary, bool wide);

}  // namespace lps::cuda
