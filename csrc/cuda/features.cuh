// Features of nodes and edges beside their permutations: shapes, indices and packs of channels.
#pragma once

#include "cuda/numbers.cuh"

namespace lps::cuda {

// b inputs, k samples, n nodes, c channels; order 1: nodes, order 2: edges.
struct Shape {
  int64_t b, k, n, c, order;
  const int64_t *perm, *num_nodes;

  int64_t rows() const {
    return b * k;
  }
  int64_t inner() const {  // channels behind the first node axis
    return order == 2 ? n * c : c;
  }
  Shape of_nodes(const Tensor& x) const {  // of the same graphs
    return {b, k, n, x.size(x.dim() - 1), 1, perm, num_nodes};
  }
};

inline Shape shape_of(const char* op, const Tensor& x, const Tensor& perm, const OptionalTensor& num_nodes,
                      int64_t order, bool has_samples) {
  const int64_t lead = has_samples ? 2 : 1;
  STD_TORCH_CHECK(perm.dim() == 3 && perm.scalar_type() == ScalarType::Long, op, ": expected perm (b, k, n) int64");
  STD_TORCH_CHECK(order == 1 || order == 2, op, ": expected order 1 or 2");
  STD_TORCH_CHECK(x.dim() == lead + order + 1, op, ": features and perm do not fit");
  const Shape shape{perm.size(0), perm.size(1),      perm.size(2),          x.size(x.dim() - 1),
                    order,        in<int64_t>(perm), in<int64_t>(num_nodes)};
  bool fits = x.size(0) == shape.b && (!has_samples || x.size(1) == shape.k);
  for (int64_t i = 0; fits && i < order; ++i) fits = x.size(lead + i) == shape.n;
  STD_TORCH_CHECK(fits, op, ": features and perm do not fit");
  check_nodes(op, num_nodes, shape.b);
  STD_TORCH_CHECK(shape.n < INT32_MAX && shape.inner() < INT32_MAX, op, ": expected n and a line below 2^31");
  check_same_device(op, x, perm, num_nodes);
  return shape;
}

// Sizes (b, k, n, c) or (b, k, n, n, c), without k where not `samples`.
inline std::vector<int64_t> sizes_of(const Shape& s, bool samples) {
  std::vector<int64_t> sizes = {s.b};
  if (samples) sizes.push_back(s.k);
  sizes.insert(sizes.end(), s.order, s.n);
  sizes.push_back(s.c);
  return sizes;
}

// t, row and col come all or not at all, with features that are computed in their dtype.
inline void check_soft(const char* op, const Tensor& x, const Tensor& perm, const OptionalTensor& t,
                       const OptionalTensor& row, const OptionalTensor& col, bool hard) {
  STD_TORCH_CHECK(t || hard, op, ": expected t, row and col where hard is false");
  for (const OptionalTensor& part : {t, row, col}) {
    STD_TORCH_CHECK(part.has_value() == t.has_value(), op, ": expected all of t, row and col, or none");
    if (!part) continue;
    STD_TORCH_CHECK(part->numel() == perm.numel(), op, ": expected t, row and col of shape (b, k, n)");
    STD_TORCH_CHECK(part->scalar_type() == compute_dtype(x.scalar_type()), op, ": t, row, col of another dtype");
    check_same_device(op, x, part);
  }
}

// What is no index of a node can't be read or written out of bounds.
template <class I>
__device__ __forceinline__ int node_at(const I* index, int64_t at, int n) {
  const I node = index[at];
  return node < 0 ? 0 : node < n ? static_cast<int>(node) : n - 1;
}

// Channels that move together, in one access.
template <class F, int V>
struct alignas(sizeof(F) * V) Pack {
  F x[V];
};

template <class T>
__device__ __forceinline__ T widen(double x) {
  return static_cast<T>(x);
}
template <class T>
__device__ __forceinline__ T widen(float x) {
  return static_cast<T>(x);
}
template <class T>
__device__ __forceinline__ T widen(__half x) {
  return __half2float(x);
}
template <class T>
__device__ __forceinline__ T widen(__nv_bfloat16 x) {
  return __bfloat162float(x);
}
__device__ __forceinline__ void narrow(double x, double& to) {
  to = x;
}
__device__ __forceinline__ void narrow(float x, float& to) {
  to = x;
}
__device__ __forceinline__ void narrow(float x, __half& to) {
  to = __float2half_rn(x);
}
__device__ __forceinline__ void narrow(float x, __nv_bfloat16& to) {
  to = __float2bfloat16_rn(x);
}

template <class F>
struct Wide {
  using type = float;
};
template <>
struct Wide<double> {
  using type = double;
};

inline bool aligned(const void* p, size_t bytes) {
  return reinterpret_cast<uintptr_t>(p) % bytes == 0;
}

// Calls body(Type<Pack>) with the widest pack, of 16 bytes at most, that c channels of both tensors are made of.
template <class F, class Body>
void with_pack(int64_t c, const void* a, const void* b, const Body& body) {
  constexpr int widest = 16 / sizeof(F);
  if (c % widest == 0 && aligned(a, 16) && aligned(b, 16)) return body(Type<Pack<F, widest>>());
  body(Type<Pack<F, 1>>());
}

// Calls body(F()) for the type of a floating dtype as the device knows it.
template <class Body>
void feature_switch(ScalarType dtype, const char* op, const Body& body) {
  switch (dtype) {
    case ScalarType::Float:
      return body(float());
    case ScalarType::Double:
      return body(double());
    case ScalarType::Half:
      return body(__half());
    case ScalarType::BFloat16:
      return body(__nv_bfloat16());
    default:
      STD_TORCH_CHECK(false, op, ": expected a floating dtype, got scalar type ", static_cast<int>(dtype));
  }
}

}  // namespace lps::cuda
