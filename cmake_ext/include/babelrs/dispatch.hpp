// From number types at run time to types at compile time: the pairs that exist are listed here and nowhere else.
#pragma once

#include "babelrs/layerwise.hpp"

namespace babelrs {

template <class In, class Out>
struct TypePair {
  using Input = In;
  using Output = Out;
};

// Calls visit(TypePair<In, Out>{}): the same type in and out, float to int8, int8 to float. False for other pairs.
template <class Visitor>
bool visit_types(NumberType in, NumberType out, Visitor&& visit) {
  const auto from_int8 = [&](auto pair) {
    visit(pair);
    return true;
  };
  if (in == NumberType::kInt8) {
    switch (out) {
      case NumberType::kFloat32: return from_int8(TypePair<std::int8_t, float>{});
      case NumberType::kFloat16: return from_int8(TypePair<std::int8_t, Float16>{});
      case NumberType::kBFloat16: return from_int8(TypePair<std::int8_t, BFloat16>{});
      case NumberType::kInt8: return from_int8(TypePair<std::int8_t, std::int8_t>{});
    }
    return false;
  }
  const auto from_float = [&](auto same, auto quantised) {
    if (in == out) {
      visit(same);
    } else if (out == NumberType::kInt8) {
      visit(quantised);
    } else {
      return false;
    }
    return true;
  };
  switch (in) {
    case NumberType::kFloat32: return from_float(TypePair<float, float>{}, TypePair<float, std::int8_t>{});
    case NumberType::kFloat16: return from_float(TypePair<Float16, Float16>{}, TypePair<Float16, std::int8_t>{});
    case NumberType::kBFloat16: return from_float(TypePair<BFloat16, BFloat16>{}, TypePair<BFloat16, std::int8_t>{});
    default: return false;
  }
}

}  // namespace babelrs
