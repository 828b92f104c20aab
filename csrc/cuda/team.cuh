// The threads that work on one row: 8, 16 or 32 lanes of a warp, several rows to a warp, or all threads of a block.
//
// Kernels are written for either. Every lane of a warp runs every step, teams without a row too, so that shuffles may
// name the whole warp; what differs between rows is decided by any_in_warp().
#pragma once

#include <cstdint>

#include "cuda/launch.cuh"

namespace lps::cuda {

constexpr unsigned kAll = 0xFFFFFFFFu;

// kSize: lanes of a team, 0 where a launch decides. kThreads: the most of a block, which bounds a thread's registers.
template <int W>
struct WarpTeam {
  static constexpr int kSize = W, kThreads = 128;
  static constexpr bool kBlock = false;
  int lane;
  int64_t row;
  int slot;  // of this team in its block

  __device__ explicit WarpTeam(void*) {
    lane = threadIdx.x % W;
    slot = threadIdx.x / W;
    row = static_cast<int64_t>(blockIdx.x) * (blockDim.x / W) + slot;
  }
  __device__ static constexpr int size() {
    return W;
  }
  __device__ static void sync() {
    __syncwarp();
  }
  // Whether `flag` holds in any lane of the team, or of a team that shares the warp.
  __device__ static bool any_in_warp(bool flag) {
    return __any_sync(kAll, flag);
  }
  // body(i) for i < n, each by one lane. Not unrolled: most n are no more than the lanes.
  template <class Body>
  __device__ void each(int n, const Body& body) const {
#pragma unroll 1
    for (int i = lane; i < n; i += size()) body(i);
  }
  // The same in all lanes: a butterfly adds and compares in one order.
  template <class V, class F>
  __device__ static V reduce(V x, const F& f) {
#pragma unroll
    for (int d = W / 2; d > 0; d /= 2) x = f(x, __shfl_xor_sync(kAll, x, d));
    return x;
  }
};

// FULL: always kThreads, so that addresses of elements are a lane's own and a constant: registers, where a row is long.
template <int MAX, bool FULL = false>
struct BlockTeam {
  static constexpr int kSize = 0, kThreads = MAX;
  static constexpr bool kBlock = true;
  static constexpr int slot = 0;
  int lane;
  int64_t row;
  double* parts;  // (32,) shared

  __device__ explicit BlockTeam(void* shared)
      : lane(threadIdx.x), row(blockIdx.x), parts(static_cast<double*>(shared)) {}
  __device__ static int size() {
    return FULL ? MAX : blockDim.x;
  }
  __device__ static void sync() {
    __syncthreads();
  }
  __device__ static bool any_in_warp(bool flag) {
    return __syncthreads_or(flag);
  }
  template <class Body>
  __device__ void each(int n, const Body& body) const {
#pragma unroll 1
    for (int i = lane; i < n; i += size()) body(i);
  }
  template <class V, class F>
  __device__ V reduce(V x, const F& f) const {
    x = WarpTeam<kWarp>::reduce(x, f);
    V* of_warp = reinterpret_cast<V*>(parts);
    __syncthreads();  // who reads `parts` may still be reading
    if (lane % kWarp == 0) of_warp[lane / kWarp] = x;
    __syncthreads();
    V result = of_warp[0];
    for (int warp = 1; warp < size() / kWarp; ++warp) result = f(result, of_warp[warp]);
    return result;
  }
};

// Shared memory that a BlockTeam keeps for itself, at the start of the block's.
template <class Team>
constexpr size_t kTeamBytes = Team::kBlock ? 32 * sizeof(double) : 0;

struct Add {
  template <class V>
  __device__ V operator()(V a, V b) const {
    return a + b;
  }
};
struct Largest {
  template <class V>
  __device__ V operator()(V a, V b) const {
    return a < b ? b : a;
  }
};

// Where element i of a row lies in shared memory: a gap after every E elements, so that lanes that each hold E
// neighbours meet no bank twice.
template <int E>
__device__ __forceinline__ int padded(int i) {
  return i + i / E;
}
template <int E>
constexpr size_t padded_size(size_t n) {
  return n + n / E;
}

// Whether a row is so long that registers do not hold all that a kernel keeps between scans, and shared memory has room
// for the rest: 512 threads with 8 numbers of float32 each, or 256 with as many of float64.
template <class T, class Team, int E>
constexpr bool kParks = Team::kBlock && Team::kThreads * E * sizeof(T) == 16 << 10;

// A lane's E numbers of such a row, in shared memory from `room` on, which moves on; of other rows in registers.
template <class T, class Team, int E, bool PARKS = kParks<T, Team, E>>
struct Kept {
  T x[E];

  __device__ __forceinline__ Kept(const Team&, T*&) {}
  // What lies in shared memory as it is, or zeros.
  __device__ __forceinline__ Kept(T* shared, bool here) {
#pragma unroll
    for (int e = 0; e < E; ++e) x[e] = here ? shared[e] : T(0);
  }
  __device__ __forceinline__ T& operator[](int e) {
    return x[e];
  }
  __device__ __forceinline__ T operator[](int e) const {
    return x[e];
  }
  static size_t bytes(int64_t) {
    return 0;
  }
};
template <class T, class Team, int E>
struct Kept<T, Team, E, true> {
  T* const x;
  const int apart;

  __device__ __forceinline__ Kept(const Team& team, T*& room) : x(room + team.lane), apart(team.size()) {
    room += E * apart;
  }
  __device__ __forceinline__ Kept(T* shared, bool) : x(shared), apart(1) {}
  __device__ __forceinline__ T& operator[](int e) const {
    return x[e * apart];
  }
  static size_t bytes(int64_t size) {
    return size * E * sizeof(T);
  }
};

// The longest row: 512 threads with 8 elements each.
constexpr int64_t kMaxNodes = 4096;

inline void check_row_length(const char* op, int64_t n, int64_t most = kMaxNodes) {
  STD_TORCH_CHECK(n <= most, "backend 'cuda': ", op, " sorts rows of at most ", most, " nodes, got n = ", n,
                  "; backend='reference' has no such limit");
}

template <class Team>
int team_size(int threads) {
  return Team::kBlock ? threads : Team::kSize;
}

// Threads of a block that hold a row with E elements each, a power of two.
inline int block_threads(int64_t n, int64_t elements) {
  int threads = kWarp;
  while (threads * elements < n) threads *= 2;
  return threads;
}

}  // namespace lps::cuda
