// A loop over numbers whose dtype is known inside of it.
#pragma once

#include <type_traits>

#include "cuda/numbers.cuh"

namespace lps::cuda {

// Calls body with the address of x in its dtype. T is what the numbers are computed in.
template <class T, class Body>
__device__ __forceinline__ void typed(const Numbers& x, const Body& body) {
  if constexpr (std::is_same_v<T, double>) {
    body(static_cast<double*>(x.data));
  } else if (x.kind == kBrain) {
    body(static_cast<__nv_bfloat16*>(x.data));
  } else if (x.kind == kHalf) {
    body(static_cast<__half*>(x.data));
  } else {
    body(static_cast<float*>(x.data));
  }
}

// What a kernel writes where somebody wants it: nothing where the tensor is empty.
inline Numbers wanted(const Tensor& x) {
  return x.numel() > 0 ? numbers(x) : Numbers{nullptr, kWhole};
}

// What a pointer points to.
template <class Pointer>
using Pointee = std::remove_reference_t<decltype(*std::declval<Pointer>())>;

}  // namespace lps::cuda
