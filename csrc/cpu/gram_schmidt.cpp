// gram_schmidt: small matrices one a lane, unrolled; larger ones by blocks of columns.
#include "core/gram_schmidt.h"

#include <cstring>

#include "cpu/gram_schmidt_large.h"
#include "cpu/gram_schmidt_small.h"
#include "cpu/parallel.h"
#include "cpu/rotations.h"

namespace lps::cpu {

template <int D, int M, class T, class N, class S>
static void small_forward(const S* v, bool special, int64_t begin, int64_t end, T* q, bool* degenerate) {
  constexpr int entries = D * M * Entry<T, N>::kParts;
  alignas(64) T at_v[entries * kChunk], at_q[entries * kChunk];
  alignas(64) Int<T> flags[M * kChunk];
  for (int64_t first = begin; first < end; first += kChunk) {
    const int64_t count = std::min<int64_t>(kChunk, end - first);
    to_lanes<entries>(v + first * entries, count, at_v);
    if (forward_lanes<D, M, T, N>(at_v, count, special, at_q, flags)) {
      from_lanes<M>(flags, count, degenerate + first * M);
    } else {
      std::fill_n(degenerate + first * M, count * M, false);
    }
    from_lanes<entries>(at_q, count, q + first * entries);
  }
}

template <int D, int M, class T, class N, class S>
static void small_backward(const T* grad, const S* v, const T* q, const bool* degenerate, int64_t begin, int64_t end,
                           S* grad_v) {
  constexpr int entries = D * M * Entry<T, N>::kParts;
  alignas(64) T at_v[entries * kChunk], at_q[entries * kChunk], at_g[entries * kChunk];
  alignas(64) Int<T> flags[M * kChunk];
  for (int64_t first = begin; first < end; first += kChunk) {
    const int64_t count = std::min<int64_t>(kChunk, end - first);
    to_lanes<entries>(v + first * entries, count, at_v);
    to_lanes<entries>(q + first * entries, count, at_q);
    to_lanes<entries>(grad + first * entries, count, at_g);
    if (std::memchr(degenerate + first * M, true, count * M)) {
      to_lanes<M>(degenerate + first * M, count, flags);
    } else {
      std::fill_n(flags, M * kChunk, Int<T>(0));
    }
    backward_lanes<D, M, T, N>(at_v, at_q, flags, at_g, count);
    from_lanes<entries>(at_g, count, grad_v + first * entries);
  }
}

static void check_shape(const Tensor& v, bool special) {
  STD_TORCH_CHECK(v.dim() == 3 || (v.dim() == 4 && v.size(3) == 2), "gram_schmidt: expected v of shape (b, d, m)");
  STD_TORCH_CHECK(v.size(2) <= v.size(1), "gram_schmidt: expected no more columns than rows");
  STD_TORCH_CHECK(!special || (v.dim() == 3 && v.size(1) == v.size(2)), "gram_schmidt: expected real square matrices");
}

std::tuple<Tensor, Tensor> gram_schmidt(Tensor v, bool special) {
  check_shape(v, special);
  v = dense(v);
  const int64_t b = v.size(0), d = v.size(1), m = v.size(2);
  const bool complex = v.dim() == 4;
  Tensor q = empty(v, std::vector<int64_t>(v.sizes().begin(), v.sizes().end()), compute_dtype(v.scalar_type()));
  Tensor degenerate = empty(v, {b, m}, ScalarType::Bool);
  floating_switch(v.scalar_type(), "gram_schmidt", [&](auto type) {
    using S = typename decltype(type)::type;
    using T = Compute<S>;
    const S* from = in<S>(v);
    T* to = out<T>(q);
    bool* flags = out<bool>(degenerate);
    if (m == 0) return;
    if (d > (complex ? kSmallComplex : kSmall)) {
      if (complex) {
        large_forward<T, Complex<T>>(from, b, d, m, false, to, flags);
      } else {
        large_forward<T, T>(from, b, d, m, special, to, flags);
      }
      return;
    }
    parallel_for(b, grain_for(0.5 * d * m), [&](int64_t begin, int64_t end) {
      small_switch(d, m, [&](auto D, auto M) {
        if (complex) {
          if constexpr (D <= kSmallComplex) {
            small_forward<D, M, T, Complex<Vec<T>>>(from, false, begin, end, to, flags);
          }
        } else {
          small_forward<D, M, T, Vec<T>>(from, special, begin, end, to, flags);
        }
      });
    });
  });
  return {q, degenerate};
}

Tensor gram_schmidt_backward(OptionalTensor grad_q, OptionalTensor, Tensor v, bool special, Tensor q, Tensor degenerate,
                             int64_t needs) {
  check_shape(v, special);
  if (!(needs & 1)) return empty(v, {0});
  std::vector<int64_t> sizes(v.sizes().begin(), v.sizes().end());
  if (!grad_q) return zeros(v, sizes);
  const Tensor grad = dense(*grad_q);
  v = dense(v), q = dense(q), degenerate = dense(degenerate);
  const int64_t b = v.size(0), d = v.size(1), m = v.size(2);
  const bool complex = v.dim() == 4;
  STD_TORCH_CHECK(grad.numel() == v.numel() && q.numel() == v.numel() && degenerate.numel() == b * m,
                  "gram_schmidt_backward: expected gradients and outputs of the forward's shape");
  STD_TORCH_CHECK(grad.scalar_type() == q.scalar_type() && q.scalar_type() == compute_dtype(v.scalar_type()),
                  "gram_schmidt_backward: expected gradients and outputs of the forward's dtype");
  Tensor grad_v = empty(v, sizes);
  floating_switch(v.scalar_type(), "gram_schmidt_backward", [&](auto type) {
    using S = typename decltype(type)::type;
    using T = Compute<S>;
    const S* from = in<S>(v);
    const T *basis = in<T>(q), *g = in<T>(grad);
    const bool* flags = in<bool>(degenerate);
    S* to = out<S>(grad_v);
    if (m == 0) return;
    if (d > (complex ? kSmallComplex : kSmall)) {
      if (complex) {
        large_backward<T, Complex<T>>(g, from, basis, flags, b, d, m, to);
      } else {
        large_backward<T, T>(g, from, basis, flags, b, d, m, to);
      }
      return;
    }
    parallel_for(b, grain_for(1.0 * d * m), [&](int64_t begin, int64_t end) {
      small_switch(d, m, [&](auto D, auto M) {
        if (complex) {
          if constexpr (D <= kSmallComplex) {
            small_backward<D, M, T, Complex<Vec<T>>>(g, from, basis, flags, begin, end, to);
          }
        } else {
          small_backward<D, M, T, Vec<T>>(g, from, basis, flags, begin, end, to);
        }
      });
    });
  });
  return grad_v;
}

}  // namespace lps::cpu

STABLE_TORCH_LIBRARY_IMPL(lps_kernels, CPU, m) {
  m.impl("gram_schmidt", TORCH_BOX(&lps::cpu::gram_schmidt));
  m.impl("gram_schmidt_backward", TORCH_BOX(&lps::cpu::gram_schmidt_backward));
}
