// soft_sort: a stable sort by descending score with random ties, and the Sinkhorn scalings of its relaxation.
#include "cpu/ops.h"
#include "cpu/permute.h"
#include "cpu/sinkhorn.h"
#include "cpu/sort_scores.h"

namespace lps::cpu {

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

// Rows [row, row + count): one of the groups of a Sinkhorn, that from `first + g kLanes` on, or nothing.
template <class T>
struct Group {
  int64_t row, count;
  Vec<T> counts;

  Group(int64_t first, int64_t end, int g, const int64_t* nodes, int64_t k, int64_t n)
      : row(std::min(first + g * kLanes<T>, end)),
        count(std::min<int64_t>(kLanes<T>, end - row)),
        counts(lane_counts<T>(nodes, row, count, k, n)) {}
};

// t of a group's rows; what is returned counts the nodes of those that have a soft part.
template <class T>
Vec<T> normalize_rows(const Group<T>& group, const T* z, const int64_t* perm, int64_t n, const Options& options, T* t) {
  Vec<T> alive{};
  for (int64_t lane = 0; lane < group.count; ++lane) {
    const int64_t row = group.row + lane, valid = static_cast<int64_t>(group.counts[lane]);
    const Norm<T> norm(z + row * n, valid, options.normalize);
    const T bad = options.soft ? T(0) : std::numeric_limits<T>::quiet_NaN();
    alive[lane] = norm.finite ? group.counts[lane] : T(0);
    T* to = t + row * n;
    const int64_t* order = perm + row * n;
    if (norm.finite) {
      for (int64_t r = 0; r < valid; ++r) to[r] = static_cast<T>(z[row * n + order[r]] * norm.scale);
    } else {
      std::fill_n(to, valid, bad);
    }
    std::fill(to + valid, to + n, T(0));
  }
  return alive;
}

template <int kGroups, class T>
void soft_sort_rows(const T* z, int64_t rows, int64_t k, int64_t n, const int64_t* nodes, uint64_t seed,
                    const Options& options, int64_t* perm, T* t, T* row_out, T* col_out) {
  const double work = n * (15.0 + (options.soft ? 1.0 * options.n_iter : 0.0));
  for_groups<T>(rows, work, [&](int64_t begin, int64_t end) {
    sort_scores(z, perm, begin, end, n, k, nodes, seed);
    auto& sinkhorn = workspace<Sinkhorn<T, kGroups>>();
    std::vector<Vec<T>> lanes(n);
    for (int64_t first = begin; first < end; first += kGroups * kLanes<T>) {
      Vec<T> alive[kGroups];
      for (int g = 0; g < kGroups; ++g) {
        const Group<T> group(first, end, g, nodes, k, n);
        alive[g] = normalize_rows(group, z, perm, n, options, t);
        if (!options.soft) continue;
        to_lanes(t + group.row * n, group.count, n, n, lanes.data());
        sinkhorn.decays[g].build(lanes.data(), group.counts, n, options.tau);
      }
      if (!options.soft) continue;
      sinkhorn.forward(n, options.n_iter, false);
      for (int g = 0; g < kGroups; ++g) {
        const Group<T> group(first, end, g, nodes, k, n);
        const auto write = [&](const Vec<T>* from, T* to) {
          for (int64_t i = 0; i < n; ++i) lanes[i] = before<T>(i, alive[g]) ? from[i * kGroups + g] : splat<T>(0);
          from_lanes(lanes.data(), group.count, n, n, to + group.row * n);
        };
        write(sinkhorn.row(n, options.n_iter, false), row_out);
        write(sinkhorn.col(n, options.n_iter, false), col_out);
      }
    }
  });
}

template <class T>
struct Gradients {
  const T *t, *row, *col;
};

// Adds `grad`, that of t through row and col, to the one of t itself, and takes both to the scores.
template <class T>
void scores_gradient(const Group<T>& group, const T* z, const int64_t* perm, const T* t, const T* grad_t, int64_t n,
                     const Options& options, T* grad, T* grad_z) {
  for (int64_t lane = 0; lane < group.count; ++lane) {
    const int64_t at = (group.row + lane) * n, valid = static_cast<int64_t>(group.counts[lane]);
    const Norm<T> norm(z + at, valid, options.normalize);
    std::fill_n(grad_z + at, n, T(0));
    if (!norm.finite) continue;
    T* g = grad + lane * n;
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

// The iterates are computed again rather than stored: 2 n_iter n numbers a row cost more to write and read than to
// make.
template <int kGroups, class T>
void soft_sort_backward_rows(const T* z, int64_t rows, int64_t k, int64_t n, const int64_t* nodes,
                             const Options& options, const int64_t* perm, const T* t, const T* row, const T* col,
                             const Gradients<T>& gradients, T* grad_z) {
  const bool through = options.soft && options.n_iter > 0 && (gradients.row || gradients.col);
  const T tau = static_cast<T>(options.tau);
  for_groups<T>(rows, n * (4.0 + (through ? 3.0 * options.n_iter : 0.0)), [&](int64_t begin, int64_t end) {
    auto& sinkhorn = workspace<Sinkhorn<T, kGroups>>();
    std::vector<Vec<T>> lanes(n), rho(n * kGroups), kap(n * kGroups);
    std::vector<T> grad(n * kLanes<T>);
    for (int64_t first = begin; first < end; first += kGroups * kLanes<T>) {
      for (int g = 0; through && g < kGroups; ++g) {
        const Group<T> group(first, end, g, nodes, k, n);
        const int64_t at = group.row * n;
        const auto read = [&](const T* gradient, const T* scaling, Vec<T>* to) {
          for (int64_t i = 0; i < n; ++i) to[i * kGroups + g] = splat<T>(0);
          if (!gradient) return;
          to_lanes(gradient + at, group.count, n, n, to + g, kGroups);
          to_lanes(scaling + at, group.count, n, n, lanes.data());
          for (int64_t i = 0; i < n; ++i) to[i * kGroups + g] *= lanes[i];
        };
        read(gradients.row, row, rho.data());
        read(gradients.col, col, kap.data());
        to_lanes(t + at, group.count, n, n, lanes.data());
        sinkhorn.decays[g].build(lanes.data(), group.counts, n, options.tau);
      }
      if (through) {
        sinkhorn.forward(n, options.n_iter, true);
        sinkhorn.sig.assign(n * kGroups, splat<T>(0));
        sinkhorn.backward(rho.data(), kap.data(), n, options.n_iter);
      }
      for (int g = 0; g < kGroups; ++g) {
        const Group<T> group(first, end, g, nodes, k, n);
        std::fill(grad.begin(), grad.end(), T(0));
        if (through) from_lanes(sinkhorn.sig.data() + g, group.count, n, n, grad.data(), kGroups);
        for (T& value : grad) value /= tau;
        scores_gradient(group, z, perm, t, gradients.t, n, options, grad.data(), grad_z);
      }
    }
  });
}

// Calls body(groups): two side by side where rows fit into one block of the scans.
template <class Body>
void with_groups(int64_t n, const Body& body) {
  if (n <= kBlock) {
    body(std::integral_constant<int, 2>());
  } else {
    body(std::integral_constant<int, 1>());
  }
}

static Tensor to_compute(const Tensor& x) {
  const ScalarType wanted = compute_dtype(x.scalar_type());
  return dense(x.scalar_type() == wanted ? x : torch::stable::to(x, wanted));
}

static void check_scores(const Tensor& scores, const OptionalTensor& num_nodes, double tau, int64_t n_iter) {
  STD_TORCH_CHECK(scores.dim() == 3, "soft_sort: expected scores of shape (b, k, n)");
  check_nodes("soft_sort", num_nodes, scores.size(0));
  STD_TORCH_CHECK(tau > 0 && n_iter >= 0, "soft_sort: expected tau > 0 and n_iter >= 0");
  STD_TORCH_CHECK(scores.size(2) < INT32_MAX, "soft_sort: expected n below 2^31");
}

std::tuple<Tensor, Tensor, Tensor, Tensor> soft_sort(Tensor scores, Tensor seed, OptionalTensor num_nodes, double tau,
                                                     int64_t n_iter, bool normalize, bool soft) {
  check_scores(scores, num_nodes, tau, n_iter);
  scores = to_compute(scores);
  num_nodes = dense(num_nodes);
  const int64_t b = scores.size(0), k = scores.size(1), n = scores.size(2);
  Tensor perm = empty(scores, {b, k, n}, ScalarType::Long), t = empty(scores, {b, k, n});
  Tensor row = empty(scores, {b, k, soft ? n : 0}), col = empty(scores, {b, k, soft ? n : 0});
  const uint64_t key = seed_of("soft_sort", seed);
  const Options options{tau, n_iter, normalize, soft};
  floating_switch(scores.scalar_type(), "soft_sort", [&](auto type) {
    using T = Compute<typename decltype(type)::type>;
    with_groups(n, [&](auto groups) {
      soft_sort_rows<groups.value>(in<T>(scores), b * k, k, n, in<int64_t>(num_nodes), key, options, out<int64_t>(perm),
                                   out<T>(t), out<T>(row), out<T>(col));
    });
  });
  return {perm, t, row, col};
}

Tensor soft_sort_backward(OptionalTensor, OptionalTensor grad_t, OptionalTensor grad_row, OptionalTensor grad_col,
                          Tensor scores, Tensor, OptionalTensor num_nodes, double tau, int64_t n_iter, bool normalize,
                          bool soft, Tensor perm, Tensor t, Tensor row, Tensor col, int64_t needs) {
  check_scores(scores, num_nodes, tau, n_iter);
  const ScalarType dtype = scores.scalar_type();
  if (needs == 0) return empty(scores, {0});
  check_gradient("soft_sort_backward", grad_t, t, t.numel());
  check_gradient("soft_sort_backward", grad_row, row, row.numel());
  check_gradient("soft_sort_backward", grad_col, col, col.numel());
  scores = to_compute(scores);
  num_nodes = dense(num_nodes);
  grad_t = dense(grad_t), grad_row = dense(grad_row), grad_col = dense(grad_col);
  perm = dense(perm), t = dense(t), row = dense(row), col = dense(col);
  const int64_t b = scores.size(0), k = scores.size(1), n = scores.size(2), count = scores.numel();
  const auto fits = [&](const Tensor& x, ScalarType type, int64_t size) {
    return x.numel() == size && x.scalar_type() == type;
  };
  const ScalarType wide = scores.scalar_type();
  const int64_t kept = soft ? count : 0;
  STD_TORCH_CHECK(fits(perm, ScalarType::Long, count) && fits(t, wide, count) && fits(row, wide, kept) &&
                      fits(col, wide, kept) && in_range(in<int64_t>(perm), count, n),
                  "soft_sort_backward: expected perm, t, row and col as soft_sort gave them");
  Tensor grad = empty(scores, {b, k, n});
  const Options options{tau, n_iter, normalize, soft};
  floating_switch(scores.scalar_type(), "soft_sort_backward", [&](auto type) {
    using T = Compute<typename decltype(type)::type>;
    const Gradients<T> gradients{in<T>(grad_t), in<T>(grad_row), in<T>(grad_col)};
    with_groups(n, [&](auto groups) {
      soft_sort_backward_rows<groups.value>(in<T>(scores), b * k, k, n, in<int64_t>(num_nodes), options,
                                            in<int64_t>(perm), in<T>(t), in<T>(row), in<T>(col), gradients,
                                            out<T>(grad));
    });
  });
  return dtype == grad.scalar_type() ? grad : torch::stable::to(grad, dtype);
}

}  // namespace lps::cpu

STABLE_TORCH_LIBRARY_IMPL(lps_kernels, CPU, m) {
  m.impl("soft_sort", TORCH_BOX(&lps::cpu::soft_sort));
  m.impl("soft_sort_backward", TORCH_BOX(&lps::cpu::soft_sort_backward));
}
