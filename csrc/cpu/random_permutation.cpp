// random_permutation: Philox keys that carry their index, sorted.
#include "core/philox.h"
#include "cpu/parallel.h"
#include "cpu/sort.h"

namespace lps::cpu {

// Two elements a Philox call, 63 random bits each, the low ones replaced by the element's index.
static void fill_keys(uint64_t seed, int64_t row, int64_t valid, int64_t n, int64_t mask, int64_t* at, int64_t stride) {
  constexpr int64_t chunk = 32;
  int64_t keys[2 * chunk];
  for (int64_t first = 0; first < n; first += 2 * chunk) {
    for (int64_t call = 0; call < chunk; ++call) {
      const Words words = philox(seed, static_cast<uint32_t>(first / 2 + call), row, kPermutation);
      keys[2 * call] = static_cast<int64_t>(words.w[0] & 0x7FFFFFFFu) << 32 | words.w[1];
      keys[2 * call + 1] = static_cast<int64_t>(words.w[2] & 0x7FFFFFFFu) << 32 | words.w[3];
    }
    const int64_t count = std::min(2 * chunk, n - first);
    for (int64_t i = 0; i < count; ++i) {
      const int64_t key = first + i < valid ? keys[i] : INT64_MAX;
      at[(first + i) * stride] = (key & ~mask) | (first + i);
    }
  }
}

static Tensor random_permutation(Tensor seed, OptionalTensor num_nodes, int64_t b, int64_t k, int64_t n) {
  STD_TORCH_CHECK(seed.numel() == 1, "random_permutation: expected a seed of one element");
  STD_TORCH_CHECK(b >= 0 && k >= 0 && n >= 0, "random_permutation: expected sizes of 0 or more");
  STD_TORCH_CHECK(n < (int64_t{1} << 32), "random_permutation: expected n below 2^32");
  num_nodes = dense(num_nodes);
  STD_TORCH_CHECK(!num_nodes || num_nodes->numel() == b, "random_permutation: expected num_nodes of shape (b,)");
  Tensor perm = empty(seed, {b, k, n}, ScalarType::Long);
  const uint64_t key = static_cast<uint64_t>(*in<int64_t>(seed));
  const int64_t* nodes = in<int64_t>(num_nodes);
  int64_t* result = out<int64_t>(perm);
  int64_t mask = 1;
  while (mask < n) mask *= 2;
  mask -= 1;
  parallel_for(b * k, grain_for(10.0 * n), [&](int64_t begin, int64_t end) {
    sort_rows(
        begin, end, n, 0,
        [&](int64_t row, int64_t* at, int64_t stride) {
          fill_keys(key, row, count_nodes(nodes, row / k, n), n, mask, at, stride);
        },
        [&](int64_t row, const int64_t* at, int64_t stride) {
          for (int64_t i = 0; i < n; ++i) result[row * n + i] = at[i * stride] & mask;
        });
  });
  return perm;
}

}  // namespace lps::cpu

STABLE_TORCH_LIBRARY_IMPL(lps_kernels, CPU, m) {
  m.impl("random_permutation", TORCH_BOX(&lps::cpu::random_permutation));
}
