/* fiber.h -- the part of CUDA that our kernels use, on a CPU: kernel.h includes this in nvcc's place under
 * SUMI_EMU.
 *
 * Every CUDA thread of a block is a fiber, blocks run one after the other, and a fiber runs until it meets
 * cu_sync or cu_shfl_xor or ends. The order of the fibers differs from block to block (by SUMI_EMU_SEED
 * too, always the same for the same seed) and shared memory holds NaNs when a block begins, so that a
 * forgotten barrier or a number never written changes the result. What CUDA leaves undefined (a barrier or
 * shuffle that some threads never reach, a lane that is not there) ends the program with one line that
 * names the kernel. This models neither time nor races within a warp. */
#ifndef SUMI_CUDA_EMU_FIBER_H
#define SUMI_CUDA_EMU_FIBER_H

#include <functional>

#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define CU_KERNEL(threads) void
#define CU_DEVICE inline __attribute__((always_inline))
#define CU_UNROLL
#define CU_NO_UNROLL
/* Storage of one block at a time; 16-byte aligned, filled with NaNs (0xff) by the first thread of a block
 * that comes by. */
#define CU_SHARED(type, name, count)          \
  alignas(16) static type name[count];        \
  static uint64_t name##_block;               \
  if (name##_block != emu_block) emu_shared(name, sizeof(name), &name##_block)

struct dim3 {
  unsigned x, y, z;
  dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
};
extern dim3 threadIdx, blockIdx, blockDim, gridDim;

struct alignas(8) float2 { float x, y; };
struct alignas(16) float4 { float x, y, z, w; };
struct alignas(8) uint2 { unsigned x, y; };
struct alignas(16) uint4 { unsigned x, y, z, w; };
CU_DEVICE float2 make_float2(float x, float y) { return float2{x, y}; }
CU_DEVICE float4 make_float4(float x, float y, float z, float w) { return float4{x, y, z, w}; }
CU_DEVICE uint2 make_uint2(unsigned x, unsigned y) { return uint2{x, y}; }
CU_DEVICE uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return uint4{x, y, z, w}; }

/* What CUDA has beyond C's math.h. */
CU_DEVICE float rsqrtf(float x) { return 1.0f / sqrtf(x); }
CU_DEVICE float sinpif(float x) { return (float)sin(3.14159265358979323846 * (double)x); }
CU_DEVICE float cospif(float x) { return (float)cos(3.14159265358979323846 * (double)x); }
template <class T> CU_DEVICE T min(T a, T b) { return b < a ? b : a; }
template <class T> CU_DEVICE T max(T a, T b) { return a < b ? b : a; }

/* Waits until every thread of the block that has not ended is here. */
void cu_sync();
/* v of the lane whose number differs by `mask`; all lanes of the warp must come, with one mask. */
float cu_shfl_xor(float v, int mask);

extern uint64_t emu_block;              /* counts the blocks that have run: which one is running */
void emu_shared(void *storage, size_t bytes, uint64_t *block);

/* Runs a kernel to its end; returns when all blocks have. */
void emu_run(const char *name, dim3 grid, unsigned threads, const std::function<void()> &body);
/* What cu_launch calls: rt_emu.cpp records it, lets it fail, or hands it to emu_run. */
void emu_launch(const char *name, dim3 grid, unsigned threads, std::function<void()> body);

#endif
