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
// Rows from which on a block each keeps a device busy. Parts of a row are no faster up to so many channels, nor where
// each is one number, which parts gather one by one along the first axis: eight times its sector.
constexpr int64_t kEdgeRows = 64, kFewChannels = 256;
// Sums that a thread finds for each line.
constexpr int kFound = 3;
// Numbers that a thread asks for before it waits for them.
constexpr int kAtOnce = 8;

// What a step from line to line reads of a rank. up and down: decays from the rank before and from the one after,
// negative where its score is the same.
template <class T>
struct alignas(16) Rank {
  T row, col, up, down;
};

// Lines lie in shared memory as S: T, or the bits of 16-bit numbers of a kind.
template <class T, class S>
__device__ __forceinline__ T number_of(S x, Kind kind) {
  if constexpr (std::is_same_v<S, T>) {
    return x;
  } else {
    return kind == kBrain ? __uint_as_float(static_cast<unsigned>(x) << 16) : __half2float(__ushort_as_half(x));
  }
}

// How a line of n ranks with c channels lies there: with a gap of a bank wherever the banks of lanes that scan, E ranks
// apart, come round again.
template <class S, int E>
struct Line {
  static constexpr int kGap = sizeof(S) < 4 ? 4 / sizeof(S) : 1;
  int c, log_lanes;

  __host__ __device__ explicit Line(int c) : c(c), log_lanes(log2_of(128 / sizeof(S))) {
    for (int apart = E * c; log_lanes > 0 && apart % 2 == 0; apart /= 2) --log_lanes;
  }
  __host__ __device__ int at(int rank) const {
    return rank * c + (rank / E >> log_lanes) * kGap;
  }
};

template <class T, class S, int E>
struct EdgeSpace {
  static constexpr int kWarps = kEdgeThreads / kWarp;
  // Lines that a thread walks over before warps add up what they have found, which a lane each then holds.
  static constexpr int kSteps = sizeof(T) == 4 ? kWarp / kFound : 5;
  Rank<T>* ranks;
  T *carries, *staged, *sums, *found, *lower, *higher, *of_teams;  // the last one in place of tiles
  S *tile_u, *tile_v;
  unsigned* bounds;
  uint16_t *perm, *inverse, *place_of_rank, *place_of_node;
  int pitch, width;  // of a line, and of what a warp has found

  static __host__ __device__ int pitch_of(int n, int c) {
    return Line<S, E>(c).at(n - 1) + c;
  }
  // A warp's own room, for ties while it scans lines and for what it finds from line to line.
  static __host__ __device__ int width_of(int length, int teams, int lines) {
    return max(2 * teams / kWarps * static_cast<int>(padded_size<E>(length)),
               (lines + kSteps - 1) / kSteps * kSteps * kFound);
  }
  static __host__ __device__ int tile_bytes(int length, int pitch, int teams, int lines) {
    return max(2 * lines * pitch * static_cast<int>(sizeof(S)),
               kFound * teams * static_cast<int>(padded_size<E>(length) * sizeof(T)));
  }
  static size_t bytes(int length, int n, int c, int teams, int lines) {
    const int padded = static_cast<int>(padded_size<E>(length)), pitch = pitch_of(n, c);
    const size_t numbers = (4 + kFound) * n + 4 * pitch + padded + kWarps * width_of(length, teams, lines);
    return numbers * sizeof(T) + tile_bytes(length, pitch, teams, lines) + padded * sizeof(unsigned) +
           4 * n * sizeof(uint16_t);
  }
  __device__ EdgeSpace(char* shared, int length, int n, int c, int teams, int slot, int lines)
      : ranks(reinterpret_cast<Rank<T>*>(shared)), pitch(pitch_of(n, c)), width(width_of(length, teams, lines)) {
    const int padded = static_cast<int>(padded_size<E>(length)), of_warp = teams / kWarps;
    carries = reinterpret_cast<T*>(ranks + n), staged = carries + 4 * pitch, sums = staged + padded;
    found = sums + kFound * n, of_teams = found + kWarps * width;
    tile_u = reinterpret_cast<S*>(of_teams), tile_v = tile_u + lines * pitch;
    lower = found + slot / of_warp * width + slot % of_warp * 2 * padded, higher = lower + padded;
    bounds = reinterpret_cast<unsigned*>(reinterpret_cast<char*>(of_teams) + tile_bytes(length, pitch, teams, lines));
    perm = reinterpret_cast<uint16_t*>(bounds + padded), inverse = perm + n;
    place_of_rank = inverse + n, place_of_node = place_of_rank + n;
  }

  // Where the ranks of a line lie, and the nodes; a barrier has to follow.
  __device__ __forceinline__ void place(const Line<S, E>& line, int nodes) const {
    for (int i = threadIdx.x; i < nodes; i += blockDim.x) {
      place_of_rank[i] = static_cast<uint16_t>(line.at(i));
      place_of_node[i] = static_cast<uint16_t>(line.at(inverse[i]));
    }
  }
};

// One line of a view, by rank, from the numbers at `from`: `threads` of them, of which this is number `own`, read it in
// the order in which it lies.
template <class S, class Address>
__device__ __forceinline__ void load_line(const Address* from, int size, int c, const uint16_t* place, int own,
                                          int threads, S* to) {
  // From the beginning of a sector, or each step would touch one more of them.
  int q = own - within_sector(from);
  const int by_node = threads / c, by_channel = threads % c;
  int node = q >= 0 ? q / c : -1, channel = q - node * c;
  while (channel < 0) channel += c, --node;
#pragma unroll 1
  while (q < size) {
    S held[kAtOnce];
#pragma unroll
    for (int i = 0; i < kAtOnce; ++i) {
      const int at = q + i * threads;
      held[i] = at >= 0 && at < size ? static_cast<S>(from[at]) : S(0);
    }
#pragma unroll
    for (int i = 0; i < kAtOnce; ++i, q += threads) {
      if (q >= 0 && q < size) to[place[node] + channel] = held[i];
      node += by_node, channel += by_channel;
      if (channel >= c) channel -= c, ++node;
    }
  }
}

// Lines `first` to `first + count` of a view of edges by rank, a warp a line, or the one line that nodes are.
template <class T, class S, int E>
__device__ __forceinline__ void load_lines(const Soft<T>& soft, const View& view, bool edges, int64_t row, int nodes,
                                           int c, int first, int count, const EdgeSpace<T, S, E>& space, S* tile) {
  const int threads = edges ? kWarp : blockDim.x;
  const int64_t sample = view.each ? row : soft.graph(row);
  const uint16_t* place = view.gather ? space.place_of_node : space.place_of_rank;
  const auto load_from = [&](const auto* from) {
    for (int i = threadIdx.x / threads; i < count; i += blockDim.x / threads) {
      int64_t line = sample;
      if (edges) line = sample * soft.n + (view.gather ? space.perm[first + i] : first + i);
      load_line(from + line * soft.n * c, nodes * c, c, place, threadIdx.x % threads, threads, tile + i * space.pitch);
    }
  };
  if constexpr (std::is_same_v<S, T>) {
    typed<T>(view.x, load_from);
  } else {
    load_from(static_cast<const S*>(view.x.data));
  }
}

// Lines in shared memory along the second axis: a team a line and channel.
template <class T, class S, class Team, int E>
__device__ __forceinline__ void add_lines(const Team& team, const Links<T, Team, E>& decay, WarpTotals<T>& totals,
                                          const Ties<T, E>& ties, const EdgeSpace<T, S, E>& space,
                                          const Line<S, E>& how, Kind kind, int nodes, int count, const T (&rows)[E],
                                          const T (&cols)[E], PairSums<T, E>& sums) {
  const int teams = blockDim.x / team.size(), c = how.c, own = how.at(team.lane * E), real = nodes - team.lane * E;
#pragma unroll 1
  for (int begin = 0; begin < count * c; begin += teams) {
    const int slot = begin + team.slot, line = slot / c, from = line * (space.pitch - c) + slot + own;
    const bool here = slot < count * c;
    T u[E], v[E];
#pragma unroll
    for (int e = 0; e < E; ++e) {
      u[e] = here && e < real ? number_of<T>(space.tile_u[from + e * c], kind) : T(0);
      v[e] = here && e < real ? number_of<T>(space.tile_v[from + e * c], kind) : T(0);
    }
    add_pair(team, decay, totals, ties, rows, cols, u, v, sums);
  }
}

// Lines in shared memory along the first axis, a thread a channel; what a channel carries from line to line are sums of
// v col and of u row, and both as they were before a group of equal scores. kUp: from lower ranks to higher ones.
template <bool kUp, class T, class S, int E>
__device__ __forceinline__ void walk_lines(const EdgeSpace<T, S, E>& space, Kind kind, int first, int count) {
  constexpr int kSteps = EdgeSpace<T, S, E>::kSteps;
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  const int warps = min((space.pitch + kWarp - 1) / kWarp, EdgeSpace<T, S, E>::kWarps);  // those with channels
  __syncwarp();  // what was found lies where ties were
#pragma unroll 1
  for (int begin = 0; begin < count && warp < warps; begin += kSteps) {
    Rank<T> ranks[kSteps];
    T sums[kWarp] = {};
#pragma unroll
    for (int i = 0; i < kSteps; ++i) {
      const int step = min(begin + i, count - 1);
      ranks[i] = space.ranks[first + (kUp ? step : count - 1 - step)];
    }
    for (int q = threadIdx.x; q < space.pitch; q += blockDim.x) {
      T* const carry = space.carries + 4 * q;
      T of_v = carry[0], of_u = carry[1], held_v = carry[2], held_u = carry[3];
      const S* u_at = space.tile_u + (kUp ? begin : count - 1 - begin) * space.pitch + q;
      const S* v_at = u_at + (space.tile_v - space.tile_u);
#pragma unroll
      for (int i = 0; i < kSteps; ++i) {
        if (begin + i >= count) break;
        const T u = number_of<T>(*u_at, kind), v = number_of<T>(*v_at, kind), u_row = u * ranks[i].row,
                v_col = v * ranks[i].col;
        const T decay = kUp ? ranks[i].up : ranks[i].down;
        of_v *= fabs(decay), of_u *= fabs(decay);
        if (decay >= T(0)) held_v = of_v, held_u = of_u;
        const T slope = u_row * held_v + v_col * held_u;
        sums[i * kFound + 2] += kUp ? slope : -slope;
        if (!kUp) sums[i * kFound] += u * of_v, sums[i * kFound + 1] += v * of_u;
        of_v += v_col, of_u += u_row;
        if (kUp) sums[i * kFound] += u * of_v, sums[i * kFound + 1] += v * of_u;  // with the diagonal
        kUp ? (u_at += space.pitch, v_at += space.pitch) : (u_at -= space.pitch, v_at -= space.pitch);
      }
      carry[0] = of_v, carry[1] = of_u, carry[2] = held_v, carry[3] = held_u;
    }
    halve_sums<kWarp / 2>(sums, lane);
    if (lane < kSteps * kFound) space.found[warp * space.width + begin * kFound + lane] = sums[0];
  }
  __syncthreads();
  for (int i = threadIdx.x; i < count * kFound; i += blockDim.x) {
    T sum = 0;
    for (int other = 0; other < warps; ++other) sum += space.found[other * space.width + i];
    const int step = i / kFound, rank = first + (kUp ? step : count - 1 - step);
    T& to = space.sums[rank * kFound + i % kFound];
    to = kUp ? sum : to + sum;
  }
  __syncthreads();
}

template <class T, class S, class Team, int E>
__global__ void __launch_bounds__(kEdgeThreads, 1)
    edge_gradient_kernel(Soft<T> soft, View u, View v, Beside beside, SoftGradient<T> to, int lines) {
  extern __shared__ __align__(16) char shared[];
  const Team team(shared);
  const int teams = blockDim.x / team.size(), length = team.size() * E, n = soft.n, c = soft.c;
  const int64_t row = blockIdx.x, start = row * n;
  const int nodes = count_nodes(soft.num_nodes, soft.graph(row), n);
  WarpTotals<T> totals{nullptr};
  const EdgeSpace<T, S, E> space(shared, length, n, c, teams, team.slot, lines);
  for (int i = threadIdx.x; i < length; i += blockDim.x)
    space.staged[padded<E>(i)] = i < nodes ? soft.t[start + i] : T(0);
  for (int i = threadIdx.x; i < nodes; i += blockDim.x) {
    space.ranks[i].row = soft.row[start + i], space.ranks[i].col = soft.col[start + i];
    space.perm[i] = static_cast<uint16_t>(node_at(soft.perm, start + i, nodes));
    space.inverse[i] = static_cast<uint16_t>(i);
  }
  // Gaps and what no permutation fills are zero.
  for (int i = threadIdx.x; i < 2 * lines * space.pitch; i += blockDim.x) space.tile_u[i] = S(0);
  __syncthreads();
  for (int i = threadIdx.x; i < nodes; i += blockDim.x) space.inverse[space.perm[i]] = static_cast<uint16_t>(i);
  const SortedRow<T, E> sorted{space.staged, nodes, soft.inverse_tau};
  for (int i = threadIdx.x; i <= nodes; i += blockDim.x) {
    const T decay = exponential(-sorted.gap(i - 1, i));
    const T signed_decay = 0 < i && i < nodes && sorted.at(i) == sorted.at(i - 1) ? -decay : decay;
    if (i < nodes) space.ranks[i].up = signed_decay;
    if (i > 0) space.ranks[i - 1].down = signed_decay;
  }
  T rows[E], cols[E];
#pragma unroll
  for (int e = 0; e < E; ++e) {
    const int rank = team.lane * E + e;
    rows[e] = rank < nodes ? space.ranks[rank].row : T(0), cols[e] = rank < nodes ? space.ranks[rank].col : T(0);
  }
  Links<T, Team, E> decay;
  decay.build(team, sorted, Decay<T>());
  Ties<T, E> ties{space.bounds, space.lower, space.higher, false};
  ties.build(team, sorted, team.slot == 0);
  __syncthreads();
  PairSums<T, E> sums{};
  const int strips = (nodes + lines - 1) / lines, passes = 2 * strips + (beside.c > 0);
  // Up through all strips and down again; all but the first one are as long as can be. Then nodes, as one more line.
#pragma unroll 1
  for (int pass = 0; pass < passes; ++pass) {
    const bool up = pass < strips, is_beside = pass == 2 * strips;
    const int strip = up ? pass : 2 * strips - 1 - pass, last = nodes - (strips - 1 - strip) * lines;
    const int first = max(last - lines, 0), count = is_beside ? 1 : last - first;
    if (pass == 0 || pass == strips) {
      for (int q = threadIdx.x; q < space.pitch; q += blockDim.x) {
#pragma unroll
        for (int i = 0; i < 4; ++i) space.carries[4 * q + i] = T(0);
      }
    }
    const int channels = is_beside ? beside.c : c;
    const Line<S, E> how(channels);
    if (pass == 0 || is_beside) space.place(how, nodes);
    if (pass != strips || is_beside) {
      __syncthreads();  // the strip before this one has been read
#pragma unroll 1
      for (int side = 0; side < 2; ++side) {  // one copy of what is inlined
        S* const tile = side == 0 ? space.tile_u : space.tile_v;
        const View view = is_beside ? side_of(side, beside.u, beside.v) : side_of(side, u, v);
        load_lines(soft, view, !is_beside, row, nodes, channels, first, count, space, tile);
      }
      __syncthreads();
    }
    if (up || is_beside) add_lines(team, decay, totals, ties, space, how, u.x.kind, nodes, count, rows, cols, sums);
    if (is_beside) break;
    up ? walk_lines<true>(space, u.x.kind, first, count) : walk_lines<false>(space, u.x.kind, first, count);
  }
  // Teams are added in their order.
  const int stride = static_cast<int>(padded_size<E>(length));
  __syncthreads();
#pragma unroll
  for (int e = 0; e < E; ++e) {
    T* at = space.of_teams + kFound * team.slot * stride + padded<E>(team.lane * E + e);
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
      const T* at = space.of_teams + kFound * other * stride + padded<E>(i);
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
  if (n <= 192) return body(Type<WarpTeam<32>>(), std::integral_constant<int, 6>());
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
                   const Beside& beside, const SoftParts& to) {
  return compute_switch(soft.t.scalar_type(), "edge_gradient", [&](auto zero) {
    using T = decltype(zero);
    const auto with = [&](auto stored, auto type, auto elements) {
      using S = decltype(stored);
      using Team = typename decltype(type)::type;
      constexpr int E = elements;
      const auto bytes = [&](int64_t lines) {
        return EdgeSpace<T, S, E>::bytes(Team::kSize * E, static_cast<int>(s.n), static_cast<int>(s.c),
                                         kEdgeThreads / Team::kSize, static_cast<int>(lines));
      };
      // All that there is: registers let no more than a block lie on a multiprocessor.
      const size_t most = most_shared(soft.t);
      int64_t lines = s.n;
      while (lines > 0 && bytes(lines) > most) --lines;
      const bool in_parts = s.rows() < kEdgeRows && s.c > 1 && s.inner() > kFewChannels;
      if (lines < 2 || (lines < s.n && in_parts)) return false;
      const auto pitch = [&](int64_t c) {
        return EdgeSpace<T, S, E>::pitch_of(static_cast<int>(s.n), static_cast<int>(c));
      };
      if (beside.c > 0 && pitch(beside.c) > lines * pitch(s.c)) return false;
      launch("edge_gradient_kernel", edge_gradient_kernel<T, S, Team, E>, soft.t, s.rows(), kEdgeThreads, bytes(lines),
             soft_of<T>(s, soft.t, soft.row, soft.col, weights, scale, tau), u, v, beside,
             gradient_to<T>(to, more, inverse), lines);
      return true;
    };
    const auto of_kind = [&](const View& view) { return view.x.kind == u.x.kind; };
    const bool narrow = u.x.kind != kWhole && of_kind(v) && (beside.c == 0 || (of_kind(beside.u) && of_kind(beside.v)));
    return with_edge_lanes(zero, s.n, [&](auto type, auto elements) {
      if constexpr (sizeof(T) == 4) {
        if (narrow) return with(uint16_t(), type, elements);
      }
      return with(zero, type, elements);
    });
  });
}

}  // namespace lps::cuda
