// What one thread block does. The kernel and the host's emulation run this very code: they differ only in the
// `Executor`, which says how warps and lanes take turns, how 16 bytes reach shared memory and what a barrier is.
//
// An Executor offers
//   for_each_warp(f)          f(warp) for every warp of the block (device: its own)
//   for_each_lane(f)          f(lane) for every lane of the warp, in lockstep (device: its own)
//   Lanes<T>                  one T a lane, `of(lane)`
//   sum(Lanes<float>&)        butterfly sum: every lane gets the total
//   copy(to, from, bytes)     8 or 16 bytes from device to shared memory, maybe later
//   commit() / wait(pending)  closes a group of copies / returns when all but the newest `pending` groups have arrived
//   warp_barrier() / block_barrier()
//   read_once(const float*)   a load through the read-only cache
#pragma once

#include "babelrs/layerwise.hpp"

#if defined(__CUDACC__)
#define BABELRS_BLOCK __device__ __forceinline__
#else
#define BABELRS_BLOCK inline
#endif

namespace babelrs {

// `Whole`: H * W lets every lane store 16 bytes from its registers; otherwise stores go through shared memory.
template <class In, class Out, bool Whole>
struct BlockTraits {
  static constexpr int kIn = static_cast<int>(sizeof(In)), kOut = static_cast<int>(sizeof(Out));
  static constexpr int kVector = kChunkBytes / kOut;  // tokens a lane writes at once
  // Sums a lane holds, so that nothing spills at 128 registers: unpacking int8 and long float32 rows take their share.
  static constexpr int kSums = (kIn == 1 || kIn > 2 * kOut ? 32 : 64) / (Whole ? 1 : kIn == 4 ? 4 : 2);
  static constexpr int kLevelsThatFit = kSums / (2 * kVector);
  static constexpr int kLevels = kLevelsThatFit > 4 ? 4 : kLevelsThatFit < 1 ? 1 : kLevelsThatFit;
  static constexpr int kChunkElements = kChunkBytes / kIn;
  static constexpr int kRowChunks = kMaxChannels * kIn / (kWarpSize * kChunkBytes);  // chunks of a row a lane holds
};

template <class Executor, class In, class Out, bool Whole>
class Block {
  using Traits = BlockTraits<In, Out, Whole>;
  template <class T>
  using Lanes = typename Executor::template Lanes<T>;

 public:
  BABELRS_BLOCK Block(Executor& executor, const LayerwiseProblem& problem, const LayerwisePlan& plan,
                      unsigned char* shared)
      : executor_(executor), problem_(problem), plan_(plan), shared_(shared) {}

  // Walks over tiles first, first + step, ...
  BABELRS_BLOCK void run(int first, int step) {
    stage_weights();
    Ahead ahead = {first, 0, 0};
    BABELRS_KEEP_LOOP
    for (int slot = 0; slot < plan_.slots; ++slot) load_next(ahead, step);
    int slot = 0;
    for (int index = first; index < plan_.tiles; index += step) {
      const Tile tile = tile_at(index);
      statistics(tile, slot);
      executor_.block_barrier();
      combine(tile, slot);
      executor_.block_barrier();
      BABELRS_KEEP_LOOP
      for (int tap = 0; tap < problem_.num_taps; ++tap) load_next(ahead, step);
      slot = (slot + problem_.num_taps) % plan_.slots;
    }
    executor_.for_each_warp([&](int) { executor_.wait(0); });
  }

 private:
  // A run of tokens of one image; `rows` are fewer than the plan's at an image's end.
  struct Tile {
    int image, start, rows;
  };

  // The tap that is loaded next, and where to.
  struct Ahead {
    int tile, tap, slot;
  };

  BABELRS_BLOCK Tile tile_at(int index) const {
    const int image = index / plan_.tiles_per_image;
    const int start = (index - image * plan_.tiles_per_image) * plan_.tile_tokens, left = problem_.positions - start;
    return {image, start, left < plan_.tile_tokens ? left : plan_.tile_tokens};
  }

  BABELRS_BLOCK int next_slot(int slot) const { return slot + 1 == plan_.slots ? 0 : slot + 1; }

  BABELRS_BLOCK float* weights() const { return reinterpret_cast<float*>(shared_ + plan_.weights_offset); }

  BABELRS_BLOCK RowStatistics* row_statistics(int tap, int row) const {
    auto* table = reinterpret_cast<RowStatistics*>(shared_ + plan_.statistics_offset);
    const int rows = plan_.tile_tokens < Traits::kVector ? Traits::kVector : plan_.tile_tokens;
    return table + tap * rows + row;
  }

  BABELRS_BLOCK unsigned char* slot_row(int slot, int row) const {
    return shared_ + (slot * plan_.tile_tokens + row) * plan_.row_bytes;
  }

  // Lanes that read one channel at `groups` tokens, `kVector` apart, must meet different banks: the chunks of a row are
  // exchanged within 128 bytes by its group.
  BABELRS_BLOCK int swizzle(int group) const { return group << (3 - plan_.group_bits); }

  // Weights live in shared memory: P * S numbers that every lane reads.
  BABELRS_BLOCK void stage_weights() {
    executor_.for_each_warp([&](int warp) {
      executor_.for_each_lane([&](int lane) {
        for (int i = warp * kWarpSize + lane; i < problem_.num_levels * problem_.num_taps; i += kThreads) {
          weights()[i] = executor_.read_once(problem_.weights + i);
        }
      });
    });
  }

  // Starts loading the next tap in the order of use, or an empty group behind the last tile, and steps on.
  BABELRS_BLOCK void load_next(Ahead& ahead, int step) {
    executor_.for_each_warp([&](int warp) {
      if (ahead.tile < plan_.tiles) load(tile_at(ahead.tile), ahead.tap, ahead.slot, warp);
      executor_.commit();
    });
    ahead.slot = next_slot(ahead.slot);
    if (++ahead.tap == problem_.num_taps) {
      ahead.tap = 0;
      ahead.tile += step;
    }
  }

  // A warp loads the rows whose statistics it computes later, so that no block barrier stands between.
  BABELRS_BLOCK void load(const Tile& tile, int tap, int slot, int warp) {
    const std::int64_t row_bytes = static_cast<std::int64_t>(problem_.channels) * Traits::kIn;
    const auto* rows = static_cast<const unsigned char*>(problem_.taps[tap]) +
                       (tile.image * problem_.tokens + problem_.prefix + tile.start) * row_bytes;
    const int bytes = static_cast<int>(row_bytes);
    for (int row = warp; row < tile.rows; row += kWarps) {
      const unsigned char* from = rows + row * row_bytes;
      unsigned char* to = slot_row(slot, row);
      const int exchange = swizzle(row / Traits::kVector);
      executor_.for_each_lane([&](int lane) {
        const int moved = ((lane ^ exchange) - lane) * kChunkBytes;
        for (int offset = lane * kChunkBytes; offset < bytes; offset += kWarpSize * kChunkBytes) {
          unsigned char* chunk = to + offset + moved;
          if (Traits::kIn > 1 || bytes % kChunkBytes == 0) {
            executor_.copy(chunk, from + offset, kChunkBytes);
          } else {  // int8 with an odd multiple of eight channels: rows begin at multiples of eight bytes
            executor_.copy(chunk, from + offset, 8);
            if (offset + 8 < bytes) executor_.copy(chunk + 8, from + offset + 8, 8);
          }
        }
      });
    }
  }

  BABELRS_BLOCK void statistics(const Tile& tile, int slot) {
    executor_.for_each_warp([&](int warp) {
      BABELRS_KEEP_LOOP
      for (int tap = 0, at = slot; tap < problem_.num_taps; ++tap, at = next_slot(at)) {
        executor_.wait(plan_.slots - 1 - tap);
        executor_.warp_barrier();
        BABELRS_KEEP_LOOP
        for (int row = warp; row < tile.rows; row += kWarps) {
          row_statistics_of(tap, row, slot_row(at, row), swizzle(row / Traits::kVector));
        }
      }
    });
  }

  // Mean first, then the squared differences from it; a lane keeps its chunks of the row in registers between.
  BABELRS_BLOCK void row_statistics_of(int tap, int row, const unsigned char* from, int exchange) {
    if (problem_.gamma == nullptr) {
      executor_.for_each_lane([&](int lane) {
        if (lane == 0) *row_statistics(tap, row) = {0.0f, problem_.tap_scales[tap]};
      });
      return;
    }
    struct Chunks {
      Chunk at[Traits::kRowChunks];
    };
    Lanes<Chunks> chunks;
    Lanes<float> total;
    executor_.for_each_lane([&](int lane) {
      float sum = 0.0f;
      const unsigned char* first = from + (lane ^ exchange) * kChunkBytes;  // exchanges stay within 128 bytes
      BABELRS_UNROLL
      for (int k = 0; k < Traits::kRowChunks; ++k) {
        const int offset = (k * kWarpSize + lane) * kChunkBytes;
        if (offset < problem_.channels * Traits::kIn) {
          chunks.of(lane).at[k] = *reinterpret_cast<const Chunk*>(first + k * kWarpSize * kChunkBytes);
          sum += fold(chunks.of(lane).at[k], offset, [](float value) { return value; });
        }
      }
      total.of(lane) = sum;
    });
    executor_.sum(total);
    Lanes<float> squares;
    executor_.for_each_lane([&](int lane) {
      const float mean = row_mean(total.of(lane), problem_.channels);
      float sum = 0.0f;
      BABELRS_UNROLL
      for (int k = 0; k < Traits::kRowChunks; ++k) {
        const int offset = (k * kWarpSize + lane) * kChunkBytes;
        if (offset < problem_.channels * Traits::kIn) {
          sum += fold(chunks.of(lane).at[k], offset, [mean](float value) { return (value - mean) * (value - mean); });
        }
      }
      squares.of(lane) = sum;
    });
    executor_.sum(squares);
    executor_.for_each_lane([&](int lane) {
      if (lane != 0) return;
      const float factor = row_factor(squares.of(lane), problem_.channels, problem_.tap_scales[tap], problem_.epsilon);
      *row_statistics(tap, row) = {row_mean(total.of(lane), problem_.channels), factor};
    });
  }

  // Sum of f over the channels of a chunk; only int8 rows can end within one.
  template <class Function>
  BABELRS_BLOCK float fold(const Chunk& chunk, int offset, Function function) const {
    float sum = 0.0f;
    BABELRS_UNROLL
    for (int i = 0; i < Traits::kChunkElements; ++i) {
      if (Traits::kIn == 1 && offset + i >= problem_.channels) break;
      sum += function(chunk_element<In>(chunk, i));
    }
    return sum;
  }

  // A lane's share of a tile: two channels, kVector tokens.
  struct Task {
    int channel, group;
    bool active;
  };

  BABELRS_BLOCK Task task_of(int index) const {
    const int pair = index >> plan_.group_bits;
    const bool active = pair < problem_.channels / 2;
    return {active ? 2 * pair : 0, index & ((1 << plan_.group_bits) - 1), active};
  }

  struct Sums {
    float at[Traits::kLevels][2][Traits::kVector];
  };

  BABELRS_BLOCK void combine(const Tile& tile, int slot) {
    const int tasks = (problem_.channels / 2) << plan_.group_bits;
    executor_.for_each_warp([&](int warp) {
      BABELRS_KEEP_LOOP
      for (int level = 0; level < problem_.num_levels; level += Traits::kLevels) {
        if (problem_.num_levels - level == 1) {
          combine_levels<1>(tile, slot, warp, tasks, level);
        } else {
          combine_levels<Traits::kLevels>(tile, slot, warp, tasks, level);
        }
      }
    });
  }

  template <int Levels>
  BABELRS_BLOCK void combine_levels(const Tile& tile, int slot, int warp, int tasks, int first_level) {
    BABELRS_KEEP_LOOP
    for (int base = warp * kWarpSize; base < tasks; base += kThreads) {
      combine_tasks<Levels>(tile, slot, warp, base, first_level);
    }
  }

  template <int Levels>
  BABELRS_BLOCK void combine_tasks(const Tile& tile, int slot, int warp, int base, int first_level) {
    Lanes<Sums> sums;
    executor_.for_each_lane([&](int lane) {
      const Task task = task_of(base + lane);
      start_sums<Levels>(sums.of(lane), task, first_level);
      int at = slot;
      BABELRS_KEEP_LOOP
      for (int tap = 0; tap < problem_.num_taps; ++tap) {
        add_tap<Levels>(sums.of(lane), task, first_level, tap, at);
        at = next_slot(at);
      }
    });
    BABELRS_UNROLL
    for (int j = 0; j < Levels; ++j) {
      if (first_level + j >= problem_.num_levels) break;
      if constexpr (Whole) {
        executor_.for_each_lane([&](int lane) { store_whole(sums.of(lane), j, base + lane, tile, first_level + j); });
      } else {
        store_staged(sums, j, base, tile, first_level + j, warp);
      }
    }
  }

  BABELRS_BLOCK float weight(int level, int tap) const {
    return level < problem_.num_levels ? weights()[level * problem_.num_taps + tap] : 0.0f;
  }

  // The sums begin with what beta adds.
  template <int Levels>
  BABELRS_BLOCK void start_sums(Sums& sums, const Task& task, int first_level) const {
    float shift[Levels][2] = {};
    BABELRS_KEEP_LOOP
    for (int tap = 0; problem_.beta != nullptr && tap < problem_.num_taps; ++tap) {
      const float* beta = problem_.beta + tap * problem_.channels + task.channel;
      const float beta0 = executor_.read_once(beta), beta1 = executor_.read_once(beta + 1);
      BABELRS_UNROLL
      for (int j = 0; j < Levels; ++j) {
        shift[j][0] += weight(first_level + j, tap) * beta0;
        shift[j][1] += weight(first_level + j, tap) * beta1;
      }
    }
    BABELRS_UNROLL
    for (int j = 0; j < Levels; ++j) {
      BABELRS_UNROLL
      for (int v = 0; v < Traits::kVector; ++v) {
        sums.at[j][0][v] = shift[j][0];
        sums.at[j][1][v] = shift[j][1];
      }
    }
  }

  // Rows behind the tile's last token hold what was there before: their sums are never stored.
  template <int Levels>
  BABELRS_BLOCK void add_tap(Sums& sums, const Task& task, int first_level, int tap, int slot) const {
    float gamma0 = 1.0f, gamma1 = 1.0f;
    if (problem_.gamma != nullptr) {
      const float* gamma = problem_.gamma + tap * problem_.channels + task.channel;
      gamma0 = executor_.read_once(gamma);
      gamma1 = executor_.read_once(gamma + 1);
    }
    float factor[Levels][2];
    BABELRS_UNROLL
    for (int j = 0; j < Levels; ++j) {
      const float value = weight(first_level + j, tap);
      factor[j][0] = value * gamma0;
      factor[j][1] = value * gamma1;
    }
    const int first_row = task.group * Traits::kVector, last_row = plan_.tile_tokens - 1;
    const unsigned char* column =
        slot_row(slot, first_row) + ((task.channel * Traits::kIn) ^ (swizzle(task.group) * kChunkBytes));
    const RowStatistics* rows = row_statistics(tap, first_row);
    BABELRS_UNROLL
    for (int v = 0; v < Traits::kVector; ++v) {
      float x0, x1;
      const int step = Whole || v < last_row ? v : last_row;  // tiles of fewer tokens are never whole
      load_pair<In>(column + step * plan_.row_bytes, x0, x1);
      const RowStatistics row = rows[v];
      x0 = normalised(x0, row);
      x1 = normalised(x1, row);
      BABELRS_UNROLL
      for (int j = 0; j < Levels; ++j) {
        sums.at[j][0][v] += factor[j][0] * x0;
        sums.at[j][1][v] += factor[j][1] * x1;
      }
    }
  }

  BABELRS_BLOCK Chunk pack(const float* sums, int level) const {
    const float steps = Traits::kOut == 1 ? problem_.level_steps[level] : 1.0f;
    Chunk chunk = {};
    BABELRS_UNROLL
    for (int v = 0; v < Traits::kVector; ++v) set_chunk_element<Out>(chunk, v, sums[v] * steps);
    return chunk;
  }

  BABELRS_BLOCK unsigned char* output(int level, const Tile& tile, int channel) const {
    const std::int64_t plane = static_cast<std::int64_t>(tile.image) * problem_.channels + channel;
    return static_cast<unsigned char*>(problem_.outputs[level]) +
           (plane * problem_.positions + tile.start) * Traits::kOut;
  }

  // H * W is a multiple of kVector: a lane's tokens are all there or none is.
  BABELRS_BLOCK void store_whole(const Sums& sums, int j, int index, const Tile& tile, int level) const {
    const Task task = task_of(index);
    const int first_row = task.group * Traits::kVector;
    if (!task.active || first_row >= tile.rows) return;
    BABELRS_UNROLL
    for (int half = 0; half < 2; ++half) {
      unsigned char* to = output(level, tile, task.channel + half) + first_row * Traits::kOut;
      *reinterpret_cast<Chunk*>(to) = pack(sums.at[j][half], level);
    }
  }

  // Any other H * W: the warp puts its channels side by side in shared memory, then walks along their tokens.
  BABELRS_BLOCK void store_staged(Lanes<Sums>& sums, int j, int base, const Tile& tile, int level, int warp) {
    unsigned char* stage = shared_ + plan_.staging_offset + warp * kWarpSize * kChunkBytes;
    BABELRS_UNROLL
    for (int half = 0; half < 2; ++half) {
      executor_.for_each_lane(
          [&](int lane) { reinterpret_cast<Chunk*>(stage)[lane] = pack(sums.of(lane).at[j][half], level); });
      executor_.warp_barrier();
      executor_.for_each_lane([&](int lane) { store_pieces(stage, lane, base, half, tile, level); });
      executor_.warp_barrier();
    }
  }

  // A run of 16 << group_bits bytes holds the tokens of one channel of a pair. The warp's stride is a multiple of it
  // (see the plan), so that a lane keeps its place in the run.
  BABELRS_BLOCK void store_pieces(const unsigned char* stage, int lane, int base, int half, const Tile& tile,
                                  int level) const {
    const int bits = plan_.store_bits, run_bits = plan_.group_bits + 4;
    const int within = (lane << bits) & ((1 << run_bits) - 1), column_bits = 5 + bits - run_bits,
              columns = 1 << column_bits;
    const int channel = 2 * ((base >> plan_.group_bits) + ((lane << bits) >> run_bits)) + half;
    if (within >= tile.rows * Traits::kOut || channel >= problem_.channels) return;
    const int steps = (problem_.channels - channel + 2 * columns - 1) >> (1 + column_bits);
    const std::int64_t stride = std::int64_t{2 * columns} * problem_.positions * Traits::kOut;
    unsigned char* to = output(level, tile, channel) + within;
    const unsigned char* from = stage + (lane << bits);
    switch (bits) {
      case 0: copy_pieces<std::uint8_t>(to, from, stride, steps); break;
      case 1: copy_pieces<std::uint16_t>(to, from, stride, steps); break;
      case 2: copy_pieces<std::uint32_t>(to, from, stride, steps); break;
      default: copy_pieces<std::uint64_t>(to, from, stride, steps); break;
    }
  }

  template <class Piece>
  BABELRS_BLOCK void copy_pieces(unsigned char* to, const unsigned char* from, std::int64_t stride, int steps) const {
    constexpr int kSteps = kChunkBytes / static_cast<int>(sizeof(Piece));
    if constexpr (static_cast<int>(sizeof(Piece)) >= Traits::kOut) {
      BABELRS_UNROLL_SOME
      for (int k = 0; k < kSteps; ++k) {
        if (k >= steps) return;
        *reinterpret_cast<Piece*>(to) = *reinterpret_cast<const Piece*>(from + k * kWarpSize * sizeof(Piece));
        to += stride;
      }
    }
  }

  Executor& executor_;
  const LayerwiseProblem& problem_;
  const LayerwisePlan& plan_;
  unsigned char* shared_;
};

}  // namespace babelrs
