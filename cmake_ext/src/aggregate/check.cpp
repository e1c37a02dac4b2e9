#include "babelrs/check.hpp"

#include <cmath>
#include <cstdint>
#include <cstdio>

namespace babelrs {
namespace {

constexpr std::int64_t kMaxElements = std::int64_t{1} << 31;

std::string wrong(const std::string& name, std::int64_t value, const std::string& expected) {
  return name + " is " + std::to_string(value) + ", expected " + expected;
}

std::string wrong_number(const std::string& name, float value, const std::string& expected) {
  char digits[32];
  std::snprintf(digits, sizeof digits, "%g", static_cast<double>(value));
  return name + " is " + digits + ", expected " + expected;
}

bool positive(float value) { return std::isnormal(value) && value > 0.0f; }

bool misaligned(const void* pointer, std::uintptr_t bytes) {
  return pointer == nullptr || reinterpret_cast<std::uintptr_t>(pointer) % bytes != 0;
}

std::string check_pointers(const babelrs_aggregate_call& call) {
  for (int tap = 0; tap < call.num_taps; ++tap) {
    if (misaligned(call.taps[tap], kChunkBytes)) {
      return "taps[" + std::to_string(tap) + "] is null or not aligned to 16 bytes";
    }
  }
  for (int level = 0; level < call.num_levels; ++level) {
    if (misaligned(call.outputs[level], kChunkBytes)) {
      return "outputs[" + std::to_string(level) + "] is null or not aligned to 16 bytes";
    }
  }
  if ((call.gamma == nullptr) != (call.beta == nullptr)) return "gamma and beta: give both or neither";
  if (call.gamma != nullptr && (misaligned(call.gamma, 4) || misaligned(call.beta, 4))) {
    return "gamma or beta is not aligned to 4 bytes";
  }
  if (misaligned(call.weights, 4)) return "weights is null or not aligned to 4 bytes";
  return {};
}

}  // namespace

std::string check_sizes(const babelrs_aggregate_call& call) {
  if (call.num_taps < 1 || call.num_taps > kMaxTaps) return wrong("taps: S", call.num_taps, "1 to 8");
  if (call.num_levels < 1 || call.num_levels > kMaxLevels) return wrong("weights: P", call.num_levels, "1 to 5");
  if (call.channels < 8 || call.channels > kMaxChannels || call.channels % 8 != 0) {
    return wrong("taps: C", call.channels, "a multiple of 8 from 8 to 1536");
  }
  if (call.batch < 1 || call.batch >= kMaxElements) return wrong("taps: B", call.batch, "at least 1");
  if (call.prefix < 0 || call.prefix >= kMaxElements) return wrong("prefix_tokens", call.prefix, "0 or more");
  if (call.height < 1 || call.height >= kMaxElements) return wrong("height", call.height, "at least 1");
  if (call.width < 1 || call.width >= kMaxElements) return wrong("width", call.width, "at least 1");
  if (call.tokens < 1 || call.tokens != call.prefix + call.height * call.width) {
    return wrong("taps: T", call.tokens,
                 "prefix_tokens + height * width = " + std::to_string(call.prefix + call.height * call.width));
  }
  // The factors are below 2^31 each: no product of two overflows.
  if (call.tokens >= kMaxElements || call.batch * call.tokens >= kMaxElements ||
      call.batch * call.tokens * call.channels >= kMaxElements) {
    return "taps: B * T * C has 2^31 elements or more, expected fewer";
  }
  return {};
}

std::string check_numbers(const babelrs_aggregate_call& call) {
  if (call.in_type < BABELRS_FLOAT32 || call.in_type > BABELRS_INT8) return wrong("in_type", call.in_type, "0 to 3");
  if (call.out_type < BABELRS_FLOAT32 || call.out_type > BABELRS_INT8) {
    return wrong("out_type", call.out_type, "0 to 3");
  }
  if (call.in_type != call.out_type && call.in_type != BABELRS_INT8 && call.out_type != BABELRS_INT8) {
    return "out_type: floating taps give levels of their own type or int8";
  }
  if (!(call.epsilon >= 0.0f) || std::isinf(call.epsilon)) {
    return wrong_number("epsilon", call.epsilon, "a finite number, 0 or more");
  }
  for (int tap = 0; call.in_type == BABELRS_INT8 && tap < call.num_taps; ++tap) {
    if (!positive(call.tap_scales[tap])) {
      return wrong_number("tap_scales[" + std::to_string(tap) + "]", call.tap_scales[tap], "a positive number");
    }
  }
  for (int level = 0; call.out_type == BABELRS_INT8 && level < call.num_levels; ++level) {
    if (!positive(call.level_scales[level])) {
      return wrong_number("level_scales[" + std::to_string(level) + "]", call.level_scales[level], "a positive number");
    }
  }
  return {};
}

std::string check_call(const babelrs_aggregate_call& call, LayerwiseProblem& problem) {
  for (const auto check : {check_sizes, check_numbers, check_pointers}) {
    std::string reason = check(call);
    if (!reason.empty()) return reason;
  }
  problem = {};
  for (int tap = 0; tap < call.num_taps; ++tap) {
    problem.taps[tap] = call.taps[tap];
    problem.tap_scales[tap] = call.in_type == BABELRS_INT8 ? call.tap_scales[tap] : 1.0f;
  }
  for (int level = 0; level < call.num_levels; ++level) {
    problem.outputs[level] = call.outputs[level];
    problem.level_steps[level] = call.out_type == BABELRS_INT8 ? 1.0f / call.level_scales[level] : 1.0f;
  }
  problem.gamma = call.gamma;
  problem.beta = call.beta;
  problem.weights = call.weights;
  problem.batch = call.batch;
  problem.tokens = call.tokens;
  problem.prefix = call.prefix;
  problem.channels = static_cast<std::int32_t>(call.channels);
  problem.positions = static_cast<std::int32_t>(call.height * call.width);
  problem.num_taps = call.num_taps;
  problem.num_levels = call.num_levels;
  problem.epsilon = call.epsilon;
  return {};
}

}  // namespace babelrs
