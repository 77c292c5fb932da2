/* loops.h -- how elementwise CPU kernels are run: a vectorised loop over a range, cut over the threads. */
#ifndef SUMI_LOOPS_H
#define SUMI_LOOPS_H

#include "../op.h"

#define SU_GRAIN 16384                 /* elements; smaller tensors are not worth waking a thread */

typedef void su_loop1(const float *restrict x, float *restrict y, int64_t n, const double *r);
typedef void su_loop2(const float *restrict a, const float *restrict b, float *restrict y, int64_t n, const double *r);

typedef struct su_loop_arg {
  su_loop1 *f1;
  su_loop2 *f2;
  const float *a, *b;
  float *y;
  const double *r;
} su_loop_arg;

static inline void su_loop_range(void *arg, int64_t first, int64_t last) {
  const su_loop_arg *l = arg;
  if (l->f1) l->f1(l->a + first, l->y + first, last - first, l->r);
  else l->f2(l->a + first, l->b + first, l->y + first, last - first, l->r);
}

static inline void su_loop_run1(su_loop1 *f, const float *x, float *y, int64_t n, const double *r) {
  if (n <= SU_GRAIN) {
    f(x, y, n, r);
    return;
  }
  su_loop_arg l = {.f1 = f, .a = x, .y = y, .r = r};
  su_parallel(n, SU_GRAIN, su_loop_range, &l);
}

static inline void su_loop_run2(su_loop2 *f, const float *a, const float *b, float *y, int64_t n, const double *r) {
  if (n <= SU_GRAIN) {
    f(a, b, y, n, r);
    return;
  }
  su_loop_arg l = {.f2 = f, .a = a, .b = b, .y = y, .r = r};
  su_parallel(n, SU_GRAIN, su_loop_range, &l);
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
    su_loop_run1(id##_loop, in[0], out[0], su_spec_size(&p->call.out[0]), r);                          \
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
    su_loop_run2(id##_loop, in[0], in[1], out[0], su_spec_size(&p->call.out[0]), r);                   \
  }

#endif
