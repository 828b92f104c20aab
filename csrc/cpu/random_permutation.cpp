// random_permutation: Philox keys that carry their index, sorted.
#include "cpu/parallel.h"
#include "cpu/philox_lanes.h"
#include "cpu/sort.h"

namespace lps::cpu {

// A key has 63 random bits, and its low bits are replaced by the element's index; padding comes last. Rows are sorted
// by the upper 31 bits, four keys a Philox call; the few keys that agree in those are put in order by all.
struct Keys {
  PhiloxKeys philox;
  uint64_t seed;
  int64_t n, mask;

  int64_t at(int64_t row, int64_t i) const {
    const auto word = [&](uint32_t stream) {
      return lps::philox(seed, static_cast<uint32_t>(i / 4), row, stream).w[i % 4];
    };
    const int64_t key = static_cast<int64_t>(word(kPermutation) & INT32_MAX) << 32 | word(kTies);
    return (key & ~mask) | i;
  }

  void order_by_all(int64_t row, int64_t* first, int64_t* last) const {
    std::sort(first, last, [&](int64_t i, int64_t j) { return at(row, i) < at(row, j); });
  }
};

// The upper bits in the upper half and the index in the lower one.
inline void long_rows(const Keys& keys, int64_t begin, int64_t end, int64_t k, const int64_t* nodes, int64_t* perm) {
  constexpr int64_t half = kLanes<uint64_t>;
  const int64_t n = keys.n;
  sort_rows(
      begin, end, n, 32,
      [&](int64_t row, int64_t* at, int64_t stride) {
        const int64_t valid = count_nodes(nodes, row / k, n);
        for (int64_t call = 0; 4 * call < valid; call += half) {
          Words64 words[4];
          philox_lanes(keys.philox, counting(call), splat<uint64_t>(row), kPermutation, words);
          for (int64_t i = 4 * call; i < std::min(4 * (call + half), valid); ++i) {
            at[i * stride] = static_cast<int64_t>(words[i % 4][i / 4 - call] & INT32_MAX) << 32 | i;
          }
        }
        for (int64_t i = valid; i < n; ++i) at[i * stride] = static_cast<int64_t>(INT32_MAX) << 32 | i;
      },
      [&](int64_t row, const int64_t* at, int64_t stride) {
        const int64_t valid = count_nodes(nodes, row / k, n);
        int64_t* to = perm + row * n;
        for (int64_t i = 0; i < n; ++i) to[i] = at[i * stride] & UINT32_MAX;
        for (int64_t i = 1, first = 0; i <= valid; ++i) {
          if (i < valid && at[i * stride] >> 32 == at[first * stride] >> 32) continue;
          if (i > first + 1) keys.order_by_all(row, to + first, to + i);
          first = i;
        }
      });
}

// Short rows lie side by side in lanes, the index in the low bits of 32.
inline void short_rows(const Keys& keys, int64_t begin, int64_t end, int64_t k, const int64_t* nodes, int64_t* perm) {
  constexpr int64_t lanes = kLanes<int32_t>, half = kLanes<uint64_t>;
  const int64_t n = keys.n, padded = (n + lanes - 1) / lanes * lanes;
  const int32_t mask = static_cast<int32_t>(keys.mask), random = INT32_MAX & ~mask;
  std::vector<Vec<int32_t>> at(padded);  // whole calls fit: the number of lanes is a multiple of four
  std::vector<int32_t> order(lanes * padded);
  for (int64_t row = begin; row < end; row += lanes) {
    const int64_t count = std::min(lanes, end - row);
    for (int64_t call = 0; 4 * call < n; ++call) {
      int32_t* to = reinterpret_cast<int32_t*>(&at[4 * call]);
      for (int64_t part = 0; part < lanes; part += half) {
        Words64 words[4];
        philox_lanes(keys.philox, splat<uint64_t>(call), counting(row + part), kPermutation, words);
        for (int64_t w = 0; w < 4; ++w) store_words(to + w * lanes + part, words[w]);
      }
    }
    for (int64_t i = 0; i < n; ++i) at[i] = (at[i] & random) | static_cast<int32_t>(i);
    Vec<int32_t> valid_of{};
    for (int64_t lane = 0; lane < count; ++lane) {
      const int64_t valid = count_nodes(nodes, (row + lane) / k, n);
      for (int64_t i = valid; i < n; ++i) at[i][lane] = random | static_cast<int32_t>(i);
      valid_of[lane] = static_cast<int32_t>(valid);
    }
    sort_lanes<int32_t>(at.data(), n);
    Vec<int32_t> close{};
    for (int64_t i = 1; i < n; ++i) close |= ((at[i] ^ at[i - 1]) <= mask) & (static_cast<int32_t>(i) < valid_of);
    for (int64_t i = 0; i < n; ++i) at[i] &= mask;
    for (int64_t i = 0; i < padded; i += lanes) {
      transpose<int32_t>(&at[i]);
      for (int64_t lane = 0; lane < lanes; ++lane) store(&order[lane * padded + i], at[i + lane]);
    }
    for (int64_t lane = 0; lane < count; ++lane) {
      int64_t* to = perm + (row + lane) * n;
      for (int64_t i = 0; i < n; ++i) to[i] = order[lane * padded + i];
      if (close[lane]) keys.order_by_all(row + lane, to, to + valid_of[lane]);
    }
  }
}

static Tensor random_permutation(Tensor seed, OptionalTensor num_nodes, int64_t b, int64_t k, int64_t n) {
  STD_TORCH_CHECK(b >= 0 && k >= 0 && n >= 0, "random_permutation: expected sizes of 0 or more");
  STD_TORCH_CHECK(n < (int64_t{1} << 32), "random_permutation: expected n below 2^32");
  num_nodes = dense(num_nodes);
  check_nodes("random_permutation", num_nodes, b);
  Tensor perm = empty(seed, {b, k, n}, ScalarType::Long);
  int64_t mask = 1;
  while (mask < n) mask *= 2;
  const uint64_t key = seed_of("random_permutation", seed);
  const Keys keys{PhiloxKeys(key), key, n, mask - 1};
  const int64_t* nodes = in<int64_t>(num_nodes);
  int64_t* result = out<int64_t>(perm);
  // Whole groups of lanes to a thread.
  constexpr int64_t lanes = kLanes<int32_t>;
  const int64_t rows = b * k;
  parallel_for((rows + lanes - 1) / lanes, grain_for(4.0 * n * lanes), [&](int64_t begin, int64_t end) {
    (n > kNetworkLength ? long_rows : short_rows)(keys, begin * lanes, std::min(end * lanes, rows), k, nodes, result);
  });
  return perm;
}

}  // namespace lps::cpu

STABLE_TORCH_LIBRARY_IMPL(lps_kernels, CPU, m) {
  m.impl("random_permutation", TORCH_BOX(&lps::cpu::random_permutation));
}
