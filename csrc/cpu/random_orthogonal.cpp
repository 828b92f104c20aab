// random_orthogonal: angles for d <= 3, else normal numbers and Gram-Schmidt; small matrices in lanes from the first
// word to the last.
#include "core/haar.h"
#include "cpu/gram_schmidt_large.h"
#include "cpu/gram_schmidt_small.h"
#include "cpu/parallel.h"
#include "cpu/philox_lanes.h"
#include "cpu/rotations.h"

namespace lps::cpu {

// Two vectors of words become normal numbers.
template <class T>
LPS_FN void to_normals(T* a, T* b) {
  const Vec<T> radius = square_root<T>(T(-2) * log_positive<T>(uniform_lanes(a)));
  Vec<T> first, second;
  box_muller<Vec<T>>(radius, uniform_lanes(b), &first, &second);
  store<T>(a, first);
  store<T>(b, second);
}

// at[w * kChunk + i]: word w of counter (call, `first` + i, stream).
template <class T>
static void draw_words(const PhiloxKeys& keys, int64_t first, int call, uint32_t stream, T* at) {
  for (int i = 0; i < kChunk; i += kLanes<uint64_t>) {
    Words64 words[4];
    philox_lanes(keys, splat<uint64_t>(call), counting(first + i), stream, words);
    for (int w = 0; w < 4; ++w) store_words(at + w * kChunk + i, words[w]);
  }
}

// at[e * kChunk + i]: normal number e of row `first` + i, for e below `entries`, rounded up to four.
template <class T>
static void fill_lanes(const PhiloxKeys& keys, int64_t first, int entries, T* at) {
  for (int call = 0; 4 * call < entries; ++call) {
    T* to = at + 4 * call * kChunk;
    draw_words(keys, first, call, kNormal, to);
    for (int w = 0; w < 4 && 4 * call + w < entries; w += 2) {
      for (int i = 0; i < kChunk; i += kLanes<T>) to_normals(to + w * kChunk + i, to + (w + 1) * kChunk + i);
    }
  }
}

// `count` normal numbers of one row.
template <class T>
static void fill_row(const PhiloxKeys& keys, int64_t row, int64_t count, T* to) {
  constexpr int width = kLanes<T>, half = kLanes<uint64_t>;
  alignas(64) T words[4][width];
  T normal[4 * width];
  for (int64_t first = 0; first < count; first += 4 * width) {
    for (int i = 0; i < width; i += half) {
      Words64 w[4];
      philox_lanes(keys, counting(first / 4 + i), splat<uint64_t>(row), kNormal, w);
      for (int j = 0; j < 4; ++j) store_words(words[j] + i, w[j]);
    }
    to_normals(words[0], words[1]);
    to_normals(words[2], words[3]);
    for (int i = 0; i < width; ++i) {
      for (int j = 0; j < 4; ++j) normal[4 * i + j] = words[j][i];
    }
    std::copy(normal, normal + std::min<int64_t>(4 * width, count - first), to + first);
  }
}

template <int D, class T>
static void angles_in_lanes(const PhiloxKeys& keys, bool special, int64_t first, T* at) {
  alignas(64) T words[kHaarWords * kChunk];
  draw_words(keys, first, 0, kRotation, words);
  for (int lane = 0; lane < kChunk; lane += kLanes<T>) {
    Vec<T> u[kHaarWords], q[D][D];
    for (int w = 0; w < kHaarWords; ++w) u[w] = uniform_lanes(words + w * kChunk + lane);
    haar_by_angles<D>(u, special, q);
    write_columns<D, D>(at, lane, q);
  }
}

template <int D, class T, class N>
static void small_haar(const PhiloxKeys& keys, bool special, int64_t begin, int64_t end, T* q) {
  constexpr int entries = D * D * Entry<T, N>::kParts;
  alignas(64) T at[entries * kChunk];
  for (int64_t first = begin; first < end; first += kChunk) {
    const int64_t count = std::min<int64_t>(kChunk, end - first);
    if constexpr (D <= kAngles && Entry<T, N>::kParts == 1) {
      angles_in_lanes<D>(keys, special, first, at);
    } else {
      alignas(64) T normals[(entries + 3) / 4 * 4 * kChunk];
      alignas(64) Int<T> flags[D * kChunk];
      fill_lanes(keys, first, entries, normals);
      forward_lanes<D, D, T, N>(normals, count, special, at, flags);
    }
    from_lanes<entries>(at, count, q + first * entries);
  }
}

template <class T, class N>
static void haar(uint64_t seed, int64_t rows, int64_t d, bool special, T* q) {
  constexpr bool complex = !std::is_same_v<T, N>;
  constexpr int64_t small = complex ? kSmallComplex : kSmall;
  const PhiloxKeys keys(seed);
  if (d <= small) {
    using Lane = std::conditional_t<complex, Complex<Vec<T>>, Vec<T>>;
    parallel_for(rows, grain_for(3.0 * d * d), [&](int64_t begin, int64_t end) {
      small_switch(d, d, [&](auto D, auto M) {
        if constexpr (D == M && D <= small) small_haar<D, T, Lane>(keys, special, begin, end, q);
      });
    });
    return;
  }
  const int64_t count = complex ? 2 * d * d : d * d;
  std::vector<uint8_t> flags(rows * d);
  parallel_for(rows, grain_for(2.0 * d * d), [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) fill_row(keys, row, count, q + row * count);
  });
  large_forward<T, N>(q, rows, d, d, special, q, reinterpret_cast<bool*>(flags.data()));
}

Tensor random_orthogonal(Tensor seed, int64_t b, int64_t k, int64_t d, bool special, bool unitary, bool wide) {
  STD_TORCH_CHECK(b >= 0 && k >= 0 && d >= 0, "random_orthogonal: expected sizes of 0 or more");
  STD_TORCH_CHECK(!special || !unitary, "random_orthogonal: expected real matrices for a determinant of 1");
  std::vector<int64_t> sizes = {b, k, d, d};
  if (unitary) sizes.push_back(2);
  Tensor q = empty(seed, sizes, wide ? ScalarType::Double : ScalarType::Float);
  const uint64_t key = seed_of("random_orthogonal", seed);
  const auto run = [&](auto type) {
    using T = typename decltype(type)::type;
    if (d == 0) return;
    if (unitary) {
      haar<T, Complex<T>>(key, b * k, d, false, out<T>(q));
    } else {
      haar<T, T>(key, b * k, d, special, out<T>(q));
    }
  };
  wide ? run(Type<double>()) : run(Type<float>());
  return q;
}

}  // namespace lps::cpu

STABLE_TORCH_LIBRARY_IMPL(lps_kernels, CPU, m) {
  m.impl("random_orthogonal", TORCH_BOX(&lps::cpu::random_orthogonal));
}
