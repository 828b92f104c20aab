// Scans along one row with its channels in the lanes: products with the soft permutation matrix.
#pragma once

#include <limits>
#include <vector>

#include "cpu/lanes.h"

namespace lps::cpu {

// The decays of one row of n sorted scores, and which neighbours are tied.
template <class T>
struct RowDecays : DecaysOf<T> {
  std::vector<Int<T>> tied;  // whether t_i equals t_{i - 1}; n + 1 or more of them

  void build(const T* t, int64_t n, double tau) {
    constexpr int64_t lanes = kLanes<T>;
    static_assert(kBlock % lanes == 0);
    const int64_t padded = (n + lanes) / lanes * lanes;  // beyond n
    for (auto* a : {&this->between, &this->up_reach, &this->down_reach}) a->resize(padded);
    tied.resize(padded);
    scores.assign(1, std::numeric_limits<T>::quiet_NaN());  // so that nothing is tied to what is none, nor near it
    scores.insert(scores.end(), t, t + n);
    scores.resize(1 + padded, scores[0]);
    const T* const score = scores.data() + 1;
    const Units<T> units(tau);
    const auto kernel = [&](Vec<T> low, Vec<T> high) { return exp_nonpositive<T>(units(low - high)); };
    Vec<Int<T>> ties{};
    for (int64_t first = 0; first < padded; first += kBlock) {
      const int64_t stop = std::min(first + kBlock, padded);
      const Vec<T> before = splat<T>(score[first - 1]), after = splat<T>(stop < n ? score[stop] : scores[0]);
      for (int64_t i = first; i < stop; i += lanes) {
        const Vec<T> at = load(score + i), previous = load(score + i - 1);
        const Vec<Int<T>> same = at == previous;
        ties |= same;
        store(tied.data() + i, same);
        store(this->between.data() + i, kernel(at, previous));
        store(this->up_reach.data() + i, kernel(at, before));
        store(this->down_reach.data() + i, kernel(after, at));
      }
      this->between[first] = 0;
    }
    this->any_tied = any<Int<T>>(ties);
  }

 private:
  std::vector<T> scores;
};

// out = K w for n rows of kWidth vectors; out may not be w.
template <class T, int kWidth>
void kernel_product(const RowDecays<T>& decays, const Vec<T>* w, Vec<T>* out, int64_t n) {
  const auto sweep = [&](auto up) {
    const T *decay = decays.template decay<up.value>(), *reach = decays.template reach<up.value>();
    Scan<Vec<T>> scan[kWidth];
    walk<up.value>(
        n,
        [&](int64_t i) {
          const Vec<T> d = splat<T>(decay[i]), r = splat<T>(reach[i]);
          for (int j = 0; j < kWidth; ++j) {
            const Vec<T> wi = w[i * kWidth + j], strict = scan[j].step(d, r, wi);
            out[i * kWidth + j] = up.value ? strict + wi : out[i * kWidth + j] + strict;
          }
        },
        [&] {
          for (auto& s : scan) s.end_block();
        });
  };
  sweep(std::true_type());
  sweep(std::false_type());
}

}  // namespace lps::cpu
