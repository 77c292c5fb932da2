/* loops.h -- how elementwise CPU kernels are run: a vectorised loop over a range of floats, cut over the threads. The same
 * loop serves bf16. */
#ifndef SUMI_LOOPS_H
#define SUMI_LOOPS_H

#include "../cpu/bf16.h"

#define SU_GRAIN 16384                 /* elements; smaller tensors are not worth waking a thread */

typedef void su_loop1(const float *restrict x, float *restrict y, int64_t n, const double *r);
typedef void su_loop2(const float *restrict a, const float *restrict b, float *restrict y, int64_t n, const double *r);

typedef struct su_loop_arg {
  su_loop1 *f1;
  su_loop2 *f2;
  const void *a, *b;
  void *y;
  const double *r;
  bool reads_y;                         /* y is written in place */
} su_loop_arg;

static inline void su_loop_range(void *arg, int64_t first, int64_t last) {
  const su_loop_arg *l = arg;
  const float *a = l->a, *b = l->b;
  float *y = l->y;
  if (l->f1) l->f1(a + first, y + first, last - first, l->r);
  else l->f2(a + first, b + first, y + first, last - first, l->r);
}

/* bf16: widened, computed and rounded a stretch at a time, which stays in the L1 cache. */
enum { SU_STRETCH = 2048, SU_APART = SU_STRETCH + 16 };   /* loads and stores 4 KiB apart would wait for each other */

static inline void su_loop_range_bf16(void *arg, int64_t first, int64_t last) {
  const su_loop_arg *l = arg;
  float a[SU_APART], b[SU_APART], y[SU_APART];
  for (int64_t k = first; k < last; k += SU_STRETCH) {
    const int64_t n = last - k < SU_STRETCH ? last - k : SU_STRETCH;
    su_widen(a, (const uint16_t *)l->a + k, n);
    if (l->f2) su_widen(b, (const uint16_t *)l->b + k, n);
    if (l->reads_y) su_widen(y, (const uint16_t *)l->y + k, n);
    if (l->f1) l->f1(a, y, n, l->r);
    else l->f2(a, b, y, n, l->r);
    su_narrow((uint16_t *)l->y + k, y, n);
  }
}

/* All of y, by the dtype of the call's operands. */
static inline void su_loop_run(const su_plan *p, su_loop_arg l) {
  const int64_t n = su_spec_size(&p->call.in[0]);
  su_range *range = p->call.in[0].dtype == SU_BF16 ? su_loop_range_bf16 : su_loop_range;
  if (n <= SU_GRAIN) range(&l, 0, n);
  else su_parallel(n, SU_GRAIN, range, &l);
}

/* The two kernels of an elementwise op from one expression each: E64 in doubles x (and a, b = r[0], r[1]), E32 in floats. */
#define SU_KERNEL1(id, E64, E32)                                                                       \
  static void id##_ref(const su_plan *p, void *const *in, void *const *out, const double *r, void *ws) { \
    (void)ws; (void)r;                                                                                 \
    const double *xs = in[0];                                                                          \
    double *ys = out[0];                                                                               \
    int64_t n = su_spec_size(&p->call.out[0]);                                                         \
    for (int64_t k = 0; k < n; k++) { double x = xs[k]; ys[k] = (E64); }                               \
  }                                                                                                    \
  SU_CLONES static void id##_loop(const float *restrict xs, float *restrict ys, int64_t n, const double *r) { \
    (void)r;                                                                                           \
    for (int64_t k = 0; k < n; k++) { float x = xs[k]; ys[k] = (E32); }                                \
  }                                                                                                    \
  static void id##_cpu(const su_plan *p, void *const *in, void *const *out, const double *r, void *ws) { \
    (void)ws;                                                                                          \
    su_loop_run(p, (su_loop_arg){.f1 = id##_loop, .a = in[0], .y = out[0], .r = r});                   \
  }

/* The same for two inputs of one shape: g and y. */
#define SU_KERNEL2(id, E64, E32)                                                                       \
  static void id##_ref(const su_plan *p, void *const *in, void *const *out, const double *r, void *ws) { \
    (void)ws; (void)r;                                                                                 \
    const double *gs = in[0], *ys = in[1];                                                             \
    double *os = out[0];                                                                               \
    int64_t n = su_spec_size(&p->call.out[0]);                                                         \
    for (int64_t k = 0; k < n; k++) { double g = gs[k], y = ys[k]; os[k] = (E64); }                    \
  }                                                                                                    \
  SU_CLONES static void id##_loop(const float *restrict gs, const float *restrict ys, float *restrict os, \
                                  int64_t n, const double *r) {                                        \
    (void)r;                                                                                           \
    for (int64_t k = 0; k < n; k++) { float g = gs[k], y = ys[k]; os[k] = (E32); }                     \
  }                                                                                                    \
  static void id##_cpu(const su_plan *p, void *const *in, void *const *out, const double *r, void *ws) { \
    (void)ws;                                                                                          \
    su_loop_run(p, (su_loop_arg){.f2 = id##_loop, .a = in[0], .b = in[1], .y = out[0], .r = r});       \
  }

#endif
