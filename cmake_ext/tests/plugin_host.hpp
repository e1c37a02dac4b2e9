// What TensorRT is to the plugin, in small: loads the library, keeps what it logs, and builds fields and shapes.
#pragma once

#include <NvInferRuntime.h>
#include <dlfcn.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <deque>
#include <limits>
#include <memory>
#include <string>
#include <utility>
#include <vector>

class Recorder final : public nvinfer1::ILogger {
 public:
  void log(Severity severity, const char* message) noexcept override {
    if (severity == Severity::kERROR) lines.emplace_back(message);
  }
  // Whether exactly one error came since the last call, and holds `fragment`.
  bool took(const std::string& fragment) {
    const bool found = lines.size() == 1 && lines[0].find(fragment) != std::string::npos;
    if (!found) std::printf("not logged, or not alone: %s; but:\n", fragment.c_str());
    for (std::size_t index = 0; !found && index < lines.size(); ++index) std::printf("  %s\n", lines[index].c_str());
    lines.clear();
    return found;
  }
  std::vector<std::string> lines;
};

inline Recorder recorder;
inline int failures = 0;

inline void check(bool condition, const char* file, int line, const char* text) {
  if (condition) return;
  ++failures;
  std::printf("%s:%d: %s\n", file, line, text);
}

#define CHECK(condition) check((condition), __FILE__, __LINE__, #condition)

class Finder final : public nvinfer1::ILoggerFinder {
 public:
  nvinfer1::ILogger* findLogger() override { return &recorder; }
};

struct Library {
  explicit Library(const char* path) : handle(dlopen(path, RTLD_NOW | RTLD_LOCAL)) {
    if (handle == nullptr) {
      std::printf("%s\n", dlerror());
      std::exit(1);
    }
    using GetCreators = nvinfer1::IPluginCreatorInterface* const* (*)(std::int32_t&);
    using SetLoggerFinder = void (*)(nvinfer1::ILoggerFinder*);
    const auto get_creators = reinterpret_cast<GetCreators>(dlsym(handle, "getCreators"));
    set_logger_finder = reinterpret_cast<SetLoggerFinder>(dlsym(handle, "setLoggerFinder"));
    std::int32_t count = 0;
    auto* first = get_creators(count)[0];
    CHECK(count == 1);
    creator = static_cast<nvinfer1::IPluginCreatorV3One*>(first);
    set_logger_finder(&finder);
  }
  Library(const Library&) = delete;
  Library& operator=(const Library&) = delete;

  void* handle;
  void (*set_logger_finder)(nvinfer1::ILoggerFinder*);
  nvinfer1::IPluginCreatorV3One* creator;
  Finder finder;
};

// A field collection that owns its data.
struct FieldSet {
  struct Field {
    std::string name;
    nvinfer1::PluginFieldType type;
    std::vector<std::int32_t> bits;
  };

  FieldSet& integer(const std::string& name, std::int32_t value) {
    fields.push_back({name, nvinfer1::PluginFieldType::kINT32, {value}});
    return *this;
  }
  FieldSet& floats(const std::string& name, const std::vector<float>& values) {
    fields.push_back({name, nvinfer1::PluginFieldType::kFLOAT32, {}});
    for (const float value : values) {
      std::int32_t bits;
      static_assert(sizeof bits == sizeof value);
      __builtin_memcpy(&bits, &value, sizeof bits);
      fields.back().bits.push_back(bits);
    }
    return *this;
  }
  FieldSet without(const std::string& name) const {
    FieldSet result;
    for (const Field& field : fields) {
      if (field.name != name) result.fields.push_back(field);
    }
    return result;
  }
  FieldSet with_integer(const std::string& name, std::int32_t value) const {
    return without(name).integer(name, value);
  }
  FieldSet with_floats(const std::string& name, const std::vector<float>& values) const {
    return without(name).floats(name, values);
  }
  std::vector<nvinfer1::PluginField> list() const {
    std::vector<nvinfer1::PluginField> result;
    for (const Field& field : fields) {
      result.emplace_back(field.name.c_str(), field.bits.data(), field.type,
                          static_cast<std::int32_t>(field.bits.size()));
    }
    return result;
  }

  std::vector<Field> fields;
};

inline FieldSet good_fields(std::int32_t num_levels = 2) {
  FieldSet set;
  set.integer("prefix_tokens", 1).integer("height", 3).integer("width", 5).integer("num_levels", num_levels);
  return set.floats("epsilon", {1e-6f});
}

// A plugin and its three faces.
struct Plugin {
  explicit Plugin(nvinfer1::IPluginV3* created) : whole(created) {
    if (whole == nullptr) return;
    using Type = nvinfer1::PluginCapabilityType;
    core = static_cast<nvinfer1::IPluginV3OneCore*>(whole->getCapabilityInterface(Type::kCORE));
    build = static_cast<nvinfer1::IPluginV3OneBuild*>(whole->getCapabilityInterface(Type::kBUILD));
    runtime = static_cast<nvinfer1::IPluginV3OneRuntime*>(whole->getCapabilityInterface(Type::kRUNTIME));
  }
  std::unique_ptr<nvinfer1::IPluginV3> whole;
  nvinfer1::IPluginV3OneCore* core = nullptr;
  nvinfer1::IPluginV3OneBuild* build = nullptr;
  nvinfer1::IPluginV3OneRuntime* runtime = nullptr;
};

inline Plugin create(const Library& library, const std::vector<nvinfer1::PluginField>& list,
                     nvinfer1::TensorRTPhase phase = nvinfer1::TensorRTPhase::kBUILD) {
  const nvinfer1::PluginFieldCollection collection{static_cast<std::int32_t>(list.size()), list.data()};
  return Plugin(library.creator->createPlugin("node 7", &collection, phase));
}

inline Plugin create(const Library& library, const FieldSet& fields) { return create(library, fields.list()); }

inline nvinfer1::Dims dims(const std::vector<std::int64_t>& sizes) {
  nvinfer1::Dims result{};
  for (const std::int64_t size : sizes) result.d[result.nbDims++] = size;
  return result;
}

inline nvinfer1::PluginTensorDesc tensor(const std::vector<std::int64_t>& sizes, nvinfer1::DataType type) {
  nvinfer1::PluginTensorDesc result{};
  result.dims = dims(sizes);
  result.type = type;
  result.format = nvinfer1::TensorFormat::kLINEAR;
  result.scale = 1.0f;
  return result;
}

// The tensors of S taps and P levels over a map of 3 x 5 with one prefix token.
struct Tensors {
  Tensors(std::int64_t batch, std::int64_t channels, std::int64_t num_taps, std::int64_t num_levels,
          nvinfer1::DataType tap, nvinfer1::DataType level) {
    for (std::int64_t index = 0; index < num_taps; ++index) in.push_back(tensor({batch, 16, channels}, tap));
    in.push_back(tensor({num_taps, channels}, nvinfer1::DataType::kFLOAT));
    in.push_back(tensor({num_taps, channels}, nvinfer1::DataType::kFLOAT));
    in.push_back(tensor({num_levels, num_taps}, nvinfer1::DataType::kFLOAT));
    for (std::int64_t index = 0; index < num_levels; ++index) out.push_back(tensor({batch, channels, 3, 5}, level));
  }
  std::int32_t num_inputs() const { return static_cast<std::int32_t>(in.size()); }
  std::int32_t num_outputs() const { return static_cast<std::int32_t>(out.size()); }
  std::vector<nvinfer1::PluginTensorDesc> in, out;
};
