#include <algorithm>
#include <array>
#include <cstddef>
#include <vector>

#include "babelrs/dispatch.hpp"
#include "babelrs/layerwise_host.hpp"

namespace babelrs {
namespace {

constexpr int kTileTokens = 16;        // a cache line of float32 outputs a channel
constexpr std::size_t kPartials = 16;  // independent sums: one vector register or more

// Channels are innermost in every loop, so that the compiler vectorises them; a tile is turned over at its end.
template <class In, class Out>
class CpuAggregate {
 public:
  explicit CpuAggregate(const LayerwiseProblem& problem)
      : problem_(problem),
        channels_(static_cast<std::size_t>(problem.channels)),
        row_(channels_),
        sums_(static_cast<std::size_t>(problem.num_levels) * kTileTokens * channels_) {}

  void run() {
    for (std::int64_t image = 0; image < problem_.batch; ++image) {
      for (std::int32_t start = 0; start < problem_.positions; start += kTileTokens) run_tile(image, start);
    }
  }

 private:
  void run_tile(std::int64_t image, std::int32_t start) {
    const int rows = std::min(kTileTokens, problem_.positions - start);
    std::fill(sums_.begin(), sums_.end(), 0.0f);
    for (int tap = 0; tap < problem_.num_taps; ++tap) {
      const auto* tokens = static_cast<const In*>(problem_.taps[tap]) +
                           static_cast<std::size_t>(image * problem_.tokens + problem_.prefix + start) * channels_;
      for (int row = 0; row < rows; ++row) add_row(tap, row, tokens + static_cast<std::size_t>(row) * channels_);
    }
    for (int level = 0; level < problem_.num_levels; ++level) write(level, image, start, rows);
  }

  void add_row(int tap, int row, const In* token) {
    for (std::size_t c = 0; c < channels_; ++c) row_[c] = to_float(token[c]);
    normalise(tap);
    for (int level = 0; level < problem_.num_levels; ++level) {
      const float weight = problem_.weights[level * problem_.num_taps + tap];
      float* sums = sums_of(level, row);
      for (std::size_t c = 0; c < channels_; ++c) sums[c] += weight * row_[c];
    }
  }

  void normalise(int tap) {
    const float scale = problem_.tap_scales[tap];
    RowStatistics row{0.0f, scale};
    if (problem_.gamma != nullptr) {
      row.mean = row_mean(total([](float value) { return value; }), problem_.channels);
      const float squares = total([&](float value) { return (value - row.mean) * (value - row.mean); });
      row.factor = row_factor(squares, problem_.channels, scale, problem_.epsilon);
    }
    for (float& value : row_) value = normalised(value, row);
    if (problem_.gamma == nullptr) return;
    const float* gamma = problem_.gamma + static_cast<std::size_t>(tap) * channels_;
    const float* beta = problem_.beta + static_cast<std::size_t>(tap) * channels_;
    for (std::size_t c = 0; c < channels_; ++c) row_[c] = row_[c] * gamma[c] + beta[c];
  }

  template <class Function>
  float total(Function function) const {
    std::array<float, kPartials> partials{};
    std::size_t c = 0;
    for (; c + kPartials <= channels_; c += kPartials) {
      for (std::size_t i = 0; i < kPartials; ++i) partials[i] += function(row_[c + i]);
    }
    for (; c < channels_; ++c) partials[c % kPartials] += function(row_[c]);
    float sum = 0.0f;
    for (const float partial : partials) sum += partial;
    return sum;
  }

  void write(int level, std::int64_t image, std::int32_t start, int rows) {
    const float steps = problem_.level_steps[level];
    const auto positions = static_cast<std::size_t>(problem_.positions);
    Out* to = static_cast<Out*>(problem_.outputs[level]) + static_cast<std::size_t>(image) * channels_ * positions +
              static_cast<std::size_t>(start);
    for (std::size_t c = 0; c < channels_; ++c) {
      for (int row = 0; row < rows; ++row) {
        to[c * positions + static_cast<std::size_t>(row)] = from_float<Out>(sums_of(level, row)[c] * steps);
      }
    }
  }

  float* sums_of(int level, int row) {
    return sums_.data() + static_cast<std::size_t>(level * kTileTokens + row) * channels_;
  }

  const LayerwiseProblem& problem_;
  std::size_t channels_;
  std::vector<float> row_;   // (C,) one token
  std::vector<float> sums_;  // (P, kTileTokens, C)
};

}  // namespace

bool aggregate_on_cpu(const LayerwiseProblem& problem, NumberType in, NumberType out) {
  return visit_types(in, out, [&](auto pair) {
    CpuAggregate<typename decltype(pair)::Input, typename decltype(pair)::Output>(problem).run();
  });
}

}  // namespace babelrs
