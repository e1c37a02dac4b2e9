// The CUDA kernel behind a launch that needs no Python and no PyTorch: the TensorRT plugin calls it as well.
#pragma once

#include <cuda_runtime_api.h>

#include "babelrs/layerwise.hpp"

namespace babelrs {

// What `device` allows; an error of the runtime is returned, not thrown.
cudaError_t device_limits(int device, DeviceLimits& limits);

// Enqueues the aggregation on `stream` of the current device. The problem is checked (see check.hpp). Returns
// cudaErrorInvalidConfiguration where one token does not fit shared memory, cudaErrorNotSupported for a pair of types
// that has no kernel, and whatever the launch returns.
cudaError_t launch_layerwise(const LayerwiseProblem& problem, NumberType in, NumberType out, const DeviceLimits& limits,
                             cudaStream_t stream);

}  // namespace babelrs
