// Layerwise aggregation: what is computed, the arithmetic of one row, and how a launch is cut into tiles.
//
//   y[p][b, c, h, w] = sum_s weights[p, s] * LN_s(x[s][b, prefix + h * W + w, :])[c]
//
// The same header is compiled for host and device.
#pragma once

#include <cstddef>
#include <cstdint>

#include "babelrs/numeric.hpp"

namespace babelrs {

constexpr int kMaxTaps = 8;
constexpr int kMaxLevels = 5;
constexpr int kMaxChannels = 1536;

enum class NumberType : std::int32_t { kFloat32 = 0, kFloat16 = 1, kBFloat16 = 2, kInt8 = 3 };

constexpr int size_of(NumberType type) { return type == NumberType::kFloat32 ? 4 : type == NumberType::kInt8 ? 1 : 2; }

// One call. Pointers are to the memory of the device that runs it; taps and outputs are aligned to 16 bytes.
struct LayerwiseProblem {
  const void* taps[kMaxTaps];          // S token maps (B, T, C)
  void* outputs[kMaxLevels];           // P maps (B, C, H, W)
  const float* gamma;                  // (S, C); null: the plain weighted sum, no LayerNorm
  const float* beta;                   // (S, C); null with gamma
  const float* weights;                // (P, S)
  float tap_scales[kMaxTaps];          // real value of one int8 step of each tap; 1 for other types
  float level_steps[kMaxLevels];       // one over the real value of one int8 step of each level; 1 for other types
  std::int64_t batch, tokens, prefix;  // B, T, tokens dropped in front of each map
  std::int32_t channels, positions;    // C, H * W
  std::int32_t num_taps, num_levels;   // S, P
  float epsilon;
};

// What a row's statistics leave for its elements: LN(x) = (x - mean) * factor, before gamma and beta.
struct alignas(8) RowStatistics {
  float mean, factor;
};

BABELRS_HD float row_mean(float sum, int channels) { return sum / static_cast<float>(channels); }

// `squares` is the sum of squared differences from the mean; with int8 taps both are in steps of `scale`.
BABELRS_HD float row_factor(float squares, int channels, float scale, float epsilon) {
  const float variance = squares / static_cast<float>(channels) * (scale * scale);
  return scale / sqrtf(variance + epsilon);
}

BABELRS_HD float normalised(float value, const RowStatistics& row) { return (value - row.mean) * row.factor; }

// What the device allows a block, and how many blocks run at once.
struct DeviceLimits {
  int shared_bytes;  // a block may ask for, after opting in
  int multiprocessors;
  bool asynchronous;  // copies to shared memory that do not block (sm_80 and later)
};

constexpr int kWarpSize = 32;
constexpr int kWarps = 16;
constexpr int kThreads = kWarps * kWarpSize;
constexpr int kChunkBytes = 16;

// How a launch is cut: a tile is a run of tokens of one image with all channels of all taps in shared memory; blocks
// walk over the tiles and load the taps of the next tile while they write the levels of this one.
struct LayerwisePlan {
  std::int32_t tile_tokens;  // tokens of a tile, a power of two
  std::int32_t group_bits;   // log2 of the 16-byte stores that a channel's tokens of a tile fill, 0..3
  std::int32_t row_bytes;    // shared bytes between two tokens of a tap, a multiple of 128
  std::int32_t slots;        // taps of tiles that shared memory holds, S..2S
  std::int32_t store_bits;   // log2 of a store's bytes. 4: from registers; less: through the staging area
  std::int32_t tiles_per_image;
  std::int32_t tiles;
  std::int32_t blocks;
  std::int32_t statistics_offset, weights_offset, staging_offset, shared_bytes;
};

// The plan for a checked problem. False when even a tile of one token does not fit `limits`.
bool make_plan(const LayerwiseProblem& problem, NumberType in, NumberType out, const DeviceLimits& limits,
               LayerwisePlan& plan);

}  // namespace babelrs
