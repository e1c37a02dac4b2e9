// The one place where a call's numbers are checked; what passes here is safe to run on any device.
#pragma once

#include <string>

#include "babelrs/aggregate.h"
#include "babelrs/layerwise.hpp"

namespace babelrs {

// Fills `problem` from a call. Returns what is wrong, naming the argument, its value and what is expected; empty: fine.
std::string check_call(const babelrs_aggregate_call& call, LayerwiseProblem& problem);

// Its parts that look at no memory, for a caller that knows shapes and types before there are tensors.
std::string check_sizes(const babelrs_aggregate_call& call);
std::string check_numbers(const babelrs_aggregate_call& call);

}  // namespace babelrs
