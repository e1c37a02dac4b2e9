// Layerwise aggregation on the host: one implementation for use, and the device's block function run by one thread.
#pragma once

#include "babelrs/layerwise.hpp"

namespace babelrs {

// Both return false for a pair of types that has no implementation. The problem is checked, see check.hpp.
bool aggregate_on_cpu(const LayerwiseProblem& problem, NumberType in, NumberType out);

// Runs every block of the launch that `limits` would give, thread after thread, with shared memory full of NaN and
// every asynchronous copy as late as its wait allows. False also where the plan does not fit.
bool emulate_blocks(const LayerwiseProblem& problem, NumberType in, NumberType out, const DeviceLimits& limits);

}  // namespace babelrs
