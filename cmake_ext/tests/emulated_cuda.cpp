// What the plugin calls of CUDA and of the kernel, on the CPU: with it the plugin's enqueue runs where there is no GPU.
#include "emulated_cuda.hpp"

#include <cuda_runtime_api.h>

#include "babelrs/layerwise_cuda.hpp"
#include "babelrs/layerwise_host.hpp"

cudaError_t cudaGetDevice(int* device) {
  *device = 3;
  return cudaSuccess;
}

const char* cudaGetErrorString(cudaError_t status) {
  return status == cudaErrorInvalidResourceHandle ? "emulated: wrong stream" : "emulated: failure";
}

namespace babelrs {

cudaError_t device_limits(int device, DeviceLimits& limits) {
  if (device != 3) return cudaErrorInvalidDevice;
  limits = {163 * 1024, 2, true};
  return cudaSuccess;
}

cudaError_t launch_layerwise(const LayerwiseProblem& problem, NumberType in, NumberType out, const DeviceLimits& limits,
                             cudaStream_t stream) {
  if (stream != emulated_stream()) return cudaErrorInvalidResourceHandle;
  return emulate_blocks(problem, in, out, limits) ? cudaSuccess : cudaErrorInvalidConfiguration;
}

}  // namespace babelrs
