// The kernel's block, thread by thread, against a float64 expression: a barrier or a wait that is missing gives wrong
// levels in one of the schedules. Shared memory and levels start full of NaN.
#include <cstdio>
#include <cstring>
#include <random>
#include <stdexcept>
#include <vector>

#include "layerwise_case.hpp"
#include "simt.hpp"

namespace {

using namespace babelrs;

template <bool Whole>
void run_block(const LayerwiseProblem& problem, const LayerwisePlan& plan, int index, Schedule schedule) {
  std::vector<Chunk> shared(static_cast<std::size_t>(plan.shared_bytes + kChunkBytes - 1) / kChunkBytes);
  std::memset(static_cast<void*>(shared.data()), 0xff, shared.size() * sizeof(Chunk));
  auto* memory = reinterpret_cast<unsigned char*>(shared.data());
  int unsettled = 0;
  SimtBlock block(schedule);
  block.run([&](int thread) {
    SimtExecutor executor(block, thread);
    Block<SimtExecutor, float, float, Whole> work(executor, problem, plan, memory);
    work.run(index, plan.blocks);
    unsettled += executor.settled() ? 0 : 1;
  });
  if (unsettled > 0) throw std::logic_error("threads end with copies under way");
}

double error_of(const Case& shape, unsigned seed, Schedule schedule) {
  std::mt19937 generator(seed);
  const Inputs inputs = draw(shape, generator);
  const Buffers outputs = poisoned_levels(shape);
  const LayerwiseProblem problem = problem_of(shape, inputs, outputs);
  LayerwisePlan plan{};
  const DeviceLimits limits{shape.shared_bytes, shape.multiprocessors, true};
  if (!make_plan(problem, NumberType::kFloat32, NumberType::kFloat32, limits, plan)) {
    throw std::logic_error("the problem does not fit");
  }
  for (int index = 0; index < plan.blocks; ++index) {
    plan.store_bits == 4 ? run_block<true>(problem, plan, index, schedule)
                         : run_block<false>(problem, plan, index, schedule);
  }
  return relative_error(expected(shape, inputs), outputs);
}

bool passes(const Case& shape, unsigned seed, Schedule schedule) {
  const char* reason = "wrong levels";
  double error = 1.0;
  try {
    error = error_of(shape, seed, schedule);
  } catch (const std::logic_error& fault) {
    reason = fault.what();
  }
  if (error < 1e-6) return true;
  std::printf("seed %u, %s, copies %s: %s, relative error %g\n", seed, schedule.reversed ? "reversed" : "forwards",
              schedule.early_copies ? "early" : "late", reason, error);
  return false;
}

}  // namespace

int main() {
  constexpr int kOrin = 163 * 1024, kTight = 40 * 1024;
  // Several tiles a block each; 16-byte stores, and pieces through shared memory; memory for every tap twice, or hardly
  // for one tile.
  const std::vector<Case> cases = {
      {2, 1, 100, 64, 4, 4, kOrin, 2},  {2, 0, 75, 40, 3, 5, kOrin, 2}, {1, 1, 64, 256, 4, 2, kTight, 1},
      {1, 0, 33, 256, 3, 3, kTight, 1}, {1, 1, 48, 64, 1, 1, kOrin, 1},
  };
  bool passed = true;
  unsigned seed = 0;
  for (const Case& shape : cases) {
    ++seed;
    for (const bool reversed : {false, true}) {
      for (const bool early : {false, true}) passed = passes(shape, seed, {reversed, early}) && passed;
    }
  }
  return passed ? 0 : 1;
}
