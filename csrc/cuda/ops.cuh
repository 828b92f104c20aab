// The ops that other ops are made of.
#pragma once

#include "tensor.h"

namespace lps::cuda {

std::tuple<Tensor, Tensor, Tensor, Tensor> soft_sort(Tensor scores, Tensor seed, OptionalTensor num_nodes, double tau,
                                                     int64_t n_iter, bool normalize, bool soft);

Tensor soft_sort_backward(OptionalTensor grad_perm, OptionalTensor grad_t, OptionalTensor grad_row,
                          OptionalTensor grad_col, Tensor scores, Tensor seed, OptionalTensor num_nodes, double tau,
                          int64_t n_iter, bool normalize, bool soft, Tensor perm, Tensor t, Tensor row, Tensor col,
                          int64_t needs);

Tensor permute(Tensor x, Tensor perm, OptionalTensor t, OptionalTensor row, OptionalTensor col,
               OptionalTensor num_nodes, double tau, int64_t order, bool hard);

std::tuple<Tensor, Tensor, Tensor, Tensor> permute_backward(OptionalTensor grad_y, Tensor x, Tensor perm,
                                                            OptionalTensor t, OptionalTensor row, OptionalTensor col,
                                                            OptionalTensor num_nodes, double tau, int64_t order,
                                                            bool hard, int64_t needs);

}  // namespace lps::cuda
