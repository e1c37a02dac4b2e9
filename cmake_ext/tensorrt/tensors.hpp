// What TensorRT says about the plugin's tensors, compared with what the plugin needs.
#pragma once

#include <NvInferRuntime.h>

#include <cstdint>
#include <string>

#include "fields.hpp"

namespace babelrs {

constexpr std::int32_t kNumParameters = 3;  // gamma, beta, weights: the inputs after the taps

// Number type of the levels: int8 where they have scales; float16 from int8 taps without (an INT8 backbone under an
// FP16 head); otherwise the taps' own.
nvinfer1::DataType level_type(const Fields& fields, nvinfer1::DataType tap_type);

// int8 with tap_scales, one of the three floating types without.
bool accepts_taps(const Fields& fields, nvinfer1::DataType type);

// Each returns what is wrong, naming the tensor, what it is and what is expected; empty: fine.
std::string check_counts(const Fields& fields, std::int32_t num_inputs, std::int32_t num_outputs);
std::string check_input_types(const Fields& fields, const nvinfer1::DataType* types, std::int32_t num_inputs);

// Compares every tensor with taps[0] and the fields, and adds shapes and types to `call`, which then still lacks its
// memory and the checks of check.hpp. The counts are checked.
std::string describe(const Fields& fields, const nvinfer1::PluginTensorDesc* in, std::int32_t num_inputs,
                     const nvinfer1::PluginTensorDesc* out, babelrs_aggregate_call& call);

}  // namespace babelrs
