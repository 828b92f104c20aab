// Loops over torch's own threads: torch.set_num_threads rules, and a forked child, whose pool did not survive, runs
// alone.
#pragma once

#include <pthread.h>

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <vector>

#include "tensor.h"

namespace lps::cpu {

inline std::atomic<bool> forked{false};
inline const int fork_handler = pthread_atfork(nullptr, nullptr, [] { forked = true; });

// body(begin, end) over [0, count) in pieces of at least `grain`.
template <class Body>
void parallel_for(int64_t count, int64_t grain, const Body& body) {
  if (count <= 0) return;
  if (count <= grain || forked.load(std::memory_order_relaxed)) {
    body(int64_t{0}, count);
  } else {
    torch::stable::parallel_for(0, count, std::max<int64_t>(grain, 1), body);
  }
}

// How many items make a piece worth a thread, at `work` nanoseconds or so an item.
inline int64_t grain_for(double work) {
  return std::max<int64_t>(1, static_cast<int64_t>(10000.0 / std::max(work, 1e-3)));
}

// A thread's own, kept between calls: buffers fresh from the system cost a page fault each 4 KB, more than a small op.
template <class Buffers>
Buffers& workspace() {
  static thread_local Buffers buffers;
  return buffers;
}

// num_nodes of row b, between 0 and n.
inline int64_t count_nodes(const int64_t* num_nodes, int64_t b, int64_t n) {
  return num_nodes ? std::min(std::max<int64_t>(num_nodes[b], 0), n) : n;
}

inline uint64_t seed_of(const char* op, const Tensor& seed) {
  STD_TORCH_CHECK(seed.numel() == 1 && seed.scalar_type() == ScalarType::Long, op, ": expected a seed (1,) int64");
  return static_cast<uint64_t>(*in<int64_t>(seed));
}

}  // namespace lps::cpu
