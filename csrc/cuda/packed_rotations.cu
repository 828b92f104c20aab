// Rotations of small clouds, see packed_rotations.cuh. Samples of an input lie one behind the other, so a warp reads
// and writes as many as it holds in order, through shared memory.
#include "cuda/packed_rotations.cuh"
#include "cuda/typed.cuh"

namespace lps::cuda {

constexpr int kPackedWarps = 4, kMostPacked = 16;  // warps of a block, and samples of a warp
// Samples of an input that a warp goes through where they are independent.
constexpr int64_t kSamplesOfWarp = 64;

template <class T, int D>
struct Packed {
  static constexpr int kNumbers = kWarp * D;
  struct Buffer {  // shared, the warp's own
    T q[kMostPacked * D * D], in[kNumbers], out[kNumbers], other[kNumbers];
  };

  const Turn<T>& a;
  Buffer& buffer;
  int lane, lanes, size, samples, sample, node, channel;  // lanes and numbers of a sample; samples at once; own places
  int64_t b, count;

  __device__ Packed(const Turn<T>& a, Buffer& buffer, int64_t b)
      : a(a),
        buffer(buffer),
        lane(threadIdx.x % kWarp),
        lanes(static_cast<int>(a.n * a.c)),
        size(lanes * D),
        samples(kWarp / lanes < kMostPacked ? kWarp / lanes : kMostPacked),
        sample(lane / lanes),
        node(lane % lanes / static_cast<int>(a.c)),
        channel(lane % static_cast<int>(a.c)),
        b(b),
        count(count_nodes(a.num_nodes, b, a.n)) {}

  // Calls body(i) for all i below `total`, steps begin where sectors do.
  template <class Address, class Body>
  __device__ void each(const Address* begin, int total, const Body& body) const {
    for (int i = lane - within_sector(begin); i < total; i += kWarp) {
      if (i >= 0) body(i);
    }
  }
  __device__ void read(const Numbers& x, int64_t offset, int total, T* to) const {
    typed<T>(x, [&](const auto* from) {
      from += offset;
      each(from, total, [&](int i) { to[i] = static_cast<T>(from[i]); });
    });
  }
  __device__ void write(const Numbers& x, int64_t offset, int total, const T* from) const {
    typed<T>(x, [&](auto* to) {
      to += offset;
      each(to, total, [&](int i) { to[i] = static_cast<Pointee<decltype(to)>>(from[i]); });
    });
  }
  __device__ void read_matrices(int64_t row, int rows) const {
    const T* const from = a.q + row * D * D;
    each(from, rows * D * D, [&](int i) { buffer.q[i] = from[i]; });
  }

  // Where entry e of a node lies.
  __device__ int place(int64_t of_node, int e) const {
    return static_cast<int>(of_node * D + e) * static_cast<int>(a.c) + channel;
  }
  // Entries of the node that the order names in the place of the own one; whether that is a real one.
  __device__ bool gather(const T* from, int64_t row, T (&v)[D]) const {
    int64_t i = node;
    if (a.order.given() && node < count) i = a.order.at(row * a.n + node);
    const bool live = i >= 0 && i < count;
#pragma unroll
    for (int e = 0; e < D; ++e) v[e] = live ? from[place(i, e)] : T(0);
    return live;
  }
  __device__ void put(T* to, const T (&v)[D]) const {
#pragma unroll
    for (int e = 0; e < D; ++e) to[place(node, e)] = v[e];
  }
  // The own sample's q v, or q^T v.
  __device__ void turn_own(bool back, const T (&v)[D], T (&to)[D]) const {
    T m[D * D];
#pragma unroll
    for (int e = 0; e < D; ++e) {
#pragma unroll
      for (int i = 0; i < D; ++i) m[e * D + i] = buffer.q[sample * D * D + (back ? i * D + e : e * D + i)];
    }
    turn<D, 1>(m, v, to);
  }
  __device__ const T* center(int64_t row) const {
    return a.center + (a.centers == 1 ? b : row) * D;
  }

  // The sums over real nodes and channels of left[p] right[r] of `rows` samples, to [p, r]; and, in partial sums, those
  // of `sums` behind them.
  __device__ void write_sums(const T* left, const T* right, const T* sums, int64_t start, int rows,
                             const MatrixSums<T>& to) const {
    const int width = to.direct ? D * D : D * D + D, real = static_cast<int>(count), c = static_cast<int>(a.c);
    T* const out = to.data + start * width;
    for (int at = lane; at < rows * width; at += kWarp) {
      const int row = at / width, j = at - row * width;
      const bool product = j < D * D;
      const T* const p = (product ? left + j / D * c : sums + (j - D * D) * c) + row * size;
      const T* const r = right + j % D * c + row * size;
      T total = 0;
#pragma unroll 4
      for (int i = 0; i < real; ++i) {
        for (int l = i * D * c; l < i * D * c + c; ++l) total += product ? p[l] * r[l] : p[l];
      }
      if (to.direct) total *= a.weights != nullptr ? a.weights[start + row] : to.share;
      out[at] = total;
    }
  }
};

template <class T, int D>
__global__ void __launch_bounds__(kPackedWarps* kWarp)
    packed_to_samples_kernel(Turn<T> a, int64_t items, Numbers to, Numbers from, bool each, bool back, T share,
                             Numbers other, MatrixSums<T> sums) {
  __shared__ typename Packed<T, D>::Buffer buffers[kPackedWarps];
  const int64_t item = static_cast<int64_t>(blockIdx.x) * kPackedWarps + threadIdx.x / kWarp;
  if (item >= items) return;
  auto& buffer = buffers[threadIdx.x / kWarp];
  const Packed<T, D> own(a, buffer, item / a.chunks);
  const int64_t begin = item % a.chunks * a.samples, last = begin + a.samples < a.k ? begin + a.samples : a.k;
  if (!each) own.read(from, own.b * own.size, own.size, buffer.in);
  for (int64_t first = begin; first < last; first += own.samples) {
    const int rows = static_cast<int>(last - first < own.samples ? last - first : own.samples);
    const int64_t start = own.b * a.k + first, row = start + own.sample;
    __syncwarp();
    own.read_matrices(start, rows);
    if (each) own.read(from, start * own.size, rows * own.size, buffer.in);
    if (sums.data != nullptr) own.read(other, start * own.size, rows * own.size, buffer.other);
    __syncwarp();
    T v[D] = {};
    if (own.sample < rows) {
      const int base = own.sample * own.size;
      const bool live = own.gather(buffer.in + (each ? base : 0), row, v);
      T u[D], turned[D];
#pragma unroll
      for (int e = 0; e < D; ++e) u[e] = v[e];
      if (a.center != nullptr && !back && live) shift<D>(u, own.center(row), T(-1));
      own.turn_own(back, u, turned);
      if (a.center != nullptr && back) shift<D>(turned, own.center(row), T(1));
      const T w = own.node < own.count ? (a.weights != nullptr ? a.weights[row] : share) : T(0);
#pragma unroll
      for (int e = 0; e < D; ++e) turned[e] = own.node < own.count ? w * turned[e] : T(0);
      own.put(buffer.out + base, turned);
    }
    __syncwarp();
    if (to.data != nullptr) own.write(to, start * own.size, rows * own.size, buffer.out);
    if (sums.data == nullptr) continue;
    __syncwarp();
    if (own.sample < rows) own.put(buffer.out + own.sample * own.size, v);
    __syncwarp();
    own.write_sums(buffer.out, buffer.other, buffer.out, start, rows, sums);
  }
}

template <class T, int D>
__global__ void __launch_bounds__(kPackedWarps* kWarp)
    packed_to_inputs_kernel(Turn<T> a, int64_t items, Numbers to, Numbers from, T share, Numbers other,
                            MatrixSums<T> sums) {
  __shared__ typename Packed<T, D>::Buffer buffers[kPackedWarps];
  const int64_t item = static_cast<int64_t>(blockIdx.x) * kPackedWarps + threadIdx.x / kWarp;
  if (item >= items) return;
  auto& buffer = buffers[threadIdx.x / kWarp];
  const Packed<T, D> own(a, buffer, item);
  T total[D] = {}, x[D] = {};
  if (sums.data != nullptr) {
    own.read(other, own.b * own.size, own.size, buffer.out);
    __syncwarp();
#pragma unroll
    for (int e = 0; e < D; ++e) x[e] = own.node < own.count ? buffer.out[own.place(own.node, e)] : T(0);
  }
  for (int64_t first = 0; first < a.k; first += own.samples) {
    const int rows = static_cast<int>(a.k - first < own.samples ? a.k - first : own.samples);
    const int64_t start = own.b * a.k + first, row = start + own.sample;
    __syncwarp();
    own.read_matrices(start, rows);
    own.read(from, start * own.size, rows * own.size, buffer.in);
    __syncwarp();
    if (own.sample < rows) {
      T v[D], turned[D];
      own.gather(buffer.in + own.sample * own.size, row, v);
      own.turn_own(true, v, turned);
      if (a.center != nullptr && sums.data == nullptr) shift<D>(turned, own.center(row), T(1));
      const T w = a.weights != nullptr ? a.weights[row] : T(1);
#pragma unroll
      for (int e = 0; e < D; ++e) total[e] += w * turned[e];
      if (sums.data != nullptr) {
        T u[D];
#pragma unroll
        for (int e = 0; e < D; ++e) u[e] = x[e];
        if (a.center != nullptr && own.node < own.count) shift<D>(u, own.center(row), T(-1));
        own.put(buffer.out + own.sample * own.size, v);
        own.put(buffer.other + own.sample * own.size, u);
      }
    }
    if (sums.data == nullptr) continue;
    __syncwarp();
    own.write_sums(buffer.other, buffer.out, buffer.out, start, rows, sums);
  }
  if (to.data == nullptr) return;
  __syncwarp();
  if (own.sample < own.samples) own.put(buffer.in + own.sample * own.size, total);
  __syncwarp();
  if (own.sample == 0) {  // in the order of samples
    T sum[D];
#pragma unroll
    for (int e = 0; e < D; ++e) {
      sum[e] = 0;
      for (int i = 0; i < own.samples; ++i) sum[e] += buffer.in[i * own.size + own.place(own.node, e)];
      sum[e] = own.node < own.count ? share * sum[e] : T(0);
    }
    own.put(buffer.out, sum);
  }
  __syncwarp();
  own.write(to, own.b * own.size, own.size, buffer.out);
}

template <class Body>
static void with_dimension(int64_t d, const Body& body) {
  if (d == 2) return body(std::integral_constant<int, 2>());
  if (d == 3) return body(std::integral_constant<int, 3>());
  return body(std::integral_constant<int, 4>());
}

template <class T>
void packed_to_samples(const Space& s, const Turn<T>& turn, const Tensor& on, const Numbers& to, const Numbers& from,
                       bool each, bool back, T share, const Numbers& other, const MatrixSums<T>& sums) {
  Turn<T> a = turn;
  a.chunks = blocks(s.k, kSamplesOfWarp), a.samples = blocks(s.k, a.chunks);
  const int64_t items = s.b * a.chunks;
  with_dimension(s.d, [&](auto D) {
    launch("packed_to_samples_kernel", packed_to_samples_kernel<T, D>, on, blocks(items, kPackedWarps),
           kPackedWarps * kWarp, 0, a, items, to, from, each, back, share, other, sums);
  });
}

template <class T>
void packed_to_inputs(const Space& s, const Turn<T>& a, const Tensor& on, const Numbers& to, const Numbers& from,
                      T share, const Numbers& other, const MatrixSums<T>& sums) {
  with_dimension(s.d, [&](auto D) {
    launch("packed_to_inputs_kernel", packed_to_inputs_kernel<T, D>, on, blocks(s.b, kPackedWarps),
           kPackedWarps * kWarp, 0, a, s.b, to, from, share, other, sums);
  });
}

template void packed_to_samples(const Space&, const Turn<float>&, const Tensor&, const Numbers&, const Numbers&, bool,
                                bool, float, const Numbers&, const MatrixSums<float>&);
template void packed_to_samples(const Space&, const Turn<double>&, const Tensor&, const Numbers&, const Numbers&, bool,
                                bool, double, const Numbers&, const MatrixSums<double>&);
template void packed_to_inputs(const Space&, const Turn<float>&, const Tensor&, const Numbers&, const Numbers&, float,
                               const Numbers&, const MatrixSums<float>&);
template void packed_to_inputs(const Space&, const Turn<double>&, const Tensor&, const Numbers&, const Numbers&, double,
                               const Numbers&, const MatrixSums<double>&);

}  // namespace lps::cuda
