#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

namespace babelrs {

// The only stream that the emulation takes.
inline cudaStream_t emulated_stream() { return reinterpret_cast<cudaStream_t>(std::uintptr_t{0x10}); }

}  // namespace babelrs
