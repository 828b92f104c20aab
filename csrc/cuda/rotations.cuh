// The rotation ops that sample_rotate and the products are made of.
#pragma once

#include "cuda/launch.cuh"
#include "space.h"

namespace lps::cuda {

std::tuple<Tensor, Tensor> gram_schmidt(Tensor v, bool special);
Tensor gram_schmidt_backward(OptionalTensor grad_q, OptionalTensor grad_degenerate, Tensor v, bool special, Tensor q,
                             Tensor degenerate, int64_t needs);
Tensor random_orthogonal(Tensor seed, int64_t b, int64_t k, int64_t d, bool special, bool unitary, bool wide);

// Whether a block holds `rows` rows in shared memory for permuted samples of x. once: one of them is an input's, which
// would be read again for each sample otherwise; where not, gathers read no more of nodes that are whole sectors, and
// many tiles are better shared by blocks.
bool rows_fit(const char* op, const Space& s, const Tensor& x, int rows, bool once);

// q^T (x - center) of every sample, in the order of perm (b, k, n) where there is one. wide: as it is computed.
Tensor launch_rotate(const char* op, Tensor x, OptionalTensor perm, Tensor q, OptionalTensor center,
                     OptionalTensor num_nodes, int64_t order, bool wide);
// Gradients of x, q, to which more_q is added, and center. Where nodes were permuted, order (b, k, n) is the rank of
// each in int32, or perm itself where rows fit.
std::tuple<Tensor, Tensor, Tensor> launch_rotate_backward(const char* op, const OptionalTensor& grad_y, Tensor x,
                                                          OptionalTensor order, Tensor q, OptionalTensor center,
                                                          OptionalTensor num_nodes, int64_t axes, bool need_x,
                                                          bool need_q, bool need_center,
                                                          const OptionalTensor& more_q = std::nullopt);

// q y + center and the mean; order as above.
Tensor launch_inverse(const char* op, Tensor y, OptionalTensor order, Tensor q, OptionalTensor center,
                      OptionalTensor num_nodes, OptionalTensor weights, int64_t axes, bool mean);
// wide: the gradient of y as it is computed.
struct InverseNeeds {
  bool y, q, center, weights, wide;
};
// Gradients of y, q, center and weights; perm (b, k, n) where nodes were permuted.
std::tuple<Tensor, Tensor, Tensor, Tensor> launch_inverse_backward(const char* op, const OptionalTensor& grad_x,
                                                                   Tensor y, OptionalTensor perm, Tensor q,
                                                                   OptionalTensor center, OptionalTensor num_nodes,
                                                                   OptionalTensor weights, int64_t order, bool mean,
                                                                   const InverseNeeds& need);

}  // namespace lps::cuda
