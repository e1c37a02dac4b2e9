#include <algorithm>
#include <cstring>
#include <exception>
#include <string>

#include "babelrs/aggregate.h"
#include "babelrs/check.hpp"
#include "babelrs/layerwise_host.hpp"
#if defined(BABELRS_WITH_CUDA)
#include "babelrs/layerwise_cuda.hpp"
#endif

namespace {

using babelrs::NumberType;

std::int32_t fail(std::int32_t code, const std::string& reason, char* message, std::size_t size) {
  if (message != nullptr && size > 0) {
    const std::size_t length = std::min(reason.size(), size - 1);
    std::memcpy(message, reason.data(), length);
    message[length] = '\0';
  }
  return code;
}

// Checks the call, runs it, and lets no exception out: run(problem, in, out, reason) gives a code.
template <class Run>
std::int32_t guarded(const babelrs_aggregate_call* call, char* message, std::size_t size, Run run) {
  try {
    if (call == nullptr) return fail(BABELRS_BAD_ARGUMENT, "call is null", message, size);
    babelrs::LayerwiseProblem problem;
    std::string reason = babelrs::check_call(*call, problem);
    if (!reason.empty()) return fail(BABELRS_BAD_ARGUMENT, reason, message, size);
    const auto in = static_cast<NumberType>(call->in_type), out = static_cast<NumberType>(call->out_type);
    const std::int32_t code = run(problem, in, out, reason);
    return code == BABELRS_OK ? code : fail(code, reason, message, size);
  } catch (const std::exception& error) {  // memory
    return fail(BABELRS_BAD_ARGUMENT, error.what(), message, size);
  }
}

#if defined(BABELRS_WITH_CUDA)
// The caller's device is current again when this goes.
class DeviceGuard {
 public:
  explicit DeviceGuard(int device) {
    status_ = cudaGetDevice(&before_);
    if (status_ == cudaSuccess && before_ != device) status_ = cudaSetDevice(device);
  }
  ~DeviceGuard() {
    if (before_ >= 0) static_cast<void>(cudaSetDevice(before_));
  }
  DeviceGuard(const DeviceGuard&) = delete;
  DeviceGuard& operator=(const DeviceGuard&) = delete;
  cudaError_t status() const { return status_; }

 private:
  int before_ = -1;
  cudaError_t status_;
};

cudaError_t launch_on(int device, const babelrs::LayerwiseProblem& problem, NumberType in, NumberType out,
                      cudaStream_t stream) {
  const DeviceGuard guard(device);
  if (guard.status() != cudaSuccess) return guard.status();
  babelrs::DeviceLimits limits{};
  const cudaError_t status = babelrs::device_limits(device, limits);
  return status != cudaSuccess ? status : babelrs::launch_layerwise(problem, in, out, limits, stream);
}
#endif

}  // namespace

extern "C" {

std::int32_t babelrs_aggregate_cpu(const babelrs_aggregate_call* call, char* message, std::size_t size) {
  return guarded(call, message, size, [](const auto& problem, NumberType in, NumberType out, std::string& reason) {
    if (babelrs::aggregate_on_cpu(problem, in, out)) return BABELRS_OK;
    reason = "in_type and out_type: this pair has no implementation";
    return BABELRS_BAD_ARGUMENT;
  });
}

std::int32_t babelrs_aggregate_emulated(const babelrs_aggregate_call* call, std::int32_t shared_bytes,
                                        std::int32_t multiprocessors, char* message, std::size_t size) {
  const babelrs::DeviceLimits limits{shared_bytes, multiprocessors, true};
  return guarded(call, message, size, [&](const auto& problem, NumberType in, NumberType out, std::string& reason) {
    if (babelrs::emulate_blocks(problem, in, out, limits)) return BABELRS_OK;
    reason = "one token of every tap does not fit " + std::to_string(shared_bytes) + " bytes of shared memory";
    return BABELRS_BAD_ARGUMENT;
  });
}

#if defined(BABELRS_WITH_CUDA)
std::int32_t babelrs_aggregate_cuda(const babelrs_aggregate_call* call, std::int32_t device, void* stream,
                                    char* message, std::size_t size) {
  return guarded(call, message, size, [&](const auto& problem, NumberType in, NumberType out, std::string& reason) {
    const cudaError_t status = launch_on(device, problem, in, out, static_cast<cudaStream_t>(stream));
    if (status == cudaSuccess) return BABELRS_OK;
    reason = std::string("CUDA: ") + cudaGetErrorString(status);
    return BABELRS_CUDA_FAILED;
  });
}

std::int32_t babelrs_aggregate_has_cuda(void) { return 1; }
#else
std::int32_t babelrs_aggregate_cuda(const babelrs_aggregate_call*, std::int32_t, void*, char* message,
                                    std::size_t size) {
  return fail(BABELRS_NOT_BUILT, "this library was built without CUDA (BABELRS_CUDA=ON builds it)", message, size);
}

std::int32_t babelrs_aggregate_has_cuda(void) { return 0; }
#endif
}
