// Reads and writes features and scores of any floating dtype, as the dtype T that they are computed in.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include "cuda/launch.cuh"

namespace lps::cuda {

// How numbers lie in memory. A value at run time, the same in all threads: a kernel of its own for each would take
// three times as long to compile.
enum Kind : int { kWhole, kHalf, kBrain };

inline Kind kind_of(ScalarType dtype) {
  return dtype == ScalarType::Half ? kHalf : dtype == ScalarType::BFloat16 ? kBrain : kWhole;
}
inline Kind kind_of(const Tensor& x) {
  return kind_of(x.scalar_type());
}

// Numbers to be read or written: in T, or in 16 bits where T is float.
struct Numbers {
  void* data;
  Kind kind;
};

inline Numbers numbers(const Tensor& x) {
  return {x.mutable_data_ptr(), kind_of(x)};
}
inline Numbers numbers(const OptionalTensor& x) {
  return x ? numbers(*x) : Numbers{nullptr, kWhole};
}

template <class T>
__device__ __forceinline__ T load(const Numbers& x, int64_t i) {
  return static_cast<const T*>(x.data)[i];
}
template <>
__device__ __forceinline__ float load<float>(const Numbers& x, int64_t i) {
  if (x.kind == kHalf) return __half2float(static_cast<const __half*>(x.data)[i]);
  if (x.kind == kBrain) return __bfloat162float(static_cast<const __nv_bfloat16*>(x.data)[i]);
  return static_cast<const float*>(x.data)[i];
}

__device__ __forceinline__ void store(const Numbers& x, int64_t i, double value) {
  static_cast<double*>(x.data)[i] = value;
}
__device__ __forceinline__ void store(const Numbers& x, int64_t i, float value) {
  if (x.kind == kHalf) {
    static_cast<__half*>(x.data)[i] = __float2half_rn(value);
  } else if (x.kind == kBrain) {
    static_cast<__nv_bfloat16*>(x.data)[i] = __float2bfloat16_rn(value);
  } else {
    static_cast<float*>(x.data)[i] = value;
  }
}

// Calls body(T()) for the dtype that features or scores of `dtype` are computed in.
template <class Body>
auto compute_switch(ScalarType dtype, const char* op, const Body& body) {
  STD_TORCH_CHECK(dtype == ScalarType::Float || dtype == ScalarType::Double || dtype == ScalarType::Half ||
                      dtype == ScalarType::BFloat16,
                  op, ": expected a floating dtype, got scalar type ", static_cast<int>(dtype));
  return dtype == ScalarType::Double ? body(double()) : body(float());
}

}  // namespace lps::cuda
