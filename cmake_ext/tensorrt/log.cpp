#include "log.hpp"

#include <atomic>
#include <cstdio>

namespace babelrs {
namespace {

std::atomic<nvinfer1::ILoggerFinder*> logger_finder{nullptr};

nvinfer1::ILogger* find_logger() noexcept {
  nvinfer1::ILoggerFinder* finder = logger_finder.load(std::memory_order_acquire);
  try {
    return finder == nullptr ? nullptr : finder->findLogger();
  } catch (...) {  // another library's code, not declared noexcept
    return nullptr;
  }
}

}  // namespace

void set_logger_finder(nvinfer1::ILoggerFinder* finder) noexcept {
  logger_finder.store(finder, std::memory_order_release);
}

void log_error(const char* where, const char* reason) noexcept {
  char message[1024];
  std::snprintf(message, sizeof message, "babelrs::LayerwiseAggregate: %s: %s", where, reason);
  nvinfer1::ILogger* logger = find_logger();
  if (logger != nullptr) {
    logger->log(nvinfer1::ILogger::Severity::kERROR, message);
  } else {
    std::fprintf(stderr, "%s\n", message);
  }
}

}  // namespace babelrs
