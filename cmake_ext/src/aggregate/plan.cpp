#include <algorithm>
#include <cstdint>

#include "babelrs/layerwise.hpp"

namespace babelrs {
namespace {

constexpr int kMaxGroups = 8;
constexpr int kStagingBytes = kThreads * kChunkBytes;

int round_up(int value, int step) { return (value + step - 1) / step * step; }

// log2 of the largest store, 16 bytes at most, that fits every address at which a channel's run of a tile begins.
int store_bits(const LayerwiseProblem& problem, int out_bytes, int tile_tokens) {
  int bits = 4;
  const std::int64_t plane = static_cast<std::int64_t>(problem.positions) * out_bytes;
  while (plane % (1 << bits) != 0 || tile_tokens * out_bytes % (1 << bits) != 0) --bits;
  return bits;
}

// Lays out shared memory for tiles of `tile_tokens`; false when it does not fit.
bool lay_out(const LayerwiseProblem& problem, int in_bytes, int out_bytes, int tile_tokens, const DeviceLimits& limits,
             LayerwisePlan& plan) {
  const int vector = kChunkBytes / out_bytes;
  plan.tile_tokens = tile_tokens;
  plan.group_bits = 0;
  while (vector << plan.group_bits < tile_tokens) ++plan.group_bits;
  plan.row_bytes = round_up(problem.channels * in_bytes, 128);
  plan.store_bits = store_bits(problem, out_bytes, tile_tokens);
  // A warp's pieces side by side must cover whole runs of a channel.
  if (plan.store_bits < 4 && plan.group_bits > plan.store_bits + 1) return false;
  const int statistics = problem.num_taps * std::max(tile_tokens, vector) * static_cast<int>(sizeof(RowStatistics));
  const int weights = round_up(problem.num_taps * problem.num_levels * static_cast<int>(sizeof(float)), kChunkBytes);
  const int staging = plan.store_bits < 4 ? kStagingBytes : 0;
  const int fixed = statistics + weights + staging, slot = tile_tokens * plan.row_bytes;
  plan.slots = std::min(2 * problem.num_taps, (limits.shared_bytes - fixed) / slot);
  if (limits.shared_bytes < fixed || plan.slots < problem.num_taps) return false;
  plan.statistics_offset = plan.slots * slot;
  plan.weights_offset = plan.statistics_offset + statistics;
  plan.staging_offset = plan.weights_offset + weights;
  plan.shared_bytes = plan.staging_offset + staging;
  plan.tiles_per_image = (problem.positions + tile_tokens - 1) / tile_tokens;
  plan.tiles = static_cast<std::int32_t>(problem.batch * plan.tiles_per_image);
  plan.blocks = std::min(plan.tiles, limits.multiprocessors);
  return true;
}

}  // namespace

// The longest run of tokens is best for the writes (64 bytes a channel are enough), as long as one tap of the next tile
// can be loaded ahead and every multiprocessor has work; below one 32-byte sector a run only shrinks to fit at all.
bool make_plan(const LayerwiseProblem& problem, NumberType in, NumberType out, const DeviceLimits& limits,
               LayerwisePlan& plan) {
  const int out_bytes = size_of(out), vector = kChunkBytes / out_bytes, sector = 32 / out_bytes;
  for (int tokens = vector * kMaxGroups / 2; tokens >= sector; tokens /= 2) {
    if (!lay_out(problem, size_of(in), out_bytes, tokens, limits, plan)) continue;
    const bool ahead = plan.slots > problem.num_taps || !limits.asynchronous;
    if (tokens == sector || (ahead && plan.tiles >= 2 * limits.multiprocessors)) return true;
  }
  for (int tokens = sector / 2; tokens >= 1; tokens /= 2) {
    if (lay_out(problem, size_of(in), out_bytes, tokens, limits, plan)) return true;
  }
  return false;
}

}  // namespace babelrs
