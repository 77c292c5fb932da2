/* guard.h -- in the emulator under AddressSanitizer: while an op runs, every byte of device memory
 * is forbidden but its operands' own, so that a kernel that reads one element too far is caught at
 * its line. A recorded step runs unguarded. */
#ifndef SUMI_CUDA_GUARD_H
#define SUMI_CUDA_GUARD_H

#include "device.h"

#if defined(SUMI_EMU) && defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>

static inline void guard_allow(const su_spec *s, const void *p) {
  if (p) __asan_unpoison_memory_region(p, (size_t)su_spec_size(s) * su_dtype_size(s->dtype));
}
static inline void cu_guard_begin(const su_plan *p, void *const *in, void *const *out, void *ws) {
  const su_call *c = &p->call;
  __asan_poison_memory_region(cu_the.d.base, su_arena_top(cu_the.d.arena));
  for (int k = 0; k < c->op->nin; k++)
    if (c->in[k].ndim >= 0) guard_allow(&c->in[k], in[k]);
  for (int k = 0; k < c->op->nout; k++) guard_allow(&c->out[k], out[k]);
  if (ws) __asan_unpoison_memory_region(ws, p->workspace);
}
static inline void cu_guard_end() {
  __asan_unpoison_memory_region(cu_the.d.base, su_arena_top(cu_the.d.arena));
}
#else
static inline void cu_guard_begin(const su_plan *, void *const *, void *const *, void *) {}
static inline void cu_guard_end() {}
#endif

#endif
