// Matrices of any size on the space axis: products by tiles in shared memory. What is said of the arguments in
// rotations.cuh holds here; gradients that are empty are not written.
#pragma once

#include "cuda/launch.cuh"
#include "space.h"

namespace lps::cuda {

template <class T>
void turn_lines(const Space& s, const Tensor& y, const Tensor& x, const Tensor& q, const OptionalTensor& center,
                const OptionalTensor& perm, const OptionalTensor& nodes);
template <class T>
void turn_lines_backward(const Space& s, const Tensor& grad_y, const Tensor& x, const Tensor& q,
                         const OptionalTensor& center, const OptionalTensor& inverse, const OptionalTensor& nodes,
                         const Tensor& grad_x, const Tensor& grad_q, const Tensor& grad_center,
                         const OptionalTensor& more_q);
template <class T>
void turn_lines_back(const Space& s, const Tensor& x, const Tensor& y, const Tensor& q, const OptionalTensor& center,
                     const OptionalTensor& inverse, const OptionalTensor& nodes, const OptionalTensor& weights,
                     bool mean);
template <class T>
void turn_lines_back_backward(const Space& s, const Tensor& grad_x, const Tensor& y, const Tensor& q,
                              const OptionalTensor& center, const OptionalTensor& perm, const OptionalTensor& nodes,
                              const OptionalTensor& weights, bool mean, const Tensor& grad_y, const Tensor& grad_q,
                              const Tensor& grad_center, const Tensor& grad_weights);

}  // namespace lps::cuda
