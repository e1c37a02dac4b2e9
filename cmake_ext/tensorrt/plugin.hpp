// babelrs::LayerwiseAggregate for TensorRT 10.3 and later, 11 included.
//
// Inputs: S taps (B, T, C), gamma (S, C), beta (S, C), weights (P, S), these three float32. Outputs: P maps (B, C, H,
// W). Taps and levels are float32, float16, bfloat16 or int8, all in linear format.
#pragma once

#include <NvInferRuntime.h>

#include <string>

#include "babelrs/layerwise.hpp"
#include "fields.hpp"

namespace babelrs {

constexpr char kPluginName[] = "LayerwiseAggregate";
constexpr char kPluginNamespace[] = "babelrs";
constexpr char kPluginVersion[] = "1";

class AggregatePlugin final : public nvinfer1::IPluginV3,
                              public nvinfer1::IPluginV3OneCore,
                              public nvinfer1::IPluginV3OneBuild,
                              public nvinfer1::IPluginV3OneRuntime {
 public:
  // `num_taps`: S where it is known already, else 0.
  AggregatePlugin(const Fields& fields, std::int32_t num_taps);

  nvinfer1::IPluginCapability* getCapabilityInterface(nvinfer1::PluginCapabilityType type) noexcept override;
  nvinfer1::IPluginV3* clone() noexcept override;

  const char* getPluginName() const noexcept override { return kPluginName; }
  const char* getPluginVersion() const noexcept override { return kPluginVersion; }
  const char* getPluginNamespace() const noexcept override { return kPluginNamespace; }

  std::int32_t getNbOutputs() const noexcept override { return fields_.num_levels; }
  std::int32_t getOutputDataTypes(nvinfer1::DataType* output_types, std::int32_t num_outputs,
                                  const nvinfer1::DataType* input_types,
                                  std::int32_t num_inputs) const noexcept override;
  std::int32_t getOutputShapes(const nvinfer1::DimsExprs* inputs, std::int32_t num_inputs,
                               const nvinfer1::DimsExprs* shape_inputs, std::int32_t num_shape_inputs,
                               nvinfer1::DimsExprs* outputs, std::int32_t num_outputs,
                               nvinfer1::IExprBuilder& builder) noexcept override;
  bool supportsFormatCombination(std::int32_t position, const nvinfer1::DynamicPluginTensorDesc* tensors,
                                 std::int32_t num_inputs, std::int32_t num_outputs) noexcept override;
  std::int32_t configurePlugin(const nvinfer1::DynamicPluginTensorDesc* in, std::int32_t num_inputs,
                               const nvinfer1::DynamicPluginTensorDesc* out,
                               std::int32_t num_outputs) noexcept override;
  const char* getTimingCacheID() noexcept override { return timing_id_; }

  std::int32_t onShapeChange(const nvinfer1::PluginTensorDesc* in, std::int32_t num_inputs,
                             const nvinfer1::PluginTensorDesc* out, std::int32_t num_outputs) noexcept override;
  std::int32_t enqueue(const nvinfer1::PluginTensorDesc* in, const nvinfer1::PluginTensorDesc* out,
                       const void* const* inputs, void* const* outputs, void* workspace,
                       cudaStream_t stream) noexcept override;
  nvinfer1::IPluginV3* attachToContext(nvinfer1::IPluginResourceContext* context) noexcept override;
  const nvinfer1::PluginFieldCollection* getFieldsToSerialize() noexcept override { return serialized_.get(); }

 private:
  std::string launch(const babelrs_aggregate_call& call, cudaStream_t stream);

  const Fields fields_;
  const FieldCollection serialized_;
  char timing_id_[64];
  std::int32_t num_taps_;  // enqueue is not told how many inputs there are
  std::int32_t device_ = -1;
  DeviceLimits limits_{};  // of device_
};

}  // namespace babelrs
