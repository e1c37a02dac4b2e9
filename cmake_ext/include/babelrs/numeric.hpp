// Number types of the aggregation and their conversions, the same on host and device.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#if defined(__CUDACC__)
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#define BABELRS_HD __host__ __device__ __forceinline__
#else
#define BABELRS_HD inline
#endif

#if defined(__CUDA_ARCH__)
#define BABELRS_UNROLL _Pragma("unroll")
#define BABELRS_UNROLL_SOME _Pragma("unroll 4")
#define BABELRS_KEEP_LOOP _Pragma("unroll 1")  // where unrolling would cost the registers that the sums need
#else
#define BABELRS_UNROLL
#define BABELRS_UNROLL_SOME
#define BABELRS_KEEP_LOOP
#endif

namespace babelrs {

// IEEE binary16 and bfloat16 as stored; arithmetic happens in float32.
struct Float16 {
  std::uint16_t bits;
};
struct BFloat16 {
  std::uint16_t bits;
};

template <class To, class From>
BABELRS_HD To bit_cast(const From& value) {
  static_assert(sizeof(To) == sizeof(From), "bit_cast keeps the size");
  To result;
  memcpy(&result, &value, sizeof(To));
  return result;
}

BABELRS_HD float to_float(float value) { return value; }
BABELRS_HD float to_float(std::int8_t value) { return static_cast<float>(value); }
BABELRS_HD float to_float(BFloat16 value) { return bit_cast<float>(static_cast<std::uint32_t>(value.bits) << 16); }

BABELRS_HD float to_float(Float16 value) {
#if defined(__CUDA_ARCH__)
  return __half2float(__ushort_as_half(value.bits));
#else
  // The exponent is rebased by a multiplication, which also normalises subnormal numbers.
  const std::uint32_t magnitude = static_cast<std::uint32_t>(value.bits & 0x7fffu) << 13;
  const float scaled = bit_cast<float>(magnitude) * 5.192296858534828e+33f;  // 2^112
  const std::uint32_t special = (value.bits & 0x7c00u) == 0x7c00u ? 0x7f800000u : 0u;
  return bit_cast<float>(bit_cast<std::uint32_t>(scaled) | special |
                         (static_cast<std::uint32_t>(value.bits & 0x8000u) << 16));
#endif
}

// Round to nearest even, like the hardware; out-of-range float16 becomes infinite, int8 saturates.
template <class Out>
BABELRS_HD Out from_float(float value);

template <>
BABELRS_HD float from_float<float>(float value) {
  return value;
}

template <>
BABELRS_HD BFloat16 from_float<BFloat16>(float value) {
#if defined(__CUDA_ARCH__)
  return {__bfloat16_as_ushort(__float2bfloat16_rn(value))};
#else
  const std::uint32_t bits = bit_cast<std::uint32_t>(value);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return {static_cast<std::uint16_t>((bits >> 16) | 0x40u)};
  return {static_cast<std::uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16)};
#endif
}

template <>
BABELRS_HD Float16 from_float<Float16>(float value) {
#if defined(__CUDA_ARCH__)
  return {__half_as_ushort(__float2half_rn(value))};
#else
  const std::uint32_t bits = bit_cast<std::uint32_t>(value);
  const std::uint32_t sign = (bits >> 16) & 0x8000u, magnitude = bits & 0x7fffffffu;
  std::uint32_t half = 0;
  if (magnitude > 0x7f800000u) {
    half = 0x7e00u;
  } else if (magnitude >= 0x47800000u) {  // 2^16 and more
    half = 0x7c00u;
  } else if (magnitude < 0x38800000u) {  // below 2^-14: adding 0.5 puts the subnormal's last bit at float's last bit
    half = bit_cast<std::uint32_t>(bit_cast<float>(magnitude) + 0.5f) - 0x3f000000u;
  } else {
    half = (magnitude - 0x38000000u + 0xfffu + ((magnitude >> 13) & 1u)) >> 13;
  }
  return {static_cast<std::uint16_t>(sign | half)};
#endif
}

template <>
BABELRS_HD std::int8_t from_float<std::int8_t>(float value) {
  const float clamped = fminf(fmaxf(value, -128.0f), 127.0f);
#if defined(__CUDA_ARCH__)
  return static_cast<std::int8_t>(__float2int_rn(clamped));
#else
  return static_cast<std::int8_t>(std::nearbyint(clamped));
#endif
}

// 16 bytes as they move between memories.
struct alignas(16) Chunk {
  std::uint32_t words[4];
};

// Element `index` of a chunk; `index` is a constant after unrolling, so that nothing is kept in local memory.
template <class T>
BABELRS_HD float chunk_element(const Chunk& chunk, int index) {
  if constexpr (sizeof(T) == 4) {
    return bit_cast<float>(chunk.words[index]);
  } else if constexpr (sizeof(T) == 2) {
    return to_float(T{static_cast<std::uint16_t>(chunk.words[index / 2] >> (16 * (index % 2)))});
  } else {
    return to_float(static_cast<std::int8_t>(chunk.words[index / 4] >> (8 * (index % 4))));
  }
}

// Sets element `index` of a zeroed chunk.
template <class T>
BABELRS_HD void set_chunk_element(Chunk& chunk, int index, float value) {
  if constexpr (sizeof(T) == 4) {
    chunk.words[index] = bit_cast<std::uint32_t>(value);
  } else if constexpr (sizeof(T) == 2) {
    chunk.words[index / 2] |= static_cast<std::uint32_t>(from_float<T>(value).bits) << (16 * (index % 2));
  } else {
    const auto byte = static_cast<std::uint8_t>(from_float<T>(value));
    chunk.words[index / 4] |= static_cast<std::uint32_t>(byte) << (8 * (index % 4));
  }
}

// Two neighbouring elements; `address` is aligned to both together.
template <class T>
BABELRS_HD void load_pair(const unsigned char* address, float& first, float& second) {
  if constexpr (sizeof(T) == 4) {
    struct alignas(8) Pair {
      float first, second;
    };
    const Pair pair = *reinterpret_cast<const Pair*>(address);
    first = pair.first;
    second = pair.second;
  } else if constexpr (sizeof(T) == 2) {
    const std::uint32_t word = *reinterpret_cast<const std::uint32_t*>(address);
    first = to_float(T{static_cast<std::uint16_t>(word)});
    second = to_float(T{static_cast<std::uint16_t>(word >> 16)});
  } else {
    const std::uint16_t word = *reinterpret_cast<const std::uint16_t*>(address);
    first = to_float(static_cast<std::int8_t>(word & 0xff));
    second = to_float(static_cast<std::int8_t>(word >> 8));
  }
}

}  // namespace babelrs
