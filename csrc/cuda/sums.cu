// Sums over samples of what an inverse permutation moves back, added in the order of the samples, and the gradient of
// their weights.
#include "cuda/gather.cuh"
#include "cuda/team.cuh"

namespace lps::cuda {

// x[b, i] = sum over k of w y[b, k, inverse[i]] of one pack.
template <class P, class T, class To>
__device__ __forceinline__ void sum_node(const Gather& g, const Scale<T>& scale, const P* y, To* x, int64_t at) {
  constexpr int V = sizeof(P) / sizeof(P::x[0]);
  const int64_t position = at / g.packs, graph = position / g.n;
  const int node = static_cast<int>(position - graph * g.n), part = static_cast<int>(at - position * g.packs);
  T sum[V] = {};
  if (node < count_nodes(g.num_nodes, graph, g.n)) {
    for (int64_t row = graph * g.k; row < (graph + 1) * g.k; ++row) {
      const P value = y[(row * g.n + g.node(row, node)) * g.packs + part];
      const T w = scale.of(row);
#pragma unroll
      for (int i = 0; i < V; ++i) sum[i] += w * widen<T>(value.x[i]);
    }
  }
  To value;
#pragma unroll
  for (int i = 0; i < V; ++i) narrow(sum[i], value.x[i]);
  x[at] = value;
}

template <class P, class T, class To>
__global__ void sum_nodes_kernel(Gather g, Scale<T> scale, const P* y, To* x, int64_t count) {
  const int64_t at = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (at < count) sum_node(g, scale, y, x, at);
}

// Nodes that blocks from `first` on sum, number by number, beside others that sum edges.
template <class P, class To>
struct NodeSums {
  template <class Packed>
  using One = Pack<std::remove_extent_t<decltype(Packed::x)>, 1>;
  Gather g;
  const One<P>* y;
  One<To>* x;
  int64_t first, count;
};

// The same for edges, x[b, i, l] = sum over k of w y[b, k, inverse[i], inverse[l]]: a warp a line, whose sum is in
// shared memory, where a sample's line is added in the order in which it is read. indices: whether perm is shared.
template <class P, class T, class To>
__global__ void sum_edges_kernel(Gather g, Scale<T> scale, const P* y, To* x, int indices, NodeSums<P, To> nodes_too) {
  constexpr int V = sizeof(P) / sizeof(P::x[0]);
  extern __shared__ char shared[];
  if (blockIdx.x >= nodes_too.first) {
    const int64_t at = (blockIdx.x - nodes_too.first) * blockDim.x + threadIdx.x;
    if (at < nodes_too.count) sum_node(nodes_too.g, scale, nodes_too.y, nodes_too.x, at);
    return;
  }
  const int warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp, warps = blockDim.x / kWarp;
  const int groups = (g.n + warps - 1) / warps, line = g.n * g.packs;
  const int64_t graph = blockIdx.x / groups;
  const int node = static_cast<int>(blockIdx.x % groups) * warps + warp;
  const int nodes = count_nodes(g.num_nodes, graph, g.n);
  Pack<T, V>* sum = reinterpret_cast<Pack<T, V>*>(shared) + static_cast<size_t>(warp) * line;
  int* index = reinterpret_cast<int*>(reinterpret_cast<Pack<T, V>*>(shared) + static_cast<size_t>(warps) * line);
  for (int q = lane; q < line; q += kWarp) sum[q] = {};
  for (int64_t row = graph * g.k; row < (graph + 1) * g.k; ++row) {
    __syncthreads();  // the sample before this one has been added
    for (int i = threadIdx.x; i < indices && i < nodes; i += blockDim.x) {
      index[i] = node_at(g.perm, row * g.n + i, g.n);
    }
    __syncthreads();
    if (node >= nodes) continue;
    const P* from = y + (row * g.n + node_at(g.inverse, row * g.n + node, g.n)) * line;
    const T w = scale.of(row);
    for (int q = lane; q < nodes * g.packs; q += kWarp) {
      const int s = g.packs == 1 ? q : q / g.packs, other = indices ? index[s] : node_at(g.perm, row * g.n + s, g.n);
      const P value = from[q];
      Pack<T, V>& to = sum[other * g.packs + (q - s * g.packs)];
#pragma unroll
      for (int i = 0; i < V; ++i) to.x[i] += w * widen<T>(value.x[i]);
    }
    __syncwarp();
  }
  if (node >= g.n) return;
  __syncwarp();
  for (int q = lane; q < line; q += kWarp) {
    To value{};
#pragma unroll
    for (int i = 0; i < V; ++i) narrow(q < nodes * g.packs ? sum[q].x[i] : T(0), value.x[i]);
    x[(graph * g.n + node) * line + q] = value;
  }
}

// The same where a line is too long for shared memory: a thread a pack, read where it lies.
template <class P, class T, class To>
__global__ void sum_long_edges_kernel(Gather g, Scale<T> scale, const P* y, To* x, int64_t count) {
  constexpr int V = sizeof(P) / sizeof(P::x[0]);
  const int64_t at = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (at >= count) return;
  const int64_t edge = at / g.packs, position = edge / g.n, graph = position / g.n;
  const int other = static_cast<int>(edge - position * g.n), node = static_cast<int>(position - graph * g.n);
  const int part = static_cast<int>(at - edge * g.packs), nodes = count_nodes(g.num_nodes, graph, g.n);
  T sum[V] = {};
  if (node < nodes && other < nodes) {
    for (int64_t row = graph * g.k; row < (graph + 1) * g.k; ++row) {
      const int64_t from = (row * g.n + node_at(g.inverse, row * g.n + node, g.n)) * g.n;
      const P value = y[(from + node_at(g.inverse, row * g.n + other, g.n)) * g.packs + part];
      const T w = scale.of(row);
#pragma unroll
      for (int i = 0; i < V; ++i) sum[i] += w * widen<T>(value.x[i]);
    }
  }
  To value;
#pragma unroll
  for (int i = 0; i < V; ++i) narrow(sum[i], value.x[i]);
  x[at] = value;
}

template <class P, class T, class To>
void launch_sum(const Shape& s, const Tensor& like, Gather g, Scale<T> scale, const void* y, void* x,
                const OptionalNodes& nodes) {
  constexpr int V = sizeof(P) / sizeof(P::x[0]);
  const P* from = static_cast<const P*>(y);
  To* to = static_cast<To*>(x);
  const int64_t count = s.b * s.n * s.inner() / V, line = s.n * g.packs * static_cast<int64_t>(sizeof(Pack<T, V>));
  if (s.order == 1) {
    launch("sum_nodes_kernel", sum_nodes_kernel<P, T, To>, like, blocks(count, kThreads), kThreads, 0, g, scale, from,
           to, count);
  } else if (line > kLineBytes) {
    launch("sum_long_edges_kernel", sum_long_edges_kernel<P, T, To>, like, blocks(count, kThreads), kThreads, 0, g,
           scale, from, to, count);
  } else {
    const int64_t indices = s.n <= kIndices ? s.n : 0, warps = std::clamp<int64_t>(kLineBytes / line, 1, 8);
    const int64_t first = s.b * blocks(s.n, warps), threads = warps * kWarp;
    NodeSums<P, To> too{g, nullptr, nullptr, first, 0};
    if (nodes) {
      const int64_t c = nodes->to.size(nodes->to.dim() - 1);
      too.g.perm = nullptr, too.g.packs = static_cast<int>(c), too.count = s.b * s.n * c;
      too.y = static_cast<decltype(too.y)>(nodes->from.const_data_ptr());
      too.x = static_cast<decltype(too.x)>(nodes->to.mutable_data_ptr());
    }
    launch("sum_edges_kernel", sum_edges_kernel<P, T, To>, like, first + blocks(too.count, threads),
           static_cast<int>(threads), warps * line + indices * sizeof(int), g, scale, from, to, indices, too);
  }
}

// x[perm[r]] = sum over samples of w y[sample, r], and so for edges; x and y may differ in dtype.
void sum_samples(const Shape& s, const Tensor& perm, const Tensor& y, const Tensor& x, const OptionalTensor& weights,
                 double scale, OptionalTensor inverse, const OptionalNodes& nodes) {
  if (x.numel() == 0) return;
  if (!inverse) inverse = inverse_of(s, perm);
  const int64_t line = s.inner() * (x.scalar_type() == ScalarType::Double ? 8 : 4);
  const bool together = nodes && line <= kLineBytes && nodes->to.scalar_type() == x.scalar_type() &&
                        nodes->from.scalar_type() == y.scalar_type();
  if (nodes && !together) sum_samples(s.of_nodes(nodes->to), perm, nodes->from, nodes->to, weights, scale, inverse);
  const auto with = [&](auto from, auto to) {
    using F = decltype(from);
    using To = decltype(to);
    using T = typename Wide<To>::type;
    constexpr int widest = 16 / std::max(sizeof(F), sizeof(To));
    const auto launch_packs = [&](auto width) {
      constexpr int V = decltype(width)::value;
      const Gather g{s.perm, in<int32_t>(inverse), s.num_nodes, s.k, static_cast<int>(s.n), static_cast<int>(s.c / V),
                     true};
      Gather by_inverse = g;
      if (s.order == 1) by_inverse.perm = nullptr;
      launch_sum<Pack<F, V>, T, Pack<To, V>>(s, x, by_inverse, {in<T>(weights), static_cast<T>(scale)},
                                             y.const_data_ptr(), x.mutable_data_ptr(), together ? nodes : std::nullopt);
    };
    const bool wide = s.c % widest == 0 && aligned(y.const_data_ptr(), 16) && aligned(x.const_data_ptr(), 16);
    wide ? launch_packs(std::integral_constant<int, widest>()) : launch_packs(std::integral_constant<int, 1>());
  };
  feature_switch(x.scalar_type(), "sum over samples", [&](auto to) {
    using T = typename Wide<decltype(to)>::type;
    y.scalar_type() == x.scalar_type() ? with(to, to) : with(T(), to);
  });
}

// grad_weights[row] = <grad x, P y> of one sample: a block a row. rank order: y; node order: grad.
template <class F, class T>
__global__ void __launch_bounds__(kThreads)
    weight_gradient_kernel(Gather g, int64_t order, const F* grad, Numbers y, T* grad_weights) {
  __shared__ double parts[kWarp];
  const int64_t row = blockIdx.x;
  const int nodes = count_nodes(g.num_nodes, row / g.k, g.n);
  const BlockTeam<kThreads> team(parts);
  T sum = 0;
  const int line = order == 2 ? nodes * g.packs : g.packs;  // channels of a rank that count
  for (int rank = 0; rank < nodes; ++rank) {
    if (order == 1) {  // all ranks at once
      for (int q = threadIdx.x; q < nodes * g.packs; q += blockDim.x) {
        const int r = q / g.packs;
        sum += widen<T>(grad[(g.source(row) * g.n + g.node(row, r)) * g.packs + (q - r * g.packs)]) *
               load<T>(y, row * g.n * g.packs + q);
      }
      break;
    }
    const int64_t from = (g.source(row) * g.n + g.node(row, rank)) * g.n, at = (row * g.n + rank) * g.n;
    for (int q = threadIdx.x; q < line; q += blockDim.x) {
      const int s = q / g.packs;
      sum += widen<T>(grad[(from + g.node(row, s)) * g.packs + (q - s * g.packs)]) * load<T>(y, at * g.packs + q);
    }
  }
  sum = team.reduce(sum, Add());
  if (threadIdx.x == 0) grad_weights[row] = sum;
}

void weight_gradient(const Shape& s, const Tensor& grad, const Tensor& y, const Tensor& grad_weights, bool each) {
  feature_switch(grad.scalar_type(), "weight_gradient", [&](auto zero) {
    using F = decltype(zero);
    using T = typename Wide<F>::type;
    const Gather g{s.perm, nullptr, s.num_nodes, s.k, static_cast<int>(s.n), static_cast<int>(s.c), each};
    launch("weight_gradient_kernel", weight_gradient_kernel<F, T>, grad, s.rows(), kThreads, 0, g, s.order,
           static_cast<const F*>(grad.const_data_ptr()), numbers(y), out<T>(grad_weights));
  });
}

}  // namespace lps::cuda
