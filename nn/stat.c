/* stat.c -- batch norm's running statistics: how they follow the batches, and the norm that uses them.
 * The norm by the batch's own statistics is in norm.c. PyTorch's rules: running = (1 - momentum)*running
 * + momentum*batch, with the unbiased variance of the batch; several populations (instance norm) are
 * averaged first. */
#include "nn.h"

#include "../runtime/ops/ops.h"

#include <inttypes.h>
#include <math.h>

/* ---- norm_eval ---- */

static bool channel_vector(const su_call *c, int k, int64_t channels) {
  const su_spec *s = &c->in[k];
  if (s->ndim < 0 || (s->ndim == 1 && s->shape[0] == channels)) return true;
  return su_fail("%s: %s wants [%" PRId64 "], one number for each channel; has %s", c->op->name,
                 c->op->param[k].name, channels, su_shape_text(s));
}

static bool eval_shape(su_call *c) {
  const su_spec *x = &c->in[0];
  if (x->ndim < 2) return su_fail("norm_eval: x wants [n,c] or [n,h,w,c], has %s", su_shape_text(x));
  for (int k = 1; k < 5; k++)
    if (!channel_vector(c, k, x->shape[x->ndim - 1])) return false;
  return su_same_out(c);
}

/* Ints: act. Reals: eps, slope. */
static double slope_of(const int64_t *i, const double *r) {
  return i[0] == SU_ACT_NONE ? 1 : i[0] == SU_ACT_RELU ? 0 : r[1];
}

static void eval_ref(const su_plan *p, void *const *in, void *const *out, const double *r, void *ws) {
  (void)ws;
  const su_spec *xs = &p->call.in[0];
  const double *x = in[0], *mean = in[1], *var = in[2];       /* x [rows,c], the others [c] */
  const double *gain = in[3], *bias = in[4];
  const int64_t n = su_spec_size(xs), c = xs->shape[xs->ndim - 1];
  double *y = out[0];
  for (int64_t k = 0; k < n; k++) {
    const int64_t j = k % c;
    double u = (x[k] - mean[j]) / sqrt(var[j] + r[0]) * (gain ? gain[j] : 1) + (bias ? bias[j] : 0);
    y[k] = u > 0 ? u : slope_of(p->call.i, r) * u;
  }
}

typedef struct eval_job { const float *x, *mean, *scale, *shift; float *y; int64_t c; float slope; } eval_job;

SU_CLONES static void eval_rows(void *arg, int64_t first, int64_t last) {
  const eval_job *j = arg;
  const int64_t c = j->c;
  const float slope = j->slope, *restrict mean = j->mean;
  const float *restrict scale = j->scale, *restrict shift = j->shift;
  for (int64_t k = first; k < last; k++) {
    const float *restrict x = j->x + k * c;
    float *restrict y = j->y + k * c;
    for (int64_t i = 0; i < c; i++) {
      const float u = (x[i] - mean[i]) * scale[i] + shift[i];
      y[i] = u * (u > 0 ? 1.0f : slope);
    }
  }
}

static void eval_cpu(const su_plan *p, void *const *in, void *const *out, const double *r, void *ws) {
  const su_spec *xs = &p->call.in[0];
  const int64_t c = xs->shape[xs->ndim - 1];
  const float *var = in[2], *gain = in[3], *bias = in[4];
  float *scale = ws, *shift = scale + c;
  for (int64_t k = 0; k < c; k++) {
    scale[k] = (float)((gain ? (double)gain[k] : 1) / sqrt((double)var[k] + r[0]));
    shift[k] = bias ? bias[k] : 0;
  }
  eval_job j = {in[0], in[1], scale, shift, out[0], c, (float)slope_of(p->call.i, r)};
  su_parallel(su_spec_size(xs) / c, c < 16384 ? 16384 / c : 1, eval_rows, &j);
}

static bool eval_plan(su_plan *p) {
  const su_spec *xs = &p->call.in[0];
  p->workspace = 2 * (size_t)xs->shape[xs->ndim - 1] * sizeof(float);
  p->exec = eval_cpu;
  return true;
}

static bool eval_grad(const su_node *n, su_tensor *const *gy, const bool *want, su_tensor **gx) {
  su_tensor *gain = n->in[3], *bias = n->in[4], *rstd = su_rsqrt(su_affine(n->in[2], 1, n->r[0]));
  su_tensor *d = su_sub(n->in[0], n->in[1]), *xh = su_mul(d, rstd);
  su_tensor *u = gain ? su_mul(xh, gain) : xh;
  if (bias) u = su_add(u, bias);
  su_tensor *g = n->i[0] ? su_lrelu_gx(gy[0], u, slope_of(n->i, n->r)) : gy[0];
  su_tensor *back = su_mul(g, gain ? su_mul(rstd, gain) : rstd);
  const su_spec *stat = &n->in_spec[1];
  if (!back) return false;
  if (want[0]) gx[0] = back;
  if (want[1] && !(gx[1] = su_neg(su_sum_to(back, stat)))) return false;
  /* d rstd / d var = -rstd^3 / 2 */
  su_tensor *towards_var = want[2] ? su_mul(su_mul(back, d), su_affine(su_square(rstd), -0.5, 0)) : NULL;
  if (want[2] && !(gx[2] = su_sum_to(towards_var, stat))) return false;
  if (want[3] && !(gx[3] = su_sum_to(su_mul(g, xh), stat))) return false;
  return !want[4] || (gx[4] = su_sum_to(g, stat)) != NULL;
}

static const char *const eval_cases[] = {
  "x=2,3,5,7 mean=7 var=7@pos gain=7 bias=7 act=relu", "x=4,5 mean=5 var=5@pos",
  "x=1,33,32,17 mean=17 var=17@pos bias=17 act=lrelu eps=0.1", NULL};

SU_OP(norm_eval) {
  .sig = "norm_eval(x, mean, var, gain?, bias?, act:enum(none|relu|lrelu)=none, eps:real=1e-5, "
         "slope:real=0.2) -> y",
  .doc = "Batch norm with given statistics: act((x - mean) / sqrt(var + eps) * gain + bias).",
  .shape = eval_shape, .ref = eval_ref, .cpu_plan = eval_plan, .grad = eval_grad, .keep_in = 31,
  .f32 = 30, .cases = eval_cases};

su_tensor *su_norm_eval(su_tensor *x, su_tensor *mean, su_tensor *var, su_tensor *gain, su_tensor *bias,
                        su_norm_opt o) {
  const double r[] = {o.eps ? o.eps : 1e-5, o.slope ? o.slope : 0.2};
  su_tensor *in[SU_MAX_IN] = {x, mean, var, gain, bias};
  return su_apply1(&norm_eval_op, in, (int64_t[]){o.act}, r);
}

/* ---- stat_update ---- */

static bool update_shape(su_call *c) {
  const su_spec *m = &c->in[2];
  if (!su_want_ndim(c, 0, 1) || !su_want_same(c, 1, 0) || !su_want_same(c, 3, 2)) return false;
  if (m->ndim >= 1 && m->ndim <= 2 && m->shape[m->ndim - 1] == c->in[0].shape[0]) return true;
  return su_fail("stat_update: mean wants [%" PRId64 "] or [n,%" PRId64 "], has %s", c->in[0].shape[0],
                 c->in[0].shape[0], su_shape_text(m));
}

static bool update_ok(const su_call *c, const double *r) {
  (void)c;
  return r[2] > 1 || su_fail("stat_update: a variance wants more than one number; count is %g", r[2]);
}

/* One channel; reals: momentum, eps, count. The variance is read off rstd = 1 / sqrt(var + eps). */
static void follow(double *mean, double *var, double m, double v, const double *r) {
  *mean = (1 - r[0]) * *mean + r[0] * m;
  *var = (1 - r[0]) * *var + r[0] * v * r[2] / (r[2] - 1);
}

static void update_ref(const su_plan *p, void *const *in, void *const *out, const double *r, void *ws) {
  (void)out; (void)ws;
  const int64_t c = p->call.in[0].shape[0], n = su_spec_size(&p->call.in[2]) / c;
  double *run_mean = in[0], *run_var = in[1];
  const double *mean = in[2], *rstd = in[3];                  /* [n,c] */
  for (int64_t j = 0; j < c; j++) {
    double m = 0, v = 0;
    for (int64_t k = j; k < n * c; k += c) {
      m += mean[k] / (double)n;
      v += (1 / (rstd[k] * rstd[k]) - r[1]) / (double)n;
    }
    follow(&run_mean[j], &run_var[j], m, v, r);
  }
}

static void update_cpu(const su_plan *p, void *const *in, void *const *out, const double *r, void *ws) {
  (void)out; (void)ws;
  const int64_t c = p->call.in[0].shape[0], n = su_spec_size(&p->call.in[2]) / c;
  float *run_mean = in[0], *run_var = in[1];
  const float *mean = in[2], *rstd = in[3];
  for (int64_t j = 0; j < c; j++) {
    double m = 0, v = 0, a = (double)run_mean[j], b = (double)run_var[j];
    for (int64_t k = j; k < n * c; k += c) {
      m += (double)mean[k];
      v += 1 / ((double)rstd[k] * (double)rstd[k]) - r[1];
    }
    follow(&a, &b, m / (double)n, v < 0 ? 0 : v / (double)n, r);   /* below 0 only by rstd's rounding */
    run_mean[j] = (float)a;
    run_var[j] = (float)b;
  }
}

static const char *const update_cases[] = {
  "running_mean=7 running_var=7@pos mean=7 rstd=7@pos count=32",
  "running_mean=5 running_var=5@pos mean=3,5 rstd=3,5@pos count=9 momentum=0.3", NULL};

SU_OP(stat_update) {
  .sig = "stat_update(running_mean, running_var, mean, rstd, momentum:real=0.1, eps:real=1e-5, count:real)",
  .doc = "Moves running statistics, in place, towards those norm found in populations of `count` numbers.",
  .shape = update_shape, .check = update_ok, .ref = update_ref, .cpu = update_cpu, .writes = 3, .f32 = 15,
  .cases = update_cases};

bool su_stat_update(su_tensor *running_mean, su_tensor *running_var, su_tensor *mean, su_tensor *rstd,
                    double momentum, double eps, double count) {
  su_tensor *in[SU_MAX_IN] = {running_mean, running_var, mean, rstd};
  return su_apply(&stat_update_op, in, (int64_t[1]){0}, (double[]){momentum, eps, count}, NULL);
}
