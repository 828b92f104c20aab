// The rotation ops that sample_rotate is made of.
#pragma once

#include "tensor.h"

namespace lps::cpu {

std::tuple<Tensor, Tensor> gram_schmidt(Tensor v, bool special);
Tensor gram_schmidt_backward(OptionalTensor grad_q, OptionalTensor grad_degenerate, Tensor v, bool special, Tensor q,
                             Tensor degenerate, int64_t needs);
Tensor random_orthogonal(Tensor seed, int64_t b, int64_t k, int64_t d, bool special, bool unitary, bool wide);
Tensor rotate(Tensor x, Tensor q, OptionalTensor center, OptionalTensor num_nodes, int64_t order);
std::tuple<Tensor, Tensor, Tensor> rotate_backward(OptionalTensor grad_y, Tensor x, Tensor q, OptionalTensor center,
                                                   OptionalTensor num_nodes, int64_t order, int64_t needs);

}  // namespace lps::cpu
