#include <array>
#include <cstddef>
#include <cstring>
#include <deque>
#include <vector>

#include "babelrs/dispatch.hpp"
#include "babelrs/layerwise_block.hpp"
#include "babelrs/layerwise_host.hpp"

namespace babelrs {
namespace {

// Takes the place of the hardware: warps one after the other, lanes in lockstep between two calls of for_each_lane.
class HostExecutor {
 public:
  template <class T>
  class Lanes {
   public:
    T& of(int lane) { return values_[static_cast<std::size_t>(lane)]; }
    const T& of(int lane) const { return values_[static_cast<std::size_t>(lane)]; }

   private:
    std::array<T, kWarpSize> values_;
  };

  template <class Function>
  void for_each_warp(Function function) {
    for (warp_ = 0; warp_ < kWarps; ++warp_) function(warp_);
  }
  template <class Function>
  void for_each_lane(Function function) {
    for (int lane = 0; lane < kWarpSize; ++lane) function(lane);
  }
  void sum(Lanes<float>& lanes) const {
    for (int offset = kWarpSize / 2; offset > 0; offset /= 2) {
      const Lanes<float> before = lanes;
      for (int lane = 0; lane < kWarpSize; ++lane) lanes.of(lane) += before.of(lane ^ offset);
    }
  }

  void copy(unsigned char* to, const unsigned char* from, int bytes) {
    open_[static_cast<std::size_t>(warp_)].push_back({to, from, bytes});
  }
  void commit() {
    const auto warp = static_cast<std::size_t>(warp_);
    groups_[warp].push_back(std::move(open_[warp]));
    open_[warp].clear();
  }
  // What may still be under way has not arrived: a missing wait shows as NaN.
  void wait(int pending) {
    auto& groups = groups_[static_cast<std::size_t>(warp_)];
    while (groups.size() > static_cast<std::size_t>(pending)) {
      for (const Copy& copy : groups.front()) std::memcpy(copy.to, copy.from, static_cast<std::size_t>(copy.bytes));
      groups.pop_front();
    }
  }
  void warp_barrier() const {}
  void block_barrier() const {}
  float read_once(const float* address) const { return *address; }

 private:
  struct Copy {
    unsigned char* to;
    const unsigned char* from;
    int bytes;
  };
  int warp_ = 0;
  std::array<std::vector<Copy>, kWarps> open_;
  std::array<std::deque<std::vector<Copy>>, kWarps> groups_;
};

template <class In, class Out, bool Whole>
void run_blocks(const LayerwiseProblem& problem, const LayerwisePlan& plan) {
  std::vector<Chunk> shared(static_cast<std::size_t>(plan.shared_bytes + kChunkBytes) / kChunkBytes + 8);
  for (int index = 0; index < plan.blocks; ++index) {
    std::memset(static_cast<void*>(shared.data()), 0xff, shared.size() * sizeof(Chunk));
    HostExecutor executor;
    Block<HostExecutor, In, Out, Whole> block(executor, problem, plan, reinterpret_cast<unsigned char*>(shared.data()));
    block.run(index, plan.blocks);
  }
}

}  // namespace

bool emulate_blocks(const LayerwiseProblem& problem, NumberType in, NumberType out, const DeviceLimits& limits) {
  LayerwisePlan plan{};
  if (!make_plan(problem, in, out, limits, plan)) return false;
  return visit_types(in, out, [&](auto pair) {
    using In = typename decltype(pair)::Input;
    using Out = typename decltype(pair)::Output;
    plan.store_bits == 4 ? run_blocks<In, Out, true>(problem, plan) : run_blocks<In, Out, false>(problem, plan);
  });
}

}  // namespace babelrs
