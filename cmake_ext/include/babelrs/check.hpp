// The one place where a call's numbers are checked; what passes here is safe to run on any device.
#pragma once

#include <string>

#include "babelrs/aggregate.h"
#include "babelrs/layerwise.hpp"

namespace babelrs {

// Fills `problem` from a call. Returns what is wrong, naming the argument, its value and what is expected; empty: fine.
std::string check_call(const babelrs_aggregate_call& call, LayerwiseProblem& problem);

}  // namespace babelrs
