// Errors go where the host program's TensorRT logs: to the logger of the finder that it gave this library, or to
// stderr.
#pragma once

#include <NvInferRuntime.h>

#include <cstdint>
#include <exception>
#include <string>

namespace babelrs {

// May be called by several threads. Null: back to stderr.
void set_logger_finder(nvinfer1::ILoggerFinder* finder) noexcept;

// Allocates nothing; a long reason is cut.
void log_error(const char* where, const char* reason) noexcept;

// Runs what returns a reason, empty for success, and lets no exception out: 0, or 1 with the reason logged.
template <class Run>
std::int32_t guarded(const char* where, Run run) noexcept {
  try {
    const std::string reason = run();
    if (reason.empty()) return 0;
    log_error(where, reason.c_str());
  } catch (const std::exception& error) {  // memory
    log_error(where, error.what());
  }
  return 1;
}

}  // namespace babelrs
