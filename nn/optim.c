/* optim.c -- Adam, SGD and weight averages, in place; and whether all numbers of a tensor are finite.
 * PyTorch's semantics unless an option says otherwise.
 * (Adam: Kingma & Ba 2015; AdamW: Loshchilov & Hutter 2019) */
#include "nn.h"

#include "../runtime/cpu/vmath.h"

#include <math.h>
#include <stdatomic.h>

enum { CHUNK = 32768 };

/* All inputs have the first one's shape, but for the counter `bad` (the last input), which is one number. */
static bool same_shapes(su_call *c, int n) {
  for (int k = 1; k < n; k++)
    if (c->in[k].ndim >= 0 && !su_want_same(c, k, 0)) return false;
  if (n == c->op->nin || c->in[n].ndim < 0 || su_spec_size(&c->in[n]) == 1) return true;
  return su_fail("%s: bad wants one number, has shape %s", c->op->name, su_shape_text(&c->in[n]));
}

/* ---- Adam: m = b1 m + (1-b1) g; v = b2 v + (1-b2) g^2; p -= lr m' / (sqrt(v') + eps), where
 * m' = m / (1 - b1^t) and v' = v / (1 - b2^t).
 * eps_hat: p -= lr sqrt(1 - b2^t) / (1 - b1^t) m / (sqrt(v) + eps). ---- */

enum { LR, BETA1, BETA2, EPS, DECAY, STEP };                  /* reals */
enum { EPS_HAT, DECOUPLED };                                  /* ints */

/* p = shrink*p - rate * m / (sqrt(v)*root + eps), after g += l2*p. */
typedef struct rule { double b1, c1, b2, c2, l2, shrink, rate, root, eps; } rule;

static rule rule_of(const int64_t *i, const double *r) {
  const double left1 = 1 - pow(r[BETA1], r[STEP]), left2 = sqrt(1 - pow(r[BETA2], r[STEP]));
  return (rule){.b1 = r[BETA1], .c1 = 1 - r[BETA1], .b2 = r[BETA2], .c2 = 1 - r[BETA2], .eps = r[EPS],
                .l2 = i[DECOUPLED] ? 0 : r[DECAY], .shrink = i[DECOUPLED] ? 1 - r[LR] * r[DECAY] : 1,
                .rate = r[LR] / left1 * (i[EPS_HAT] ? left2 : 1), .root = i[EPS_HAT] ? 1 : 1 / left2};
}

static bool adam_shape(su_call *c) { return same_shapes(c, 4); }

static bool adam_ok(const su_call *c, const double *r) {
  (void)c;
  if (!(r[BETA1] >= 0 && r[BETA1] < 1 && r[BETA2] >= 0 && r[BETA2] < 1))
    return su_fail("adam: both betas must lie in [0,1); they are %g and %g", r[BETA1], r[BETA2]);
  return r[STEP] >= 1 || su_fail("adam: step counts from 1, is %g", r[STEP]);
}

static void adam_ref(const su_plan *p, void *const *in, void *const *out, const double *r, void *ws) {
  (void)out; (void)ws;
  const rule u = rule_of(p->call.i, r);
  double *w = in[0], *m = in[2], *v = in[3], *bad = in[4];
  const double *g = in[1];
  bool finite = true;
  for (int64_t k = 0; k < su_spec_size(&p->call.in[0]); k++) {
    const double d = g[k] + u.l2 * w[k];
    finite = finite && isfinite(g[k]);
    m[k] = u.b1 * m[k] + u.c1 * d;
    v[k] = u.b2 * v[k] + u.c2 * d * d;
    w[k] = u.shrink * w[k] - u.rate * m[k] / (sqrt(v[k]) * u.root + u.eps);
  }
  if (bad && !finite) *bad += 1;
}

typedef struct job {
  float *p, *m, *v;
  const float *g;
  rule rule;
  float momentum, keep, l2, lr, ahead;  /* sgd's */
  _Atomic int bad;                      /* threads only ever set it */
} job;

/* All ones in the exponent: infinite or NaN. */
static inline uint32_t not_finite(float x) { return (su_bits(x) & 0x7f800000u) == 0x7f800000u; }

SU_CLONES static void adam_range(void *arg, int64_t first, int64_t last) {
  job *j = arg;
  const rule *u = &j->rule;
  const float b1 = (float)u->b1, c1 = (float)u->c1, b2 = (float)u->b2, c2 = (float)u->c2, l2 = (float)u->l2;
  const float shrink = (float)u->shrink, rate = (float)u->rate, root = (float)u->root, eps = (float)u->eps;
  float *restrict p = j->p, *restrict m = j->m, *restrict v = j->v;
  const float *restrict g = j->g;
  uint32_t bad = 0;
  for (int64_t k = first; k < last; k++) {
    const float d = g[k] + l2 * p[k], a = b1 * m[k] + c1 * d, b = b2 * v[k] + c2 * d * d;
    bad |= not_finite(g[k]);
    m[k] = a;
    v[k] = b;
    p[k] = shrink * p[k] - rate * a / (sqrtf(b) * root + eps);
  }
  if (bad) atomic_store_explicit(&j->bad, 1, memory_order_relaxed);
}

static void adam_cpu(const su_plan *p, void *const *in, void *const *out, const double *r, void *ws) {
  (void)out; (void)ws;
  job j = {.p = in[0], .g = in[1], .m = in[2], .v = in[3], .rule = rule_of(p->call.i, r)};
  su_parallel(su_spec_size(&p->call.in[0]), CHUNK, adam_range, &j);
  if (in[4] && j.bad) *(float *)in[4] += 1;
}

static const char *const adam_cases[] = {
  "p=3,5 g=3,5 m=3,5 v=3,5@pos lr=0.01 step=1",
  "p=40001 g=40001 m=40001 v=40001@pos bad=1 lr=2e-4 beta1=0.5 step=7 weight_decay=0.1",
  "p=33 g=33 m=33 v=33@pos lr=0.1 step=3 eps=0.1 eps_hat=1",
  "p=33 g=33 m=33 v=33@pos lr=0.1 step=2 weight_decay=0.3 decoupled=1", NULL};

SU_OP(adam) {
  .sig = "adam(p, g, m, v, bad?, lr:real, beta1:real=0.9, beta2:real=0.999, eps:real=1e-8, "
         "weight_decay:real=0, step:real, eps_hat:bool=0, decoupled:bool=0)",
  .doc = "One Adam step of p along g, in place; step counts from 1. Adds 1 to bad if g is not finite.",
  .shape = adam_shape, .check = adam_ok, .ref = adam_ref, .cpu = adam_cpu, .writes = 29, .f32 = 31,
  .cases = adam_cases};

bool su_adam(su_tensor *p, su_tensor *g, su_tensor *m, su_tensor *v, su_tensor *bad, su_adam_opt o) {
  const double r[] = {o.lr, o.beta1, o.beta2, o.eps, o.weight_decay, o.step};
  su_tensor *in[SU_MAX_IN] = {p, g, m, v, bad};
  return su_apply(&adam_op, in, (int64_t[]){o.eps_hat, o.decoupled}, r, NULL);
}

/* ---- SGD: d = g + decay*p; b = momentum*b + (1-dampening)*d (b = d in the first step); p -= lr * b, or
 * with Nesterov p -= lr * (d + momentum*b) ---- */

enum { SGD_LR, MOMENTUM, DAMPENING, SGD_DECAY, SGD_STEP };

static bool sgd_shape(su_call *c) { return same_shapes(c, 3); }

static bool sgd_ok(const su_call *c, const double *r) {
  if (r[SGD_STEP] < 1) return su_fail("sgd: step counts from 1, is %g", r[SGD_STEP]);
  if (r[MOMENTUM] != 0 && c->in[2].ndim < 0)
    return su_fail("sgd: momentum %g wants a tensor b to keep it in", r[MOMENTUM]);
  if (c->i[0] && (r[MOMENTUM] <= 0 || r[DAMPENING] != 0))
    return su_fail("sgd: nesterov wants momentum > 0 and dampening 0");
  return true;
}

static void sgd_ref(const su_plan *p, void *const *in, void *const *out, const double *r, void *ws) {
  (void)out; (void)ws;
  double *w = in[0], *b = in[2], *bad = in[3];
  const double *g = in[1];
  bool finite = true;
  for (int64_t k = 0; k < su_spec_size(&p->call.in[0]); k++) {
    double d = g[k] + r[SGD_DECAY] * w[k];
    finite = finite && isfinite(g[k]);
    if (b) {
      b[k] = r[SGD_STEP] == 1 ? d : r[MOMENTUM] * b[k] + (1 - r[DAMPENING]) * d;
      d = p->call.i[0] ? d + r[MOMENTUM] * b[k] : b[k];
    }
    w[k] -= r[SGD_LR] * d;
  }
  if (bad && !finite) *bad += 1;
}

SU_CLONES static void sgd_range(void *arg, int64_t first, int64_t last) {
  job *j = arg;
  const float momentum = j->momentum, keep = j->keep, l2 = j->l2, lr = j->lr, ahead = j->ahead;
  float *restrict p = j->p, *restrict b = j->m;
  const float *restrict g = j->g;
  uint32_t bad = 0;
  for (int64_t k = first; k < last; k++) bad |= not_finite(g[k]);
  if (b)
    for (int64_t k = first; k < last; k++) {
      const float d = g[k] + l2 * p[k], a = momentum * b[k] + keep * d;
      b[k] = a;
      p[k] -= lr * ((ahead != 0 ? d : 0) + (ahead != 0 ? ahead : 1) * a);
    }
  else
    for (int64_t k = first; k < last; k++) p[k] -= lr * (g[k] + l2 * p[k]);
  if (bad) atomic_store_explicit(&j->bad, 1, memory_order_relaxed);
}

static void sgd_cpu(const su_plan *p, void *const *in, void *const *out, const double *r, void *ws) {
  (void)out; (void)ws;
  const bool first = r[SGD_STEP] == 1;
  job j = {.p = in[0], .g = in[1], .m = in[2], .lr = (float)r[SGD_LR], .l2 = (float)r[SGD_DECAY],
           .momentum = first ? 0 : (float)r[MOMENTUM], .keep = first ? 1 : (float)(1 - r[DAMPENING]),
           .ahead = p->call.i[0] ? (float)r[MOMENTUM] : 0};
  if (first && j.m)                     /* what was there must not count, not even if it is NaN */
    for (int64_t k = 0; k < su_spec_size(&p->call.in[0]); k++) j.m[k] = 0;
  su_parallel(su_spec_size(&p->call.in[0]), CHUNK, sgd_range, &j);
  if (in[3] && j.bad) *(float *)in[3] += 1;
}

static const char *const sgd_cases[] = {
  "p=3,5 g=3,5 lr=0.1 step=1", "p=40001 g=40001 b=40001 bad=1 lr=0.1 momentum=0.9 step=1",
  "p=33 g=33 b=33 lr=0.1 momentum=0.9 step=2 dampening=0.5 weight_decay=0.1",
  "p=33 g=33 b=33 lr=0.1 momentum=0.9 step=2 nesterov=1", NULL};

SU_OP(sgd) {
  .sig = "sgd(p, g, b?, bad?, lr:real, momentum:real=0, dampening:real=0, weight_decay:real=0, step:real, "
         "nesterov:bool=0)",
  .doc = "One SGD step of p along g, in place; b keeps the momentum. Adds 1 to bad if g is not finite.",
  .shape = sgd_shape, .check = sgd_ok, .ref = sgd_ref, .cpu = sgd_cpu, .writes = 13, .f32 = 15,
  .cases = sgd_cases};

bool su_sgd(su_tensor *p, su_tensor *g, su_tensor *momentum, su_tensor *bad, su_sgd_opt o) {
  const double r[] = {o.lr, o.momentum, o.dampening, o.weight_decay, o.step};
  return su_apply(&sgd_op, (su_tensor *[SU_MAX_IN]){p, g, momentum, bad}, (int64_t[]){o.nesterov}, r, NULL);
}

/* ---- averages ---- */

static bool ema_shape(su_call *c) { return same_shapes(c, 2); }

static void ema_ref(const su_plan *p, void *const *in, void *const *out, const double *r, void *ws) {
  (void)out; (void)ws;
  double *avg = in[0];
  const double *w = in[1];
  for (int64_t k = 0; k < su_spec_size(&p->call.in[0]); k++) avg[k] = r[0] * avg[k] + (1 - r[0]) * w[k];
}

SU_CLONES static void ema_range(void *arg, int64_t first, int64_t last) {
  const job *j = arg;
  const float keep = j->keep, take = j->lr;
  float *restrict avg = j->p;
  const float *restrict w = j->g;
  for (int64_t k = first; k < last; k++) avg[k] = keep * avg[k] + take * w[k];
}

static void ema_cpu(const su_plan *p, void *const *in, void *const *out, const double *r, void *ws) {
  (void)out; (void)ws;
  job j = {.p = in[0], .g = in[1], .keep = (float)r[0], .lr = (float)(1 - r[0])};
  su_parallel(su_spec_size(&p->call.in[0]), CHUNK, ema_range, &j);
}

SU_OP(ema) {.sig = "ema(avg, p, decay:real)", .doc = "avg = decay*avg + (1-decay)*p, in place.",
  .shape = ema_shape, .ref = ema_ref, .cpu = ema_cpu, .writes = 1, .f32 = 3,
  .cases = (const char *const[]){"avg=3,5 p=3,5 decay=0.9", "avg=40001 p=40001 decay=0.999", NULL}};

bool su_ema(su_tensor *avg, su_tensor *p, double decay) {
  return su_apply(&ema_op, (su_tensor *[SU_MAX_IN]){avg, p}, (int64_t[1]){0}, &decay, NULL);
}

/* ---- finite ---- */

static bool finite_shape(su_call *c) {
  c->out[0].ndim = 0;
  return true;
}

static void finite_ref(const su_plan *p, void *const *in, void *const *out, const double *r, void *ws) {
  (void)r; (void)ws;
  const double *x = in[0];
  bool finite = true;
  for (int64_t k = 0; k < su_spec_size(&p->call.in[0]); k++) finite = finite && isfinite(x[k]);
  *(double *)out[0] = finite;
}

SU_CLONES static void finite_range(void *arg, int64_t first, int64_t last) {
  job *j = arg;
  uint32_t bad = 0;
  for (int64_t k = first; k < last; k++) bad |= not_finite(j->g[k]);
  if (bad) atomic_store_explicit(&j->bad, 1, memory_order_relaxed);
}

static void finite_cpu(const su_plan *p, void *const *in, void *const *out, const double *r, void *ws) {
  (void)r; (void)ws;
  job j = {.g = in[0]};
  su_parallel(su_spec_size(&p->call.in[0]), CHUNK, finite_range, &j);
  *(float *)out[0] = j.bad ? 0.0f : 1.0f;
}

SU_OP(finite) {.sig = "finite(x) -> y", .doc = "1 if no element is NaN or infinite, else 0.",
  .shape = finite_shape, .ref = finite_ref, .cpu = finite_cpu,
  .cases = (const char *const[]){"x=2,3,5", "x=40001", NULL}};

su_tensor *su_finite(su_tensor *x) {
  return su_apply1(&finite_op, (su_tensor *[SU_MAX_IN]){x}, (int64_t[1]){0}, NULL);
}

bool su_all_finite(su_tensor *x, bool *finite) {
  double y;
  const int scope = su_scope_begin();
  su_tensor *t = su_finite(x);
  const bool ok = t && su_read_f64(t, &y, 1);
  su_scope_end(scope, NULL);
  if (ok) *finite = y != 0;
  return ok;
}
