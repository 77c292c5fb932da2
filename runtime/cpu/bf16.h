/* bf16.h -- bfloat16 on the CPU device: conversion, and running a float32 kernel on bf16 operands. */
#ifndef SUMI_CPU_BF16_H
#define SUMI_CPU_BF16_H

#include "../op.h"
#include "vmath.h"

SU_INLINE float su_from_bf16(uint16_t b) { return su_unbits((uint32_t)b << 16); }

/* To nearest, ties to even; a NaN stays one. Without branches: loops over it become vectors. */
SU_INLINE uint16_t su_to_bf16(float f) {
  const uint32_t u = su_bits(f), nan = -(uint32_t)((u & 0x7fffffffu) > 0x7f800000u);
  return (uint16_t)((((u + 0x7fffu + ((u >> 16) & 1u)) & ~nan) | ((u | 0x400000u) & nan)) >> 16);
}

/* n numbers, on this thread. */
void su_widen(float *restrict y, const uint16_t *restrict x, int64_t n);
void su_narrow(uint16_t *restrict y, const float *restrict x, int64_t n);
/* The same on all threads. */
void su_widen_all(float *y, const uint16_t *x, int64_t n);
void su_narrow_all(uint16_t *y, const float *x, int64_t n);

bool su_has_bf16(const su_call *c);                   /* an operand or a result is bf16 */
/* Plans a call with bf16 operands by the op's float32 kernel: operands are widened into the workspace, results
 * and what is written in place are rounded back. */
bool su_bf16_wrap(su_plan *p);
/* The same around another planner than the op's own. */
bool su_bf16_wrap_plan(su_plan *p, bool (*plan)(su_plan *p));

/* By what this CPU multiplies bf16, if at all. SUMI_CPU_WITHOUT=bf16 (or amx) denies it: a knob for tests. */
enum su_bf16_unit { SU_BF16_NONE, SU_BF16_AVX512, SU_BF16_AMX };
enum su_bf16_unit su_bf16_unit(void);

#endif
