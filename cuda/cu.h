/* cu.h -- inside the plug-in: how an op gets its CUDA kernels, and how they are launched. The device itself
 * is in device.cpp; CUDA's runtime (or its stand-in for tests) is behind rt.h.
 *
 * A file cuda/NAME.cu accelerates runtime/ops/NAME.c or nn/NAME.c: for each op a plan (judged call in,
 * exec, workspace and state out) and CU_OP("name", plan, digest). Host code calls the runtime's functions
 * (su_fail, su_malloc, ...), which the program that loaded the plug-in provides. */
#ifndef SUMI_CUDA_CU_H
#define SUMI_CUDA_CU_H

#include "kernel.h"

extern "C" {
#include "../runtime/op.h"
}

/* What a kernel needs of its op's reals, as up to 8 words; NULL: the reals as floats, in order. Runs on the
 * host, each time. */
typedef void cu_digest(const su_plan *p, const double *r, uint32_t *w);

/* Several executions of an op as one launch. A captured step may run consecutive executions through
 * cu_op.many when they have one op, one dtype, the same ints and the same inputs absent, and when none of
 * them reads or writes what another one writes (the counter `bad` of adam and sgd excepted: its additions
 * stay in order). The results have the bits that exec gives. items: a table in device memory that stays as
 * it is; item k owns the blocks from items[k].first on, cu_blocks(n, CU_SPAN) of them (so `first` is the
 * sum of those before), `blocks` in all. ws: 4 * blocks bytes in device memory, as exec's workspace. p: the
 * plan of any of them. Like exec it only launches: the table and ws must outlive the captured step. */
struct cu_item {
  void *in[SU_MAX_IN];                  /* what exec gets */
  const uint32_t *at;                   /* its words in the step block; NULL: the op has no reals */
  int64_t n;                            /* elements of in[0] */
  unsigned first;                       /* blocks of the items before it */
};
enum { CU_SPAN = 2048 };                /* elements of a block in kernels over elements */
typedef void cu_many(const su_plan *p, const cu_item *items, int count, unsigned blocks, void *ws);

struct cu_op {
  const char *name;
  bool (*plan)(su_plan *p);             /* sets p->exec, p->workspace, p->state (with state_free) */
  cu_digest *digest;
  cu_op *next;
  cu_many *many;                        /* optional */
};
void cu_op_register(cu_op *op);
cu_op *cu_op_find(const char *name);

#define CU_CAT2(a, b) a##b
#define CU_CAT(a, b) CU_CAT2(a, b)
#define CU_OP_MANY(name, plan, digest, many)                                     \
  static cu_op CU_CAT(cu_op_, __LINE__) = {name, plan, digest, nullptr, many};   \
  __attribute__((constructor)) static void CU_CAT(cu_op_register_, __LINE__)() { cu_op_register(&CU_CAT(cu_op_, __LINE__)); }
#define CU_OP(name, plan, digest) CU_OP_MANY(name, plan, digest, nullptr)

/* The words for one exec; call it once, at its start, where the op has reals. */
cu_words cu_reals(const su_plan *p, const double *r);

static inline void cu_word_f(uint32_t *w, float f) {
  union { float f; uint32_t u; } x = {f};
  *w = x.u;
}

/* Blocks of `per` that cover n: at least one, at most 2^30. */
static inline unsigned cu_blocks(int64_t n, int64_t per) {
  int64_t b = (n + per - 1) / per;
  return (unsigned)(b < 1 ? 1 : b > (1 << 30) ? (1 << 30) : b);
}

/* Launch on the device's stream; what goes wrong is kept and reported by the next sync, read or write. */
#ifdef SUMI_EMU
template <class... P, class... A> void cu_launch(const char *name, void (*kernel)(P...), dim3 grid, unsigned threads, A... args) {
  emu_launch(name, grid, threads, [=] { kernel(P(args)...); });
}
#else
void *cu_stream();
void cu_launched(const char *name);
template <class... P, class... A> void cu_launch(const char *name, void (*kernel)(P...), dim3 grid, unsigned threads, A... args) {
  kernel<<<grid, threads, 0, (cudaStream_t)cu_stream()>>>(P(args)...);
  cu_launched(name);
}
#endif

/* Device properties that planning needs; the same fields from a description (JSON) when no device is there. */
struct cu_props {
  char name[64];
  int sm;                               /* 90: compute capability 9.0 */
  int processors;                       /* streaming multiprocessors */
  size_t memory;                        /* bytes */
};
const cu_props *cu_device_props();

#endif
