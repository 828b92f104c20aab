// random_permutation: Philox keys that carry their index, sorted.
#include "core/philox.h"
#include "cuda/sort.cuh"

namespace lps::cuda {

// A key has 63 random bits, and its low bits are replaced by the element's index; padding comes last.
template <class Team, int E>
__global__ void __launch_bounds__(Team::kThreads)
    random_permutation_kernel(const int64_t* seed, const int64_t* num_nodes, int64_t* perm, int64_t rows, int64_t k,
                              int n, int64_t mask) {
  extern __shared__ char shared[];
  const Team team(shared);
  const int64_t row = team.row;
  const bool alive = row < rows;
  const int nodes = alive ? count_nodes(num_nodes, row / k, n) : 0;
  const uint64_t key = static_cast<uint64_t>(*seed);
  int64_t keys[E];
#pragma unroll
  for (int e = 0; e < E; e += 4) {
    // The sort does not mind where a key starts; a lane makes all four keys of a call.
    const int i = e * team.size() + 4 * team.lane;
    const Words high = philox(key, static_cast<uint32_t>(i / 4), static_cast<uint64_t>(row), kPermutation);
    const Words low = philox(key, static_cast<uint32_t>(i / 4), static_cast<uint64_t>(row), kTies);
#pragma unroll
    for (int w = 0; w < 4; ++w) {
      const int64_t drawn = static_cast<int64_t>(high.w[w] & 0x7FFFFFFFu) << 32 | static_cast<int64_t>(low.w[w]);
      keys[e + w] = i + w < n ? ((i + w < nodes ? drawn : INT64_MAX) & ~mask) | (i + w) : INT64_MAX;
    }
  }
  char* buffer = shared + kTeamBytes<Team>;
  sort<E>(team, keys, reinterpret_cast<int64_t*>(buffer));
  // Through shared memory, so that the row is written in order.
  team.sync();
  int* indices = reinterpret_cast<int*>(buffer) + team.slot * padded_size<E>(team.size() * E);
#pragma unroll
  for (int e = 0; e < E; ++e) indices[padded<E>(team.lane * E + e)] = static_cast<int>(keys[e] & mask);
  team.sync();
  for (int i = team.lane; alive && i < n; i += team.size()) perm[row * n + i] = indices[padded<E>(i)];
}

template <class Team, int E>
void launch_random_permutation(const Tensor& seed, const OptionalTensor& num_nodes, const Tensor& perm, int64_t rows,
                               int threads) {
  const int64_t n = perm.size(2);
  int64_t mask = 1;
  while (mask < n) mask *= 2;
  const int64_t teams = Team::kBlock ? 1 : threads / Team::kSize;
  const size_t row = Team::kBlock ? threads * E * sizeof(int64_t) : padded_size<E>(Team::kSize * E) * sizeof(int);
  launch("random_permutation_kernel", random_permutation_kernel<Team, E>, seed, blocks(rows, teams), threads,
         kTeamBytes<Team> + teams * row, in<int64_t>(seed), in<int64_t>(num_nodes), out<int64_t>(perm), rows,
         perm.size(1), n, mask - 1);
}

static Tensor random_permutation(Tensor seed, OptionalTensor num_nodes, int64_t b, int64_t k, int64_t n) {
  STD_TORCH_CHECK(seed.numel() == 1, "random_permutation: expected a seed of one element");
  STD_TORCH_CHECK(b >= 0 && k >= 0 && n >= 0, "random_permutation: expected sizes of 0 or more");
  check_row_length("random_permutation", n);
  num_nodes = dense(num_nodes);
  check_same_device("random_permutation", seed, num_nodes);
  check_nodes("random_permutation", num_nodes, b);
  Tensor perm = empty(seed, {b, k, n}, ScalarType::Long);
  const int64_t rows = n > 0 ? b * k : 0;
  if (n <= 64) {
    launch_random_permutation<WarpTeam<8>, 8>(seed, num_nodes, perm, rows, 128);
  } else if (n <= 256) {
    launch_random_permutation<WarpTeam<32>, 8>(seed, num_nodes, perm, rows, 128);
  } else if (n <= 512) {
    launch_random_permutation<WarpTeam<32>, 16>(seed, num_nodes, perm, rows, 128);
  } else {
    launch_random_permutation<BlockTeam<512>, 8>(seed, num_nodes, perm, rows, block_threads(n, 8));
  }
  return perm;
}

}  // namespace lps::cuda

STABLE_TORCH_LIBRARY_IMPL(lps_kernels, CUDA, m) {
  m.impl("random_permutation", TORCH_BOX(&lps::cuda::random_permutation));
}
