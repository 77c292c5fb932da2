/* make.c -- numbers out of nothing: constants and Philox draws, written in place so that every device can do it; and casts.
 *
 * A draw is addressed by (seed, step, site, stream) and the element's index: the same integers on every device. The normals
 * are Box and Muller's of them (1958), in float64 on ref and float32 on cpu. */
#define _GNU_SOURCE                    /* M_PI */
#include "../cpu/bf16.h"
#include "../cpu/philox.h"
#include "../cpu/vmath.h"
#include "../rng.h"
#include "ops.h"

#include <math.h>
#include <string.h>

static bool one(su_call *c) {
  (void)c;
  return true;
}

/* ---- fill ---- */

static void fill_ref(const su_plan *p, void *const *in, void *const *out, const double *r, void *ws) {
  (void)out; (void)ws;
  double *y = in[0];
  for (int64_t k = 0, n = su_spec_size(&p->call.in[0]); k < n; k++) y[k] = r[0];
}

static void fill_cpu(const su_plan *p, void *const *in, void *const *out, const double *r, void *ws) {
  (void)out; (void)ws;
  int64_t n = su_spec_size(&p->call.in[0]);
  if (p->call.in[0].dtype == SU_BF16) {
    uint16_t *y = in[0], v = su_to_bf16((float)r[0]);
    for (int64_t k = 0; k < n; k++) y[k] = v;
  } else {
    float *y = in[0], v = (float)r[0];
    for (int64_t k = 0; k < n; k++) y[k] = v;
  }
}

SU_OP(fill) {.sig = "fill(y, value:real)", .doc = "y = value in place.", .shape = one, .ref = fill_ref, .cpu = fill_cpu, .bf16 = true,
  .writes = 1, .cases = (const char *const[]){"y=3,5 value=2.5", NULL}};

su_tensor *su_full(su_device *dev, const su_spec *spec, double value) {
  su_tensor *y = su_new(dev, spec);
  if (!y) return NULL;
  return su_apply(&fill_op, (su_tensor *[SU_MAX_IN]){y}, (int64_t[SU_MAX_INT]){0}, (double[SU_MAX_REAL]){value}, NULL)
             ? y : NULL;
}

/* ---- Philox ---- */

/* reals: lo, hi (or mean, std), seed's low and high 32 bits, step, site + stream * 2^32 */
static su_philox bits(const double *r, int64_t block) {
  uint64_t seed = (uint64_t)r[2] | (uint64_t)r[3] << 32, tail = (uint64_t)r[5];
  return su_philox_at(seed, (uint32_t)block, (uint32_t)r[4], (uint32_t)tail, (uint32_t)(tail >> 32));
}

static void uniform_ref(const su_plan *p, void *const *in, void *const *out, const double *r, void *ws) {
  (void)out; (void)ws;
  double *y = in[0];
  int64_t n = su_spec_size(&p->call.in[0]);
  for (int64_t k = 0; k < n; k++) y[k] = r[0] + (r[1] - r[0]) * su_u01(bits(r, k / 4).v[k % 4]);
}

/* The CPU works through runs of 64 numbers, 16 Philox blocks at a time. */
enum { RUN = 4 * SU_PHILOX_LANES };

typedef struct draw_arg { float *y; int64_t n; const double *r; } draw_arg;

static inline __attribute__((always_inline)) void run_bits(const double *r, int64_t run, uint32_t *w) {
  uint64_t tail = (uint64_t)r[5];
  su_philox_fill((uint64_t)r[2] | (uint64_t)r[3] << 32, (uint32_t)(run * SU_PHILOX_LANES), (uint32_t)r[4], (uint32_t)tail,
                 (uint32_t)(tail >> 32), w);
}

static int64_t run_length(const draw_arg *d, int64_t run) { return d->n - run * RUN < RUN ? d->n - run * RUN : RUN; }

SU_CLONES static void uniform_range(void *arg, int64_t first, int64_t last) {
  const draw_arg *d = arg;
  float lo = (float)d->r[0], span = (float)(d->r[1] - d->r[0]), u[RUN];
  uint32_t w[RUN];
  for (int64_t b = first; b < last; b++) {
    run_bits(d->r, b, w);
    for (int k = 0; k < RUN; k++) u[k] = lo + span * ((float)(w[k] >> 8) * (1.0f / 16777216.0f));
    memcpy(d->y + b * RUN, u, (size_t)run_length(d, b) * sizeof *u);
  }
}

static void uniform_cpu(const su_plan *p, void *const *in, void *const *out, const double *r, void *ws) {
  (void)out; (void)ws;
  draw_arg d = {.y = in[0], .n = su_spec_size(&p->call.in[0]), .r = r};
  su_parallel((d.n + RUN - 1) / RUN, 128, uniform_range, &d);
}

/* Element k takes bits 2*(k/2) and the next: two normals from two uniforms, the first in (0,1]. */
static void normal_ref(const su_plan *p, void *const *in, void *const *out, const double *r, void *ws) {
  (void)out; (void)ws;
  double *y = in[0];
  int64_t n = su_spec_size(&p->call.in[0]);
  for (int64_t k = 0; k < n; k++) {
    su_philox w = bits(r, k / 4);
    double u = 1 - su_u01(w.v[k % 4 & 2]), t = 2 * M_PI * su_u01(w.v[(k % 4 & 2) + 1]);
    y[k] = r[0] + r[1] * sqrt(-2 * log(u)) * (k & 1 ? sin(t) : cos(t));
  }
}

SU_CLONES static void normal_range(void *arg, int64_t first, int64_t last) {
  const draw_arg *d = arg;
  float mean = (float)d->r[0], std = (float)d->r[1], z[RUN], u[RUN / 2], t[RUN / 2];
  uint32_t w[RUN];
  for (int64_t b = first; b < last; b++) {
    run_bits(d->r, b, w);
    for (int k = 0; k < RUN / 2; k++) {
      u[k] = 1.0f - (float)(w[2 * k] >> 8) * (1.0f / 16777216.0f);
      t[k] = (float)(w[2 * k + 1] >> 8) * (1.0f / 16777216.0f);
    }
    for (int k = 0; k < RUN / 2; k++) {
      float m = std * sqrtf(-2.0f * su_logf(u[k]));
      z[2 * k] = mean + m * su_cos2pif(t[k]);
      z[2 * k + 1] = mean + m * su_sin2pif(t[k]);
    }
    memcpy(d->y + b * RUN, z, (size_t)run_length(d, b) * sizeof *z);
  }
}

static void normal_cpu(const su_plan *p, void *const *in, void *const *out, const double *r, void *ws) {
  (void)out; (void)ws;
  draw_arg d = {.y = in[0], .n = su_spec_size(&p->call.in[0]), .r = r};
  su_parallel((d.n + RUN - 1) / RUN, 64, normal_range, &d);
}

static const char *const draw_cases[] = {"y=5,7 lo=-1 hi=2 seed=7 seed_hi=0 step=3 site=2",
                                         "y=30001 lo=0 hi=1 seed=1 seed_hi=9 step=0 site=0", NULL};

SU_OP(fill_uniform) {.sig = "fill_uniform(y, lo:real, hi:real, seed:real, seed_hi:real, step:real, site:real)",
  .doc = "Uniform numbers in [lo, hi), in place, addressed by seed, step and site.", .shape = one, .ref = uniform_ref,
  .cpu = uniform_cpu, .writes = 1, .cases = draw_cases};
SU_OP(fill_normal) {.sig = "fill_normal(y, lo:real, hi:real, seed:real, seed_hi:real, step:real, site:real)",
  .doc = "Normal numbers of mean lo and deviation hi, in place, addressed by seed, step and site.", .shape = one,
  .ref = normal_ref, .cpu = normal_cpu, .writes = 1, .cases = draw_cases};

static su_tensor *draw(const su_op *op, su_device *dev, const su_spec *spec, double a, double b) {
  su_tensor *y = su_new(dev, spec);
  if (!y) return NULL;
  su_draw d = su_rng_next();
  double r[SU_MAX_REAL] = {a, b, (double)(uint32_t)d.seed, (double)(d.seed >> 32), d.step,
                           (double)((uint64_t)d.stream << 32 | d.site)};
  return su_apply(op, (su_tensor *[SU_MAX_IN]){y}, (int64_t[SU_MAX_INT]){0}, r, NULL) ? y : NULL;
}

su_tensor *su_randn(su_device *dev, const su_spec *spec, double mean, double std) {
  return draw(&fill_normal_op, dev, spec, mean, std);
}

su_tensor *su_rand(su_device *dev, const su_spec *spec, double lo, double hi) {
  return draw(&fill_uniform_op, dev, spec, lo, hi);
}

/* ---- cast ---- */

static bool cast_shape(su_call *c) {
  c->out[0] = c->in[0];
  c->out[0].dtype = (int)c->i[0];
  return true;
}

static void cast_any(const su_plan *p, void *const *in, void *const *out, const double *r, void *ws) {
  (void)r; (void)ws;
  su_convert(in[0], p->call.in[0].dtype, out[0], p->call.out[0].dtype, su_spec_size(&p->call.in[0]));
}

typedef struct cast_arg { const char *x; char *y; int from, to; } cast_arg;

static void cast_range(void *arg, int64_t first, int64_t last) {
  const cast_arg *c = arg;
  const size_t from = su_dtype_size(c->from), to = su_dtype_size(c->to);
  su_convert(c->x + (size_t)first * from, c->from, c->y + (size_t)first * to, c->to, last - first);
}

static void cast_cpu(const su_plan *p, void *const *in, void *const *out, const double *r, void *ws) {
  (void)r; (void)ws;
  cast_arg c = {in[0], out[0], p->call.in[0].dtype, p->call.out[0].dtype};
  su_parallel(su_spec_size(&p->call.in[0]), 65536, cast_range, &c);
}

static bool cast_grad(const su_node *n, su_tensor *const *g, const bool *want, su_tensor **gx) {
  (void)want;
  return (gx[0] = su_cast(g[0], n->in_spec[0].dtype)) != NULL;
}

SU_OP(cast) {.sig = "cast(x, to:enum(f32|bf16|f64|u8|i32)) -> y", .doc = "x in another dtype; bf16 rounds to nearest even.",
  .shape = cast_shape, .ref = cast_any, .cpu = cast_cpu, .grad = cast_grad, .any_dtype = true};

su_tensor *su_cast(su_tensor *x, int dtype) {
  if (x && x->spec.dtype == dtype) return x;
  return su_apply1(&cast_op, (su_tensor *[SU_MAX_IN]){x}, (int64_t[SU_MAX_INT]){dtype}, NULL);
}
