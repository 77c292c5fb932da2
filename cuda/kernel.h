/* kernel.h -- the little of CUDA that our kernels use. nvcc sees CUDA; g++ with SUMI_EMU sees a shim in which a block's
 * threads are fibers (emu/fiber.h), so that the same bodies run under AddressSanitizer on a machine without a GPU.
 *
 * Rules for kernels: one-dimensional blocks; shared memory only through CU_SHARED; warps meet only through cu_shfl_xor and cu_sync; no
 * inline PTX, no float atomics, no dependence on the order of blocks. Reductions have a fixed tree: same bits every time. */
#ifndef SUMI_CUDA_KERNEL_H
#define SUMI_CUDA_KERNEL_H

#include <stddef.h>
#include <stdint.h>

#ifdef SUMI_EMU
#include "emu/fiber.h"
#else
#include <cuda_bf16.h>
#include <cuda_runtime.h>
#define CU_KERNEL(threads) __global__ void __launch_bounds__(threads)
#define CU_DEVICE __device__ __forceinline__
#define CU_SHARED(type, name, count) __shared__ __align__(16) type name[count]
#define CU_UNROLL _Pragma("unroll")
#define CU_NO_UNROLL _Pragma("unroll 1")
CU_DEVICE void cu_sync() { __syncthreads(); }
CU_DEVICE float cu_shfl_xor(float v, int mask) { return __shfl_xor_sync(0xffffffffu, v, mask); }
#endif

/* bf16 as it lies in memory: the upper half of a float32, rounded to nearest even (runtime/host.c has the same). */
struct bf16 { uint16_t bits; };

#ifdef SUMI_EMU
CU_DEVICE float cu_float(bf16 v) {
  union { uint32_t u; float f; } x = {(uint32_t)v.bits << 16};
  return x.f;
}
CU_DEVICE bf16 cu_to_bf16(float f) {
  union { float f; uint32_t u; } x = {f};
  if ((x.u & 0x7fffffffu) > 0x7f800000u) return bf16{(uint16_t)((x.u >> 16) | 0x40u)};
  return bf16{(uint16_t)((x.u + 0x7fffu + ((x.u >> 16) & 1u)) >> 16)};
}
#else
CU_DEVICE float cu_float(bf16 v) { return __uint_as_float((uint32_t)v.bits << 16); }
CU_DEVICE bf16 cu_to_bf16(float f) { return bf16{__bfloat16_as_ushort(__float2bfloat16_rn(f))}; }
#endif
CU_DEVICE float cu_float(float v) { return v; }
CU_DEVICE void cu_store(float *p, float v) { *p = v; }
CU_DEVICE void cu_store(bf16 *p, float v) { *p = cu_to_bf16(v); }

/* Up to 8 numbers that a kernel gets from its op's reals. In a captured step they lie in device memory (`at`: the step
 * block, refreshed before every launch), else they travel with the launch. */
struct cu_words {
  const uint32_t *at;
  uint32_t v[8];
  CU_DEVICE uint32_t u(int k) const { return at ? at[k] : v[k]; }
  CU_DEVICE float f(int k) const {
    union { uint32_t u; float f; } x = {at ? at[k] : v[k]};
    return x.f;
  }
};

/* The sum over a warp, the same in every lane: a fixed butterfly. */
CU_DEVICE float cu_warp_sum(float v) {
  for (int m = 16; m > 0; m >>= 1) v += cu_shfl_xor(v, m);
  return v;
}

#endif
