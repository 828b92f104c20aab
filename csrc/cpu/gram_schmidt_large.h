// Gram-Schmidt of a matrix in cache: its columns are rows of a padded buffer. The first projection is done for panels
// of four columns, the second, which makes it orthogonal, column by column.
#pragma once

#include <vector>

#include "core/gram_schmidt.h"
#include "cpu/parallel.h"
#include "cpu/rows.h"

namespace lps::cpu {

constexpr int64_t kPanel = 4;

// Buffers of one thread. N is T or Complex<T>.
template <class T, class N>
struct Workspace {
  static constexpr bool kComplex = !std::is_same_v<T, N>;
  int64_t d, m, length;
  std::vector<std::vector<Vec<T>>> held;

  Workspace(int64_t d, int64_t m) : d(d), m(m), length((d + kLanes<T> - 1) / kLanes<T> * kLanes<T>) {}

  // `count` numbers, zero, aligned.
  N* numbers(int64_t count) {
    const int64_t bytes = count * static_cast<int64_t>(sizeof(N));
    held.emplace_back((bytes + kVectorBytes - 1) / kVectorBytes + 1, Vec<T>{});
    return reinterpret_cast<N*>(held.back().data());
  }

  // Row-major (d, m) into columns; false if an entry is not finite.
  template <class S>
  bool read(const S* from, N* columns) const {
    T sum = 0;
    for (int64_t i = 0; i < d; ++i) {
      for (int64_t j = 0; j < m; ++j) {
        N& x = columns[j * length + i];
        if constexpr (kComplex) {
          x = {static_cast<T>(from[2 * (i * m + j)]), static_cast<T>(from[2 * (i * m + j) + 1])};
        } else {
          x = static_cast<T>(from[i * m + j]);
        }
        sum += nought(x);
      }
    }
    return sum == 0;
  }

  template <class S>
  void write(const N* columns, S* to) const {
    for (int64_t i = 0; i < d; ++i) {
      for (int64_t j = 0; j < m; ++j) {
        const N x = columns[j * length + i];
        if constexpr (kComplex) {
          to[2 * (i * m + j)] = static_cast<S>(x.re);
          to[2 * (i * m + j) + 1] = static_cast<S>(x.im);
        } else {
          to[i * m + j] = static_cast<S>(x);
        }
      }
    }
  }

  // Divides a column by its largest magnitude; false if that is too small to divide by.
  bool normalize(N* u, T* factor) const {
    T largest = 0;
    for (int64_t i = 0; i < d; ++i) largest = std::max(largest, magnitude(u[i]));
    *factor = largest >= kTiniest<T> ? 1 / largest : T(1);
    for (int64_t i = 0; i < d; ++i) u[i] = scale(u[i], *factor);
    return largest >= kTiniest<T>;
  }
};

// u -= Q Q^H u over `count` rows.
template <class N>
inline void project_rows(N* u, const N* q, int64_t count, int64_t length, N* s) {
  dots<1>(q, count, u, length, s);
  subtract_rows<1>(u, s, q, count, length);
}

template <class T, class N>
static void complete_large(const Workspace<T, N>& w, const N* q, int64_t j, N* u, N* s) {
  const T enough = T(kCompletion) * T(w.d - j) / T(w.d);
  int64_t chosen = 0;
  for (int64_t i = 0; i < w.d; ++i) {
    T left = 1;
    for (int64_t l = 0; l < j; ++l) left -= square(q[l * w.length + i]);
    if (left > enough) {
      chosen = i;
      break;
    }
  }
  for (int64_t i = 0; i < w.d; ++i) u[i] = Make<N>::real(T(i == chosen));
  project_rows(u, q, j, w.length, s);
  project_rows(u, q, j, w.length, s);
}

// Whether the determinant of an orthonormal matrix is -1, by elimination with pivots; `a` is overwritten.
template <class T>
static bool is_reflection(T* a, int64_t d, int64_t length) {
  bool negative = false;
  for (int64_t j = 0; j < d; ++j) {
    int64_t pivot = j;
    for (int64_t i = j + 1; i < d; ++i) {
      if (magnitude(a[i * length + j]) > magnitude(a[pivot * length + j])) pivot = i;
    }
    if (pivot != j) {
      std::swap_ranges(a + pivot * length, a + pivot * length + d, a + j * length);
      negative = !negative;
    }
    negative ^= a[j * length + j] < 0;
    for (int64_t i = j + 1; i < d; ++i) {
      const T by = a[i * length + j] / a[j * length + j];
      for (int64_t c = j + 1; c < d; ++c) a[i * length + c] -= by * a[j * length + c];
    }
  }
  return negative;
}

template <class T, class N, class S>
static void large_forward(const S* v, int64_t b, int64_t d, int64_t m, bool special, T* q, bool* degenerate) {
  const int64_t entries = d * m * (sizeof(N) / sizeof(T));
  parallel_for(b, grain_for(0.25 * d * m * m), [&](int64_t begin, int64_t end) {
    Workspace<T, N> w(d, m);
    const int64_t length = w.length;
    N *columns = w.numbers(m * length), *s = w.numbers(m * kPanel), *spare = special ? w.numbers(m * length) : nullptr;
    std::vector<T> start(m);
    std::vector<char> nonzero(m);
    for (int64_t row = begin; row < end; ++row) {
      bool* flags = degenerate + row * m;
      const bool finite = w.read(v + row * entries, columns);
      for (int64_t j = 0; j < m; ++j) {
        N* u = columns + j * length;
        if (!finite) {
          for (int64_t i = 0; i < d; ++i) u[i] = Make<N>::real(T(i == j));
        }
        T factor;
        nonzero[j] = w.normalize(u, &factor);
        start[j] = square_of(u, length);
      }
      for (int64_t j = 0; j < m; ++j) {
        const int64_t panel = j / kPanel * kPanel;
        N* u = columns + j * length;
        if (j == panel && j > 0) {
          const int64_t width = std::min(kPanel, m - panel);
          if (width == kPanel) {
            dots<kPanel>(columns, panel, u, length, s);
            subtract_rows<kPanel>(u, s, columns, panel, length);
          } else {
            for (int64_t c = 0; c < width; ++c) project_rows(u + c * length, columns, panel, length, s);
          }
        }
        project_rows(u, columns + panel * length, j - panel, length, s);
        project_rows(u, columns, j, length, s);
        T left = square_of(u, length);
        const bool good = nonzero[j] && left > start[j] * dependence<T>(static_cast<int>(d));
        if (!good) {
          complete_large(w, columns, j, u, s);
          left = square_of(u, length);
        }
        const T by = 1 / std::sqrt(left);
        for (int64_t i = 0; i < d; ++i) u[i] = scale(u[i], by);
        flags[j] = !(good && finite);
      }
      if constexpr (std::is_same_v<T, N>) {
        if (special) {
          std::copy(columns, columns + m * length, spare);
          if (is_reflection(spare, d, length)) {
            for (int64_t i = 0; i < d; ++i) columns[i] = -columns[i];
          }
        }
      }
      w.write(columns, q + row * entries);
    }
  });
}

// As gram_schmidt_backward_column in core, each column gathering from those behind it.
template <class T, class N, class S>
static void large_backward(const T* grad, const S* v, const T* q, const bool* degenerate, int64_t b, int64_t d,
                           int64_t m, S* grad_v) {
  const int64_t entries = d * m * (sizeof(N) / sizeof(T));
  parallel_for(b, grain_for(0.5 * d * m * m), [&](int64_t begin, int64_t end) {
    Workspace<T, N> w(d, m);
    const int64_t length = w.length;
    N *columns = w.numbers(m * length), *basis = w.numbers(m * length), *g = w.numbers(m * length);
    N *pair = w.numbers(2 * length), *rh = w.numbers(2 * m), *s = w.numbers(m);
    N *r = w.numbers(m * m), *h = w.numbers(m * m), *along = w.numbers(length), *rest = w.numbers(length);
    std::vector<T> factors(m);
    for (int64_t row = begin; row < end; ++row) {
      const bool* flags = degenerate + row * m;
      const bool coupled = std::any_of(flags, flags + m, [](bool x) { return x; });
      w.read(v + row * entries, columns), w.read(q + row * entries, basis), w.read(grad + row * entries, g);
      for (int64_t j = m - 1; j >= 0; --j) {
        N *p = g + j * length, *vj = columns + j * length;
        const N* qj = basis + j * length;
        if (flags[j]) {
          for (int64_t i = 0; i < d; ++i) p[i] = N{};
          for (int64_t i = 0; i < j; ++i) r[i * m + j] = h[i * m + j] = N{};
          factors[j] = 1;
          continue;
        }
        subtract_rows<1>(p, r + j * m + j + 1, g + (j + 1) * length, m - j - 1, length);
        subtract_rows<1>(p, h + j * m + j + 1, basis + (j + 1) * length, m - j - 1, length);
        w.normalize(vj, &factors[j]);
        std::copy(vj, vj + length, pair);
        std::copy(p, p + length, pair + length);
        dots<2>(basis, j + 1, pair, length, rh);
        for (int64_t i = 0; i < j; ++i) {
          r[i * m + j] = conjugate(rh[2 * i]);
          h[i * m + j] = conjugate(rh[2 * i + 1]);
          s[i] = rh[2 * i + 1];
        }
        const N rjj = rh[2 * j];
        const T inverse = 1 / real_part(rjj);
        s[j] = Make<N>::real(real_part(rh[2 * j + 1]));
        if (j == d - 1 && std::is_same_v<T, N>) {
          for (int64_t i = 0; i < d; ++i) p[i] = N{};  // a last direction can't turn
        } else {
          subtract_rows<1>(p, s, basis, j + 1, length);
          for (int64_t i = 0; i < d; ++i) p[i] = scale(p[i], inverse);
        }
        if (!coupled) continue;
        for (int64_t i = 0; i < d; ++i) {
          rest[i] = vj[i] - rjj * qj[i];
          along[i] = N{};
          for (int64_t l = 0; l < j; ++l) along[i] = along[i] + scale(s[l], inverse) * basis[l * length + i];
        }
        for (int64_t l = 0; l < j; ++l) {
          const N by = scale(h[l * m + j], inverse);
          for (int64_t i = 0; i < d; ++i) {
            g[l * length + i] = g[l * length + i] - r[l * m + j] * along[i] - by * rest[i];
          }
        }
      }
      for (int64_t j = 0; j < m; ++j) {
        for (int64_t i = 0; i < d; ++i) g[j * length + i] = scale(g[j * length + i], factors[j]);
      }
      w.write(g, grad_v + row * entries);
    }
  });
}

}  // namespace lps::cpu
