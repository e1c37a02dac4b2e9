// A thread block as the hardware runs it: every thread on its own, as far as the next barrier, in an order that the
// test chooses. `emulate_blocks` runs all warps through each step together; here, what a missing barrier lets happen
// does happen.
#pragma once

#include <ucontext.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <deque>
#include <functional>
#include <memory>
#include <stdexcept>
#include <vector>

#include "babelrs/layerwise_block.hpp"

namespace babelrs {

struct Schedule {
  bool reversed;      // the last warp and the last lane run first
  bool early_copies;  // asynchronous copies arrive at once; otherwise at the first barrier behind their wait
};

// The fibres of one block, in turn.
class SimtBlock {
 public:
  explicit SimtBlock(Schedule schedule) : schedule_(schedule), threads_(kThreads) {}

  // Runs body(thread) for every thread. Throws std::logic_error where threads of a warp stop at different barriers.
  void run(std::function<void(int)> body) {
    body_ = std::move(body);
    for (Thread& thread : threads_) start(thread);
    while (!all(Stop::kDone, 0, kThreads)) {
      for (int i = 0; i < kWarps; ++i) run_warp(schedule_.reversed ? kWarps - 1 - i : i);
    }
  }

  void block_barrier() { stop(Stop::kBlock); }
  void warp_barrier() { stop(Stop::kWarp); }
  float sum(float value) {
    threads_[static_cast<std::size_t>(now_)].value = value;
    stop(Stop::kSum);
    return threads_[static_cast<std::size_t>(now_)].value;
  }
  const Schedule& schedule() const { return schedule_; }

 private:
  enum class Stop { kNone, kWarp, kSum, kBlock, kDone };
  struct Thread {
    ucontext_t context;
    std::unique_ptr<unsigned char[]> stack;
    Stop at = Stop::kNone;
    float value = 0.0f;
  };
  static constexpr std::size_t kStackBytes = 128 * 1024;

  void start(Thread& thread) {
    getcontext(&thread.context);
    thread.stack.reset(new unsigned char[kStackBytes]);
    thread.context.uc_stack.ss_sp = thread.stack.get();
    thread.context.uc_stack.ss_size = kStackBytes;
    thread.context.uc_link = &scheduler_;
    const auto address = reinterpret_cast<std::uintptr_t>(this);  // makecontext passes integers only
    makecontext(&thread.context, reinterpret_cast<void (*)()>(&SimtBlock::enter), 2,
                static_cast<unsigned>(address >> 32), static_cast<unsigned>(address));
  }

  static void enter(unsigned high, unsigned low) {
    const std::uintptr_t address = (std::uintptr_t{high} << 32) | low;
    auto* block = reinterpret_cast<SimtBlock*>(address);
    block->body_(block->now_);
    block->threads_[static_cast<std::size_t>(block->now_)].at = Stop::kDone;
  }

  void stop(Stop at) {
    Thread& thread = threads_[static_cast<std::size_t>(now_)];
    thread.at = at;
    swapcontext(&thread.context, &scheduler_);
  }

  bool all(Stop at, int first, int count) const {
    for (int i = first; i < first + count; ++i) {
      if (threads_[static_cast<std::size_t>(i)].at != at) return false;
    }
    return true;
  }

  // Runs a warp until all its lanes stand at a barrier of the block, or are done.
  void run_warp(int warp) {
    const int first = warp * kWarpSize;
    while (!all(Stop::kDone, first, kWarpSize)) {
      for (int i = 0; i < kWarpSize; ++i) {
        now_ = first + (schedule_.reversed ? kWarpSize - 1 - i : i);
        swapcontext(&scheduler_, &threads_[static_cast<std::size_t>(now_)].context);
      }
      const Stop at = threads_[static_cast<std::size_t>(first)].at;
      if (!all(at, first, kWarpSize)) throw std::logic_error("lanes of a warp stand at different barriers");
      if (at == Stop::kSum) spread_sum(first);
      if (at == Stop::kBlock) return;
    }
  }

  void spread_sum(int first) {
    float total = 0.0f;
    for (int i = first; i < first + kWarpSize; ++i) total += threads_[static_cast<std::size_t>(i)].value;
    for (int i = first; i < first + kWarpSize; ++i) threads_[static_cast<std::size_t>(i)].value = total;
  }

  Schedule schedule_;
  std::vector<Thread> threads_;
  ucontext_t scheduler_;
  std::function<void(int)> body_;
  int now_ = 0;
};

// The Executor of one thread: what the device's does, with barriers that hand over to the next thread.
class SimtExecutor {
 public:
  template <class T>
  struct Lanes {
    Lanes() { std::memset(static_cast<void*>(&value), 0xff, sizeof(T)); }  // NaN
    T value;
    T& of(int) { return value; }
    const T& of(int) const { return value; }
  };

  SimtExecutor(SimtBlock& block, int thread) : block_(block), thread_(thread) {}

  template <class Function>
  void for_each_warp(Function function) const {
    function(thread_ / kWarpSize);
  }
  template <class Function>
  void for_each_lane(Function function) const {
    function(thread_ % kWarpSize);
  }
  void sum(Lanes<float>& lanes) {
    land();
    lanes.value = block_.sum(lanes.value);
  }
  void warp_barrier() {
    land();
    block_.warp_barrier();
  }
  void block_barrier() {
    land();
    block_.block_barrier();
  }
  float read_once(const float* address) const { return *address; }

  void copy(unsigned char* to, const unsigned char* from, int bytes) {
    const Copy copy{to, from, static_cast<std::size_t>(bytes)};
    if (block_.schedule().early_copies) {
      std::memcpy(copy.to, copy.from, copy.bytes);
    } else {
      open_.push_back(copy);
    }
  }
  void commit() {
    groups_.push_back(std::move(open_));
    open_.clear();
  }
  void wait(int pending) {
    for (; groups_.size() > static_cast<std::size_t>(pending); groups_.pop_front()) {
      waited_.insert(waited_.end(), groups_.front().begin(), groups_.front().end());
    }
  }
  // Whether a thread that ends now leaves no group of copies open.
  bool settled() const { return groups_.empty() && open_.empty(); }

 private:
  struct Copy {
    unsigned char* to;
    const unsigned char* from;
    std::size_t bytes;
  };

  // Only a barrier behind the wait shows the copies to every lane.
  void land() {
    for (const Copy& copy : waited_) std::memcpy(copy.to, copy.from, copy.bytes);
    waited_.clear();
  }

  SimtBlock& block_;
  int thread_;
  std::vector<Copy> open_, waited_;
  std::deque<std::vector<Copy>> groups_;
};

}  // namespace babelrs
