/* dropout.c -- y = x / (1 - p) where a random number says so, else 0. (Srivastava et al. 2014)
 * The numbers are a function of (seed, step, site, stream, index), see rng.h: the backward pass draws the same
 * mask again instead of keeping it, and every device draws the same. */
#include "nn.h"

#include "../runtime/cpu/philox.h"
#include "../runtime/cpu/vmath.h"
#include "../runtime/rng.h"
#include "../runtime/tape.h"

#include <math.h>

/* Reals: p, the seed's halves (a double holds 32 bits exactly, not 64), step, site + stream * 2^32. */
enum { P, SEED, SEED_HI, STEP, SITE };

typedef struct draw { uint64_t key; uint32_t step, site, stream, limit; } draw;

/* Kept is what draws, of its 24 bits, at least p * 2^24: a comparison of integers, the same everywhere. */
static draw draw_of(const double *r) {
  const uint64_t site = (uint64_t)r[SITE];
  return (draw){(uint64_t)r[SEED_HI] << 32 | (uint64_t)r[SEED], (uint32_t)r[STEP], (uint32_t)site,
                (uint32_t)(site >> 32), (uint32_t)ceil(r[P] * 16777216.0)};
}

static bool p_ok(const su_call *c, const double *r) {
  (void)c;
  return (r[P] >= 0 && r[P] < 1) || su_fail("dropout: p is a share of elements, 0 <= p < 1; got %g", r[P]);
}

static void dropout_ref(const su_plan *p, void *const *in, void *const *out, const double *r, void *ws) {
  (void)ws;
  const draw d = draw_of(r);
  const double *x = in[0];
  double *y = out[0];
  const int64_t n = su_spec_size(&p->call.in[0]);
  for (int64_t k = 0; k < n; k++) {
    const su_philox q = su_philox_at(d.key, (uint32_t)(k / 4), d.step, d.site, d.stream);
    y[k] = q.v[k % 4] >> 8 >= d.limit ? x[k] / (1 - r[P]) : 0;
  }
}

typedef struct job { draw d; const float *x; float *y; int64_t n; float scale; } job;

enum { UNIT = 4 * SU_PHILOX_LANES };   /* elements drawn at once */

SU_CLONES static void drop_range(void *arg, int64_t first, int64_t last) {
  const job *j = arg;
  const draw d = j->d;
  const float scale = j->scale;
  for (int64_t u = first; u < last; u++) {
    uint32_t bits[UNIT];
    su_philox_fill(d.key, (uint32_t)(u * SU_PHILOX_LANES), d.step, d.site, d.stream, bits);
    const int64_t n = j->n - u * UNIT < UNIT ? j->n - u * UNIT : UNIT;
    const float *restrict x = j->x + u * UNIT;
    float *restrict y = j->y + u * UNIT;
    for (int64_t k = 0; k < n; k++) y[k] = su_selectf(bits[k] >> 8 >= d.limit, x[k] * scale, 0.0f);
  }
}

static void dropout_cpu(const su_plan *p, void *const *in, void *const *out, const double *r, void *ws) {
  (void)ws;
  job j = {draw_of(r), in[0], out[0], su_spec_size(&p->call.in[0]), (float)(1 / (1 - r[P]))};
  su_parallel((j.n + UNIT - 1) / UNIT, 64, drop_range, &j);
}

static su_tensor *again(su_tensor *x, const double *r);

/* Linear in x: the same numbers, drawn again. */
static bool dropout_grad(const su_node *n, su_tensor *const *gy, const bool *want, su_tensor **gx) {
  (void)want;
  return (gx[0] = again(gy[0], n->r)) != NULL;
}

static const char *const cases[] = {"x=2,3,5,7 seed=7 step=3", "x=5 p=0", "x=1,1 p=0.01", "x=4096 p=0.9 site=3",
                                    "x=8193 p=0.25 seed_hi=4294967295 site=8589934594", NULL};

SU_OP(dropout) {
  .sig = "dropout(x, p:real=0.5, seed:real=0, seed_hi:real=0, step:real=0, site:real=0) -> y",
  .doc = "x / (1-p) for a random share 1-p of the elements, else 0; drawn from (seed, step, site + stream*2^32).",
  .shape = su_same_out, .check = p_ok, .ref = dropout_ref, .cpu = dropout_cpu, .grad = dropout_grad,
  .cases = cases};

static su_tensor *again(su_tensor *x, const double *r) {
  return su_apply1(&dropout_op, (su_tensor *[SU_MAX_IN]){x}, (int64_t[1]){0}, r);
}

su_tensor *su_dropout(su_tensor *x, double p) {
  const su_draw d = su_rng_next();
  return again(x, (double[]){p, (double)(uint32_t)d.seed, (double)(uint32_t)(d.seed >> 32), d.step,
                             (double)((uint64_t)d.stream << 32 | d.site)});
}
