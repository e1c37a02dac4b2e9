// The CPU implementation and the emulated kernel against a float64 expression, on outputs full of NaN. Under the
// sanitizers this proves that neither reads or writes where it must not.
#include <cstdio>
#include <random>
#include <vector>

#include "babelrs/layerwise_host.hpp"
#include "layerwise_case.hpp"

namespace {

using namespace babelrs;

bool check(const Case& shape, unsigned seed) {
  std::mt19937 generator(seed);
  const Inputs inputs = draw(shape, generator);
  const std::vector<double> wanted = expected(shape, inputs);
  bool passed = true;
  for (const bool emulated : {false, true}) {
    const Buffers outputs = poisoned_levels(shape);
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
