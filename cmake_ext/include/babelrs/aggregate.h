/* Layerwise aggregation behind a C interface: for ctypes and other languages. Nothing here throws. */
#ifndef BABELRS_AGGREGATE_H
#define BABELRS_AGGREGATE_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#if defined(__GNUC__)
#define BABELRS_API __attribute__((visibility("default")))
#else
#define BABELRS_API
#endif

enum { BABELRS_FLOAT32 = 0, BABELRS_FLOAT16 = 1, BABELRS_BFLOAT16 = 2, BABELRS_INT8 = 3 };
enum { BABELRS_OK = 0, BABELRS_BAD_ARGUMENT = 1, BABELRS_CUDA_FAILED = 2, BABELRS_NOT_BUILT = 3 };

/* Pointers are to memory of the device that runs the call; taps and outputs are contiguous and aligned to 16 bytes. */
typedef struct {
  const void* taps[8];   /* S maps (B, T, C) of in_type */
  void* outputs[5];      /* P maps (B, C, H, W) of out_type */
  const float* gamma;    /* (S, C), or null with beta: the plain weighted sum, no LayerNorm */
  const float* beta;     /* (S, C) */
  const float* weights;  /* (P, S) */
  float tap_scales[8];   /* real value of one int8 step of each tap; read for int8 only */
  float level_scales[5]; /* the same of each level */
  int64_t batch, tokens, prefix, channels, height, width;
  int32_t num_taps, num_levels, in_type, out_type;
  float epsilon;
} babelrs_aggregate_call;

/* Each returns BABELRS_OK or writes why not to `message` (ends with a zero; `size` bytes). */
BABELRS_API int32_t babelrs_aggregate_cpu(const babelrs_aggregate_call* call, char* message, size_t size);

/* Enqueues on `stream` (a cudaStream_t) of `device`; BABELRS_NOT_BUILT in a library without CUDA. */
BABELRS_API int32_t babelrs_aggregate_cuda(const babelrs_aggregate_call* call, int32_t device, void* stream,
                                           char* message, size_t size);

/* Runs the kernel's blocks on the CPU, as on a device with that much shared memory a block and that many
   multiprocessors: for tests. */
BABELRS_API int32_t babelrs_aggregate_emulated(const babelrs_aggregate_call* call, int32_t shared_bytes,
                                               int32_t multiprocessors, char* message, size_t size);

/* 1 where the library holds the CUDA kernels. */
BABELRS_API int32_t babelrs_aggregate_has_cuda(void);

#ifdef __cplusplus
}
#endif

#endif
