// A block's tiles turned for its samples: rotate.cu and sample_rotate.cu.
#pragma once

#include "cuda/rotation.cuh"

namespace lps::cuda {

// y = q^T (x - center) of the samples and tiles of `part`, a warp a tile: its nodes are read once for all samples, or
// by a.order for each. held: matrices and centers of the samples.
template <int D, int ORDER, class T>
__device__ __forceinline__ void turn_samples(const Turn<T>& a, const Part<T>& part, const Held<T, D>& held, T* buffer,
                                             const Numbers& y, const Numbers& x) {
  using Nodes = Tile<T, kCount<D, ORDER>>;
  const int64_t count = count_nodes(a.num_nodes, part.b, a.n), size = a.n * a.c * kCount<D, ORDER>;
  for (int64_t index = part.tile; index < part.end; index += part.count_of_warps) {
    const Nodes tile(buffer, index, a.c);
    typename Nodes::Entries v;
    if (!a.order.given()) tile.load(x, part.b * size, count, v);
    for (int64_t sample = part.first; sample < part.last; ++sample) {
      const int64_t row = part.b * a.k + sample;
      bool live[Nodes::kItems];
#pragma unroll
      for (int t = 0; t < Nodes::kItems; ++t) live[t] = true;
      if (a.order.given()) tile.gather(x, part.b * size, a.order, row * a.n, count, v, live);
      T m[D * D];
      held.template matrix<false>(sample - part.first, m);
      const T* const center = a.center ? held.center(a, sample - part.first) : nullptr;
      typename Nodes::Entries turned;
#pragma unroll
      for (int t = 0; t < Nodes::kItems; ++t) {
        T u[kCount<D, ORDER>];
#pragma unroll
        for (int e = 0; e < kCount<D, ORDER>; ++e) u[e] = v[t][e];
        if (center != nullptr && live[t]) shift<D>(u, center, T(-1));
        turn<D, ORDER>(m, u, turned[t]);
      }
      tile.store(y, row * size, count, a.n, turned);
    }
  }
}

}  // namespace lps::cuda
