#include "plugin.hpp"

#include <cuda_runtime_api.h>

#include <algorithm>
#include <array>
#include <cstdio>
#include <new>

#include "babelrs/check.hpp"
#include "babelrs/layerwise_cuda.hpp"
#include "log.hpp"
#include "tensors.hpp"

namespace babelrs {
namespace {

using nvinfer1::DataType;
using nvinfer1::Dims;
using nvinfer1::DimsExprs;
using nvinfer1::DynamicPluginTensorDesc;
using nvinfer1::IDimensionExpr;
using nvinfer1::PluginTensorDesc;

constexpr std::int32_t kMaxInputs = kMaxTaps + kNumParameters;

bool constant_other_than(const IDimensionExpr& size, std::int64_t wanted) {
  return size.isConstant() && size.getConstantValue() != wanted;
}

// What a network's shapes already tell before they are numbers.
std::string check_expressions(const Fields& fields, const DimsExprs* inputs, std::int32_t num_taps) {
  const std::int64_t tokens = fields.prefix_tokens + std::int64_t{fields.height} * fields.width;
  for (std::int32_t tap = 0; tap < num_taps; ++tap) {
    const std::string name = "taps[" + std::to_string(tap) + "]";
    if (inputs[tap].nbDims != 3) {
      return name + " has " + std::to_string(inputs[tap].nbDims) + " dimensions, expected (B, T, C)";
    }
    if (constant_other_than(*inputs[tap].d[1], tokens)) {
      return name + ": T is " + std::to_string(inputs[tap].d[1]->getConstantValue()) +
             ", expected prefix_tokens + height * width = " + std::to_string(tokens);
    }
  }
  return {};
}

// A tensor of a profile: what the network leaves open is taken from `bound`.
PluginTensorDesc resolved(const PluginTensorDesc& tensor, const Dims& bound) {
  PluginTensorDesc result = tensor;
  for (std::int32_t axis = 0; axis < std::min(tensor.dims.nbDims, Dims::MAX_DIMS); ++axis) {
    if (tensor.dims.d[axis] < 0) result.dims.d[axis] = bound.d[axis];
  }
  return result;
}

// As check_call without memory. An empty batch is allowed: enqueue returns at once.
std::string check_shapes(const Fields& fields, const PluginTensorDesc* in, std::int32_t num_inputs,
                         const PluginTensorDesc* out, babelrs_aggregate_call& call) {
  std::string reason = describe(fields, in, num_inputs, out, call);
  if (call.batch == 0) call.batch = 1;
  if (reason.empty()) reason = check_sizes(call);
  if (reason.empty()) reason = check_numbers(call);
  return reason;
}

// One end of a profile.
std::string check_profile(const Fields& fields, const DynamicPluginTensorDesc* in, std::int32_t num_inputs,
                          const DynamicPluginTensorDesc* out, Dims DynamicPluginTensorDesc::* bound) {
  std::array<PluginTensorDesc, kMaxInputs> inputs{};
  std::array<PluginTensorDesc, kMaxLevels> outputs{};
  std::transform(in, in + num_inputs, inputs.begin(),
                 [&](const DynamicPluginTensorDesc& tensor) { return resolved(tensor.desc, tensor.*bound); });
  Dims batch{};  // all that a level leaves open
  std::fill(batch.d, batch.d + Dims::MAX_DIMS, inputs[0].dims.d[0]);
  std::transform(out, out + fields.num_levels, outputs.begin(),
                 [&](const DynamicPluginTensorDesc& tensor) { return resolved(tensor.desc, batch); });
  babelrs_aggregate_call call;
  return check_shapes(fields, inputs.data(), num_inputs, outputs.data(), call);
}

}  // namespace

AggregatePlugin::AggregatePlugin(const Fields& fields, std::int32_t num_taps)
    : fields_(fields), serialized_(fields), num_taps_(num_taps) {
  // Scales and epsilon cost the same whatever they are.
  std::snprintf(timing_id_, sizeof timing_id_, "%d+%dx%d:%d", fields.prefix_tokens, fields.height, fields.width,
                fields.num_levels);
}

nvinfer1::IPluginCapability* AggregatePlugin::getCapabilityInterface(nvinfer1::PluginCapabilityType type) noexcept {
  switch (type) {
    case nvinfer1::PluginCapabilityType::kCORE: return static_cast<nvinfer1::IPluginV3OneCore*>(this);
    case nvinfer1::PluginCapabilityType::kBUILD: return static_cast<nvinfer1::IPluginV3OneBuild*>(this);
    case nvinfer1::PluginCapabilityType::kRUNTIME: return static_cast<nvinfer1::IPluginV3OneRuntime*>(this);
  }
  return nullptr;
}

nvinfer1::IPluginV3* AggregatePlugin::clone() noexcept {
  auto* copy = new (std::nothrow) AggregatePlugin(fields_, num_taps_);
  if (copy == nullptr) log_error("clone", "out of memory");
  return copy;
}

nvinfer1::IPluginV3* AggregatePlugin::attachToContext(nvinfer1::IPluginResourceContext*) noexcept { return clone(); }

std::int32_t AggregatePlugin::getOutputDataTypes(DataType* output_types, std::int32_t num_outputs,
                                                 const DataType* input_types, std::int32_t num_inputs) const noexcept {
  return guarded("getOutputDataTypes", [&]() -> std::string {
    if (output_types == nullptr || input_types == nullptr) return "the types are null";
    std::string reason = check_counts(fields_, num_inputs, num_outputs);
    if (reason.empty()) reason = check_input_types(fields_, input_types, num_inputs);
    if (reason.empty()) std::fill(output_types, output_types + num_outputs, level_type(fields_, input_types[0]));
    return reason;
  });
}

std::int32_t AggregatePlugin::getOutputShapes(const DimsExprs* inputs, std::int32_t num_inputs, const DimsExprs*,
                                              std::int32_t num_shape_inputs, DimsExprs* outputs,
                                              std::int32_t num_outputs, nvinfer1::IExprBuilder& builder) noexcept {
  return guarded("getOutputShapes", [&]() -> std::string {
    if (inputs == nullptr || outputs == nullptr) return "the shapes are null";
    std::string reason = check_counts(fields_, num_inputs, num_outputs);
    if (reason.empty() && num_shape_inputs != 0) reason = "there are shape inputs, expected none";
    if (reason.empty()) reason = check_expressions(fields_, inputs, num_inputs - kNumParameters);
    if (!reason.empty()) return reason;
    const IDimensionExpr *height = builder.constant(fields_.height), *width = builder.constant(fields_.width);
    if (height == nullptr || width == nullptr) return "TensorRT gave no expression for height or width";
    for (std::int32_t level = 0; level < num_outputs; ++level) {
      outputs[level].nbDims = 4;
      const IDimensionExpr* const sizes[] = {inputs[0].d[0], inputs[0].d[2], height, width};
      std::copy(std::begin(sizes), std::end(sizes), outputs[level].d);
    }
    return {};
  });
}

bool AggregatePlugin::supportsFormatCombination(std::int32_t position, const DynamicPluginTensorDesc* tensors,
                                                std::int32_t num_inputs, std::int32_t num_outputs) noexcept {
  if (tensors == nullptr || position < 0 || position >= num_inputs + num_outputs) return false;
  const std::int32_t num_taps = num_inputs - kNumParameters;
  if (num_taps < 1 || num_taps > kMaxTaps || num_outputs != fields_.num_levels) return false;
  // Of the tensors after `position` nothing is settled yet.
  const PluginTensorDesc& tensor = tensors[position].desc;
  if (tensor.format != nvinfer1::TensorFormat::kLINEAR) return false;
  if (position == 0) return accepts_taps(fields_, tensor.type);
  if (position < num_taps) return tensor.type == tensors[0].desc.type;
  if (position < num_inputs) return tensor.type == DataType::kFLOAT;
  return tensor.type == level_type(fields_, tensors[0].desc.type);
}

std::int32_t AggregatePlugin::configurePlugin(const DynamicPluginTensorDesc* in, std::int32_t num_inputs,
                                              const DynamicPluginTensorDesc* out, std::int32_t num_outputs) noexcept {
  return guarded("configurePlugin", [&]() -> std::string {
    if (in == nullptr || out == nullptr) return "the tensors are null";
    std::string reason = check_counts(fields_, num_inputs, num_outputs);
    if (reason.empty()) reason = check_profile(fields_, in, num_inputs, out, &DynamicPluginTensorDesc::min);
    if (reason.empty()) reason = check_profile(fields_, in, num_inputs, out, &DynamicPluginTensorDesc::max);
    if (reason.empty()) num_taps_ = num_inputs - kNumParameters;
    return reason;
  });
}

std::int32_t AggregatePlugin::onShapeChange(const PluginTensorDesc* in, std::int32_t num_inputs,
                                            const PluginTensorDesc* out, std::int32_t num_outputs) noexcept {
  return guarded("onShapeChange", [&]() -> std::string {
    if (in == nullptr || out == nullptr) return "the tensors are null";
    babelrs_aggregate_call call;
    std::string reason = check_counts(fields_, num_inputs, num_outputs);
    if (reason.empty()) reason = check_shapes(fields_, in, num_inputs, out, call);
    if (reason.empty()) num_taps_ = num_inputs - kNumParameters;
    return reason;
  });
}

std::int32_t AggregatePlugin::enqueue(const PluginTensorDesc* in, const PluginTensorDesc* out,
                                      const void* const* inputs, void* const* outputs, void*,
                                      cudaStream_t stream) noexcept {
  return guarded("enqueue", [&]() -> std::string {
    if (num_taps_ == 0) return "called before onShapeChange";
    if (in == nullptr || out == nullptr || inputs == nullptr || outputs == nullptr) return "the tensors are null";
    babelrs_aggregate_call call;
    std::string reason = describe(fields_, in, num_taps_ + kNumParameters, out, call);
    if (!reason.empty() || call.batch == 0) return reason;
    std::copy(inputs, inputs + num_taps_, call.taps);
    std::copy(outputs, outputs + fields_.num_levels, call.outputs);
    call.gamma = static_cast<const float*>(inputs[num_taps_]);
    call.beta = static_cast<const float*>(inputs[num_taps_ + 1]);
    call.weights = static_cast<const float*>(inputs[num_taps_ + 2]);
    if (call.gamma == nullptr) return "gamma is null";  // the C interface takes that for the sum without LayerNorm
    return launch(call, stream);
  });
}

std::string AggregatePlugin::launch(const babelrs_aggregate_call& call, cudaStream_t stream) {
  LayerwiseProblem problem;
  std::string reason = check_call(call, problem);
  if (!reason.empty()) return reason;
  int device = -1;
  cudaError_t status = cudaGetDevice(&device);
  if (status == cudaSuccess && device != device_) {
    device_ = -1;
    status = device_limits(device, limits_);
    if (status == cudaSuccess) device_ = device;
  }
  if (status == cudaSuccess) {
    status = launch_layerwise(problem, static_cast<NumberType>(call.in_type), static_cast<NumberType>(call.out_type),
                              limits_, stream);
  }
  return status == cudaSuccess ? std::string() : std::string("CUDA: ") + cudaGetErrorString(status);
}

}  // namespace babelrs
