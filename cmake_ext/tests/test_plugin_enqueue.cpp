// The TensorRT plugin at run time: the shapes it takes, and what enqueue makes of tensors, stream and errors. The
// kernel is the CPU's emulation (emulated_cuda.cpp) except where the real library is asked on a machine without a GPU.
#include <cuda_runtime_api.h>

#include <cmath>
#include <random>

#include "emulated_cuda.hpp"
#include "plugin_host.hpp"

namespace {

using namespace nvinfer1;

constexpr int kPrefix = 1, kHeight = 3, kWidth = 5, kPositions = kHeight * kWidth, kTokens = kPrefix + kPositions;

// `count` numbers at a multiple of 16 bytes.
template <class T>
struct Aligned {
  explicit Aligned(std::size_t count)
      : data(static_cast<T*>(std::aligned_alloc(16, (count * sizeof(T) + 15) / 16 * 16))) {}
  ~Aligned() { std::free(data); }
  Aligned(const Aligned&) = delete;
  Aligned& operator=(const Aligned&) = delete;
  T* data;
};

// Taps, parameters and levels of one call.
template <class T>
struct Memory {
  Memory(int b, int c, int s, int p) : batch(b), channels(c), num_taps(s), num_levels(p) {
    std::mt19937 generator(static_cast<unsigned>(b * 1000 + c * 10 + s));
    std::normal_distribution<float> normal(2.0f, 20.0f);
    for (int tap = 0; tap < s; ++tap) {
      taps.push_back(std::make_unique<Aligned<T>>(size(kTokens)));
      for (std::size_t i = 0; i < size(kTokens); ++i) taps.back()->data[i] = static_cast<T>(normal(generator));
      inputs.push_back(taps.back()->data);
    }
    for (auto* values : {&gamma, &beta}) {
      for (int i = 0; i < s * c; ++i) values->push_back(normal(generator));
    }
    for (int i = 0; i < p * s; ++i) weights.push_back(normal(generator));
    inputs.insert(inputs.end(), {gamma.data(), beta.data(), weights.data()});
    for (int level = 0; level < p; ++level) {
      levels.push_back(std::make_unique<Aligned<T>>(size(kPositions)));
      outputs.push_back(levels.back()->data);
    }
  }
  std::size_t size(int tokens) const { return static_cast<std::size_t>(batch * tokens * channels); }

  // One number of one level in float64. A tap's value is its scale times what is stored.
  double expected(int level, int image, int channel, int position, const std::vector<float>& scales) const {
    double sum = 0.0;
    for (int tap = 0; tap < num_taps; ++tap) {
      const auto at = static_cast<std::size_t>(tap);
      const T* row = taps[at]->data + (image * kTokens + kPrefix + position) * channels;
      double mean = 0.0, variance = 0.0;
      for (int c = 0; c < channels; ++c) mean += scales[at] * static_cast<double>(row[c]) / channels;
      for (int c = 0; c < channels; ++c)
        variance += std::pow(scales[at] * static_cast<double>(row[c]) - mean, 2) / channels;
      const double normal = (scales[at] * static_cast<double>(row[channel]) - mean) / std::sqrt(variance + 1e-6);
      const auto affine = static_cast<std::size_t>(tap * channels + channel);
      sum += weights[static_cast<std::size_t>(level * num_taps + tap)] * (normal * gamma[affine] + beta[affine]);
    }
    return sum;
  }

  int batch, channels, num_taps, num_levels;
  std::vector<std::unique_ptr<Aligned<T>>> taps, levels;
  std::vector<float> gamma, beta, weights;
  std::vector<const void*> inputs;
  std::vector<void*> outputs;
};

template <class T>
std::int32_t enqueue(const Plugin& plugin, const Tensors& tensors, const Memory<T>& memory,
                     cudaStream_t stream = babelrs::emulated_stream()) {
  return plugin.runtime->enqueue(tensors.in.data(), tensors.out.data(), memory.inputs.data(), memory.outputs.data(),
                                 nullptr, stream);
}

std::int32_t shape_change(const Plugin& plugin, const Tensors& tensors) {
  return plugin.runtime->onShapeChange(tensors.in.data(), tensors.num_inputs(), tensors.out.data(),
                                       tensors.num_outputs());
}

// The largest difference from float64; a level's step is `steps`, and int8 saturates.
template <class T>
double worst_error(const Memory<T>& memory, const std::vector<float>& scales, const std::vector<float>& steps) {
  double worst = 0.0;
  for (int level = 0; level < memory.num_levels; ++level) {
    const T* found = memory.levels[static_cast<std::size_t>(level)]->data;
    for (int image = 0; image < memory.batch; ++image) {
      for (int channel = 0; channel < memory.channels; ++channel) {
        for (int position = 0; position < kPositions; ++position) {
          double wanted =
              memory.expected(level, image, channel, position, scales) / steps[static_cast<std::size_t>(level)];
          if (sizeof(T) == 1) wanted = std::fmin(std::fmax(wanted, -128.0), 127.0);
          const double value = static_cast<double>(found[(image * memory.channels + channel) * kPositions + position]);
          worst = std::fmax(worst, std::fabs(value - wanted) / (sizeof(T) == 1 ? 1.0 : 1.0 + std::fabs(wanted)));
        }
      }
    }
  }
  return worst;
}

void test_float32(const Library& library) {
  const Plugin plugin = create(library, good_fields(2));
  const std::vector<float> ones(8, 1.0f);
  for (const int batch : {2, 1, 3}) {  // dynamic: one plugin, several batches
    const Tensors tensors(batch, 24, 3, 2, DataType::kFLOAT, DataType::kFLOAT);
    const Memory<float> memory(batch, 24, 3, 2);
    CHECK(shape_change(plugin, tensors) == 0);
    CHECK(enqueue(plugin, tensors, memory) == 0);
    CHECK(worst_error(memory, ones, ones) < 1e-4);
  }
}

void test_int8(const Library& library) {
  const std::vector<float> scales = {0.5f, 2.0f}, steps = {20.0f, 7.0f, 40.0f};
  const Plugin plugin =
      create(library, good_fields(3).with_floats("tap_scales", scales).with_floats("level_scales", steps));
  const Tensors tensors(2, 16, 2, 3, DataType::kINT8, DataType::kINT8);
  const Memory<signed char> memory(2, 16, 2, 3);
  CHECK(shape_change(plugin, tensors) == 0);
  CHECK(enqueue(plugin, tensors, memory) == 0);
  CHECK(worst_error(memory, scales, steps) < 0.501);
}

void test_an_empty_batch_launches_nothing(const Library& library) {
  const Plugin plugin = create(library, good_fields(2));
  const Tensors tensors(0, 24, 3, 2, DataType::kHALF, DataType::kHALF);
  CHECK(shape_change(plugin, tensors) == 0);
  const std::vector<const void*> inputs(6, nullptr);
  const std::vector<void*> outputs(2, nullptr);
  CHECK(plugin.runtime->enqueue(tensors.in.data(), tensors.out.data(), inputs.data(), outputs.data(), nullptr,
                                nullptr) == 0);
}

void test_contexts_are_independent(const Library& library) {
  const Plugin plugin = create(library, good_fields(1));
  const Plugin two(plugin.runtime->attachToContext(nullptr)), four(plugin.runtime->attachToContext(nullptr));
  const Tensors of_two(1, 8, 2, 1, DataType::kFLOAT, DataType::kFLOAT);
  const Tensors of_four(1, 8, 4, 1, DataType::kFLOAT, DataType::kFLOAT);
  const Memory<float> memory_of_two(1, 8, 2, 1), memory_of_four(1, 8, 4, 1);
  const std::vector<float> ones(8, 1.0f);
  CHECK(shape_change(two, of_two) == 0);
  CHECK(enqueue(four, of_four, memory_of_four) != 0 && recorder.took("called before onShapeChange"));
  CHECK(enqueue(plugin, of_two, memory_of_two) != 0 && recorder.took("called before onShapeChange"));
  CHECK(shape_change(four, of_four) == 0);
  CHECK(enqueue(two, of_two, memory_of_two) == 0 && enqueue(four, of_four, memory_of_four) == 0);
  CHECK(worst_error(memory_of_two, ones, ones) < 1e-4 && worst_error(memory_of_four, ones, ones) < 1e-4);
}

void test_wrong_shapes(const Library& library) {
  const Plugin plugin = create(library, good_fields(2));
  constexpr auto kFloat = DataType::kFLOAT, kHalf = DataType::kHALF;
  const Tensors right(1, 24, 2, 2, kHalf, kHalf);
  const auto refused = [&](std::size_t index, const PluginTensorDesc& wrong, const std::string& reason) {
    Tensors tensors = right;
    (index < 5 ? tensors.in[index] : tensors.out[index - 5]) = wrong;
    CHECK(shape_change(plugin, tensors) != 0);
    CHECK(recorder.took(reason));
  };
  refused(0, tensor({16, 24}, kHalf), "taps[0] is (16, 24), expected (B, T, C)");
  refused(0, tensor({1, 16, 24}, DataType::kINT8), "taps[0] is kINT8");
  refused(1, tensor({1, 16, 32}, kHalf), "taps[1] is (1, 16, 32), expected (1, 16, 24)");
  refused(1, tensor({1, 16, 24}, kFloat), "taps[1] is kFLOAT, expected kHALF");
  refused(2, tensor({3, 24}, kFloat), "gamma is (3, 24), expected (2, 24)");
  refused(3, tensor({2, 24, 1}, kFloat), "beta is (2, 24, 1), expected (2, 24)");
  refused(4, tensor({2, 3}, kFloat), "weights is (2, 3), expected (2, 2)");
  refused(5, tensor({1, 24, 5, 3}, kHalf), "levels[0] is (1, 24, 5, 3), expected (1, 24, 3, 5)");
  refused(6, tensor({1, 24, 3, 5}, kFloat), "levels[1] is kFLOAT, expected kHALF");
  PluginTensorDesc packed = right.in[0];
  packed.format = TensorFormat::kCHW2;
  refused(0, packed, "taps[0] is not in linear format");
  const std::string counts = "there are 3 inputs, expected 4 to 11";
  CHECK(plugin.runtime->onShapeChange(right.in.data(), 3, right.out.data(), 2) != 0 && recorder.took(counts));
  CHECK(plugin.runtime->onShapeChange(right.in.data(), 5, right.out.data(), 1) != 0 && recorder.took("1 outputs"));
  Tensors tokens = right;
  for (int tap = 0; tap < 2; ++tap) tokens.in[static_cast<std::size_t>(tap)].dims.d[1] = 17;
  CHECK(shape_change(plugin, tokens) != 0 &&
        recorder.took("taps: T is 17, expected prefix_tokens + height * width = 16"));
}

void test_enqueue_reports_what_fails(const Library& library) {
  const Plugin plugin = create(library, good_fields(2));
  const Tensors tensors(1, 24, 2, 2, DataType::kFLOAT, DataType::kFLOAT);
  Memory<float> memory(1, 24, 2, 2);
  CHECK(shape_change(plugin, tensors) == 0);
  CHECK(enqueue(plugin, tensors, memory, nullptr) != 0 && recorder.took("enqueue: CUDA: emulated: wrong stream"));
  for (const std::size_t parameter : {std::size_t{2}, std::size_t{3}, std::size_t{4}}) {
    Memory<float> missing(1, 24, 2, 2);
    missing.inputs[parameter] = nullptr;
    CHECK(enqueue(plugin, tensors, missing) != 0 && recorder.took("enqueue: "));
  }
  Memory<float> plain(1, 24, 2, 2);  // to the C interface this is the sum without LayerNorm; to a network a mistake
  plain.inputs[2] = plain.inputs[3] = nullptr;
  CHECK(enqueue(plugin, tensors, plain) != 0 && recorder.took("enqueue: gamma is null"));
  memory.inputs[1] = static_cast<const char*>(memory.inputs[1]) + 4;
  CHECK(enqueue(plugin, tensors, memory) != 0 && recorder.took("taps[1] is null or not aligned to 16 bytes"));
  CHECK(plugin.runtime->enqueue(nullptr, nullptr, nullptr, nullptr, nullptr, nullptr) != 0 && recorder.took("null"));
}

void test_the_real_library_without_a_gpu(const Library& library) {
  int count = 0;
  if (cudaGetDeviceCount(&count) == cudaSuccess && count > 0) {
    std::printf("skipped: this machine has a GPU, enqueue would run\n");
    return;
  }
  const Plugin plugin = create(library, good_fields(2));
  const Tensors tensors(1, 24, 2, 2, DataType::kFLOAT, DataType::kFLOAT);
  const Memory<float> memory(1, 24, 2, 2);
  CHECK(shape_change(plugin, tensors) == 0);
  CHECK(enqueue(plugin, tensors, memory, nullptr) != 0);
  CHECK(recorder.lines.size() == 1 && recorder.lines[0].find("enqueue: CUDA: ") != std::string::npos);
  for (const std::string& line : recorder.lines) std::printf("without a GPU: %s\n", line.c_str());
  recorder.lines.clear();
}

}  // namespace

int main(int, char** arguments) {
  const Library real(arguments[1]), emulated(arguments[2]);
  for (const auto test : {test_float32, test_int8, test_an_empty_batch_launches_nothing, test_contexts_are_independent,
                          test_wrong_shapes, test_enqueue_reports_what_fails}) {
    test(emulated);
    CHECK(recorder.lines.empty());
  }
  test_the_real_library_without_a_gpu(real);
  std::printf("%d failures\n", failures);
  return failures == 0 ? 0 : 1;
}
