// The attributes of the plugin: read from TensorRT's fields when a network is built or an engine loaded, and written
// to the engine as the same fields.
#pragma once

#include <NvInferRuntime.h>

#include <array>
#include <cstdint>
#include <string>

#include "babelrs/aggregate.h"
#include "babelrs/layerwise.hpp"

namespace babelrs {

struct Fields {
  std::int32_t prefix_tokens = 0, height = 0, width = 0, num_levels = 0;
  float epsilon = 0.0f;
  std::int32_t num_tap_scales = 0, num_level_scales = 0;  // 0: no int8 there
  std::array<float, kMaxTaps> tap_scales{};
  std::array<float, kMaxLevels> level_scales{};
};

// Reads and checks every field. Returns what is wrong, naming the field, what it is and what is expected; empty: fine.
std::string parse_fields(const nvinfer1::PluginFieldCollection* collection, Fields& fields);

// A call that holds what the fields say; shapes, types and memory are the caller's to add.
babelrs_aggregate_call call_of(const Fields& fields);

// The fields as TensorRT takes them, pointing into the object itself: it stays where it is.
class FieldCollection {
 public:
  // Names, types and greatest lengths only, without data.
  FieldCollection();
  // With data; arrays without a value are left out.
  explicit FieldCollection(const Fields& fields);
  FieldCollection(const FieldCollection&) = delete;
  FieldCollection& operator=(const FieldCollection&) = delete;
  const nvinfer1::PluginFieldCollection* get() const { return &collection_; }

 private:
  Fields fields_;
  std::array<nvinfer1::PluginField, 7> entries_;
  nvinfer1::PluginFieldCollection collection_{};
};

}  // namespace babelrs
