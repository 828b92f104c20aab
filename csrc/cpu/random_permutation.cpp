// random_permutation: Philox keys that carry their index, sorted.
#include "cpu/parallel.h"
#include "cpu/philox_lanes.h"
#include "cpu/sort.h"

namespace lps::cpu {

// A key has 63 random bits, two keys a Philox call, and its low bits are replaced by the element's index; padding comes
// last.
struct Keys {
  uint64_t seed;
  int64_t n, mask;

  int64_t at(int64_t row, int64_t i, int64_t valid) const {
    const Words words = philox(seed, static_cast<uint32_t>(i / 2), row, kPermutation);
    const uint32_t high = words.w[i % 2 * 2], low = words.w[i % 2 * 2 + 1];
    const int64_t key = i < valid ? static_cast<int64_t>(high & 0x7FFFFFFFu) << 32 | low : INT64_MAX;
    return (key & ~mask) | i;
  }
};

inline void long_rows(const Keys& keys, int64_t begin, int64_t end, int64_t k, const int64_t* nodes, int64_t* perm) {
  const int64_t n = keys.n;
  std::vector<int64_t> at(2 * n);
  for (int64_t row = begin; row < end; ++row) {
    const int64_t valid = count_nodes(nodes, row / k, n);
    for (int64_t i = 0; i < n; ++i) at[i] = keys.at(row, i, valid);
    sort_radix(at.data(), at.data() + n, n, 0);
    for (int64_t i = 0; i < n; ++i) perm[row * n + i] = at[i] & keys.mask;
  }
}

// Short rows lie side by side in lanes and are sorted by the upper 31 bits, the index again in the low ones; the few
// that agree in those are put in order by all 63.
inline void short_rows(const Keys& keys, int64_t begin, int64_t end, int64_t k, const int64_t* nodes, int64_t* perm) {
  constexpr int64_t lanes = kLanes<int32_t>, half = kLanes<uint64_t>;
  const int64_t n = keys.n;
  const int32_t mask = static_cast<int32_t>(keys.mask);
  std::vector<Vec<int32_t>> at(n + 1);
  for (int64_t row = begin; row < end; row += lanes) {
    const int64_t count = std::min(lanes, end - row);
    for (int64_t call = 0; 2 * call < n; ++call) {
      int32_t* to = reinterpret_cast<int32_t*>(&at[2 * call]);
      for (int64_t part = 0; part < lanes; part += half) {
        Words64 words[4];
        philox_lanes(keys.seed, static_cast<uint32_t>(call), row + part, kPermutation, words);
        for (int64_t lane = 0; lane < half; ++lane) {
          to[part + lane] = (static_cast<int32_t>(words[0][lane]) & INT32_MAX & ~mask) | static_cast<int32_t>(2 * call);
          to[lanes + part + lane] =
              (static_cast<int32_t>(words[2][lane]) & INT32_MAX & ~mask) | static_cast<int32_t>(2 * call + 1);
        }
      }
    }
    Vec<int32_t> valid_of{};
    for (int64_t lane = 0; lane < count; ++lane) {
      const int64_t valid = count_nodes(nodes, (row + lane) / k, n);
      for (int64_t i = valid; i < n; ++i) at[i][lane] = (INT32_MAX & ~mask) | static_cast<int32_t>(i);
      valid_of[lane] = static_cast<int32_t>(valid);
    }
    sort_lanes<int32_t>(at.data(), n);
    Vec<int32_t> close{};
    for (int64_t i = 1; i < n; ++i) close |= ((at[i] ^ at[i - 1]) <= mask) & (static_cast<int32_t>(i) < valid_of);
    for (int64_t lane = 0; lane < count; ++lane) {
      int64_t* to = perm + (row + lane) * n;
      for (int64_t i = 0; i < n; ++i) to[i] = at[i][lane] & mask;
      if (close[lane]) {
        const int64_t valid = valid_of[lane];
        std::sort(to, to + valid,
                  [&](int64_t i, int64_t j) { return keys.at(row + lane, i, valid) < keys.at(row + lane, j, valid); });
      }
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
  int64_t mask = 1;
  while (mask < n) mask *= 2;
  const Keys keys{static_cast<uint64_t>(*in<int64_t>(seed)), n, mask - 1};
  const int64_t* nodes = in<int64_t>(num_nodes);
  int64_t* result = out<int64_t>(perm);
  // Whole groups of lanes to a thread.
  constexpr int64_t lanes = kLanes<int32_t>;
  const int64_t rows = b * k;
  parallel_for((rows + lanes - 1) / lanes, grain_for(5.0 * n * lanes), [&](int64_t begin, int64_t end) {
    (n > kNetworkLength ? long_rows : short_rows)(keys, begin * lanes, std::min(end * lanes, rows), k, nodes, result);
  });
  return perm;
}

}  // namespace lps::cpu

STABLE_TORCH_LIBRARY_IMPL(lps_kernels, CPU, m) {
  m.impl("random_permutation", TORCH_BOX(&lps::cpu::random_permutation));
}
