// The gradient of t, row and col through a hard permutation of both axes of edges, one row a block.
//
// Lines of u and v are read whole and in order, so that no sector is asked for twice, and as many as shared memory
// holds stay there for both axes. Along the second one they are scanned by lanes as in soft_gradient.cuh. Along the
// first one a thread takes a channel and walks from line to line: up through all lines, and down again, for which all
// but the last ones are read once more. One reading is not enough where the lines do not fit: a sum over later lines
// meets every number of an earlier one.
#include "cuda/halve_sums.cuh"
#include "cuda/soft_gradient.cuh"
#include "cuda/tile.cuh"

namespace lps::cuda {

constexpr int kEdgeThreads = 256;
// Shared memory that lets two blocks lie on a multiprocessor of 228 KB.
constexpr size_t kEdgeBytes = 112 << 10;
// Rows from which on a block each keeps a device busy.
constexpr int64_t kEdgeRows = 64;
// Lines that a thread walks over before warps add up what they have found, three sums for each.
constexpr int kSteps = 8, kFound = 3;

// How lines lie in shared memory: nodes with a gap after every E, so that lanes that scan meet no bank twice.
template <class T, int E>
struct EdgeSpace {
  T *staged, *row, *col, *decay, *sums, *carries, *found, *tile_u, *tile_v, *lower, *higher;
  unsigned* bounds;
  int *perm, *inverse, pitch, lines;

  static __host__ __device__ int pitch_of(int n, int c) {
    return n * c + (n - 1) / E + 1;
  }
  static __host__ __device__ int found_of(int lines) {  // for each warp
    return (lines + kSteps - 1) / kSteps * kSteps * kFound;
  }
  // What does not grow with lines, and what does.
  static __host__ __device__ int fixed(int length, int n, int c, int teams) {
    return (1 + 2 * teams) * static_cast<int>(padded_size<E>(length)) + (3 + kFound) * n + 1 + 4 * pitch_of(n, c);
  }
  static __host__ __device__ int tiles(int length, int n, int c, int teams, int lines) {
    return max(2 * lines * pitch_of(n, c), kFound * teams * static_cast<int>(padded_size<E>(length)));
  }
  static size_t bytes(int length, int n, int c, int teams, int lines) {
    const size_t numbers = fixed(length, n, c, teams) + tiles(length, n, c, teams, lines) +
                           static_cast<size_t>(kEdgeThreads / kWarp) * found_of(lines);
    return numbers * sizeof(T) + padded_size<E>(length) * sizeof(unsigned) + 2 * n * sizeof(int);
  }
  __device__ EdgeSpace(T* shared, int length, int n, int c, int teams, int slot, int lines)
      : pitch(pitch_of(n, c)), lines(lines) {
    const int padded = static_cast<int>(padded_size<E>(length));
    staged = shared, row = staged + padded, col = row + n, decay = col + n, sums = decay + n + 1;
    carries = sums + kFound * n, found = carries + 4 * pitch;
    tile_u = found + kEdgeThreads / kWarp * found_of(lines), tile_v = tile_u + lines * pitch;
    T* const rest = tile_u + tiles(length, n, c, teams, lines);
    lower = rest + 2 * slot * padded, higher = lower + padded;
    bounds = reinterpret_cast<unsigned*>(rest + 2 * teams * padded);
    perm = reinterpret_cast<int*>(bounds + padded), inverse = perm + n;
  }
};

// Lines `first` to `first + count` of a view by rank, a warp a line, each read in the order in which it lies.
template <class T, int E>
__device__ __forceinline__ void load_lines(const Soft<T>& soft, const View& view, int64_t row, int nodes, int first,
                                           int count, const EdgeSpace<T, E>& space, T* tile) {
  const int lane = threadIdx.x % kWarp, c = soft.c, by_node = kWarp / c, by_channel = kWarp % c;
  const int64_t sample = (view.each ? row : row / soft.k) * soft.n;
  for (int line = threadIdx.x / kWarp; line < count; line += blockDim.x / kWarp) {
    const int source = view.gather ? space.perm[first + line] : first + line;
    T* const to = tile + line * space.pitch;
    typed<T>(view.x, [&](const auto* from) {
      from += (sample + source) * soft.n * c;
      // From the beginning of a sector, or each step would touch one more of them.
      const int begin = lane - within_sector(from);
      int node = begin >= 0 ? begin / c : -1, channel = begin - node * c;
      while (channel < 0) channel += c, --node;
#pragma unroll 4
      for (int q = begin; q < nodes * c; q += kWarp) {
        if (q >= 0) {
          const int rank = view.gather ? space.inverse[node] : node;
          to[rank * c + rank / E + channel] = static_cast<T>(from[q]);
        }
        node += by_node, channel += by_channel;
        if (channel >= c) channel -= c, ++node;
      }
    });
  }
}

// Lines in shared memory along the second axis: a team a line and channel.
template <class T, class Team, int E>
__device__ __forceinline__ void add_lines(const Team& team, const Links<T, Team, E>& decay, WarpTotals<T>& totals,
                                          const Ties<T, E>& ties, const EdgeSpace<T, E>& space, int c, int nodes,
                                          int count, const T (&rows)[E], const T (&cols)[E], PairSums<T, E>& sums) {
  const int teams = blockDim.x / team.size();
#pragma unroll 1
  for (int begin = 0; begin < count * c; begin += teams) {
    const int slot = begin + team.slot, line = slot / c, at = line * space.pitch + slot - line * c;
    T u[E], v[E];
#pragma unroll
    for (int e = 0; e < E; ++e) {
      const int rank = team.lane * E + e, from = at + rank * c + team.lane;
      const bool here = slot < count * c && rank < nodes;
      u[e] = here ? space.tile_u[from] : T(0), v[e] = here ? space.tile_v[from] : T(0);
    }
    add_pair(team, decay, totals, ties, rows, cols, u, v, sums);
  }
}

// Lines in shared memory along the first axis, a thread a channel; what a channel carries from line to line are sums of
// v col and of u row, and both as they were before a group of equal scores. kUp: from lower ranks to higher ones.
template <bool kUp, class T, int E>
__device__ __forceinline__ void walk_lines(const EdgeSpace<T, E>& space, int first, int count) {
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp, width = EdgeSpace<T, E>::found_of(space.lines);
#pragma unroll 1
  for (int begin = 0; begin < count; begin += kSteps) {
    T decay[kSteps], row[kSteps], col[kSteps], sums[kWarp] = {};
    bool tied[kSteps];
#pragma unroll
    for (int i = 0; i < kSteps; ++i) {
      const int step = min(begin + i, count - 1), rank = first + (kUp ? step : count - 1 - step);
      row[i] = space.row[rank], col[i] = space.col[rank];
      decay[i] = space.decay[kUp ? rank : rank + 1];
      const int other = kUp ? max(rank, 1) : rank + 1;  // no score follows the last one, nor does it count: decay is 0
      tied[i] = decay[i] > T(0) && space.staged[padded<E>(other)] == space.staged[padded<E>(other - 1)];
    }
    for (int q = threadIdx.x; q < space.pitch; q += blockDim.x) {
      T* const carry = space.carries + 4 * q;
      T of_v = carry[0], of_u = carry[1], held_v = carry[2], held_u = carry[3];
#pragma unroll
      for (int i = 0; i < kSteps; ++i) {
        if (begin + i >= count) break;
        const int at = (kUp ? begin + i : count - 1 - begin - i) * space.pitch + q;
        const T u = space.tile_u[at], v = space.tile_v[at], u_row = u * row[i], v_col = v * col[i];
        of_v *= decay[i], of_u *= decay[i];
        if (!tied[i]) held_v = of_v, held_u = of_u;
        const T slope = u_row * held_v + v_col * held_u;
        sums[i * kFound + 2] += kUp ? slope : -slope;
        if (!kUp) sums[i * kFound] += u * of_v, sums[i * kFound + 1] += v * of_u;
        of_v += v_col, of_u += u_row;
        if (kUp) sums[i * kFound] += u * of_v, sums[i * kFound + 1] += v * of_u;  // with the diagonal
      }
      carry[0] = of_v, carry[1] = of_u, carry[2] = held_v, carry[3] = held_u;
    }
    halve_sums<kWarp / 2>(sums, lane);
    if (lane < kSteps * kFound) space.found[warp * width + begin * kFound + lane] = sums[0];
  }
  __syncthreads();
  for (int i = threadIdx.x; i < count * kFound; i += blockDim.x) {
    T sum = 0;
    for (int other = 0; other < static_cast<int>(blockDim.x) / kWarp; ++other) sum += space.found[other * width + i];
    const int step = i / kFound, rank = first + (kUp ? step : count - 1 - step);
    T& to = space.sums[rank * kFound + i % kFound];
    to = kUp ? sum : to + sum;
  }
  __syncthreads();
}

template <class T, class Team, int E>
__global__ void __launch_bounds__(kEdgeThreads)
    edge_gradient_kernel(Soft<T> soft, View u, View v, SoftGradient<T> to, int lines) {
  extern __shared__ __align__(16) char shared[];
  const Team team(shared);
  const int teams = blockDim.x / team.size(), length = team.size() * E, n = soft.n, c = soft.c;
  const int64_t row = blockIdx.x, start = row * n;
  const int nodes = count_nodes(soft.num_nodes, row / soft.k, n);
  WarpTotals<T> totals{nullptr};
  const EdgeSpace<T, E> space(reinterpret_cast<T*>(shared), length, n, c, teams, team.slot, lines);
  for (int i = threadIdx.x; i < length; i += blockDim.x)
    space.staged[padded<E>(i)] = i < nodes ? soft.t[start + i] : T(0);
  for (int i = threadIdx.x; i < nodes; i += blockDim.x) {
    space.row[i] = soft.row[start + i], space.col[i] = soft.col[start + i];
    space.perm[i] = node_at(soft.perm, start + i, nodes), space.inverse[i] = i;
  }
  // Gaps and what no permutation fills are zero.
  for (int i = threadIdx.x; i < 2 * lines * space.pitch; i += blockDim.x) space.tile_u[i] = T(0);
  __syncthreads();
  for (int i = threadIdx.x; i < nodes; i += blockDim.x) space.inverse[space.perm[i]] = i;
  const SortedRow<T, E> sorted{space.staged, nodes, soft.inverse_tau};
  for (int i = threadIdx.x; i <= nodes; i += blockDim.x) space.decay[i] = exponential(-sorted.gap(i - 1, i));
  T rows[E], cols[E];
#pragma unroll
  for (int e = 0; e < E; ++e) {
    const int rank = team.lane * E + e;
    rows[e] = rank < nodes ? space.row[rank] : T(0), cols[e] = rank < nodes ? space.col[rank] : T(0);
  }
  Links<T, Team, E> decay;
  decay.build(team, sorted, Decay<T>());
  Ties<T, E> ties{space.bounds, space.lower, space.higher, false};
  ties.build(team, sorted, team.slot == 0);
  PairSums<T, E> sums{};
  const int strips = (nodes + lines - 1) / lines;
  // Up through all strips and down again; all but the first one are as long as can be.
#pragma unroll 1
  for (int pass = 0; pass < 2 * strips; ++pass) {
    const bool up = pass < strips;
    const int strip = up ? pass : 2 * strips - 1 - pass, last = nodes - (strips - 1 - strip) * lines;
    const int first = max(last - lines, 0), count = last - first;
    if (pass == 0 || pass == strips) {
      for (int q = threadIdx.x; q < space.pitch; q += blockDim.x) {
#pragma unroll
        for (int i = 0; i < 4; ++i) space.carries[4 * q + i] = T(0);
      }
    }
    if (pass != strips) {
      __syncthreads();  // the strip before this one has been read
#pragma unroll 1
      for (int side = 0; side < 2; ++side) {  // one copy of what is inlined
        T* const tile = side == 0 ? space.tile_u : space.tile_v;
        load_lines(soft, side_of(side, u, v), row, nodes, first, count, space, tile);
      }
      __syncthreads();
    }
    if (up) {
      add_lines(team, decay, totals, ties, space, c, nodes, count, rows, cols, sums);
      walk_lines<true>(space, first, count);
    } else {
      walk_lines<false>(space, first, count);
    }
  }
  // Teams are added in their order.
  const int stride = static_cast<int>(padded_size<E>(length));
  __syncthreads();
#pragma unroll
  for (int e = 0; e < E; ++e) {
    T* at = space.tile_u + kFound * team.slot * stride + padded<E>(team.lane * E + e);
    at[0] = sums.row[e], at[stride] = sums.col[e], at[2 * stride] = sums.sig[e];
  }
  __syncthreads();
  const T w = soft.weights ? soft.weights[row] : soft.scale;
  for (int i = threadIdx.x; i < n; i += blockDim.x) {
    T of_row = 0, of_col = 0, sig = 0;
    if (i < nodes) {
      of_row = space.sums[i * kFound], of_col = space.sums[i * kFound + 1], sig = space.sums[i * kFound + 2];
    }
    for (int other = 0; other < teams; ++other) {
      const T* at = space.tile_u + kFound * other * stride + padded<E>(i);
      of_row += at[0], of_col += at[stride], sig += at[2 * stride];
    }
    if (to.inverse && i < nodes) to.inverse[start + i] = space.inverse[i];
    to.write(start + i, sig * soft.inverse_tau.first * w, of_row * w, of_col * w);
  }
}

// Calls body(Team type, E) with a row of n in lanes, or says that there are none for it.
template <class Body>
static bool with_edge_lanes(float, int64_t n, const Body& body) {
  if (n <= 128) return body(Type<WarpTeam<16>>(), std::integral_constant<int, 8>());
  if (n <= 256) return body(Type<WarpTeam<32>>(), std::integral_constant<int, 8>());
  return n <= 512 && body(Type<WarpTeam<32>>(), std::integral_constant<int, 16>());
}
template <class Body>
static bool with_edge_lanes(double, int64_t n, const Body& body) {
  if (n <= 128) return body(Type<WarpTeam<32>>(), std::integral_constant<int, 4>());
  return n <= 256 && body(Type<WarpTeam<32>>(), std::integral_constant<int, 8>());
}

bool edge_gradient(const Shape& s, const SoftParts& soft, const View& u, const View& v, double tau,
                   const OptionalTensor& weights, double scale, const SoftMore& more, const OptionalTensor& inverse,
                   const SoftParts& to) {
  return compute_switch(soft.t.scalar_type(), "edge_gradient", [&](auto zero) {
    using T = decltype(zero);
    return with_edge_lanes(zero, s.n, [&](auto type, auto elements) {
      using Team = typename decltype(type)::type;
      constexpr int E = elements;
      const auto bytes = [&](int64_t lines) {
        return EdgeSpace<T, E>::bytes(Team::kSize * E, static_cast<int>(s.n), static_cast<int>(s.c),
                                      kEdgeThreads / Team::kSize, static_cast<int>(lines));
      };
      const size_t most = most_shared(soft.t);
      int64_t lines = s.n;
      if (bytes(lines) > most) {
        while (lines > 0 && bytes(lines) > std::min(most, kEdgeBytes)) --lines;
      }
      if (lines < 2 || (lines < s.n && s.rows() < kEdgeRows)) return false;
      launch("edge_gradient_kernel", edge_gradient_kernel<T, Team, E>, soft.t, s.rows(), kEdgeThreads, bytes(lines),
             soft_of<T>(s, soft.t, soft.row, soft.col, weights, scale, tau), u, v, gradient_to<T>(to, more, inverse),
             lines);
      return true;
    });
  });
}

}  // namespace lps::cuda
