// What every launcher shares: the device and stream of its tensors, sizes of grids, and errors that name the kernel.
#pragma once

#include <cuda_runtime.h>
#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/accelerator.h>

#include "tensor.h"

// Exported by torch's CUDA libraries; its header declares it where torch itself was built for CUDA.
extern "C" AOTI_TORCH_EXPORT AOTITorchError aoti_torch_get_current_cuda_stream(int32_t device_index, void** ret_stream);

namespace lps::cuda {

using torch::stable::accelerator::DeviceGuard;

// The grid's first axis holds 2^31 - 1 blocks, the others 65,535: kernels use the first alone and unfold it.
constexpr int64_t kMaxBlocks = INT32_MAX;
constexpr int kWarp = 32;
// Shared memory that a block gets without asking, its static part included; dynamic memory below kUnasked leaves room
// for that of any kernel here.
constexpr size_t kPlainShared = 48 << 10, kUnasked = 8 << 10;

inline int64_t blocks(int64_t work, int64_t per_block) {
  return (work + per_block - 1) / per_block;
}

// The current stream of a device.
inline cudaStream_t stream(int32_t device) {
  void* result = nullptr;
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(device, &result));
  return static_cast<cudaStream_t>(result);
}

inline void check_launch(cudaError_t error, const char* kernel, int64_t grid, int threads, size_t shared) {
  STD_TORCH_CHECK(error == cudaSuccess, kernel, ": launch of ", grid, " blocks of ", threads, " threads with ", shared,
                  " bytes of shared memory failed: ", cudaGetErrorString(error));
}

inline bool on_device(const Tensor& x, int32_t device) {
  return x.is_cuda() && x.get_device_index() == device;
}
inline bool on_device(const OptionalTensor& x, int32_t device) {
  return !x || on_device(*x, device);
}

// All of `tensors` lie on the device of the first, or what a kernel reads would be another device's memory.
template <class... Tensors>
void check_same_device(const char* op, const Tensor& first, const Tensors&... tensors) {
  const bool same = (on_device(tensors, first.get_device_index()) && ...);
  STD_TORCH_CHECK(first.is_cuda() && same, op, ": expected all tensors on one CUDA device");
}

// The most shared memory that a block may ask for on the device of x.
inline size_t most_shared(const Tensor& x) {
  int bytes = 0;
  const cudaError_t error =
      cudaDeviceGetAttribute(&bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, static_cast<int>(x.get_device_index()));
  STD_TORCH_CHECK(error == cudaSuccess, "cudaDeviceGetAttribute: ", cudaGetErrorString(error));
  return static_cast<size_t>(bytes);
}

// kernel<<<grid, threads, shared>>>(args...) on the device of `on` and its current stream.
template <class... Parameters, class... Args>
void launch(const char* name, void (*kernel)(Parameters...), const Tensor& on, int64_t grid, int threads, size_t shared,
            Args... args) {
  if (grid == 0) return;
  STD_TORCH_CHECK(grid <= kMaxBlocks, name, ": expected work for at most ", kMaxBlocks, " blocks, got ", grid);
  const int32_t device = static_cast<int32_t>(on.get_device_index());
  const DeviceGuard guard(device);
  if (shared > kUnasked) {
    const size_t most = most_shared(on);
    STD_TORCH_CHECK(shared <= most, name, ": needs ", shared, " bytes of shared memory a block, cuda:", device,
                    " gives ", most, " at most; backend='reference' has no such limit");
    const cudaError_t error =
        cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(shared));
    check_launch(error, name, grid, threads, shared);
  }
  kernel<<<static_cast<unsigned>(grid), static_cast<unsigned>(threads), shared, stream(device)>>>(
      static_cast<Parameters>(args)...);
  check_launch(cudaGetLastError(), name, grid, threads, shared);
}

// How many nodes of a graph are real, and no more than there are.
template <class Int>
__device__ __forceinline__ Int count_nodes(const int64_t* num_nodes, int64_t graph, Int n) {
  if (num_nodes == nullptr) return n;
  const int64_t count = num_nodes[graph];
  return count < 0 ? 0 : count < n ? static_cast<Int>(count) : n;
}

}  // namespace lps::cuda
