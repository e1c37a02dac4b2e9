// The device's Executor: a warp and a lane are the thread's own, lockstep is the hardware's.
#pragma once

#include "babelrs/layerwise_block.hpp"

namespace babelrs {

struct DeviceExecutor {
  template <class T>
  struct Lanes {
    T value;
    __device__ __forceinline__ T& of(int) { return value; }
    __device__ __forceinline__ const T& of(int) const { return value; }
  };

  template <class Function>
  __device__ __forceinline__ void for_each_warp(Function function) const {
    function(static_cast<int>(threadIdx.x) / kWarpSize);
  }
  template <class Function>
  __device__ __forceinline__ void for_each_lane(Function function) const {
    function(static_cast<int>(threadIdx.x) % kWarpSize);
  }
  __device__ __forceinline__ void sum(Lanes<float>& lanes) const {
    BABELRS_UNROLL
    for (int offset = kWarpSize / 2; offset > 0; offset /= 2) {
      lanes.value += __shfl_xor_sync(0xffffffffu, lanes.value, offset);
    }
  }
  __device__ __forceinline__ float read_once(const float* address) const { return __ldg(address); }
  __device__ __forceinline__ void warp_barrier() const { __syncwarp(); }
  __device__ __forceinline__ void block_barrier() const { __syncthreads(); }

#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
  __device__ __forceinline__ void copy(unsigned char* to, const unsigned char* from, int bytes) const {
    const auto address = static_cast<unsigned>(__cvta_generic_to_shared(to));
    if (bytes == kChunkBytes) {
      asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(address), "l"(from) : "memory");
    } else {
      asm volatile("cp.async.ca.shared.global [%0], [%1], 8;" ::"r"(address), "l"(from) : "memory");
    }
  }
  __device__ __forceinline__ void commit() const { asm volatile("cp.async.commit_group;" ::: "memory"); }
  // The number is part of the instruction; waiting for more than asked is safe.
  __device__ __forceinline__ void wait(int pending) const {
    switch (pending) {
      case 0: asm volatile("cp.async.wait_group 0;" ::: "memory"); break;
      case 1: asm volatile("cp.async.wait_group 1;" ::: "memory"); break;
      case 2: asm volatile("cp.async.wait_group 2;" ::: "memory"); break;
      case 3: asm volatile("cp.async.wait_group 3;" ::: "memory"); break;
      case 4: asm volatile("cp.async.wait_group 4;" ::: "memory"); break;
      case 5: asm volatile("cp.async.wait_group 5;" ::: "memory"); break;
      case 6: asm volatile("cp.async.wait_group 6;" ::: "memory"); break;
      default: asm volatile("cp.async.wait_group 7;" ::: "memory"); break;
    }
  }
#else
  __device__ __forceinline__ void copy(unsigned char* to, const unsigned char* from, int bytes) const {
    if (bytes == kChunkBytes) {
      *reinterpret_cast<uint4*>(to) = __ldg(reinterpret_cast<const uint4*>(from));
    } else {
      *reinterpret_cast<uint2*>(to) = __ldg(reinterpret_cast<const uint2*>(from));
    }
  }
  __device__ __forceinline__ void commit() const {}
  __device__ __forceinline__ void wait(int) const {}
#endif
};

}  // namespace babelrs
