// Lanes of a warp for a sample, as many as its numbers: add up its tiles in order; then what samples share, a lane a
// sample.
#include "cuda/rotation_gradients.cuh"
#include "cuda/team.cuh"

namespace lps::cuda {

constexpr int kFinishThreads = 256;

template <class T>
struct Finish {
  T *grad_q, *grad_center, *grad_weights, *partial;
  const T *q, *center, *weights, *more_q;
  int64_t b, k, d, tiles, width, order, centers, graphs, stride;  // graphs of a block, samples of one at once
  bool forward, mean;
};

template <class T, int W>
__global__ void __launch_bounds__(kFinishThreads) rotation_gradients_kernel(Finish<T> a) {
  using Team = WarpTeam<W>;
  const int64_t square = a.d * a.d, team = threadIdx.x / W, own = team / a.stride, b = blockIdx.x * a.graphs + own;
  const int lane = threadIdx.x % W;
  const T share = a.mean ? T(1) / static_cast<T>(a.k) : T(1);
  for (int64_t first = 0; first < a.k; first += a.stride) {
    const int64_t sample = first + team % a.stride, row = b * a.k + sample;
    const bool alive = own < a.graphs && b < a.b && sample < a.k;
    T* const parts = a.partial + row * a.tiles * a.width;  // the first receives the sums
    const T* const q = a.q + row * square;
    const T w = alive && a.weights != nullptr ? a.weights[row] : share;
    T along = 0;
    for (int64_t e = lane; alive && e < a.width; e += W) {
      T sum = parts[e];
      for (int64_t tile = 1; tile < a.tiles; ++tile) sum += parts[tile * a.width + e];
      parts[e] = sum;
      if (e < square && a.grad_q != nullptr) {
        a.grad_q[row * square + e] = w * sum + (a.more_q != nullptr ? a.more_q[row * square + e] : T(0));
      }
      if (a.grad_weights == nullptr) continue;
      if (e < square) {
        along += sum * q[e] / static_cast<T>(a.order);
      } else if (a.center != nullptr) {
        along += sum * a.center[(a.centers == 1 ? b : row) * a.d + e - square];
      }
    }
    along = Team::reduce(along, Add());
    if (alive && a.grad_weights != nullptr && lane == 0) a.grad_weights[row] = along;
    if (a.grad_center == nullptr) continue;
    __syncwarp();
    // In place of the matrix, which nobody wants any more.
    for (int64_t e = lane; alive && e < a.d; e += W) {
      T to_center = w * parts[square + e];
      if (a.forward) {
        to_center = 0;
        for (int64_t i = 0; i < a.d; ++i) to_center -= q[e * a.d + i] * parts[square + i];
      }
      parts[e] = to_center;
      if (a.centers != 1) a.grad_center[row * a.d + e] = to_center;
    }
  }
  if (a.grad_center == nullptr || a.centers != 1) return;
  __syncthreads();
  // In double: there may be any number of samples.
  for (int64_t i = team; i - team < a.graphs * a.d; i += kFinishThreads / W) {
    const int64_t graph = blockIdx.x * a.graphs + i / a.d, e = i % a.d;
    const bool alive = i < a.graphs * a.d && graph < a.b;
    const T* const parts = a.partial + graph * a.k * a.tiles * a.width + e;
    double sum = 0;
    for (int64_t at = lane; alive && at < a.k; at += W) sum += parts[at * a.tiles * a.width];
    sum = Team::reduce(sum, Add());
    if (alive && lane == 0) a.grad_center[graph * a.d + e] = static_cast<T>(sum);
  }
}

template <class T>
void finish_gradients(const Space& s, const Tensor& partial, int64_t tiles, int64_t width, const Tensor& q,
                      const OptionalTensor& center, const OptionalTensor& weights, bool forward, bool mean,
                      const Tensor& grad_q, const Tensor& grad_center, const Tensor& grad_weights,
                      const OptionalTensor& more_q) {
  const auto wanted = [](const Tensor& x) { return x.numel() > 0 ? out<T>(x) : nullptr; };
  const auto with = [&](auto lanes) {
    const int64_t teams = kFinishThreads / lanes, stride = std::clamp<int64_t>(s.k, 1, teams), graphs = teams / stride;
    const Finish<T> a{wanted(grad_q),
                      wanted(grad_center),
                      wanted(grad_weights),
                      out<T>(partial),
                      in<T>(q),
                      in<T>(center),
                      in<T>(weights),
                      in<T>(more_q),
                      s.b,
                      s.k,
                      s.d,
                      tiles,
                      width,
                      s.order,
                      s.centers,
                      graphs,
                      stride,
                      forward,
                      mean};
    launch("rotation_gradients_kernel", rotation_gradients_kernel<T, lanes>, q, blocks(s.b, graphs), kFinishThreads, 0,
           a);
  };
  if (width <= 8) return with(std::integral_constant<int, 8>());
  if (width <= 16) return with(std::integral_constant<int, 16>());
  with(std::integral_constant<int, 32>());
}

template void finish_gradients<float>(const Space&, const Tensor&, int64_t, int64_t, const Tensor&,
                                      const OptionalTensor&, const OptionalTensor&, bool, bool, const Tensor&,
                                      const Tensor&, const Tensor&, const OptionalTensor&);
template void finish_gradients<double>(const Space&, const Tensor&, int64_t, int64_t, const Tensor&,
                                       const OptionalTensor&, const OptionalTensor&, bool, bool, const Tensor&,
                                       const Tensor&, const Tensor&, const OptionalTensor&);

}  // namespace lps::cuda
