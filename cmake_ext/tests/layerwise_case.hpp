// Random problems of the layerwise aggregation and their levels in float64, for the tests of every implementation.
#pragma once

#include <cmath>
#include <cstdint>
#include <limits>
#include <memory>
#include <new>
#include <random>
#include <vector>

#include "babelrs/layerwise.hpp"

namespace babelrs {

struct Case {
  std::int64_t batch, prefix;
  int positions, channels, taps, levels;
  int shared_bytes, multiprocessors;
};

// 16-byte aligned storage of exactly `count` floats: one more is another object's.
struct Buffer {
  explicit Buffer(std::size_t count) : data(new (std::align_val_t{16}) float[count]), size(count) {}
  ~Buffer() { operator delete[](data, std::align_val_t{16}); }
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;
  float* data;
  std::size_t size;
};
using Buffers = std::vector<std::unique_ptr<Buffer>>;

struct Inputs {
  Buffers taps;
  std::vector<float> gamma, beta, weights;
};

inline Inputs draw(const Case& shape, std::mt19937& generator) {
  std::normal_distribution<float> normal;
  Inputs inputs;
  const auto tokens = static_cast<std::size_t>(shape.batch * (shape.prefix + shape.positions));
  for (int tap = 0; tap < shape.taps; ++tap) {
    inputs.taps.push_back(std::make_unique<Buffer>(tokens * static_cast<std::size_t>(shape.channels)));
    for (std::size_t i = 0; i < inputs.taps.back()->size; ++i) inputs.taps.back()->data[i] = 3.0f + normal(generator);
  }
  for (auto* values : {&inputs.gamma, &inputs.beta}) {
    for (int i = 0; i < shape.taps * shape.channels; ++i) values->push_back(normal(generator));
  }
  for (int i = 0; i < shape.levels * shape.taps; ++i) inputs.weights.push_back(normal(generator));
  return inputs;
}

// LN(x) of one token before gamma and beta, in float64.
inline std::vector<double> normal_row(const Case& shape, const float* row) {
  double mean = 0.0, variance = 0.0;
  for (int c = 0; c < shape.channels; ++c) mean += row[c] / shape.channels;
  for (int c = 0; c < shape.channels; ++c) variance += (row[c] - mean) * (row[c] - mean) / shape.channels;
  std::vector<double> normal;
  for (int c = 0; c < shape.channels; ++c) normal.push_back((row[c] - mean) / std::sqrt(variance + 1e-6));
  return normal;
}

// Every level (B, C, HW), one after the other, in float64.
inline std::vector<double> expected(const Case& shape, const Inputs& inputs) {
  const auto size = static_cast<std::size_t>(shape.batch) * static_cast<std::size_t>(shape.channels * shape.positions);
  std::vector<double> levels(size * static_cast<std::size_t>(shape.levels));
  for (int tap = 0; tap < shape.taps; ++tap) {
    const float* tokens = inputs.taps[static_cast<std::size_t>(tap)]->data;
    for (std::int64_t image = 0; image < shape.batch; ++image) {
      for (int position = 0; position < shape.positions; ++position) {
        const std::int64_t token = image * (shape.prefix + shape.positions) + shape.prefix + position;
        const std::vector<double> normal = normal_row(shape, tokens + token * shape.channels);
        for (int at = 0; at < shape.levels * shape.channels; ++at) {
          const int level = at / shape.channels, channel = at % shape.channels;
          const auto affine = static_cast<std::size_t>(tap * shape.channels + channel);
          const double value = normal[static_cast<std::size_t>(channel)] * inputs.gamma[affine] + inputs.beta[affine];
          const auto plane = static_cast<std::size_t>(image * shape.channels + channel);
          levels[static_cast<std::size_t>(level) * size + plane * static_cast<std::size_t>(shape.positions) +
                 static_cast<std::size_t>(position)] +=
              inputs.weights[static_cast<std::size_t>(level * shape.taps + tap)] * value;
        }
      }
    }
  }
  return levels;
}

inline LayerwiseProblem problem_of(const Case& shape, const Inputs& inputs, const Buffers& outputs) {
  LayerwiseProblem problem{};
  for (int tap = 0; tap < shape.taps; ++tap) problem.taps[tap] = inputs.taps[static_cast<std::size_t>(tap)]->data;
  for (int level = 0; level < shape.levels; ++level) {
    problem.outputs[level] = outputs[static_cast<std::size_t>(level)]->data;
  }
  for (float& scale : problem.tap_scales) scale = 1.0f;
  for (float& steps : problem.level_steps) steps = 1.0f;
  problem.gamma = inputs.gamma.data();
  problem.beta = inputs.beta.data();
  problem.weights = inputs.weights.data();
  problem.batch = shape.batch;
  problem.tokens = shape.prefix + shape.positions;
  problem.prefix = shape.prefix;
  problem.channels = shape.channels;
  problem.positions = shape.positions;
  problem.num_taps = shape.taps;
  problem.num_levels = shape.levels;
  problem.epsilon = 1e-6f;
  return problem;
}

// |found - wanted| / |wanted|; infinite where anything was left unwritten.
inline double relative_error(const std::vector<double>& wanted, const Buffers& outputs) {
  double error = 0.0, norm = 0.0;
  auto at = wanted.begin();
  for (const auto& output : outputs) {
    for (std::size_t i = 0; i < output->size; ++i, ++at) {
      const double difference = output->data[i] - *at;
      if (!std::isfinite(difference)) return std::numeric_limits<double>::infinity();
      error += difference * difference;
      norm += *at * *at;
    }
  }
  return std::sqrt(error / norm);
}

// Levels full of NaN.
inline Buffers poisoned_levels(const Case& shape) {
  Buffers outputs;
  const auto size = static_cast<std::size_t>(shape.batch * shape.channels) * static_cast<std::size_t>(shape.positions);
  for (int level = 0; level < shape.levels; ++level) {
    outputs.push_back(std::make_unique<Buffer>(size));
    for (std::size_t i = 0; i < size; ++i) outputs.back()->data[i] = std::nanf("");
  }
  return outputs;
}

}  // namespace babelrs
