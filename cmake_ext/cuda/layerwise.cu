#include "babelrs/dispatch.hpp"
#include "babelrs/layerwise_cuda.hpp"
#include "layerwise.cuh"

namespace babelrs {
namespace {

template <class In, class Out, bool Whole>
__global__ void __launch_bounds__(kThreads, 1)
    aggregate_kernel(const __grid_constant__ LayerwiseProblem problem, const __grid_constant__ LayerwisePlan plan) {
  extern __shared__ __align__(128) unsigned char shared[];
  DeviceExecutor executor;
  Block<DeviceExecutor, In, Out, Whole> block(executor, problem, plan, shared);
  block.run(static_cast<int>(blockIdx.x), static_cast<int>(gridDim.x));
}

template <class In, class Out, bool Whole>
cudaError_t launch(const LayerwiseProblem& problem, LayerwisePlan plan, const DeviceLimits& limits,
                   cudaStream_t stream) {
  const auto kernel = aggregate_kernel<In, Out, Whole>;
  cudaError_t status = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, plan.shared_bytes);
  if (status != cudaSuccess) return status;
  int resident = 0;
  status = cudaOccupancyMaxActiveBlocksPerMultiprocessor(&resident, kernel, kThreads, plan.shared_bytes);
  if (status != cudaSuccess) return status;
  const int room = resident * limits.multiprocessors;
  plan.blocks = plan.tiles < room ? plan.tiles : room;
  kernel<<<plan.blocks, kThreads, plan.shared_bytes, stream>>>(problem, plan);
  return cudaGetLastError();
}

}  // namespace

cudaError_t device_limits(int device, DeviceLimits& limits) {
  int major = 0;
  cudaError_t status = cudaDeviceGetAttribute(&limits.shared_bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, device);
  if (status != cudaSuccess) return status;
  status = cudaDeviceGetAttribute(&limits.multiprocessors, cudaDevAttrMultiProcessorCount, device);
  if (status != cudaSuccess) return status;
  status = cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device);
  limits.asynchronous = major >= 8;
  return status;
}

cudaError_t launch_layerwise(const LayerwiseProblem& problem, NumberType in, NumberType out, const DeviceLimits& limits,
                             cudaStream_t stream) {
  LayerwisePlan plan{};
  if (!make_plan(problem, in, out, limits, plan)) return cudaErrorInvalidConfiguration;
  cudaError_t status = cudaErrorNotSupported;
  const bool known = visit_types(in, out, [&](auto pair) {
    using Pair = decltype(pair);
    using In = typename Pair::Input;
    using Out = typename Pair::Output;
    status = plan.store_bits == 4 ? launch<In, Out, true>(problem, plan, limits, stream)
                                  : launch<In, Out, false>(problem, plan, limits, stream);
  });
  return known ? status : cudaErrorNotSupported;
}

}  // namespace babelrs
