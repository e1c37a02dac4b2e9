#include "fields.hpp"

#include <algorithm>
#include <cstring>
#include <limits>

#include "babelrs/check.hpp"

namespace babelrs {
namespace {

using nvinfer1::PluginField;
using nvinfer1::PluginFieldCollection;
using nvinfer1::PluginFieldType;

// One row for each field: reading, writing and listing follow this table.
struct Entry {
  const char* name;
  PluginFieldType type;
  void* data;
  std::int32_t capacity;
  std::int32_t* count;  // of an array, which may be absent; null for a number, which may not
};

std::array<Entry, 7> entries_of(Fields& fields) {
  constexpr auto kInt = PluginFieldType::kINT32, kFloat = PluginFieldType::kFLOAT32;
  return {{
      {"prefix_tokens", kInt, &fields.prefix_tokens, 1, nullptr},
      {"height", kInt, &fields.height, 1, nullptr},
      {"width", kInt, &fields.width, 1, nullptr},
      {"num_levels", kInt, &fields.num_levels, 1, nullptr},
      {"epsilon", kFloat, &fields.epsilon, 1, nullptr},
      {"tap_scales", kFloat, fields.tap_scales.data(), kMaxTaps, &fields.num_tap_scales},
      {"level_scales", kFloat, fields.level_scales.data(), kMaxLevels, &fields.num_level_scales},
  }};
}

std::string name_of(PluginFieldType type) {
  switch (type) {
    case PluginFieldType::kFLOAT16: return "kFLOAT16";
    case PluginFieldType::kFLOAT32: return "kFLOAT32";
    case PluginFieldType::kFLOAT64: return "kFLOAT64";
    case PluginFieldType::kINT8: return "kINT8";
    case PluginFieldType::kINT16: return "kINT16";
    case PluginFieldType::kINT32: return "kINT32";
    case PluginFieldType::kINT64: return "kINT64";
    case PluginFieldType::kCHAR: return "kCHAR";
    default: return "type " + std::to_string(static_cast<std::int32_t>(type));
  }
}

std::string described(std::int32_t length, PluginFieldType type) {
  return std::to_string(length) + " of " + name_of(type);
}

std::string expected(const Entry& entry) {
  return (entry.count == nullptr ? "" : "1 to ") + described(entry.capacity, entry.type);
}

std::string read(const PluginField& field, const Entry& entry) {
  const std::string name = std::string("field ") + entry.name;
  if (field.type != entry.type || field.length < 1 || field.length > entry.capacity) {
    return name + " is " + described(field.length, field.type) + ", expected " + expected(entry);
  }
  if (field.data == nullptr) return name + " has null data, expected " + expected(entry);
  std::memcpy(entry.data, field.data, static_cast<std::size_t>(field.length) * 4);  // as aligned as the engine file is
  if (entry.count != nullptr) *entry.count = field.length;
  return {};
}

std::string check_fields(const Fields& fields) {
  if (fields.num_levels < 1 || fields.num_levels > kMaxLevels) {
    return "field num_levels is " + std::to_string(fields.num_levels) + ", expected 1 to 5";
  }
  if (fields.num_level_scales != 0 && fields.num_level_scales != fields.num_levels) {
    return "field level_scales has " + std::to_string(fields.num_level_scales) +
           " values, expected num_levels = " + std::to_string(fields.num_levels);
  }
  // The tensors are not known yet: the smallest that could come stand in for them.
  babelrs_aggregate_call call = call_of(fields);
  call.batch = 1;
  call.channels = 8;
  call.tokens = call.prefix + call.height * call.width;
  call.num_taps = std::max(1, fields.num_tap_scales);
  call.in_type = fields.num_tap_scales > 0 ? BABELRS_INT8 : BABELRS_FLOAT32;
  call.out_type = fields.num_level_scales > 0 ? BABELRS_INT8 : BABELRS_FLOAT32;
  if (call.prefix >= 0 && call.height > 0 && call.width > 0 &&
      call.tokens > std::numeric_limits<std::int32_t>::max() / call.channels) {
    return "fields prefix_tokens + height * width are " + std::to_string(call.tokens) + ", expected at most 2^28 - 1";
  }
  std::string reason = check_sizes(call);
  if (reason.empty()) reason = check_numbers(call);
  return reason.empty() ? reason : "field " + reason;
}

}  // namespace

std::string parse_fields(const PluginFieldCollection* collection, Fields& fields) {
  fields = {};
  if (collection == nullptr || collection->nbFields < 0) return "the field collection is null or has a negative length";
  if (collection->nbFields > 0 && collection->fields == nullptr) return "the field collection has null fields";
  const auto entries = entries_of(fields);
  std::array<bool, 7> seen{};
  for (std::int32_t index = 0; index < collection->nbFields; ++index) {
    const PluginField& field = collection->fields[index];
    if (field.name == nullptr) return "field " + std::to_string(index) + " has a null name";
    const auto entry = std::find_if(entries.begin(), entries.end(),
                                    [&](const Entry& known) { return std::strcmp(known.name, field.name) == 0; });
    if (entry == entries.end()) return std::string("field ") + field.name + " is unknown";
    bool& already = seen[static_cast<std::size_t>(entry - entries.begin())];
    if (already) return std::string("field ") + field.name + " is given twice";
    already = true;
    std::string reason = read(field, *entry);
    if (!reason.empty()) return reason;
  }
  for (std::size_t index = 0; index < entries.size(); ++index) {
    if (!seen[index] && entries[index].count == nullptr) {
      return std::string("field ") + entries[index].name + " is missing, expected " + expected(entries[index]);
    }
  }
  return check_fields(fields);
}

babelrs_aggregate_call call_of(const Fields& fields) {
  babelrs_aggregate_call call{};
  call.prefix = fields.prefix_tokens;
  call.height = fields.height;
  call.width = fields.width;
  call.num_levels = fields.num_levels;
  call.epsilon = fields.epsilon;
  std::copy(fields.tap_scales.begin(), fields.tap_scales.end(), call.tap_scales);
  std::copy(fields.level_scales.begin(), fields.level_scales.end(), call.level_scales);
  return call;
}

FieldCollection::FieldCollection() {
  for (const Entry& entry : entries_of(fields_)) {
    entries_[static_cast<std::size_t>(collection_.nbFields++)] =
        PluginField(entry.name, nullptr, entry.type, entry.capacity);
  }
  collection_.fields = entries_.data();
}

FieldCollection::FieldCollection(const Fields& fields) : fields_(fields) {
  for (const Entry& entry : entries_of(fields_)) {
    const std::int32_t length = entry.count == nullptr ? 1 : *entry.count;
    if (length == 0) continue;
    entries_[static_cast<std::size_t>(collection_.nbFields++)] =
        PluginField(entry.name, entry.data, entry.type, length);
  }
  collection_.fields = entries_.data();
}

}  // namespace babelrs
