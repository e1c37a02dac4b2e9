// The TensorRT plugin up to a configured network: creation from good and bad fields, types, shapes, formats, profiles,
// serialisation, and where it logs.
#include <unistd.h>

#include <cmath>
#include <stdexcept>

#include "plugin_host.hpp"

namespace {

using namespace nvinfer1;

constexpr std::int32_t kIntMax = std::numeric_limits<std::int32_t>::max();

// --- expressions of shapes

struct SizeValue final : apiv::VDimensionExpr {
  explicit SizeValue(std::int64_t size) : value(size) {}
  bool isConstant() const override { return value >= 0; }
  std::int64_t getConstantValue() const override { return value; }
  bool isSizeTensor() const override { return false; }
  std::int64_t value;  // -1: known at run time only
};

struct Size final : IDimensionExpr {
  explicit Size(std::int64_t size) : held(size) { mImpl = &held; }
  SizeValue held;
};

struct BuilderCore final : apiv::VExprBuilder {
  const IDimensionExpr* constant(std::int64_t value) override { return &sizes.emplace_back(value); }
  const IDimensionExpr* operation(DimensionOperation, const IDimensionExpr&, const IDimensionExpr&) override {
    return nullptr;
  }
  const IDimensionExpr* declareSizeTensor(std::int32_t, const IDimensionExpr&, const IDimensionExpr&) override {
    return nullptr;
  }
  std::deque<Size> sizes;
};

struct Builder final : IExprBuilder {
  Builder() { mImpl = &core; }
  DimsExprs shape(const std::vector<std::int64_t>& sizes) {
    DimsExprs result{};
    for (const std::int64_t size : sizes) result.d[result.nbDims++] = core.constant(size);
    return result;
  }
  BuilderCore core;
};

// --- creation

void test_creator(const Library& library) {
  IPluginCreatorV3One& creator = *library.creator;
  CHECK(std::string(creator.getPluginName()) == "LayerwiseAggregate");
  CHECK(std::string(creator.getPluginNamespace()) == "babelrs");
  CHECK(std::string(creator.getPluginVersion()) == "1");
  CHECK(std::string(creator.getInterfaceInfo().kind) == "PLUGIN CREATOR_V3ONE");
  const PluginFieldCollection* names = creator.getFieldNames();
  const std::vector<std::string> expected = {"prefix_tokens", "height",     "width",       "num_levels",
                                             "epsilon",       "tap_scales", "level_scales"};
  CHECK(names->nbFields == static_cast<std::int32_t>(expected.size()));
  for (std::size_t index = 0; index < expected.size(); ++index) CHECK(names->fields[index].name == expected[index]);
}

void test_good_fields(const Library& library) {
  const std::vector<FieldSet> sets = {
      good_fields(),
      good_fields(5).with_integer("prefix_tokens", 0).with_floats("epsilon", {0.0f}),
      good_fields().with_floats("tap_scales", {0.5f}),
      good_fields().with_floats("tap_scales", std::vector<float>(8, 0.25f)).with_floats("level_scales", {0.1f, 2.0f}),
      good_fields(1).with_floats("level_scales", {3.0f}),
  };
  for (const FieldSet& set : sets) {
    const Plugin plugin = create(library, set);
    CHECK(plugin.whole != nullptr);
    if (plugin.whole == nullptr) continue;
    CHECK(std::string(plugin.core->getPluginName()) == "LayerwiseAggregate");
    CHECK(std::string(plugin.core->getPluginNamespace()) == "babelrs");
    CHECK(std::string(plugin.core->getPluginVersion()) == "1");
    CHECK(plugin.build->getTimingCacheID() != nullptr);
    CHECK(plugin.build->getWorkspaceSize(nullptr, 0, nullptr, 0) == 0);
  }
  CHECK(recorder.lines.empty());
}

void refuse(const Library& library, const std::vector<PluginField>& list, const std::string& fragment) {
  CHECK(create(library, list).whole == nullptr);
  CHECK(recorder.took(fragment));
}

void test_bad_values(const Library& library) {
  const float nan = std::nanf(""), inf = INFINITY;
  const FieldSet good = good_fields();
  const std::vector<std::pair<FieldSet, std::string>> cases = {
      {good.without("prefix_tokens"), "field prefix_tokens is missing, expected 1 of kINT32"},
      {good.without("height"), "field height is missing"},
      {good.without("width"), "field width is missing"},
      {good.without("num_levels"), "field num_levels is missing"},
      {good.without("epsilon"), "field epsilon is missing, expected 1 of kFLOAT32"},
      {good.with_integer("prefix_tokens", -1), "field prefix_tokens is -1, expected 0 or more"},
      {good.with_integer("height", 0), "field height is 0, expected at least 1"},
      {good.with_integer("width", -5), "field width is -5, expected at least 1"},
      {good.with_integer("height", kIntMax).with_integer("width", kIntMax), "height * width"},
      {good.with_integer("prefix_tokens", kIntMax), "prefix_tokens"},
      {good.with_integer("num_levels", 0), "field num_levels is 0, expected 1 to 5"},
      {good.with_integer("num_levels", 6), "field num_levels is 6, expected 1 to 5"},
      {good.with_floats("epsilon", {nan}), "field epsilon is nan"},
      {good.with_floats("epsilon", {inf}), "field epsilon is inf"},
      {good.with_floats("epsilon", {-1e-6f}), "field epsilon is -1e-06, expected a finite number, 0 or more"},
      {good.with_floats("epsilon", {1.0f, 2.0f}), "field epsilon is 2 of kFLOAT32, expected 1 of kFLOAT32"},
      {good.with_integer("epsilon", 0), "field epsilon is 1 of kINT32, expected 1 of kFLOAT32"},
      {good.with_floats("height", {3.0f}), "field height is 1 of kFLOAT32, expected 1 of kINT32"},
      {good.with_floats("tap_scales", std::vector<float>(9, 1.0f)),
       "field tap_scales is 9 of kFLOAT32, expected 1 to 8"},
      {good.with_floats("tap_scales", {}), "field tap_scales is 0 of kFLOAT32"},
      {good.with_floats("tap_scales", {1.0f, nan}), "field tap_scales[1] is nan, expected a positive number"},
      {good.with_floats("tap_scales", {0.0f}), "field tap_scales[0] is 0, expected a positive number"},
      {good.with_floats("tap_scales", {1.0f, 1.0f, -2.0f}), "field tap_scales[2] is -2"},
      {good.with_floats("tap_scales", {1e-40f}), "field tap_scales[0] is 9.99995e-41"},
      {good.with_integer("tap_scales", 1), "field tap_scales is 1 of kINT32"},
      {good.with_floats("level_scales", {1.0f}), "field level_scales has 1 values, expected num_levels = 2"},
      {good.with_floats("level_scales", {1.0f, inf}), "field level_scales[1] is inf"},
      {good.with_floats("level_scales", std::vector<float>(6, 1.0f)), "field level_scales is 6 of kFLOAT32"},
      {FieldSet(good).integer("height", 3), "field height is given twice"},
      {FieldSet(good).integer("hight", 3), "field hight is unknown"},
      {FieldSet(), "field prefix_tokens is missing"},
  };
  for (const auto& [set, fragment] : cases) refuse(library, set.list(), fragment);
}

void test_bad_collections(const Library& library) {
  const FieldSet good = good_fields();
  std::vector<PluginField> list = good.list();
  list[1].data = nullptr;
  refuse(library, list, "field height has null data");
  list = good.list();
  list[1].length = -1;
  refuse(library, list, "field height is -1 of kINT32");
  list[1].length = kIntMax;
  refuse(library, list, "field height is 2147483647 of kINT32");
  list = good.list();
  list[2].type = static_cast<PluginFieldType>(99);
  refuse(library, list, "field width is 1 of type 99");
  list = good.list();
  list[3].name = nullptr;
  refuse(library, list, "field 3 has a null name");
  const auto refused = [&](const char* name, const PluginFieldCollection* collection, const std::string& fragment) {
    CHECK(library.creator->createPlugin(name, collection, TensorRTPhase::kRUNTIME) == nullptr);
    CHECK(recorder.took(fragment));
  };
  const PluginFieldCollection negative{-1, nullptr}, null_fields{2, nullptr}, empty{0, nullptr};
  refused("node 7", nullptr, "field collection is null");
  refused("node 7", &negative, "negative length");
  refused("node 7", &null_fields, "null fields");
  refused("node 7", &empty, "\"node 7\": field prefix_tokens is missing");
  refused(nullptr, &empty, "createPlugin: field prefix_tokens is missing");
  refused("", &empty, "createPlugin: field prefix_tokens is missing");
}

bool same_fields(const PluginFieldCollection& found, const std::vector<PluginField>& wanted) {
  if (found.nbFields != static_cast<std::int32_t>(wanted.size())) return false;
  for (const PluginField& field : wanted) {
    const PluginField* match = nullptr;
    for (std::int32_t index = 0; index < found.nbFields; ++index) {
      if (std::string(found.fields[index].name) == field.name) match = &found.fields[index];
    }
    if (match == nullptr || match->type != field.type || match->length != field.length) return false;
    const auto bytes = static_cast<std::size_t>(field.length) * 4;
    if (std::string(static_cast<const char*>(match->data), bytes) !=
        std::string(static_cast<const char*>(field.data), bytes)) {
      return false;
    }
  }
  return true;
}

// Every field comes back as it was given, and again from an engine, where its data need not be aligned.
void test_serialisation(const Library& library) {
  const FieldSet scaled = good_fields(3).with_floats("tap_scales", {0.5f, 2.0f}).with_floats("level_scales", {1, 2, 3});
  for (const FieldSet& set : {good_fields(), scaled}) {
    const Plugin plugin = create(library, set);
    const PluginFieldCollection* written = plugin.runtime->getFieldsToSerialize();
    CHECK(same_fields(*written, set.list()));
    std::string bytes(1, 'x');
    for (std::int32_t index = 0; index < written->nbFields; ++index) {
      bytes.append(static_cast<const char*>(written->fields[index].data),
                   static_cast<std::size_t>(written->fields[index].length) * 4);
    }
    std::vector<PluginField> loaded(written->fields, written->fields + written->nbFields);
    const char* at = bytes.data() + 1;
    for (PluginField& field : loaded) {
      field.data = at;
      at += field.length * 4;
    }
    const Plugin again = create(library, loaded, TensorRTPhase::kRUNTIME);
    CHECK(again.whole != nullptr && same_fields(*again.runtime->getFieldsToSerialize(), set.list()));
    CHECK(std::string(again.build->getTimingCacheID()) == plugin.build->getTimingCacheID());
  }
}

void test_clones(const Library& library) {
  const FieldSet set = good_fields(3).with_floats("tap_scales", {0.5f, 2.0f});
  auto original = std::make_unique<Plugin>(create(library, set));
  const Plugin copy(original->whole->clone()), attached(original->runtime->attachToContext(nullptr));
  CHECK(copy.whole != nullptr && attached.whole != nullptr && copy.whole != attached.whole);
  CHECK(copy.runtime->getFieldsToSerialize()->fields != original->runtime->getFieldsToSerialize()->fields);
  CHECK(copy.runtime->getFieldsToSerialize()->fields[0].data !=
        original->runtime->getFieldsToSerialize()->fields[0].data);
  original.reset();
  for (const Plugin* plugin : {&copy, &attached}) {
    CHECK(same_fields(*plugin->runtime->getFieldsToSerialize(), set.list()));
    CHECK(plugin->build->getNbOutputs() == 3);
  }
}

// --- types and shapes of a network

void test_output_types(const Library& library) {
  constexpr auto kFloat = DataType::kFLOAT, kHalf = DataType::kHALF, kBf16 = DataType::kBF16, kInt8 = DataType::kINT8;
  const FieldSet plain = good_fields(2), int8_taps = plain.with_floats("tap_scales", {1.0f, 1.0f});
  const std::vector<float> two = {1.0f, 1.0f};
  struct Case {
    FieldSet fields;
    std::vector<DataType> inputs;
    DataType expected;
    std::string reason;  // empty: it is fine
  };
  const std::vector<Case> cases = {
      {plain, {kFloat, kFloat, kFloat, kFloat, kFloat}, kFloat, ""},
      {plain, {kHalf, kHalf, kFloat, kFloat, kFloat}, kHalf, ""},
      {plain, {kBf16, kFloat, kFloat, kFloat}, kBf16, ""},
      {plain.with_floats("level_scales", two), {kHalf, kFloat, kFloat, kFloat}, kInt8, ""},
      {int8_taps, {kInt8, kInt8, kFloat, kFloat, kFloat}, kHalf, ""},
      {int8_taps.with_floats("level_scales", two), {kInt8, kInt8, kFloat, kFloat, kFloat}, kInt8, ""},
      {plain, {kInt8, kInt8, kFloat, kFloat, kFloat}, kInt8, "taps[0] is kINT8, expected kFLOAT, kHALF or kBF16"},
      {plain, {DataType::kINT32, kFloat, kFloat, kFloat}, kInt8, "taps[0] is type 3"},
      {plain, {kHalf, kFloat, kFloat, kFloat, kFloat}, kInt8, "taps[1] is kFLOAT, expected kHALF"},
      {plain, {kHalf, kHalf, kHalf, kFloat, kFloat}, kInt8, "gamma is kHALF, expected kFLOAT"},
      {plain, {kHalf, kHalf, kFloat, kFloat, kBf16}, kInt8, "weights is kBF16, expected kFLOAT"},
      {int8_taps, {kHalf, kHalf, kFloat, kFloat, kFloat}, kInt8, "taps[0] is kHALF, expected kINT8"},
      {int8_taps, {kInt8, kFloat, kFloat, kFloat}, kInt8, "there are 1 taps, expected 2 as tap_scales has"},
      {plain, {kFloat, kFloat, kFloat}, kInt8, "there are 3 inputs, expected 4 to 11"},
      {plain, std::vector<DataType>(12, kFloat), kInt8, "there are 12 inputs, expected 4 to 11"},
  };
  for (const Case& test : cases) {
    const Plugin plugin = create(library, test.fields);
    DataType found[2] = {DataType::kBOOL, DataType::kBOOL};
    const std::int32_t status =
        plugin.build->getOutputDataTypes(found, 2, test.inputs.data(), static_cast<std::int32_t>(test.inputs.size()));
    CHECK((status == 0) == test.reason.empty());
    CHECK(test.reason.empty() ? found[0] == test.expected && found[1] == test.expected : recorder.took(test.reason));
  }
  const Plugin plugin = create(library, plain);
  DataType found[5];
  CHECK(plugin.build->getOutputDataTypes(found, 3, cases[0].inputs.data(), 5) != 0);
  CHECK(recorder.took("there are 3 outputs, expected num_levels = 2"));
  CHECK(plugin.build->getOutputDataTypes(nullptr, 2, cases[0].inputs.data(), 5) != 0);
  CHECK(recorder.took("null"));
}

void test_output_shapes(const Library& library) {
  const Plugin plugin = create(library, good_fields(2));
  Builder builder;
  std::vector<DimsExprs> in = {builder.shape({-1, 16, 24}), builder.shape({-1, 16, 24}), builder.shape({2, 24}),
                               builder.shape({2, 24}), builder.shape({2, 2})};
  DimsExprs out[3]{};
  CHECK(plugin.build->getOutputShapes(in.data(), 5, nullptr, 0, out, 2, builder) == 0);
  for (int level = 0; level < 2; ++level) {
    CHECK(out[level].nbDims == 4 && out[level].d[0] == in[0].d[0] && out[level].d[1] == in[0].d[2]);
    CHECK(out[level].d[2]->getConstantValue() == 3 && out[level].d[3]->getConstantValue() == 5);
  }
  const auto refused = [&](std::int32_t num_inputs, std::int32_t num_shape_inputs, std::int32_t num_outputs) {
    return plugin.build->getOutputShapes(in.data(), num_inputs, in.data(), num_shape_inputs, out, num_outputs,
                                         builder) != 0;
  };
  CHECK(refused(3, 0, 2) && recorder.took("there are 3 inputs"));
  CHECK(refused(5, 0, 3) && recorder.took("there are 3 outputs"));
  CHECK(refused(5, 1, 2) && recorder.took("shape inputs"));
  in[1] = builder.shape({-1, 15, 24});
  CHECK(refused(5, 0, 2) && recorder.took("taps[1]: T is 15, expected prefix_tokens + height * width = 16"));
  in[1] = builder.shape({-1, 24});
  CHECK(refused(5, 0, 2) && recorder.took("taps[1] has 2 dimensions"));
}

// Every type and format at every position, the tensors before it being right.
void test_formats(const Library& library) {
  constexpr DataType kTypes[] = {DataType::kFLOAT, DataType::kHALF, DataType::kINT8, DataType::kINT32, DataType::kBOOL,
                                 DataType::kUINT8, DataType::kFP8,  DataType::kBF16, DataType::kINT64};
  const FieldSet plain = good_fields(2);
  const std::vector<float> two = {1.0f, 1.0f};
  struct Case {
    FieldSet fields;
    std::vector<std::pair<DataType, DataType>> pairs;  // of taps and levels
  };
  const std::vector<Case> cases = {
      {plain,
       {{DataType::kFLOAT, DataType::kFLOAT}, {DataType::kHALF, DataType::kHALF}, {DataType::kBF16, DataType::kBF16}}},
      {plain.with_floats("level_scales", two),
       {{DataType::kFLOAT, DataType::kINT8}, {DataType::kHALF, DataType::kINT8}, {DataType::kBF16, DataType::kINT8}}},
      {plain.with_floats("tap_scales", two), {{DataType::kINT8, DataType::kHALF}}},
      {plain.with_floats("tap_scales", two).with_floats("level_scales", two), {{DataType::kINT8, DataType::kINT8}}},
  };
  for (const Case& test : cases) {
    const Plugin plugin = create(library, test.fields);
    for (const auto& [tap, level] : test.pairs) {
      const std::vector<DataType> right = {tap,   tap,  DataType::kFLOAT, DataType::kFLOAT, DataType::kFLOAT,
                                           level, level};
      std::vector<DynamicPluginTensorDesc> tensors(right.size());
      for (std::size_t position = 0; position < right.size(); ++position) {
        for (const TensorFormat format : {TensorFormat::kLINEAR, TensorFormat::kCHW4, TensorFormat::kHWC8}) {
          for (const DataType type : kTypes) {
            tensors[position].desc.type = type;
            tensors[position].desc.format = format;
            bool expected = format == TensorFormat::kLINEAR && type == right[position];
            if (position == 0 && format == TensorFormat::kLINEAR) {
              for (const auto& pair : test.pairs) expected = expected || type == pair.first;
            }
            const auto at = static_cast<std::int32_t>(position);
            CHECK(plugin.build->supportsFormatCombination(at, tensors.data(), 5, 2) == expected);
          }
        }
        tensors[position].desc.type = right[position];
        tensors[position].desc.format = TensorFormat::kLINEAR;
      }
      CHECK(!plugin.build->supportsFormatCombination(7, tensors.data(), 5, 2));
      CHECK(!plugin.build->supportsFormatCombination(-1, tensors.data(), 5, 2));
      CHECK(!plugin.build->supportsFormatCombination(0, tensors.data(), 3, 2));
      CHECK(!plugin.build->supportsFormatCombination(0, tensors.data(), 5, 1));
      CHECK(!plugin.build->supportsFormatCombination(0, nullptr, 5, 2));
    }
  }
}

// --- profiles and logging

void test_profiles(const Library& library) {
  const Plugin plugin = create(library, good_fields(2));
  const auto configure = [&](std::int64_t channels, std::int64_t smallest, std::int64_t largest) {
    const Tensors at(-1, channels, 2, 2, DataType::kHALF, DataType::kHALF);
    std::vector<DynamicPluginTensorDesc> in(at.in.size()), out(at.out.size());
    for (std::size_t index = 0; index < in.size(); ++index) {
      in[index] = {at.in[index], at.in[index].dims, at.in[index].dims, at.in[index].dims};
      if (index < 2) in[index].min.d[0] = smallest, in[index].max.d[0] = largest;
    }
    for (std::size_t index = 0; index < out.size(); ++index) out[index].desc = at.out[index];
    return plugin.build->configurePlugin(in.data(), at.num_inputs(), out.data(), at.num_outputs());
  };
  CHECK(configure(24, 1, 16) == 0);
  CHECK(configure(24, 0, 16) == 0);
  CHECK(configure(20, 1, 16) != 0 && recorder.took("taps: C is 20, expected a multiple of 8"));
  CHECK(configure(24, 1, std::int64_t{1} << 23) != 0 && recorder.took("2^31 elements"));
  CHECK(plugin.build->configurePlugin(nullptr, 5, nullptr, 2) != 0 && recorder.took("null"));
  CHECK(recorder.lines.empty());
}

class Throwing final : public ILoggerFinder {
 public:
  ILogger* findLogger() override { throw std::runtime_error("no logger"); }
};

// Without a logger the reason is on stderr; a finder that throws costs nobody the process.
void test_stderr(const Library& library) {
  Throwing throwing;
  for (ILoggerFinder* finder : {static_cast<ILoggerFinder*>(nullptr), static_cast<ILoggerFinder*>(&throwing)}) {
    library.set_logger_finder(finder);
    std::FILE* file = std::tmpfile();
    std::fflush(stderr);
    const int before = dup(2);
    dup2(fileno(file), 2);
    CHECK(create(library, FieldSet()).whole == nullptr);
    std::fflush(stderr);
    dup2(before, 2);
    close(before);
    std::rewind(file);
    char line[256] = "";
    CHECK(std::fgets(line, sizeof line, file) != nullptr);
    CHECK(std::string(line).find("field prefix_tokens is missing") != std::string::npos);
    std::fclose(file);
  }
  CHECK(recorder.lines.empty());
}

}  // namespace

int main(int, char** arguments) {
  const Library library(arguments[1]);
  for (const auto test :
       {test_creator, test_good_fields, test_bad_values, test_bad_collections, test_serialisation, test_clones,
        test_output_types, test_output_shapes, test_formats, test_profiles, test_stderr}) {
    test(library);
  }
  std::printf("%d failures\n", failures);
  return failures == 0 ? 0 : 1;
}
