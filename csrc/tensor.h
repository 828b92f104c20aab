// Short names for LibTorch's stable ABI. The only file that spells it out.
#pragma once

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Half.h>

#if defined(__linux__)
#include <sys/mman.h>
#endif

#include <algorithm>
#include <cstdint>
#include <limits>
#include <optional>
#include <tuple>
#include <vector>

namespace lps {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;
using BFloat16 = torch::headeronly::BFloat16;
using Half = torch::headeronly::Half;
using OptionalTensor = std::optional<Tensor>;

// Contiguous, copied only where it is not.
inline Tensor dense(const Tensor& x) {
  return x.is_contiguous() ? x : torch::stable::contiguous(x);
}

inline OptionalTensor dense(const OptionalTensor& x) {
  return x ? OptionalTensor(dense(*x)) : std::nullopt;
}

// Asks for pages of 2 MB where a new tensor has many. Memory of more than 32 MB comes fresh from the kernel for every
// tensor, and its first touch costs three times what a gather does if pages have 4 kB. As numpy does.
inline void use_huge_pages([[maybe_unused]] const Tensor& x) {
#if defined(__linux__) && defined(MADV_HUGEPAGE)
  constexpr uintptr_t page = uintptr_t(2) << 20;
  const uintptr_t begin = reinterpret_cast<uintptr_t>(x.data_ptr());
  const uintptr_t first = (begin + page - 1) / page * page, end = (begin + x.numel() * x.element_size()) / page * page;
  if (end > first + page) madvise(reinterpret_cast<void*>(first), end - first, MADV_HUGEPAGE);
#endif
}

// Uninitialised; dtype and device of `like` unless said. torch::stable::new_empty looks its operator up by name, 1.5 us
// a call.
inline Tensor empty(const Tensor& like, const std::vector<int64_t>& sizes,
                    std::optional<ScalarType> dtype = std::nullopt) {
  std::vector<int64_t> strides(sizes.size(), 1);
  for (size_t i = sizes.size(); i-- > 1;) strides[i - 1] = strides[i] * std::max<int64_t>(sizes[i], 1);
  int32_t type, device, index;
  if (dtype) {
    type = torch::stable::detail::to<int32_t>(torch::stable::detail::from(*dtype));
  } else {
    STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_dtype(like.get(), &type));
  }
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_type(like.get(), &device));
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_index(like.get(), &index));
  AtenTensorHandle result;
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_empty_strided(static_cast<int64_t>(sizes.size()), sizes.data(),
                                                         strides.data(), type, device, index, &result));
  const Tensor made(result);
  if (device == aoti_torch_device_type_cpu()) use_huge_pages(made);
  return made;
}

inline Tensor empty(const Tensor& x) {
  std::vector<int64_t> sizes(x.dim());
  for (int64_t i = 0; i < x.dim(); ++i) sizes[i] = x.size(i);
  return empty(x, sizes);
}

// The same, zero.
inline Tensor zeros(const Tensor& like, std::vector<int64_t> sizes, std::optional<ScalarType> dtype = std::nullopt) {
  return torch::stable::new_zeros(like, {sizes.data(), sizes.size()}, dtype);
}

// What a backward op returns for one argument: its gradient, or nothing where nobody asked.
inline Tensor needed(const Tensor& gradient, bool need) {
  return need ? gradient : empty(gradient, {0});
}

// x, the mean over no samples, as the reference has it: 0 / 0, or with weights a sum of nothing.
inline Tensor mean_of_none(Tensor x, bool weighted) {
  return torch::stable::fill_(x, weighted ? 0.0 : std::numeric_limits<double>::quiet_NaN());
}

// What else would be read beyond its end: a gradient that is not one of the output.
inline void check_gradient(const char* op, const OptionalTensor& grad, const Tensor& like, int64_t count) {
  STD_TORCH_CHECK(!grad || (grad->numel() == count && grad->scalar_type() == like.scalar_type()), op,
                  ": expected a gradient of the output's size and dtype");
}

inline void check_nodes(const char* op, const OptionalTensor& num_nodes, int64_t b) {
  STD_TORCH_CHECK(!num_nodes || (num_nodes->numel() == b && num_nodes->scalar_type() == ScalarType::Long), op,
                  ": expected num_nodes (b,) int64");
}

// Of a mean over samples, in the dtype that features are computed in.
inline void check_weights(const char* op, const OptionalTensor& weights, int64_t rows, ScalarType dtype) {
  STD_TORCH_CHECK(!weights || (weights->numel() == rows && weights->scalar_type() == dtype), op,
                  ": expected weights (b, k) in the computing dtype");
}

template <class T>
const T* in(const Tensor& x) {
  return static_cast<const T*>(x.const_data_ptr());
}

template <class T>
const T* in(const OptionalTensor& x) {
  return x ? in<T>(*x) : nullptr;
}

template <class T>
T* out(const Tensor& x) {
  return static_cast<T*>(x.mutable_data_ptr());
}

// The dtype in which features or scores are computed.
template <class T>
struct ComputeType {
  using type = float;
};
template <>
struct ComputeType<double> {
  using type = double;
};
template <class T>
using Compute = typename ComputeType<T>::type;

template <class T>
struct Type {
  using type = T;
};

// Calls body(Type<T>()) for the C++ type of a floating dtype.
template <class Body>
auto floating_switch(ScalarType dtype, const char* op, Body body) {
  switch (dtype) {
    case ScalarType::Float:
      return body(Type<float>());
    case ScalarType::Double:
      return body(Type<double>());
    case ScalarType::BFloat16:
      return body(Type<BFloat16>());
    case ScalarType::Half:
      return body(Type<Half>());
    default:
      STD_TORCH_CHECK(false, op, ": expected a floating dtype, got scalar type ", static_cast<int>(dtype));
  }
}

inline ScalarType compute_dtype(ScalarType dtype) {
  return dtype == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
}

}  // namespace lps
