// What lets csrc/core compile for the CPU and for a GPU. Neither torch nor a CUDA runtime is included here.
#pragma once

#if defined(__CUDACC__)
#define LPS_FN __host__ __device__ __forceinline__
#define LPS_RARE __host__ __device__ __forceinline__  // a call would put its arrays into memory
#define LPS_UNROLL(n) _Pragma("unroll")               // whole: what a thread indexes has to lie in registers
#else
#define LPS_FN inline __attribute__((always_inline))
#define LPS_RARE __attribute__((noinline, cold))
#define LPS_PRAGMA(text) _Pragma(#text)
#define LPS_UNROLL(n) LPS_PRAGMA(GCC unroll n)
#endif
