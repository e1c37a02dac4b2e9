#include "tensors.hpp"

#include <algorithm>
#include <initializer_list>

namespace babelrs {
namespace {

using nvinfer1::DataType;
using nvinfer1::Dims;
using nvinfer1::PluginTensorDesc;

std::string name_of(DataType type) {
  switch (type) {
    case DataType::kFLOAT: return "kFLOAT";
    case DataType::kHALF: return "kHALF";
    case DataType::kBF16: return "kBF16";
    case DataType::kINT8: return "kINT8";
    default: return "type " + std::to_string(static_cast<std::int32_t>(type));
  }
}

std::int32_t number_type(DataType type) {
  switch (type) {
    case DataType::kFLOAT: return BABELRS_FLOAT32;
    case DataType::kHALF: return BABELRS_FLOAT16;
    case DataType::kBF16: return BABELRS_BFLOAT16;
    default: return BABELRS_INT8;  // every type was accepted before
  }
}

std::string name_of_input(std::int32_t index, std::int32_t num_taps) {
  static constexpr const char* kParameters[] = {"gamma", "beta", "weights"};
  return index < num_taps ? "taps[" + std::to_string(index) + "]" : kParameters[index - num_taps];
}

std::string shape_of(const Dims& dims) {
  std::string text = "(";
  for (std::int32_t axis = 0; axis < std::min(dims.nbDims, Dims::MAX_DIMS); ++axis) {
    text += (axis > 0 ? ", " : "") + std::to_string(dims.d[axis]);
  }
  return text + ")";
}

Dims dims_of(std::initializer_list<std::int64_t> sizes) {
  Dims dims{};
  for (const std::int64_t size : sizes) dims.d[dims.nbDims++] = size;
  return dims;
}

bool same(const Dims& first, const Dims& second) {
  return first.nbDims == second.nbDims && std::equal(first.d, first.d + first.nbDims, second.d);
}

std::string check_tensor(const std::string& name, const PluginTensorDesc& tensor, const Dims& dims, DataType type) {
  if (tensor.format != nvinfer1::TensorFormat::kLINEAR) return name + " is not in linear format";
  if (tensor.type != type) return name + " is " + name_of(tensor.type) + ", expected " + name_of(type);
  if (!same(tensor.dims, dims)) return name + " is " + shape_of(tensor.dims) + ", expected " + shape_of(dims);
  return {};
}

}  // namespace

DataType level_type(const Fields& fields, DataType tap_type) {
  if (fields.num_level_scales > 0) return DataType::kINT8;
  return tap_type == DataType::kINT8 ? DataType::kHALF : tap_type;
}

bool accepts_taps(const Fields& fields, DataType type) {
  if (fields.num_tap_scales > 0) return type == DataType::kINT8;
  return type == DataType::kFLOAT || type == DataType::kHALF || type == DataType::kBF16;
}

std::string check_counts(const Fields& fields, std::int32_t num_inputs, std::int32_t num_outputs) {
  if (num_inputs <= kNumParameters || num_inputs > kNumParameters + kMaxTaps) {
    return "there are " + std::to_string(num_inputs) + " inputs, expected 4 to 11: 1 to 8 taps, gamma, beta, weights";
  }
  const std::int32_t num_taps = num_inputs - kNumParameters;
  if (fields.num_tap_scales > 0 && fields.num_tap_scales != num_taps) {
    return "there are " + std::to_string(num_taps) + " taps, expected " + std::to_string(fields.num_tap_scales) +
           " as tap_scales has";
  }
  if (num_outputs != fields.num_levels) {
    return "there are " + std::to_string(num_outputs) +
           " outputs, expected num_levels = " + std::to_string(fields.num_levels);
  }
  return {};
}

std::string check_input_types(const Fields& fields, const DataType* types, std::int32_t num_inputs) {
  if (!accepts_taps(fields, types[0])) {
    return "taps[0] is " + name_of(types[0]) + ", expected " +
           (fields.num_tap_scales > 0 ? "kINT8 as tap_scales is given" : "kFLOAT, kHALF or kBF16, or field tap_scales");
  }
  for (std::int32_t index = 1; index < num_inputs; ++index) {
    const DataType type = index < num_inputs - kNumParameters ? types[0] : DataType::kFLOAT;
    if (types[index] != type) {
      return name_of_input(index, num_inputs - kNumParameters) + " is " + name_of(types[index]) + ", expected " +
             name_of(type);
    }
  }
  return {};
}

std::string describe(const Fields& fields, const PluginTensorDesc* in, std::int32_t num_inputs,
                     const PluginTensorDesc* out, babelrs_aggregate_call& call) {
  call = call_of(fields);
  call.num_taps = num_inputs - kNumParameters;
  const Dims& taps = in[0].dims;
  if (taps.nbDims != 3) return "taps[0] is " + shape_of(taps) + ", expected (B, T, C)";
  if (!accepts_taps(fields, in[0].type)) return check_input_types(fields, &in[0].type, 1);
  call.batch = taps.d[0];
  call.tokens = taps.d[1];
  call.channels = taps.d[2];
  const DataType levels = level_type(fields, in[0].type);
  call.in_type = number_type(in[0].type);
  call.out_type = number_type(levels);
  const Dims affine = dims_of({call.num_taps, call.channels}), mix = dims_of({call.num_levels, call.num_taps});
  std::string reason;
  for (std::int32_t index = 0; reason.empty() && index < num_inputs; ++index) {
    const bool is_tap = index < call.num_taps;
    const Dims& dims = is_tap ? taps : index == num_inputs - 1 ? mix : affine;
    reason = check_tensor(name_of_input(index, call.num_taps), in[index], dims, is_tap ? in[0].type : DataType::kFLOAT);
  }
  const Dims map = dims_of({call.batch, call.channels, call.height, call.width});
  for (std::int32_t level = 0; reason.empty() && level < call.num_levels; ++level) {
    reason = check_tensor("levels[" + std::to_string(level) + "]", out[level], map, levels);
  }
  return reason;
}

}  // namespace babelrs
