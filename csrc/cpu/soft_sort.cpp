// soft_sort: a stable sort by descending score with random ties, and the Sinkhorn scalings of its relaxation.
#include "core/philox.h"
#include "cpu/ops.h"
#include "cpu/parallel.h"
#include "cpu/sinkhorn.h"
#include "cpu/sort.h"

namespace lps::cpu {

// Keys that ascend as scores descend: NaN behind -inf, padding last. Equal scores, -0 and 0 too, have equal keys.
constexpr int64_t kPadding32 = INT32_MAX, kNan32 = INT32_MAX - 1;

LPS_FN int64_t descending_key(float z) {
  int32_t bits;
  z += 0.0f;
  std::memcpy(&bits, &z, sizeof(bits));
  return z != z ? kNan32 : ~(bits ^ ((bits >> 31) & INT32_MAX));
}

LPS_FN int64_t descending_key(double z) {
  int64_t bits;
  z += 0.0;
  std::memcpy(&bits, &z, sizeof(bits));
  return z != z ? INT64_MAX - 1 : ~(bits ^ ((bits >> 63) & INT64_MAX));
}

// Orders each group of equal scores among the first `valid` by its random words.
template <class T>
void shuffle_ties(const T* z, int64_t* perm, int64_t valid, uint64_t seed, int64_t row) {
  const auto word = [&](int64_t i) { return philox(seed, static_cast<uint32_t>(i / 4), row, kTies).w[i % 4]; };
  std::vector<std::pair<uint32_t, int64_t>> group;
  for (int64_t first = 0; first < valid;) {
    int64_t stop = first + 1;
    const int64_t key = descending_key(z[perm[first]]);
    while (stop < valid && descending_key(z[perm[stop]]) == key) ++stop;
    if (stop > first + 1) {
      group.clear();
      for (int64_t r = first; r < stop; ++r) group.emplace_back(word(perm[r]), perm[r]);
      std::sort(group.begin(), group.end());
      for (int64_t r = first; r < stop; ++r) perm[r] = group[r - first].second;
    }
    first = stop;
  }
}

inline void sort_scores(const float* z, int64_t* perm, int64_t begin, int64_t end, int64_t n, int64_t k,
                        const int64_t* nodes, uint64_t seed) {
  sort_rows(
      begin, end, n, 32,
      [&](int64_t row, int64_t* at, int64_t stride) {
        const int64_t valid = count_nodes(nodes, row / k, n);
        const float* zr = z + row * n;
        for (int64_t i = 0; i < n; ++i)
          at[i * stride] = (i < valid ? descending_key(zr[i]) : kPadding32) * (int64_t{1} << 32) + i;
      },
      [&](int64_t row, const int64_t* at, int64_t stride) {
        int64_t* result = perm + row * n;
        bool tied = false;
        for (int64_t i = 0; i < n; ++i) {
          result[i] = at[i * stride] & 0xFFFFFFFF;
          tied |= i > 0 && at[i * stride] >> 32 == at[(i - 1) * stride] >> 32;
        }
        if (tied) shuffle_ties(z + row * n, result, count_nodes(nodes, row / k, n), seed, row);
      });
}

inline void sort_scores(const double* z, int64_t* perm, int64_t begin, int64_t end, int64_t n, int64_t k,
                        const int64_t* nodes, uint64_t seed) {
  std::vector<std::pair<int64_t, int64_t>> keys(n);
  for (int64_t row = begin; row < end; ++row) {
    const int64_t valid = count_nodes(nodes, row / k, n);
    for (int64_t i = 0; i < n; ++i) keys[i] = {i < valid ? descending_key(z[row * n + i]) : INT64_MAX, i};
    std::sort(keys.begin(), keys.begin() + valid);
    for (int64_t i = 0; i < n; ++i) perm[row * n + i] = keys[i].second;
    shuffle_ties(z + row * n, perm + row * n, valid, seed, row);
  }
}

// What normalizes a row: t = z scale with scale = 1 / max(|z|, 1e-6), in double, where no norm overflows or vanishes.
template <class T>
struct Norm {
  double scale = 1;
  bool finite = true;
  bool clamped = false;  // the norm was below 1e-6: a constant of the gradient

  Norm(const T* z, int64_t valid, bool normalize) {
    using V = Vec<T>;
    constexpr int64_t lanes = kLanes<T>;
    V largest_of{}, poison_of{};
    int64_t i = 0;
    for (; i + lanes <= valid; i += lanes) {
      const V v = load(z + i), size = v < T(0) ? -v : v;
      largest_of = size > largest_of ? size : largest_of;
      poison_of += v - v;  // NaN if one is NaN or inf
    }
    T largest = 0, poison = 0;
    for (int64_t lane = 0; lane < lanes; ++lane) {
      largest = std::max(largest, largest_of[lane]);
      poison += poison_of[lane];
    }
    for (; i < valid; ++i) {
      largest = std::max(largest, std::abs(z[i]));
      poison += z[i] - z[i];
    }
    finite = poison == 0;
    if (!normalize || !finite) return;
    const double unit = largest > 0 ? 1.0 / static_cast<double>(largest) : 0.0;
    double parts[4] = {};
    for (i = 0; i < valid; ++i) parts[i % 4] += (z[i] * unit) * (z[i] * unit);
    const double norm = std::sqrt((parts[0] + parts[1]) + (parts[2] + parts[3]));
    clamped = !(norm > 1e-6 * unit);
    scale = clamped ? 1e6 : unit / norm;
  }
};

struct Options {
  double tau;
  int64_t n_iter;
  bool normalize, soft;
};

template <class T>
void soft_sort_rows(const T* z, int64_t rows, int64_t k, int64_t n, const int64_t* nodes, uint64_t seed,
                    const Options& options, int64_t* perm, T* t, T* row_out, T* col_out) {
  const double work = n * (15.0 + (options.soft ? 1.0 * options.n_iter : 0.0));
  for_groups<T>(rows, work, [&](int64_t begin, int64_t end) {
    sort_scores(z, perm, begin, end, n, k, nodes, seed);
    Sinkhorn<T>& sinkhorn = workspace<Sinkhorn<T>>();
    std::vector<Vec<T>> scores(n), scalings(n);
    for (int64_t first = begin; first < end; first += kLanes<T>) {
      const int64_t count = std::min<int64_t>(kLanes<T>, end - first);
      const Vec<T> counts = lane_counts<T>(nodes, first, count, k, n);
      Vec<T> alive{};
      for (int64_t lane = 0; lane < count; ++lane) {
        const int64_t row = first + lane, valid = static_cast<int64_t>(counts[lane]);
        const Norm<T> norm(z + row * n, valid, options.normalize);
        const T bad = options.soft ? T(0) : std::numeric_limits<T>::quiet_NaN();
        alive[lane] = norm.finite ? counts[lane] : T(0);
        T* to = t + row * n;
        const int64_t* order = perm + row * n;
        if (norm.finite) {
          for (int64_t r = 0; r < valid; ++r) to[r] = static_cast<T>(z[row * n + order[r]] * norm.scale);
        } else {
          std::fill_n(to, valid, bad);
        }
        std::fill(to + valid, to + n, T(0));
      }
      if (!options.soft) continue;
      to_lanes(t + first * n, count, n, n, scores.data());
      sinkhorn.decays.build(scores.data(), counts, n, options.tau);
      sinkhorn.forward(n, options.n_iter, false);
      const auto write = [&](const Vec<T>* from, T* to) {
        for (int64_t i = 0; i < n; ++i) scalings[i] = before<T>(i, alive) ? from[i] : splat<T>(0);
        from_lanes(scalings.data(), count, n, n, to + first * n);
      };
      write(sinkhorn.row(n, options.n_iter, false), row_out);
      write(sinkhorn.col(n, options.n_iter, false), col_out);
    }
  });
}

// The iterates are computed again rather than stored: 2 n_iter n numbers a row cost more to write and read than to
// make.
template <class T>
void soft_sort_backward_rows(const T* z, int64_t rows, int64_t k, int64_t n, const int64_t* nodes,
                             const Options& options, const int64_t* perm, const T* t, const T* row, const T* col,
                             const T* grad_t, const T* grad_row, const T* grad_col, T* grad_z) {
  const bool through = options.soft && options.n_iter > 0 && (grad_row || grad_col);
  const T tau = static_cast<T>(options.tau);
  for_groups<T>(rows, n * (4.0 + (through ? 3.0 * options.n_iter : 0.0)), [&](int64_t begin, int64_t end) {
    Sinkhorn<T>& sinkhorn = workspace<Sinkhorn<T>>();
    std::vector<Vec<T>> scores(n), rho(n), kap(n);
    std::vector<T> grad(n * kLanes<T>);
    for (int64_t first = begin; first < end; first += kLanes<T>) {
      const int64_t count = std::min<int64_t>(kLanes<T>, end - first);
      const Vec<T> counts = lane_counts<T>(nodes, first, count, k, n);
      std::fill(grad.begin(), grad.end(), T(0));
      if (through) {
        const auto read = [&](const T* gradient, const T* scaling, Vec<T>* to) {
          std::fill_n(to, n, splat<T>(0));
          if (!gradient) return;
          to_lanes(gradient + first * n, count, n, n, to);
          to_lanes(scaling + first * n, count, n, n, scores.data());
          for (int64_t i = 0; i < n; ++i) to[i] *= scores[i];
        };
        read(grad_row, row, rho.data());
        read(grad_col, col, kap.data());
        to_lanes(t + first * n, count, n, n, scores.data());
        sinkhorn.decays.build(scores.data(), counts, n, options.tau);
        sinkhorn.forward(n, options.n_iter, true);
        sinkhorn.sig.assign(n, splat<T>(0));
        sinkhorn.backward(rho.data(), kap.data(), n, options.n_iter);
        from_lanes(sinkhorn.sig.data(), count, n, n, grad.data());
        for (T& g : grad) g /= tau;
      }
      for (int64_t lane = 0; lane < count; ++lane) {
        const int64_t at = (first + lane) * n, valid = static_cast<int64_t>(counts[lane]);
        const Norm<T> norm(z + at, valid, options.normalize);
        std::fill_n(grad_z + at, n, T(0));
        if (!norm.finite) continue;
        T* g = grad.data() + lane * n;
        T along = 0;
        for (int64_t r = 0; r < valid; ++r) {
          if (grad_t) g[r] += grad_t[at + r];
          along += t[at + r] * g[r];
        }
        if (!options.normalize || norm.clamped) along = 0;
        for (int64_t r = 0; r < valid; ++r) {
          grad_z[at + perm[at + r]] = static_cast<T>((g[r] - t[at + r] * along) * norm.scale);
        }
      }
    }
  });
}

static Tensor to_compute(const Tensor& x) {
  const ScalarType wanted = compute_dtype(x.scalar_type());
  return dense(x.scalar_type() == wanted ? x : torch::stable::to(x, wanted));
}

static void check_scores(const Tensor& scores, const OptionalTensor& num_nodes, double tau, int64_t n_iter) {
  STD_TORCH_CHECK(scores.dim() == 3, "soft_sort: expected scores of shape (b, k, n)");
  STD_TORCH_CHECK(!num_nodes || num_nodes->numel() == scores.size(0), "soft_sort: expected num_nodes of shape (b,)");
  STD_TORCH_CHECK(tau > 0 && n_iter >= 0, "soft_sort: expected tau > 0 and n_iter >= 0");
  STD_TORCH_CHECK(scores.size(2) < INT32_MAX, "soft_sort: expected n below 2^31");
}

std::tuple<Tensor, Tensor, Tensor, Tensor> soft_sort(Tensor scores, Tensor seed, OptionalTensor num_nodes, double tau,
                                                     int64_t n_iter, bool normalize, bool soft) {
  check_scores(scores, num_nodes, tau, n_iter);
  STD_TORCH_CHECK(seed.numel() == 1, "soft_sort: expected a seed of one element");
  scores = to_compute(scores);
  num_nodes = dense(num_nodes);
  const int64_t b = scores.size(0), k = scores.size(1), n = scores.size(2);
  Tensor perm = empty(scores, {b, k, n}, ScalarType::Long), t = empty(scores, {b, k, n});
  Tensor row = empty(scores, {b, k, soft ? n : 0}), col = empty(scores, {b, k, soft ? n : 0});
  const uint64_t key = static_cast<uint64_t>(*in<int64_t>(seed));
  const Options options{tau, n_iter, normalize, soft};
  floating_switch(scores.scalar_type(), "soft_sort", [&](auto type) {
    using T = Compute<typename decltype(type)::type>;
    soft_sort_rows<T>(in<T>(scores), b * k, k, n, in<int64_t>(num_nodes), key, options, out<int64_t>(perm), out<T>(t),
                      out<T>(row), out<T>(col));
  });
  return {perm, t, row, col};
}

Tensor soft_sort_backward(OptionalTensor, OptionalTensor grad_t, OptionalTensor grad_row, OptionalTensor grad_col,
                          Tensor scores, Tensor, OptionalTensor num_nodes, double tau, int64_t n_iter, bool normalize,
                          bool soft, Tensor perm, Tensor t, Tensor row, Tensor col, int64_t needs) {
  check_scores(scores, num_nodes, tau, n_iter);
  const ScalarType dtype = scores.scalar_type();
  if (needs == 0) return empty(scores, {0});
  scores = to_compute(scores);
  num_nodes = dense(num_nodes);
  grad_t = dense(grad_t), grad_row = dense(grad_row), grad_col = dense(grad_col);
  perm = dense(perm), t = dense(t), row = dense(row), col = dense(col);
  const int64_t b = scores.size(0), k = scores.size(1), n = scores.size(2);
  Tensor grad = empty(scores, {b, k, n});
  const Options options{tau, n_iter, normalize, soft};
  floating_switch(scores.scalar_type(), "soft_sort_backward", [&](auto type) {
    using T = Compute<typename decltype(type)::type>;
    soft_sort_backward_rows<T>(in<T>(scores), b * k, k, n, in<int64_t>(num_nodes), options, in<int64_t>(perm), in<T>(t),
                               in<T>(row), in<T>(col), in<T>(grad_t), in<T>(grad_row), in<T>(grad_col), out<T>(grad));
  });
  return dtype == grad.scalar_type() ? grad : torch::stable::to(grad, dtype);
}

}  // namespace lps::cpu

STABLE_TORCH_LIBRARY_IMPL(lps_kernels, CPU, m) {
  m.impl("soft_sort", TORCH_BOX(&lps::cpu::soft_sort));
  m.impl("soft_sort_backward", TORCH_BOX(&lps::cpu::soft_sort_backward));
}
