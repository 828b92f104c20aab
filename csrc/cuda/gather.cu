// Nodes and edges read in the order of a permutation or of its inverse. What goes back to node order is a gather too,
// so that nothing is added by atomics.
#include "cuda/gather.cuh"

namespace lps::cuda {

// y[row, r] = x[perm[r]]: a thread a pack, blocks of kThreads packs of one row after the other.
template <class P, class S>
__global__ void gather_nodes_kernel(Gather g, S scale, const P* x, P* y, int64_t count) {
  const int64_t first = static_cast<int64_t>(blockIdx.x) * kThreads, line = static_cast<int64_t>(g.n) * g.packs;
  const int64_t row0 = first / line;
  const int64_t at = first - row0 * line + threadIdx.x;  // a block spans several rows where lines are short
  const int64_t row = row0 + (line < kThreads ? static_cast<int>(at) / static_cast<int>(line) : at >= line);
  const int within = static_cast<int>(at - (row - row0) * line);
  if (first + threadIdx.x >= count) return;
  const int rank = within / g.packs, part = within - rank * g.packs;
  P value{};
  if (rank < count_nodes(g.num_nodes, row / g.k, g.n)) {
    value = scale(x[(g.source(row) * g.n + g.node(row, rank)) * g.packs + part], row);
  }
  y[first + threadIdx.x] = value;
}

// Nodes that blocks from `first` on move, unit by unit, beside others that move edges.
template <class P>
struct NodeMoves {
  using Unit = std::conditional_t<sizeof(P) == 16, uint32_t, P>;
  Gather g;
  const Unit* x;
  Unit* y;
  int64_t first, count;

  __device__ void move(int64_t at) const {
    const int64_t position = at / g.packs, row = position / g.n;
    const int rank = static_cast<int>(position - row * g.n), part = static_cast<int>(at - position * g.packs);
    Unit value{};
    if (rank < count_nodes(g.num_nodes, row / g.k, g.n)) {
      value = x[(g.source(row) * g.n + g.node(row, rank)) * g.packs + part];
    }
    y[at] = value;
  }
};

// y[row, r, s] = x[perm[r], perm[s]], a warp a line. Lines are read and written in order, the permutation happens in
// shared memory. indices: how many of them are shared, n or 0; line_bytes: the same of a line.
template <class P, class S>
__global__ void gather_edges_kernel(Gather g, S scale, const P* x, P* y, int lines, int indices, int staged,
                                    NodeMoves<P> nodes_too) {
  extern __shared__ char shared[];
  if (blockIdx.x >= nodes_too.first) {
    const int64_t at = (blockIdx.x - nodes_too.first) * blockDim.x + threadIdx.x;
    if (at < nodes_too.count) nodes_too.move(at);
    return;
  }
  const int warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp, warps = blockDim.x / kWarp;
  const int groups = (g.n + lines - 1) / lines, line = g.n * g.packs;
  const int64_t row = blockIdx.x / groups;
  const int first = static_cast<int>(blockIdx.x % groups) * lines, stop = min(first + lines, g.n);
  const int nodes = count_nodes(g.num_nodes, row / g.k, g.n);
  P* own = reinterpret_cast<P*>(shared) + warp * staged;
  int* index = reinterpret_cast<int*>(reinterpret_cast<P*>(shared) + warps * staged);
  for (int i = threadIdx.x; i < indices && i < nodes; i += blockDim.x) index[i] = g.node(row, i);
  __syncthreads();
  for (int rank = first + warp; rank < stop; rank += warps) {
    P* to = y + (row * g.n + rank) * line;
    if (rank >= nodes) {
      for (int q = lane; q < line; q += kWarp) to[q] = P{};
      continue;
    }
    const int node = indices ? index[rank] : g.node(row, rank);
    const P* from = x + (g.source(row) * g.n + node) * line;
    if (staged) {
      __syncwarp();
      for (int q = lane; q < nodes * g.packs; q += kWarp) own[q] = from[q];
      __syncwarp();
      from = own;
    }
    for (int q = lane; q < line; q += kWarp) {
      const int s = g.packs == 1 ? q : q / g.packs;
      P value{};
      if (s < nodes) {
        const int other = indices ? index[s] : g.node(row, s);
        value = scale(from[other * g.packs + (q - s * g.packs)], row);
      }
      to[q] = value;
    }
  }
}

// The inverse of every permutation, (rows, n) int32: whole rows in shared memory where they are short, so that they are
// written in order.
template <bool kShared>
__global__ void inverse_kernel(const int64_t* perm, int32_t* inverse, int n, int64_t count, int rows_per_block) {
  extern __shared__ int inverses[];
  const int length = rows_per_block * n;
  const int64_t first = static_cast<int64_t>(blockIdx.x) * length;
  for (int at = threadIdx.x; at < length && first + at < count; at += blockDim.x) {
    const int row = at / n, rank = at - row * n, to = row * n + node_at(perm, first + at, n);
    (kShared ? inverses[to] : inverse[first + to]) = rank;
  }
  if (!kShared) return;
  __syncthreads();
  for (int at = threadIdx.x; at < length && first + at < count; at += blockDim.x) inverse[first + at] = inverses[at];
}

Tensor inverse_of(const Shape& s, const Tensor& perm) {
  Tensor inverse = empty(perm, {s.rows(), s.n}, ScalarType::Int);
  if (inverse.numel() == 0) return inverse;
  const int64_t count = s.rows() * s.n, rows = std::max<int64_t>(1, 1024 / s.n);
  const bool in_shared = rows * s.n * sizeof(int) <= kPlainShared;
  launch("inverse_kernel", in_shared ? inverse_kernel<true> : inverse_kernel<false>, perm, blocks(s.rows(), rows),
         kThreads, in_shared ? rows * s.n * sizeof(int) : 0, s.perm, out<int32_t>(inverse), s.n, count, rows);
  return inverse;
}

template <class P, class S>
void launch_gather(const Shape& s, const Tensor& like, Gather g, const S& scale, const void* x, void* y,
                   const OptionalNodes& nodes = std::nullopt) {
  const P* from = static_cast<const P*>(x);
  P* to = static_cast<P*>(y);
  if (s.order == 1) {
    const int64_t count = s.rows() * s.n * g.packs;
    launch("gather_nodes_kernel", gather_nodes_kernel<P, S>, like, blocks(count, kThreads), kThreads, 0, g, scale, from,
           to, count);
    return;
  }
  const int64_t line = s.n * g.packs, indices = s.n <= kIndices ? s.n : 0;
  const int64_t staged = line * static_cast<int64_t>(sizeof(P)) <= kLineBytes / 4 ? line : 0;
  const int64_t lines = std::clamp<int64_t>((16 << 10) / std::max<int64_t>(line, 1), 4, 64), threads = 128;
  using Unit = typename NodeMoves<P>::Unit;
  NodeMoves<P> too{g, nullptr, nullptr, s.rows() * blocks(s.n, lines), 0};
  if (nodes) {
    const int64_t bytes = nodes->to.size(nodes->to.dim() - 1) * nodes->to.element_size();
    too.g.packs = static_cast<int>(bytes / sizeof(Unit)), too.count = s.rows() * s.n * too.g.packs;
    too.x = static_cast<const Unit*>(nodes->from.const_data_ptr());
    too.y = static_cast<Unit*>(nodes->to.mutable_data_ptr());
  }
  launch("gather_edges_kernel", gather_edges_kernel<P, S>, like, too.first + blocks(too.count, threads), threads,
         threads / kWarp * staged * sizeof(P) + indices * sizeof(int), g, scale, from, to, lines, indices, staged, too);
}

// y[row, r] = x[perm[r]] or x[inverse[r]], bits alone. each: x has samples.
void move(const Shape& s, const Tensor& x, const Tensor& y, const OptionalTensor& inverse, bool each,
          const OptionalNodes& nodes) {
  if (y.numel() == 0) return;
  const auto fits = [](const Tensor& from, const Tensor& to, int64_t size) {
    return from.size(from.dim() - 1) * from.element_size() % size == 0 && aligned(from.const_data_ptr(), size) &&
           aligned(to.const_data_ptr(), size);
  };
  const int64_t bytes = s.c * x.element_size();
  const auto with = [&](auto pack) {
    using P = decltype(pack);
    const Gather g{inverse ? nullptr : s.perm,
                   in<int32_t>(inverse),
                   s.num_nodes,
                   s.k,
                   static_cast<int>(s.n),
                   static_cast<int>(bytes / sizeof(P)),
                   each};
    const bool together = nodes && fits(nodes->from, nodes->to, sizeof(typename NodeMoves<P>::Unit));
    if (nodes && !together) move(s.of_nodes(nodes->to), nodes->from, nodes->to, inverse, each);
    launch_gather<P>(s, x, g, NoScale(), x.const_data_ptr(), y.mutable_data_ptr(), together ? nodes : std::nullopt);
  };
  if (fits(x, y, 16)) return with(Pack<uint32_t, 4>());
  if (fits(x, y, 4)) return with(Pack<uint32_t, 1>());
  if (fits(x, y, 2)) return with(Pack<uint16_t, 1>());
  with(Pack<uint8_t, 1>());
}

// y[row, r] = w x[perm[r]]: the gradient of a weighted sum over samples.
void gather_scaled(const Shape& s, const Tensor& x, const Tensor& y, const OptionalTensor& weights, double scale,
                   bool each) {
  if (y.numel() == 0) return;
  feature_switch(x.scalar_type(), "gather", [&](auto zero) {
    using F = decltype(zero);
    using T = typename Wide<F>::type;
    with_pack<F>(s.c, x.const_data_ptr(), y.mutable_data_ptr(), [&](auto type) {
      using P = typename decltype(type)::type;
      const int packs = static_cast<int>(s.c * sizeof(F) / sizeof(P));
      const Gather g{s.perm, nullptr, s.num_nodes, s.k, static_cast<int>(s.n), packs, each};
      launch_gather<P>(s, x, g, Scale<T>{in<T>(weights), static_cast<T>(scale)}, x.const_data_ptr(),
                       y.mutable_data_ptr());
    });
  });
}

}  // namespace lps::cuda
