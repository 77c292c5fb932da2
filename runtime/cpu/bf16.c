/* bf16.c -- bfloat16 on the CPU device: conversion, and the wrapper that lets every op compute on bf16 with its
 * float32 kernel. Kernels that read bf16 themselves say so in their op's entry (op.h: bf16) and are not wrapped. */
#include "bf16.h"

#include <stdlib.h>
#include <string.h>

/* ---- conversion ---- */

enum { GRAIN = 65536 };                 /* numbers a thread converts at a time */

SU_CLONES void su_widen(float *restrict y, const uint16_t *restrict x, int64_t n) {
  for (int64_t k = 0; k < n; k++) y[k] = su_from_bf16(x[k]);
}

SU_CLONES void su_narrow(uint16_t *restrict y, const float *restrict x, int64_t n) {
  for (int64_t k = 0; k < n; k++) y[k] = su_to_bf16(x[k]);
}

typedef struct job { float *wide; uint16_t *half; } job;

static void widen_range(void *arg, int64_t first, int64_t last) {
  const job *j = arg;
  su_widen(j->wide + first, j->half + first, last - first);
}

static void narrow_range(void *arg, int64_t first, int64_t last) {
  const job *j = arg;
  su_narrow(j->half + first, j->wide + first, last - first);
}

void su_widen_all(float *y, const uint16_t *x, int64_t n) {
  su_parallel(n, GRAIN, widen_range, &(job){y, (uint16_t *)x});
}

void su_narrow_all(uint16_t *y, const float *x, int64_t n) {
  su_parallel(n, GRAIN, narrow_range, &(job){(float *)x, y});
}

/* ---- the wrapper ---- */

typedef struct wrap {
  su_plan inner;                        /* the call with bf16 replaced by f32 */
  size_t in[SU_MAX_IN], out[SU_MAX_OUT], rest;   /* where things begin in the workspace, in bytes */
} wrap;

static bool is_bf16(const su_spec *s) { return s->ndim >= 0 && s->dtype == SU_BF16; }

bool su_has_bf16(const su_call *c) {
  for (int k = 0; k < c->op->nin; k++)
    if (is_bf16(&c->in[k])) return true;
  for (int k = 0; k < c->op->nout; k++)
    if (is_bf16(&c->out[k])) return true;
  return false;
}

static void run_wrapped(const su_plan *p, void *const *in, void *const *out, const double *r, void *ws) {
  const wrap *w = p->state;
  const su_call *c = &p->call;
  void *wide_in[SU_MAX_IN] = {NULL}, *wide_out[SU_MAX_OUT] = {NULL};
  char *base = ws;
  for (int k = 0; k < c->op->nin; k++) {
    wide_in[k] = in[k];
    if (!in[k] || !is_bf16(&c->in[k])) continue;
    wide_in[k] = base + w->in[k];
    su_widen_all(wide_in[k], in[k], su_spec_size(&c->in[k]));
  }
  for (int k = 0; k < c->op->nout; k++) wide_out[k] = is_bf16(&c->out[k]) ? base + w->out[k] : out[k];
  w->inner.exec(&w->inner, wide_in, wide_out, r, base + w->rest);
  for (int k = 0; k < c->op->nout; k++)
    if (is_bf16(&c->out[k])) su_narrow_all(out[k], wide_out[k], su_spec_size(&c->out[k]));
  for (int k = 0; k < c->op->nin; k++)
    if ((c->op->writes >> k & 1) && wide_in[k] != in[k]) su_narrow_all(in[k], wide_in[k], su_spec_size(&c->in[k]));
}

static void free_wrap(void *state) {
  wrap *w = state;
  if (w->inner.state_free) w->inner.state_free(w->inner.state);
  su_free(w);
}

/* The spec becomes f32; its place in the workspace is taken from *top. */
static size_t widened(su_spec *s, size_t *top) {
  const size_t at = *top;
  if (!is_bf16(s)) return at;
  s->dtype = SU_F32;
  *top += ((size_t)su_spec_size(s) * sizeof(float) + 63) / 64 * 64;
  return at;
}

bool su_bf16_wrap_plan(su_plan *p, bool (*plan)(su_plan *p)) {
  wrap *w = su_calloc(sizeof *w);
  if (!w) return false;
  size_t top = 0;
  w->inner.call = p->call;
  for (int k = 0; k < p->call.op->nin; k++) w->in[k] = widened(&w->inner.call.in[k], &top);
  for (int k = 0; k < p->call.op->nout; k++) w->out[k] = widened(&w->inner.call.out[k], &top);
  w->rest = top;
  w->inner.exec = p->call.op->cpu;
  if (plan ? !plan(&w->inner) : !w->inner.exec) {
    free_wrap(w);
    return plan ? false : su_fail("%s: no kernel on %s", p->call.op->name, p->call.dev->name);
  }
  p->state = w, p->state_free = free_wrap;
  p->exec = run_wrapped;
  p->workspace = top + w->inner.workspace;
  return true;
}

bool su_bf16_wrap(su_plan *p) { return su_bf16_wrap_plan(p, p->call.op->cpu_plan); }

/* ---- what the CPU has ---- */

static bool denied(const char *what) {
  const char *list = getenv("SUMI_CPU_WITHOUT");
  return list && strstr(list, what);
}

enum su_bf16_unit su_bf16_unit(void) {
#if defined(__x86_64__)
  static int unit = -1;
  if (unit >= 0) return (enum su_bf16_unit)unit;
  __builtin_cpu_init();
  unit = SU_BF16_NONE;
  if (denied("bf16")) return SU_BF16_NONE;
  if (__builtin_cpu_supports("avx512bf16")) unit = SU_BF16_AVX512;
  if (__builtin_cpu_supports("amx-bf16") && !denied("amx")) unit = SU_BF16_AMX;
  return (enum su_bf16_unit)unit;
#else
  return SU_BF16_NONE;
#endif
}
