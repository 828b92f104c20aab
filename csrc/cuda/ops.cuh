// The ops that other ops are made of.
#pragma once

#include "cuda/gather.cuh"
#include "cuda/soft.cuh"

namespace lps::cuda {

std::tuple<Tensor, Tensor, Tensor, Tensor> soft_sort(Tensor scores, Tensor seed, OptionalTensor num_nodes, double tau,
                                                     int64_t n_iter, bool normalize, bool soft);

Tensor soft_sort_backward(OptionalTensor grad_perm, OptionalTensor grad_t, OptionalTensor grad_row,
                          OptionalTensor grad_col, Tensor scores, Tensor seed, OptionalTensor num_nodes, double tau,
                          int64_t n_iter, bool normalize, bool soft, Tensor perm, Tensor t, Tensor row, Tensor col,
                          int64_t needs);

Tensor permute(Tensor x, Tensor perm, OptionalTensor t, OptionalTensor row, OptionalTensor col,
               OptionalTensor num_nodes, double tau, int64_t order, bool hard);

// Hard, of nodes and edges in one launch.
std::pair<Tensor, Tensor> permute_both(Tensor x, Tensor edges, Tensor perm, OptionalTensor num_nodes);

// Of y = P^T x: the gradient of x, and those of t, row and col with `more` added. inverse: of perm, made where it is
// missing and wanted. nodes: x and the gradient of y of nodes beside edges, whose gradient is found in the same
// launches.
struct PermuteGradients {
  Tensor x, nodes;
  std::optional<SoftParts> soft;
};
PermuteGradients permute_gradients(const OptionalTensor& grad_y, Tensor x, Tensor perm, OptionalTensor t,
                                   OptionalTensor row, OptionalTensor col, OptionalTensor num_nodes, double tau,
                                   int64_t order, bool hard, int64_t needs, const SoftMore& more,
                                   OptionalTensor& inverse, OptionalNodes nodes = std::nullopt,
                                   bool need_nodes = false);

}  // namespace lps::cuda
