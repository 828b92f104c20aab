// Rotations of permuted nodes, see row_rotations.cuh. Memory is read and written in order, once; nodes are found in
// shared memory, and sums over samples stay there.
#include "cuda/packed_rotations.cuh"
#include "cuda/rotations.cuh"
#include "cuda/row_rotations.cuh"

namespace lps::cuda {

// Warps of a block, a tile each at a time: registers are enough for so many.
constexpr int kRowWarps = 16;

// What a block has in shared memory, which grows with its warps: small rows leave room for many blocks.
template <class T, int D, int ORDER>
struct RowSpace {
  using Nodes = Tile<T, kCount<D, ORDER>>;
  // Of the gradient of a matrix, and for vectors the sum of the incoming gradient.
  static constexpr int kWidth = D * D + (ORDER == 1 ? D : 0);
  Held<T, D>& matrices;
  T *buffer, *rows;  // the warp's own, and the block's

  __device__ RowSpace(char* shared, int warp, int warps)
      : matrices(*reinterpret_cast<Held<T, D>*>(shared)),
        buffer(reinterpret_cast<T*>(shared + sizeof(Held<T, D>)) + warp * Nodes::kNumbers),
        rows(buffer + (warps - warp) * Nodes::kNumbers) {}

  static int warps(const Space& s) {
    return static_cast<int>(std::min<int64_t>(Nodes::tiles(s.n, s.c), kRowWarps));
  }
  static size_t bytes(const Space& s, int rows) {
    const size_t numbers = warps(s) * Nodes::kNumbers + rows * Nodes::padded(static_cast<int>(s.size()));
    return sizeof(Held<T, D>) + numbers * sizeof(T);
  }
};

template <class T, int D, int ORDER>
__global__ void __launch_bounds__(kRowWarps* kWarp, 1)
    rows_to_samples_kernel(Turn<T> a, Numbers to, Numbers from, bool each, T share, Numbers other, T* partial) {
  using Room = RowSpace<T, D, ORDER>;
  using Nodes = typename Room::Nodes;
  constexpr int count_of = kCount<D, ORDER>, width = Room::kWidth;
  extern __shared__ __align__(16) char shared[];
  const Part<T> part(a);
  const Room space(shared, part.warp, part.count_of_warps);
  T* const row = space.rows;
  const int64_t count = count_nodes(a.num_nodes, part.b, a.n), size = a.n * a.c * count_of;
  if (part.warp == 0) space.matrices.read(a, part.b, part.first, part.last, part.lane);
  if (!each) Nodes::load_row(from, part.b * size, count * a.c * count_of, row);
  for (int64_t sample = part.first; sample < part.last; ++sample) {
    const int64_t at = part.b * a.k + sample;
    if (each) Nodes::load_row(from, at * size, count * a.c * count_of, row);
    const T* const center = a.center ? space.matrices.center(a, sample - part.first) : nullptr;
    const T w = a.weights != nullptr ? a.weights[at] : share;
    for (int64_t index = part.warp; index < a.tiles; index += part.count_of_warps) {
      const Nodes tile(space.buffer, index, a.c);
      typename Nodes::Places base;
      typename Nodes::Entries g, v;
      bool live[Nodes::kItems];
      tile.find(a.order, at * a.n, count, base, live);
      tile.read_row(row, base, live, g);
      T m[D * D];
      if (to.data != nullptr) {
        space.matrices.template matrix<false>(sample - part.first, m);
#pragma unroll
        for (int t = 0; t < Nodes::kItems; ++t) {
          if (center != nullptr && live[t]) shift<D>(g[t], center, T(-1));
          turn<D, ORDER>(m, g[t], v[t]);
#pragma unroll
          for (int e = 0; e < count_of; ++e) v[t][e] *= w;
        }
        tile.store(to, at * size, count, a.n, v);
      }
      if (partial == nullptr) continue;
      tile.load(other, at * size, count, v);
      space.matrices.template matrix<true>(sample - part.first, m);
      T sums[width] = {};
#pragma unroll
      for (int t = 0; t < Nodes::kItems; ++t) {
        add_gradient<D, ORDER>(m, v[t], g[t], sums);
#pragma unroll
        for (int e = 0; e < width - D * D; ++e) sums[D * D + e] += g[t][e];
      }
      T turned[width];  // in the order of q
#pragma unroll
      for (int i = 0; i < width; ++i) turned[i] = sums[i < D * D ? i % D * D + i / D : i];
      write_sums<width>(turned, partial + (at * a.tiles + index) * width, part.lane);
    }
  }
}

template <class T, int D, int ORDER>
__global__ void __launch_bounds__(kRowWarps* kWarp, 1)
    rows_to_inputs_kernel(Turn<T> a, Numbers to, Numbers from, bool each, T share, Numbers other, T* partial) {
  using Room = RowSpace<T, D, ORDER>;
  using Nodes = typename Room::Nodes;
  constexpr int count_of = kCount<D, ORDER>, width = Room::kWidth;
  extern __shared__ __align__(16) char shared[];
  const Part<T> part(a);
  const Room space(shared, part.warp, part.count_of_warps);
  const int64_t count = count_nodes(a.num_nodes, part.b, a.n), size = a.n * a.c * count_of;
  const int numbers = static_cast<int>(count * a.c) * count_of;
  T* const total = space.rows;
  T* const row = to.data != nullptr ? total + Nodes::padded(static_cast<int>(size)) : total;
  if (to.data != nullptr) {
    for (int i = threadIdx.x; i < numbers; i += blockDim.x) total[Nodes::padded(i)] = T(0);
  }
  if (partial != nullptr) Nodes::load_row(other, part.b * size, numbers, row);
  for (int64_t sample = part.first; sample < part.last; ++sample) {
    const int64_t at = part.b * a.k + sample, here = (sample - part.first) % kSamples;
    __syncthreads();  // the sample before this one has been added, and written
    if (here == 0) {
      if (part.warp == 0) space.matrices.read(a, part.b, sample, part.last, part.lane);
      __syncthreads();
    }
    const T* const center = a.center ? space.matrices.center(a, here) : nullptr;
    const T w = a.weights != nullptr ? a.weights[at] : T(1);
    for (int64_t index = part.warp; index < a.tiles; index += part.count_of_warps) {
      const Nodes tile(space.buffer, index, a.c);
      typename Nodes::Places base;
      typename Nodes::Entries g;
      bool live[Nodes::kItems];
      tile.find(a.order, at * a.n, count, base, live);
      tile.load(from, at * size, count, g);
      T m[D * D];
      if (to.data != nullptr) {
        space.matrices.template matrix<true>(here, m);
#pragma unroll
        for (int t = 0; t < Nodes::kItems; ++t) {
          if (!live[t]) continue;
          T back[count_of];
          turn<D, ORDER>(m, g[t], back);
          if (center != nullptr && partial == nullptr) shift<D>(back, center, T(1));
#pragma unroll
          for (int e = 0; e < count_of; ++e) {
            T& sum = total[Nodes::padded(static_cast<int>(base[t]) + e * static_cast<int>(a.c))];
            sum = each ? back[e] : sum + w * back[e];
          }
        }
      }
      if (partial == nullptr) continue;
      typename Nodes::Entries u;
      tile.read_row(row, base, live, u);
      space.matrices.template matrix<false>(here, m);
      T sums[width] = {};
#pragma unroll
      for (int t = 0; t < Nodes::kItems; ++t) {
        if (center != nullptr && live[t]) shift<D>(u[t], center, T(-1));
        add_gradient<D, ORDER>(m, u[t], g[t], sums);
#pragma unroll
        for (int e = 0; e < width - D * D; ++e) sums[D * D + e] += g[t][e];
      }
      write_sums<width>(sums, partial + (at * a.tiles + index) * width, part.lane);
    }
    if (!each) continue;
    __syncthreads();
    Nodes::store_row(to, at * size, numbers, size, share, total);
  }
  if (each || to.data == nullptr) return;
  __syncthreads();
  Nodes::store_row(to, part.b * size, numbers, size, share, total);
}

bool rows_fit(const char* op, const Space& s, const Tensor& x, int rows, bool once) {
  if (s.size() == 0 || s.size() > INT32_MAX / 2 || is_packed(s)) return false;
  const bool whole = s.node() * static_cast<int64_t>(x.element_size()) % 32 == 0;
  bool fit = false;
  compute_switch(x.scalar_type(), op, [&](auto number) {
    using T = decltype(number);
    tile_switch<T>(s, [&](auto D, auto ORDER) {
      using Room = RowSpace<T, D, ORDER>;
      const bool wanted = once || !whole || Room::Nodes::tiles(s.n, s.c) <= kRowWarps;
      fit = wanted && Room::bytes(s, rows) <= most_shared(x);
    });
  });
  return fit;
}

// Calls body(D, ORDER, threads, where the parts of sums go or null), with all tiles in one block.
template <class T, class Body>
static Tensor in_rows(const Space& s, Turn<T>& a, const Tensor& on, bool sums, const Body& body) {
  Tensor partial = empty(on, {0});
  tile_switch<T>(s, [&](auto D, auto ORDER) {
    using Room = RowSpace<T, D, ORDER>;
    a.tiles = a.tiles_of_block = Room::Nodes::tiles(s.n, s.c);
    if (sums) partial = empty(on, {s.b * s.k, a.tiles, Room::kWidth});
    body(D, ORDER, Room::warps(s) * kWarp, sums ? out<T>(partial) : nullptr);
  });
  return partial;
}

template <class T>
Tensor rows_to_samples(const Space& s, Turn<T> a, const Tensor& on, const Numbers& to, const Numbers& from, bool each,
                       T share, const Numbers& other) {
  return in_rows<T>(s, a, on, other.data != nullptr, [&](auto D, auto ORDER, int threads, T* partial) {
    launch("rows_to_samples_kernel", rows_to_samples_kernel<T, D, ORDER>, on, grid_of(s, a), threads,
           RowSpace<T, D, ORDER>::bytes(s, 1), a, to, from, each, share, other, partial);
  });
}

template <class T>
Tensor rows_to_inputs(const Space& s, Turn<T> a, const Tensor& on, const Numbers& to, const Numbers& from, bool each,
                      T share, const Numbers& other) {
  return in_rows<T>(s, a, on, other.data != nullptr, [&](auto D, auto ORDER, int threads, T* partial) {
    const int rows = (to.data != nullptr) + (partial != nullptr);
    launch("rows_to_inputs_kernel", rows_to_inputs_kernel<T, D, ORDER>, on, grid_of(s, a), threads,
           RowSpace<T, D, ORDER>::bytes(s, rows), a, to, from, each, share, other, partial);
  });
}

template Tensor rows_to_samples(const Space&, Turn<float>, const Tensor&, const Numbers&, const Numbers&, bool, float,
                                const Numbers&);
template Tensor rows_to_samples(const Space&, Turn<double>, const Tensor&, const Numbers&, const Numbers&, bool, double,
                                const Numbers&);
template Tensor rows_to_inputs(const Space&, Turn<float>, const Tensor&, const Numbers&, const Numbers&, bool, float,
                               const Numbers&);
template Tensor rows_to_inputs(const Space&, Turn<double>, const Tensor&, const Numbers&, const Numbers&, bool, double,
                               const Numbers&);

}  // namespace lps::cuda
