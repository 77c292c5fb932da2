/* loss.c -- losses against a target, averaged over all elements: BCE with logits, squared error, absolute
 * error, hinge. x is any shape, the target t a tensor of that shape or one number; the result is a scalar,
 * y = sum f(x, t) / n.
 *
 * Each has a gradient op, gx = gy * f'(x, t) / n in one pass, which is itself differentiable. f and f' are
 * written once for doubles (the specification) and once for floats; the loops are shared.
 *   bce    max(x,0) - x t + log(1 + e^-|x|), never overflows       f' = sigmoid(x) - t
 *   mse    (x - t)^2 (least squares GAN: Mao et al. 2017)          f' = 2 (x - t)
 *   l1     |x - t|                                                 f' = sign(x - t)
 *   hinge  max(0, 1 - t x) with t = 1 or -1 (Lim & Ye 2017)        f' = -t where it is positive */
#include "nn.h"

#include "../runtime/cpu/vmath.h"
#include "../runtime/ops/ops.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>

#define INLINE static inline __attribute__((always_inline))

static su_op bce_op, bce_gx_op, mse_op, mse_gx_op, l1_op, l1_gx_op, hinge_op, hinge_gx_op;
enum kind { BCE, MSE, L1, HINGE };
static const struct { const su_op *loss, *slope; } ops[] = {
  {&bce_op, &bce_gx_op}, {&mse_op, &mse_gx_op}, {&l1_op, &l1_gx_op}, {&hinge_op, &hinge_gx_op}};

static enum kind kind_of(const su_op *op) {
  int k = 0;
  while (ops[k].loss != op && ops[k].slope != op) k++;
  return (enum kind)k;
}

/* Targets are in[k] of a loss (1) or its slope (2) where they are given; hinge has none. */
static const void *targets(const su_plan *p, void *const *in, int k) {
  return p->call.in[k].ndim < 0 ? NULL : in[k];
}

/* ---- the specification ---- */

static double value64(enum kind kind, double x, double t) {
  switch (kind) {
    case BCE: return (x > 0 ? x : 0) - x * t + log1p(exp(-fabs(x)));
    case MSE: return (x - t) * (x - t);
    case L1: return fabs(x - t);
    default: return t * x < 1 ? 1 - t * x : 0;
  }
}

static double slope64(enum kind kind, double x, double t) {
  switch (kind) {
    case BCE: return 1 / (1 + exp(-x)) - t;
    case MSE: return 2 * (x - t);
    case L1: return (x > t) - (x < t);
    default: return t * x < 1 ? -t : 0;
  }
}

static void loss_ref(const su_plan *p, void *const *in, void *const *out, const double *r, void *ws) {
  (void)ws;
  const double *x = in[0], *t = targets(p, in, 1);
  const int64_t n = su_spec_size(&p->call.in[0]);
  double sum = 0;
  for (int64_t k = 0; k < n; k++) sum += value64(kind_of(p->call.op), x[k], t ? t[k] : r[0]);
  *(double *)out[0] = sum / (double)n;
}

static void slope_ref(const su_plan *p, void *const *in, void *const *out, const double *r, void *ws) {
  (void)ws;
  const double gy = *(const double *)in[0], *x = in[1], *t = targets(p, in, 2);
  const int64_t n = su_spec_size(&p->call.in[1]);
  double *gx = out[0];
  for (int64_t k = 0; k < n; k++) gx[k] = gy * slope64(kind_of(p->call.op), x[k], t ? t[k] : r[0]) / (double)n;
}

/* ---- CPU ---- */

INLINE float value32(enum kind kind, float x, float t) {
  switch (kind) {
    case BCE: return (su_at_least(x, 0) - x * t) + su_softplusf(-su_absf(x));
    case MSE: return (x - t) * (x - t);
    case L1: return su_absf(x - t);
    default: return su_at_least(1 - t * x, 0);
  }
}

INLINE float slope32(enum kind kind, float x, float t) {
  switch (kind) {
    case BCE: return su_sigmoidf(x) - t;
    case MSE: return 2 * (x - t);
    case L1: return su_selectf(x > t, 1, su_selectf(x < t, -1, x - t));   /* 0, or NaN */
    default: return su_selectf(t * x < 1, -t, 0);
  }
}

enum { CHUNK = 16384, LANES = 64 };

typedef struct job {
  enum kind kind;
  const float *x, *t;
  float *gx, target, scale;
  double *part;                         /* a sum per chunk */
} job;

/* Sum in LANES floats side by side, then in doubles. */
INLINE double sum_of(enum kind kind, const float *restrict x, const float *restrict t, float target,
                     int64_t n) {
  float lane[LANES] = {0};
  int64_t k = 0;
  for (; k + LANES <= n; k += LANES)
    for (int j = 0; j < LANES; j++) lane[j] += value32(kind, x[k + j], t ? t[k + j] : target);
  for (int j = 0; k + j < n; j++) lane[j] += value32(kind, x[k + j], t ? t[k + j] : target);
  double sum = 0;
  for (int j = 0; j < LANES; j++) sum += (double)lane[j];
  return sum;
}

INLINE void slopes_of(enum kind kind, const float *restrict x, const float *restrict t, float target,
                      float *restrict gx, float scale, int64_t n) {
  for (int64_t k = 0; k < n; k++) gx[k] = scale * slope32(kind, x[k], t ? t[k] : target);
}

INLINE void range_of(enum kind kind, const job *j, int64_t first, int64_t last) {
  const int64_t n = last - first;
  const float *x = j->x + first, *t = j->t ? j->t + first : NULL;
  if (j->gx && t) slopes_of(kind, x, t, 0, j->gx + first, j->scale, n);
  else if (j->gx) slopes_of(kind, x, NULL, j->target, j->gx + first, j->scale, n);
  else j->part[first / CHUNK] = t ? sum_of(kind, x, t, 0, n) : sum_of(kind, x, NULL, j->target, n);
}

SU_CLONES static void range(void *arg, int64_t first, int64_t last) {
  const job *j = arg;
  switch (j->kind) {
    case BCE: range_of(BCE, j, first, last); break;
    case MSE: range_of(MSE, j, first, last); break;
    case L1: range_of(L1, j, first, last); break;
    default: range_of(HINGE, j, first, last); break;
  }
}

static void loss_cpu(const su_plan *p, void *const *in, void *const *out, const double *r, void *ws) {
  const int64_t n = su_spec_size(&p->call.in[0]);
  job j = {.kind = kind_of(p->call.op), .x = in[0], .t = targets(p, in, 1), .target = (float)r[0], .part = ws};
  su_parallel(n, CHUNK, range, &j);
  double sum = 0;
  for (int64_t k = 0; k * CHUNK < n; k++) sum += j.part[k];
  *(float *)out[0] = (float)(sum / (double)n);
}

static bool loss_plan(su_plan *p) {
  p->workspace = (size_t)((su_spec_size(&p->call.in[0]) + CHUNK - 1) / CHUNK) * sizeof(double);
  p->exec = loss_cpu;
  return true;
}

static void slope_cpu(const su_plan *p, void *const *in, void *const *out, const double *r, void *ws) {
  (void)ws;
  const int64_t n = su_spec_size(&p->call.in[1]);
  job j = {.kind = kind_of(p->call.op), .x = in[1], .t = targets(p, in, 2), .gx = out[0], .target = (float)r[0],
           .scale = (float)((double)*(const float *)in[0] / (double)n)};
  su_parallel(n, CHUNK, range, &j);
}

/* ---- shape rules and checks ---- */

static bool loss_shape(su_call *c) {
  if (c->in[1].ndim >= 0 && !su_want_same(c, 1, 0)) return false;
  if (su_spec_size(&c->in[0]) == 0)
    return su_fail("%s: the mean of nothing: x is %s", c->op->name, su_shape_text(&c->in[0]));
  c->out[0] = su_spec_of(c->dev->real, 0, NULL);
  return true;
}

static bool slope_shape(su_call *c) {
  if (su_spec_size(&c->in[0]) != 1)
    return su_fail("%s: gy wants one number, has shape %s", c->op->name, su_shape_text(&c->in[0]));
  if (c->in[2].ndim >= 0 && !su_want_same(c, 2, 1)) return false;
  c->out[0] = c->in[1];
  return true;
}

/* Of bce (t is its second input) and bce_gx (its third). */
static bool bce_ok(const su_call *c, const double *r) {
  if (c->in[c->op->nin - 1].ndim >= 0 || (r[0] >= 0 && r[0] <= 1)) return true;
  return su_fail("bce: target must lie in [0,1]; it is %g", r[0]);
}

bool su_bce_target_ok(const su_tensor *t) {
  double *v = su_malloc((size_t)t->size * sizeof *v);
  bool ok = v && su_read_f64(t, v, t->size);
  for (int64_t k = 0; ok && k < t->size; k++) {
    if (v[k] >= 0 && v[k] <= 1) continue;
    char at[160] = "";
    int64_t rest = k, step = t->size;
    for (int d = 0, n = 0; d < t->spec.ndim; d++) {
      step /= t->spec.shape[d];
      n += snprintf(at + n, sizeof at - (size_t)n, "%s%" PRId64, d ? "," : "", rest / step);
      rest %= step;
    }
    ok = su_fail("bce: target must lie in [0,1]; found %g at [%s]", v[k], at);
  }
  su_free(v);
  return ok;
}

/* ---- gradients, the same for all four ---- */

static su_tensor *slope(enum kind kind, su_tensor *gy, su_tensor *x, su_tensor *t, double target) {
  return su_apply1(ops[kind].slope, (su_tensor *[SU_MAX_IN]){gy, x, t}, (int64_t[1]){0}, &target);
}

/* Towards x: slope(gy, x, t). Towards t: f is a function of x - t, or (bce) falls by x for each unit of t. */
static bool loss_grad(const su_node *n, su_tensor *const *gy, const bool *want, su_tensor **gx) {
  const enum kind kind = kind_of(n->op);
  su_tensor *x = n->in[0], *t = kind == HINGE ? NULL : n->in[1], *g = NULL;
  if ((want[0] || kind != BCE) && !(g = slope(kind, gy[0], x, t, n->r[0]))) return false;
  if (want[0]) gx[0] = g;
  if (kind == HINGE || !want[1]) return true;
  gx[1] = kind == BCE ? su_mul(x, su_affine(gy[0], -1 / (double)su_spec_size(&n->in_spec[0]), 0)) : su_neg(g);
  return gx[1] != NULL;
}

/* Of gx = gy f'(x, t) / n with cotangent v: towards gy sum(v f') / n, towards x and t v gy / n times the
 * second derivative. */
static bool slope_grad(const su_node *n, su_tensor *const *v, const bool *want, su_tensor **gx) {
  const enum kind kind = kind_of(n->op);
  su_tensor *x = n->in[1], *t = kind == HINGE ? NULL : n->in[2];
  const su_spec *gs = &n->in_spec[0], *xs = &n->in_spec[1];
  if (want[0]) {
    su_tensor *unit = slope(kind, su_full(n->dev, gs, 1), x, t, n->r[0]);
    gx[0] = su_reshape(su_sum(su_mul(v[0], unit), -1, NULL, false), gs->ndim, gs->shape);
    if (!gx[0]) return false;
  }
  if (kind > MSE || !(want[1] || want[2])) return true;       /* piecewise linear: no second derivative */
  const double per = (kind == MSE ? 2 : 1) / (double)su_spec_size(xs);
  su_tensor *w = su_mul(v[0], su_affine(su_reshape(n->in[0], 0, NULL), per, 0));
  if (want[1] && !(gx[1] = kind == MSE ? w : su_sigmoid_gx(w, su_sigmoid(x)))) return false;
  return !want[2] || (gx[2] = su_neg(w)) != NULL;
}

/* ---- the ops ---- */

static const char *const loss_cases[] = {"x=2,3,5", "x=2,3,5 t=2,3,5", "x=20001 target=0.9", "x=1 target=0",
                                         "x=257,65 t=257,65", NULL};
static const char *const slope_cases[] = {"gy=1 x=2,3,5", "gy=1 x=2,3,5 t=2,3,5",
                                          "gy=1 x=20001 target=0.9", NULL};
static const char *const hinge_cases[] = {"x=2,3,5", "x=20001 target=-1", NULL};
static const char *const hinge_slope_cases[] = {"gy=1 x=2,3,5", "gy=1 x=20001 target=-1", NULL};

#define LOSS_OP .shape = loss_shape, .ref = loss_ref, .cpu_plan = loss_plan, .grad = loss_grad, .keep_in = 3
#define SLOPE_OP .shape = slope_shape, .ref = slope_ref, .cpu = slope_cpu, .grad = slope_grad, .keep_in = 7, .f32 = 1, \
  .doc = "Input gradient of the loss: gy times its slope in x, divided by the number of elements."

SU_OP(bce) {.sig = "bce(x, t?, target:real=1) -> y", LOSS_OP, .check = bce_ok, .cases = loss_cases,
  .doc = "Mean binary cross-entropy of logits x with targets t (or one number): log(1 + e^x) - x t."};
SU_OP(bce_gx) {.sig = "bce_gx(gy, x, t?, target:real=1) -> gx", SLOPE_OP, .check = bce_ok,
  .cases = slope_cases};

SU_OP(mse) {.sig = "mse(x, t?, target:real=0) -> y", LOSS_OP, .cases = loss_cases,
  .doc = "Mean of (x - t)^2, against a tensor t or one number."};
SU_OP(mse_gx) {.sig = "mse_gx(gy, x, t?, target:real=0) -> gx", SLOPE_OP, .cases = slope_cases};

SU_OP(l1) {.sig = "l1(x, t?, target:real=0) -> y", LOSS_OP, .cases = loss_cases,
  .doc = "Mean of |x - t|, against a tensor t or one number."};
SU_OP(l1_gx) {.sig = "l1_gx(gy, x, t?, target:real=0) -> gx", SLOPE_OP, .cases = slope_cases};

SU_OP(hinge) {.sig = "hinge(x, target:real=1) -> y", LOSS_OP, .cases = hinge_cases,
  .doc = "Mean of max(0, 1 - target*x): target 1 for a critic's real samples, -1 for fake ones."};
SU_OP(hinge_gx) {.sig = "hinge_gx(gy, x, target:real=1) -> gx", SLOPE_OP, .cases = hinge_slope_cases};

static su_tensor *loss(enum kind kind, su_tensor *x, su_tensor *t, double target) {
  return su_apply1(ops[kind].loss, (su_tensor *[SU_MAX_IN]){x, t}, (int64_t[1]){0}, &target);
}
su_tensor *su_bce(su_tensor *x, su_tensor *t, double target) { return loss(BCE, x, t, target); }
su_tensor *su_mse(su_tensor *x, su_tensor *t, double target) { return loss(MSE, x, t, target); }
su_tensor *su_l1(su_tensor *x, su_tensor *t, double target) { return loss(L1, x, t, target); }
su_tensor *su_hinge(su_tensor *x, int sample) {
  return loss(HINGE, x, NULL, sample == SU_SAMPLE_REAL ? 1 : -1);
}
