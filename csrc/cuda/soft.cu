// Launches of the soft permutation's products and gradients, which permute and its inverse share.
#include "cuda/gather.cuh"
#include "cuda/soft_gradient.cuh"
#include "cuda/soft_sort.cuh"

namespace lps::cuda {

// Blocks that fill the largest device twice; rows are cut into parts where they are fewer. By the number of rows alone,
// not by the device, so that sums are the same on any.
constexpr int64_t kBusyBlocks = 264;

// Channels of edges in a tile and what their tiles may take: where a line begins within a sector, each run of channels
// touches one more of them, so runs are long.
constexpr int64_t kEdgeSlots = 32;
constexpr size_t kTileBytes = 112 << 10;

// The longest row of float64 whose gradient shared memory holds.
constexpr int64_t kWideNodes = 2048;

// Calls body(Team type, E) with a row of n in lanes; sums and links of a scan take many registers. LONG: rows beyond
// kWideNodes in float64 too.
template <bool LONG, class Body>
void with_feature_lanes(float, int64_t n, const Body& body) {
  if (n <= 32) return body(Type<WarpTeam<8>>(), std::integral_constant<int, 4>());
  if (n <= 128) return body(Type<WarpTeam<16>>(), std::integral_constant<int, 8>());
  if (n <= 256) return body(Type<WarpTeam<32>>(), std::integral_constant<int, 8>());
  if (n <= 2048) return body(Type<BlockTeam<256>>(), std::integral_constant<int, 8>());
  body(Type<BlockTeam<512, true>>(), std::integral_constant<int, 8>());
}
template <bool LONG, class Body>
void with_feature_lanes(double, int64_t n, const Body& body) {
  if (n <= 32) return body(Type<WarpTeam<8>>(), std::integral_constant<int, 4>());
  if (n <= 128) return body(Type<WarpTeam<32>>(), std::integral_constant<int, 4>());
  if (n <= 1024) return body(Type<BlockTeam<256>>(), std::integral_constant<int, 4>());
  if (n <= kWideNodes) return body(Type<BlockTeam<256, true>>(), std::integral_constant<int, 8>());
  if constexpr (LONG) body(Type<BlockTeam<512, true>>(), std::integral_constant<int, 8>());
}

// How a block's threads and shared memory go through channels.
struct Plan {
  int threads, teams, length, slots;
};

template <class Team, int E>
Plan plan_of(int64_t n, int64_t channels) {
  if constexpr (Team::kBlock) {
    const int threads = block_threads(n, E), most = n <= 1024 ? 8 : n <= 2048 ? 4 : 2;
    return {threads, 1, threads * E,
            std::max<int>(2, static_cast<int>(std::min<int64_t>(power_of_two(channels), most)))};
  } else {
    // Fewer teams where the channels are fewer; whole sectors of channels where there are enough of them.
    int threads = kWarp;
    while (threads < Team::kThreads && threads / Team::kSize < channels) threads *= 2;
    const int teams = threads / Team::kSize;
    const int64_t wanted = std::min<int64_t>(power_of_two(channels), std::max(teams, 8));
    return {threads, teams, Team::kSize * E, std::max<int>(2, static_cast<int>(wanted))};
  }
}

// The scan of one axis of features, with tiles of `slots` channels.
static Axis axis_of(const Shape& s, int64_t which, int slots) {
  const bool first = which == 0, pairs = first && s.order == 2;
  const int64_t outer = first ? 1 : s.n, inner = pairs ? s.n * s.c : s.c;
  int log_c = 0;
  while ((1 << log_c) < slots && (int64_t{1} << log_c) < inner) ++log_c;
  const int lines = outer == 1 ? 1 : std::max(1, slots >> log_c);
  return {first, pairs, static_cast<int>(outer), static_cast<int>(inner), lines, log_c};
}

template <class T>
__global__ void add_kernel(const T* a, const T* b, T* sum, int64_t count) {
  const int64_t at = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (at < count) sum[at] = a[at] + b[at];
}

Tensor add(const Tensor& a, const Tensor& b) {
  Tensor sum = empty(a);
  compute_switch(a.scalar_type(), "add", [&](auto zero) {
    using T = decltype(zero);
    launch("add_kernel", add_kernel<T>, a, blocks(a.numel(), kThreads), kThreads, 0, in<T>(a), in<T>(b), out<T>(sum),
           a.numel());
  });
  return sum;
}

SoftParts soft_gradient(const Shape& s, const SoftParts& soft, const View& u, const View& v, double tau, int axes,
                        const OptionalTensor& weights, double scale, const SoftMore& more,
                        const OptionalTensor& inverse, const Beside& beside) {
  check_row_length("permute_backward", s.n, soft.t.scalar_type() == ScalarType::Double ? kWideNodes : kMaxNodes);
  const int64_t rows = s.rows(), channels = std::max<int64_t>(s.inner(), beside.c);
  if (axes == 3 && soft.t.numel() > 0 && channels > 0) {
    const SoftParts found{empty(soft.t), empty(soft.t), empty(soft.t)};
    if (edge_gradient(s, soft, u, v, tau, weights, scale, more, inverse, beside, found)) return found;
  }
  const int64_t parts =
      std::max<int64_t>(1, std::min((kBusyBlocks + rows - 1) / std::max<int64_t>(rows, 1), (channels + 63) / 64));
  const Tensor& like = soft.t;
  const std::vector<int64_t> whole_sizes = {s.b, s.k, s.n}, cut_sizes = {parts, s.b, s.k, s.n};
  const auto made = [&](bool in_parts) { return empty(like, in_parts ? cut_sizes : whole_sizes); };
  SoftParts cut{made(parts > 1), made(parts > 1), made(parts > 1)};
  if (like.numel() == 0) return cut;
  compute_switch(like.scalar_type(), "permute_backward", [&](auto zero) {
    using T = decltype(zero);
    with_feature_lanes<false>(zero, s.n, [&](auto type, auto elements) {
      using Team = typename decltype(type)::type;
      constexpr int E = elements;
      Plan plan = plan_of<Team, E>(s.n, channels);
      const Axis none{true, false, 1, 0, 0, 0};
      Shape nodes = s;
      nodes.order = 1, nodes.c = beside.c;
      const auto bytes = [&] {
        return kTeamBytes<Team> + kTotalsBytes<T, Team> +
               Workspace<T, E>::bytes(plan.length, s.n, plan.slots, plan.teams, 2, true) +
               2 * Kept<T, Team, E>::bytes(plan.length / E);
      };
      const int fewest = plan.slots;
      if (s.order == 2 && (axes & 1)) plan.slots = std::max<int>(fewest, std::min(power_of_two(channels), kEdgeSlots));
      while (plan.slots > fewest && bytes() > std::min(kTileBytes, most_shared(like))) plan.slots /= 2;
      // One slot of each tile is enough for the two vectors that pass through them at first.
      while (Team::kBlock && plan.slots > 1 && bytes() > most_shared(like)) plan.slots /= 2;
      launch("soft_gradient_kernel", soft_gradient_kernel<T, Team, E>, like, rows * parts, plan.threads, bytes(),
             soft_of<T>(s, soft.t, soft.row, soft.col, weights, scale, tau), u, v, beside,
             axes & 1 ? axis_of(s, 0, plan.slots) : none, axes & 2 ? axis_of(s, 1, plan.slots) : none,
             beside.c > 0 ? axis_of(nodes, 0, plan.slots) : none,
             gradient_to<T>(cut, parts > 1 ? SoftMore() : more, inverse), parts, plan.slots,
             Workspace<T, E>::pitch_of(plan.length));
    });
  });
  if (parts == 1) return cut;
  SoftParts whole{made(false), made(false), made(false)};
  const int64_t count = rows * s.n;
  compute_switch(like.scalar_type(), "permute_backward", [&](auto zero) {
    using T = decltype(zero);
    launch("sum_parts_kernel", sum_parts_kernel<T>, like, blocks(count, kThreads), kThreads, 0, gradient_to<T>(cut, {}),
           gradient_to<T>(whole, more), parts, s.n, count);
  });
  return whole;
}

void soft_product(const Shape& s, const SoftParts& soft, bool transpose, const View& x, double tau, int axis,
                  const Tensor& y, const OptionalTensor& weights, double scale) {
  check_row_length("permute", s.n);
  if (y.numel() == 0) return;
  const int64_t rows = s.rows(), channels = s.inner();
  compute_switch(soft.t.scalar_type(), "permute", [&](auto zero) {
    using T = decltype(zero);
    with_feature_lanes<true>(zero, s.n, [&](auto type, auto elements) {
      using Team = typename decltype(type)::type;
      constexpr int E = elements;
      const Plan plan = plan_of<Team, E>(s.n, channels);
      const Axis cut = axis_of(s, axis, plan.slots);
      const int64_t parts = std::clamp<int64_t>(4 * kBusyBlocks / rows, 1, cut.items());
      const size_t bytes = kTeamBytes<Team> + kTotalsBytes<T, Team> +
                           Workspace<T, E>::bytes(plan.length, s.n, plan.slots, plan.teams, 1, false);
      const T *row = in<T>(soft.row), *col = in<T>(soft.col);
      launch("soft_product_kernel", soft_product_kernel<T, Team, E>, soft.t, rows * parts, plan.threads, bytes,
             soft_of<T>(s, soft.t, soft.row, soft.col, weights, scale, tau), x, cut, transpose ? row : col,
             transpose ? col : row, numbers(y), parts, plan.slots, Workspace<T, E>::pitch_of(plan.length));
    });
  });
}

}  // namespace lps::cuda
