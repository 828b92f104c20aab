// Philox4x32-10, as in lps_kernels/random.py. Salmon et al., SC 2011.
#pragma once

#include <cstdint>

#include "core/macros.h"

namespace lps {

// The last counter word tells the uses of one seed apart.
enum Stream : uint32_t { kPermutation = 0, kTies = 1, kNormal = 2, kRotation = 3 };

struct Words {
  uint32_t w[4];
};

// The words of counter (index, row low, row high, stream).
LPS_FN Words philox(uint64_t seed, uint32_t index, uint64_t row, uint32_t stream) {
  uint32_t c0 = index, c1 = static_cast<uint32_t>(row), c2 = static_cast<uint32_t>(row >> 32), c3 = stream;
  uint32_t key0 = static_cast<uint32_t>(seed), key1 = static_cast<uint32_t>(seed >> 32);
  for (int round = 0; round < 10; ++round) {
    const uint64_t p0 = static_cast<uint64_t>(c0) * 0xD2511F53u;
    const uint64_t p1 = static_cast<uint64_t>(c2) * 0xCD9E8D57u;
    c0 = static_cast<uint32_t>(p1 >> 32) ^ c1 ^ key0;
    c1 = static_cast<uint32_t>(p1);
    c2 = static_cast<uint32_t>(p0 >> 32) ^ c3 ^ key1;
    c3 = static_cast<uint32_t>(p0);
    key0 += 0x9E3779B9u;
    key1 += 0xBB67AE85u;
  }
  return {{c0, c1, c2, c3}};
}

}  // namespace lps
