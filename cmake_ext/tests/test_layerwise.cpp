// The CPU implementation and the emulated kernel against a float64 expression, on outputs full of NaN. Under the
// sanitizers this proves that neither reads or writes where it must not.
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <limits>
#include <memory>
#include <new>
#include <random>
#include <vector>

#include "babelrs/layerwise_host.hpp"

namespace {

using namespace babelrs;

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

Inputs draw(const Case& shape, std::mt19937& generator) {
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
std::vector<double> normal_row(const Case& shape, const float* row) {
  double mean = 0.0, variance = 0.0;
  for (int c = 0; c < shape.channels; ++c) mean += row[c] / shape.channels;
  for (int c = 0; c < shape.channels; ++c) variance += (row[c] - mean) * (row[c] - mean) / shape.channels;
  std::vector<double> normal;
  for (int c = 0; c < shape.channels; ++c) normal.push_back((row[c] - mean) / std::sqrt(variance + 1e-6));
  return normal;
}

// Every level (B, C, HW), one after the other, in float64.
std::vector<double> expected(const Case& shape, const Inputs& inputs) {
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

LayerwiseProblem problem_of(const Case& shape, const Inputs& inputs, const Buffers& outputs) {
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
double relative_error(const std::vector<double>& wanted, const Buffers& outputs) {
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

bool check(const Case& shape, unsigned seed) {
  std::mt19937 generator(seed);
  const Inputs inputs = draw(shape, generator);
  const std::vector<double> wanted = expected(shape, inputs);
  bool passed = true;
  for (const bool emulated : {false, true}) {
    Buffers outputs;
    for (int level = 0; level < shape.levels; ++level) {
      outputs.push_back(std::make_unique<Buffer>(static_cast<std::size_t>(shape.batch * shape.channels) *
                                                 static_cast<std::size_t>(shape.positions)));
      for (std::size_t i = 0; i < outputs.back()->size; ++i) outputs.back()->data[i] = std::nanf("");
    }
    const LayerwiseProblem problem = problem_of(shape, inputs, outputs);
    const DeviceLimits limits{shape.shared_bytes, shape.multiprocessors, true};
    const bool ran = emulated ? emulate_blocks(problem, NumberType::kFloat32, NumberType::kFloat32, limits)
                              : aggregate_on_cpu(problem, NumberType::kFloat32, NumberType::kFloat32);
    const double error = ran ? relative_error(wanted, outputs) : 1.0;
    if (error < 1e-6) continue;
    passed = false;
    std::printf("%s, seed %u: B %d, prefix %d, HW %d, C %d, S %d, P %d: relative error %g\n",
                emulated ? "emulated" : "cpu", seed, static_cast<int>(shape.batch), static_cast<int>(shape.prefix),
                shape.positions, shape.channels, shape.taps, shape.levels, error);
  }
  return passed;
}

}  // namespace

int main() {
  constexpr int kOrin = 163 * 1024, kHopper = 227 * 1024, kTuring = 64 * 1024;
  const std::vector<Case> cases = {
      {2, 1, 100, 64, 4, 4, kHopper, 3},  {1, 0, 1, 8, 1, 1, kOrin, 8},       {3, 5, 35, 40, 3, 5, kOrin, 2},
      {2, 1, 16, 1024, 4, 4, kOrin, 1},   {1, 1, 49, 1024, 4, 1, kHopper, 1}, {1, 0, 37, 1536, 8, 5, kOrin, 2},
      {1, 0, 13, 1536, 8, 2, kTuring, 2}, {2, 5, 250, 8, 8, 3, kTuring, 1},
  };
  bool passed = true;
  unsigned seed = 0;
  for (const Case& shape : cases) passed = check(shape, ++seed) && passed;
  return passed ? 0 : 1;
}
