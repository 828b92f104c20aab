// Rotations of small clouds: a warp holds several samples of an input side by side, which a tile would leave mostly
// empty.
#pragma once

#include "cuda/rotation.cuh"

namespace lps::cuda {

// Whether samples of vectors are packed: at least four, of which one fits in a warp.
inline bool is_packed(const Space& s) {
  return s.order == 1 && s.d >= 2 && s.d <= 4 && s.k >= 4 && s.n * s.c > 0 && s.n * s.c <= kWarp;
}

// Where the sums for gradients go, nowhere if null: the gradients of matrices themselves, by the weights where there
// are some or `share`; or, not direct, (b k, 1, d d + d) for finish_gradients.
template <class T>
struct MatrixSums {
  T* data;
  bool direct;
  T share;
};

// The sums of a backward: direct where nothing but the gradient of matrices is wanted, else in `partial`.
template <class T>
MatrixSums<T> matrix_sums(const Space& s, bool direct, bool any, T share, const Tensor& grad_q, Tensor& partial) {
  if (!any) return {nullptr, false, share};
  if (direct) return {out<T>(grad_q), true, share};
  partial = empty(grad_q, {s.b * s.k * (s.d * s.d + s.d)});
  return {out<T>(partial), false, share};
}

// From inputs, or from samples of their own where `each`, to samples: q^T (x - center), or q x + center where `back`,
// by the weights where there are some or `share`. Sums are those of x = q y, with `from` as the gradient of x and
// `other` as y.
template <class T>
void packed_to_samples(const Space& s, const Turn<T>& a, const Tensor& on, const Numbers& to, const Numbers& from,
                       bool each, bool back, T share, const Numbers& other, const MatrixSums<T>& sums);

// From samples to inputs: the sum of q y + center over samples, by the weights where there are some, and `share`. Sums
// are those of y = q^T x, with `from` as the gradient of y and `other` as x, which the center is taken from then in the
// place of being added.
template <class T>
void packed_to_inputs(const Space& s, const Turn<T>& a, const Tensor& on, const Numbers& to, const Numbers& from,
                      T share, const Numbers& other, const MatrixSums<T>& sums);

}  // namespace lps::cuda
