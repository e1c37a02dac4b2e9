// Work shared between threads for the length of one call.
#pragma once

#include <cstddef>
#include <functional>

namespace babelrs {

// Calls `work(begin, end)` for ranges that cover [0, count) once, on up to `threads` threads, the caller's included.
// `work` must not throw. Where the system refuses a thread, the others do its share.
void parallel_for(std::size_t count, int threads, const std::function<void(std::size_t, std::size_t)>& work);

}  // namespace babelrs
