// The creator, and the two functions by which TensorRT takes a plugin library (`IPluginRegistry::loadLibrary`).
#include <memory>
#include <new>
#include <string>

#include "log.hpp"
#include "plugin.hpp"

#define BABELRS_EXPORT extern "C" __attribute__((visibility("default")))

namespace babelrs {
namespace {

class AggregateCreator final : public nvinfer1::IPluginCreatorV3One {
 public:
  // The same fields make the same plugin, whether they come from a network or from an engine.
  nvinfer1::IPluginV3* createPlugin(const char* name, const nvinfer1::PluginFieldCollection* collection,
                                    nvinfer1::TensorRTPhase) noexcept override {
    std::unique_ptr<AggregatePlugin> plugin;
    guarded("createPlugin", [&] {
      Fields fields;
      std::string reason = parse_fields(collection, fields);
      if (reason.empty()) {
        plugin = std::make_unique<AggregatePlugin>(fields, 0);
      } else if (name != nullptr && *name != '\0') {
        reason = std::string("\"") + name + "\": " + reason;
      }
      return reason;
    });
    return plugin.release();
  }

  const nvinfer1::PluginFieldCollection* getFieldNames() noexcept override { return field_names_.get(); }
  const char* getPluginName() const noexcept override { return kPluginName; }
  const char* getPluginVersion() const noexcept override { return kPluginVersion; }
  const char* getPluginNamespace() const noexcept override { return kPluginNamespace; }

 private:
  const FieldCollection field_names_;
};

}  // namespace
}  // namespace babelrs

BABELRS_EXPORT nvinfer1::IPluginCreatorInterface* const* getCreators(std::int32_t& count) {
  static babelrs::AggregateCreator creator;
  static nvinfer1::IPluginCreatorInterface* const creators[] = {&creator};
  count = 1;
  return creators;
}

BABELRS_EXPORT void setLoggerFinder(nvinfer1::ILoggerFinder* finder) { babelrs::set_logger_finder(finder); }
