/* norm.c -- batch and instance norm: y = act((x - m) / sqrt(v + eps) * gain + bias) [+ residual], one
 * fused op each way. No running averages here, see stat.c.
 * (Ioffe & Szegedy 2015; Ulyanov, Vedaldi & Lempitsky 2016)
 *
 * Both are one thing: x is [groups, rows, c] in memory, and every (group, channel) is a population of
 * `rows` numbers; batch norm has one group, instance norm one per image. m is the mean, v the biased
 * variance. Backward keeps x, m and 1/sqrt(v + eps) alone: the activation's mask is computed again.
 *
 * With pad = p images come out with p mirrored pixels around them (as op pad makes them, edge = reflect), for
 * the convolution that follows; devices that write the border in the same pass say so (su_device.pads). */
#include "nn.h"

#include "../runtime/cpu/norm.h"
#include "../runtime/ops/ops.h"

#include <inttypes.h>
#include <math.h>
#include <string.h>

enum { BATCH, INSTANCE };

/* ---- shape rules ---- */

static su_spec stat_spec(const su_call *call, const su_spec *x, int64_t over) {
  int64_t c = x->shape[x->ndim - 1];
  if (over == BATCH) return su_spec_of(call->dev->real, 1, (int64_t[]){c});
  return su_spec_of(call->dev->real, 2, (int64_t[]){x->shape[0], c});
}

static bool want_channels(const su_call *c, int k, int64_t channels) {
  const su_spec *s = &c->in[k];
  if (s->ndim < 0 || (s->ndim == 1 && s->shape[0] == channels)) return true;
  return su_fail("%s: %s wants [%" PRId64 "], one number for each channel; has %s", c->op->name,
                 c->op->param[k].name, channels, su_shape_text(s));
}

/* in[k] is what is normalised. A population of one has no spread: its norm would be 0 whatever x is. */
static bool want_population(const su_call *c, int k) {
  const su_spec *x = &c->in[k];
  if (x->ndim < 2)
    return su_fail("%s: %s wants [n,c] or [n,h,w,c], has %s", c->op->name, c->op->param[k].name,
                   su_shape_text(x));
  if (su_spec_size(x) == 0)
    return su_fail("%s: %s is empty: %s", c->op->name, c->op->param[k].name, su_shape_text(x));
  if (su_norm_layout_of(x, c->i[0]).rows > 1) return true;
  return su_fail("%s: %s norm of %s averages over a single number, which makes it 0; it wants %s",
                 c->op->name, c->i[0] == BATCH ? "batch" : "instance", su_shape_text(x),
                 c->i[0] == BATCH ? "n*h*w > 1" : "h*w > 1 (or over = \"batch\", or no norm here)");
}

/* May images of x's shape be mirrored by the call's pad? Then out becomes their shape with it. */
static bool mirrored_shape(const su_call *c, const su_spec *x, su_spec *out) {
  const int64_t pad = c->i[SU_NORM_PAD];
  *out = *x;
  if (pad == 0) return true;
  if (pad < 0) return su_fail("%s: pad must not be negative, is %" PRId64, c->op->name, pad);
  if (x->ndim != 4)
    return su_fail("%s: pad mirrors images [n,h,w,c], has %s", c->op->name, su_shape_text(x));
  if (pad >= x->shape[1] || pad >= x->shape[2])
    return su_fail("%s: a mirrored border of %" PRId64 " wants an image larger than it; has %s", c->op->name,
                   pad, su_shape_text(x));
  out->shape[1] += 2 * pad;
  out->shape[2] += 2 * pad;
  return true;
}

static bool norm_shape(su_call *c) {
  const su_spec *x = &c->in[0];
  if (!want_population(c, 0)) return false;
  int64_t channels = x->shape[x->ndim - 1];
  if (!want_channels(c, 1, channels) || !want_channels(c, 2, channels)) return false;
  if (c->in[3].ndim >= 0) {
    if (!su_want_same(c, 3, 0)) return false;
    if (c->i[1]) return su_fail("norm: a residual wants act = \"none\"; apply the activation outside");
  }
  c->out[1] = c->out[2] = stat_spec(c, x, c->i[SU_NORM_OVER]);
  return mirrored_shape(c, x, &c->out[0]);
}

static bool norm_gx_shape(su_call *c) {
  const su_spec *x = &c->in[1];
  su_spec y;
  if (!want_population(c, 1) || !mirrored_shape(c, x, &y)) return false;
  if (c->in[0].ndim != y.ndim || memcmp(c->in[0].shape, y.shape, (size_t)y.ndim * sizeof *y.shape) != 0)
    return su_fail("norm_gx: gy wants %s, has %s", su_shape_text(&y), su_shape_text(&c->in[0]));
  su_spec stat = stat_spec(c, x, c->i[0]);
  for (int k = 2; k < 4; k++)
    if (memcmp(&c->in[k], &stat, sizeof stat) != 0)
      return su_fail("norm_gx: %s wants %s, has %s", c->op->param[k].name, su_shape_text(&stat),
                     su_shape_text(&c->in[k]));
  int64_t channels = x->shape[x->ndim - 1];
  if (!want_channels(c, 4, channels) || !want_channels(c, 5, channels)) return false;
  c->out[0] = *x;
  c->out[1] = c->out[2] = su_spec_of(c->dev->real, 1, &channels);
  return true;
}

static bool eps_ok(const su_call *c, const double *r) {
  (void)c;
  return r[0] >= 0 || su_fail("norm: eps must be at least 0, is %g", r[0]);
}

/* ---- the specification ---- */

static void norm_ref(const su_plan *p, void *const *in, void *const *out, const double *r, void *ws) {
  (void)ws;
  const su_norm_layout l = su_norm_layout_of(&p->call.in[0], p->call.i[0]);
  const double *x = in[0], *gain = in[1], *bias = in[2], *residual = in[3];   /* x [groups,rows,c] */
  const double slope = su_norm_slope(p->call.i[1], r[1]);
  double *y = out[0], *mean = out[1], *rstd = out[2];         /* mean, rstd [groups,c] */
  const su_norm_frame f = su_norm_frame_of(&p->call, &p->call.in[0]);
  for (int64_t g = 0; g < l.groups; g++)
    for (int64_t j = 0; j < l.c; j++) {
      const int64_t first = g * l.rows * l.c + j, end = first + l.rows * l.c, s = g * l.c + j;
      double m = 0, v = 0;
      for (int64_t k = first; k < end; k += l.c) m += x[k] / (double)l.rows;
      for (int64_t k = first; k < end; k += l.c) v += (x[k] - m) * (x[k] - m) / (double)l.rows;
      mean[s] = m;
      rstd[s] = 1 / sqrt(v + r[0]);
      for (int64_t k = first; k < end; k += l.c) {
        double u = (x[k] - m) * rstd[s] * (gain ? gain[j] : 1) + (bias ? bias[j] : 0);
        int64_t at[SU_NORM_PLACES];
        for (int i = su_norm_places(&f, k, at) - 1; i >= 0; i--)
          y[at[i]] = (u > 0 ? u : slope * u) + (residual ? residual[k] : 0);
      }
    }
}

/* With g = gy * act'(u), where a padded gy counts with all places that show a number, and xh = (x - mean) * rstd:
 * gx = gain * rstd * (g - mean(g) - xh * mean(g * xh)), ggain = sum(g * xh), gbias = sum(g). */
static void norm_gx_ref(const su_plan *p, void *const *in, void *const *out, const double *r, void *ws) {
  (void)ws;
  const su_norm_layout l = su_norm_layout_of(&p->call.in[1], p->call.i[0]);
  const double *gy = in[0], *x = in[1], *mean = in[2], *rstd = in[3], *gain = in[4], *bias = in[5];
  const double slope = su_norm_slope(p->call.i[1], r[0]);
  double *gx = out[0], *ggain = out[1], *gbias = out[2];
  const su_norm_frame f = su_norm_frame_of(&p->call, &p->call.in[1]);
  memset(ggain, 0, (size_t)l.c * sizeof *ggain);
  memset(gbias, 0, (size_t)l.c * sizeof *gbias);
  for (int64_t g = 0; g < l.groups; g++)
    for (int64_t j = 0; j < l.c; j++) {
      const int64_t first = g * l.rows * l.c + j, end = first + l.rows * l.c, s = g * l.c + j;
      const double a = gain ? gain[j] : 1, b = bias ? bias[j] : 0;
      double s1 = 0, s2 = 0;
      for (int64_t k = first; k < end; k += l.c) {
        double xh = (x[k] - mean[s]) * rstd[s], gyk = 0;
        int64_t at[SU_NORM_PLACES];
        for (int i = su_norm_places(&f, k, at) - 1; i >= 0; i--) gyk += gy[at[i]];
        gx[k] = xh * a + b > 0 ? gyk : slope * gyk;
        s1 += gx[k];
        s2 += gx[k] * xh;
      }
      gbias[j] += s1;
      ggain[j] += s2;
      for (int64_t k = first; k < end; k += l.c)
        gx[k] = a * rstd[s] * (gx[k] - (s1 + (x[k] - mean[s]) * rstd[s] * s2) / (double)l.rows);
    }
}

/* ---- gradients ---- */

/* [c] or [n,c] so that it broadcasts over x: [c] or [n,1,1,c]. */
static su_tensor *spread(su_tensor *s, const su_spec *x) {
  if (!s || s->spec.ndim == 1) return s;
  int64_t shape[SU_MAX_DIM] = {x->shape[0]};
  for (int k = 1; k < x->ndim - 1; k++) shape[k] = 1;
  shape[x->ndim - 1] = x->shape[x->ndim - 1];
  return su_reshape(s, x->ndim, shape);
}

/* Sum over each population: x's shape to [c] or [n,c]. */
static su_tensor *population_sum(su_tensor *x, int64_t over) {
  int axes[SU_MAX_DIM], n = 0;
  for (int k = over == BATCH ? 0 : 1; x && k < x->spec.ndim - 1; k++) axes[n++] = k;
  return su_sum(x, n, axes, false);
}

/* What mean and rstd say about x when something else reads them:
 * (gmean - grstd * rstd^3 * (x - mean)) / rows. */
static su_tensor *stats_gx(const su_node *n, su_tensor *gmean, su_tensor *grstd) {
  const su_spec *x = &n->in_spec[0];
  const double per = 1 / (double)su_norm_layout_of(x, n->i[0]).rows;
  su_tensor *sum = gmean ? spread(su_affine(gmean, per, 0), x) : NULL;
  if (!grstd) return su_expand(sum, x->ndim, x->shape);
  su_tensor *rstd = n->out[2], *weight = su_affine(su_mul(grstd, su_mul(rstd, su_square(rstd))), -per, 0);
  su_tensor *back = su_mul(su_sub(n->in[0], spread(n->out[1], x)), spread(weight, x));
  return gmean ? su_add(back, sum) : back;
}

/* gy folded, or a cotangent of the folded one spread again: the unfused form. */
static su_tensor *without_border(const su_node *n, su_tensor *gy) {
  const int64_t p = n->i[SU_NORM_PAD];
  return p && gy ? su_pad_gx(gy, (int64_t[]){p, p, p, p}, SU_EDGE_REFLECT) : gy;
}

static su_tensor *with_border(const su_node *n, su_tensor *t) {
  const int64_t p = n->i[SU_NORM_PAD];
  return p && t ? su_pad(t, (int64_t[]){p, p, p, p}, SU_EDGE_REFLECT) : t;
}

static bool norm_grad(const su_node *n, su_tensor *const *gy, const bool *want, su_tensor **gx) {
  if (gy[0] && (want[0] || want[1] || want[2])) {
    su_tensor *out[SU_MAX_OUT];
    su_tensor *const *in = n->in;
    if (!su_norm_gx(gy[0], in[0], n->out[1], n->out[2], in[1], in[2], n->i, n->r[1], out)) return false;
    for (int k = 0; k < 3; k++) gx[k] = out[k];
  }
  gx[3] = want[3] ? without_border(n, gy[0]) : NULL;
  if (want[3] && gy[0] && !gx[3]) return false;
  if (!want[0] || !(gy[1] || gy[2])) return true;
  su_tensor *more = stats_gx(n, gy[1], gy[2]);
  gx[0] = gx[0] ? su_add(gx[0], more) : more;
  return gx[0] != NULL;
}

static su_tensor *or_zeros(su_tensor *g, const su_node *n, int k) {
  return g ? g : su_full(n->dev, &n->out_spec[k], 0);
}

/* Second order, in ops. With k = rstd * gain, w = v * k, P the population mean spread back, and v, vg, vb
 * the cotangents of gx, ggain, gbias, the sum that is differentiated is
 *   sum w (g - P(g) - xh P(g xh)) + sum vg g xh + sum vb g,   g = act'(u) gy,   xh = (x - mean) rstd. */
static bool norm_gx_grad(const su_node *n, su_tensor *const *cot, const bool *want, su_tensor **gx) {
  su_tensor *gy = without_border(n, n->in[0]), *gain = n->in[4], *bias = n->in[5];
  const su_spec *xs = &n->in_spec[1];
  const int64_t over = n->i[0];
  const double per = 1 / (double)su_norm_layout_of(xs, over).rows, slope = su_norm_slope(n->i[1], n->r[0]);
  su_tensor *v = or_zeros(cot[0], n, 0), *vg = or_zeros(cot[1], n, 1), *vb = or_zeros(cot[2], n, 2);
  su_tensor *rstd = spread(n->in[3], xs), *d = su_sub(n->in[1], spread(n->in[2], xs)), *xh = su_mul(d, rstd);
  su_tensor *u = gain ? su_mul(xh, gain) : xh;
  if (bias) u = su_add(u, bias);
  su_tensor *g = n->i[1] ? su_lrelu_gx(gy, u, slope) : gy;
  su_tensor *w = su_mul(v, gain ? su_mul(rstd, gain) : rstd);
#define MEAN(t) spread(su_affine(population_sum(t, over), per, 0), xs)
  su_tensor *g_xh = MEAN(su_mul(g, xh)), *w_xh = MEAN(su_mul(w, xh));
  su_tensor *tg = su_sub(su_sub(w, MEAN(w)), su_mul(xh, w_xh));               /* towards g */
  tg = su_add(tg, su_add(su_mul(xh, vg), vb));
  su_tensor *txh = su_sub(su_mul(g, vg), su_add(su_mul(w, g_xh), su_mul(g, w_xh)));
  su_tensor *tx = su_mul(txh, rstd);
  su_tensor *tk = su_mul(v, su_sub(su_sub(g, MEAN(g)), su_mul(xh, g_xh)));    /* towards k, unsummed */
#undef MEAN
  if (!tg || !tx || !tk) return false;
  if (want[0] && !(gx[0] = with_border(n, n->i[1] ? su_lrelu_gx(tg, u, slope) : tg))) return false;
  if (want[1]) gx[1] = tx;
  if (want[2] && !(gx[2] = su_neg(population_sum(tx, over)))) return false;
  su_tensor *through_k = gain ? su_mul(tk, gain) : tk;
  if (want[3] && !(gx[3] = population_sum(su_add(su_mul(d, txh), through_k), over))) return false;
  /* gx[5] stays absent: the bias only moves the mask */
  return !want[4] || (gx[4] = population_sum(su_mul(tk, rstd), BATCH)) != NULL;
}

/* ---- the ops ---- */

static const char *const norm_cases[] = {
  "x=2,3,5,7 gain=7 bias=7", "x=9,5 gain=5 bias=5 act=relu",
  "x=2,5,3,70 gain=70 bias=70 over=instance act=lrelu", "x=1,4,6,16 over=instance residual=1,4,6,16",
  "x=3,1,1,4 act=lrelu slope=0.1", "x=1,33,31,20 over=instance eps=0.1",
  "x=2,7,1,1 over=instance act=relu", "x=4,3,3,130 gain=130", "x=5,2,3 bias=3 over=instance",
  "x=2,5,4,3 gain=3 bias=3 act=relu pad=3", "x=2,20,17,24 gain=24 bias=24 over=instance act=lrelu pad=1",
  "x=2,4,6,8 gain=8 over=instance residual=2,4,6,8 pad=2", "x=1,12,14,40 gain=40 bias=40 over=instance act=relu",
  NULL};

SU_OP(norm) {
  .sig = "norm(x, gain?, bias?, residual?, over:enum(batch|instance)=batch, "
         "act:enum(none|relu|lrelu)=none, pad:int=0, eps:real=1e-5, slope:real=0.2) -> y, mean, rstd",
  .doc = "act((x - mean) / sqrt(var + eps) * gain + bias) + residual, over the batch or each image; pad mirrors that "
         "many pixels around y.",
  .shape = norm_shape, .check = eps_ok, .ref = norm_ref, .cpu_plan = su_norm_plan, .grad = norm_grad, .keep_in = 7,
  .keep_out = 6, .f32 = 6, .bf16 = true, .cases = norm_cases};

static const char *const norm_gx_cases[] = {
  "gy=2,3,5,7 x=2,3,5,7 mean=7 rstd=7@pos gain=7 bias=7 act=relu", "gy=6,5 x=6,5 mean=5 rstd=5@pos",
  "gy=2,5,3,66 x=2,5,3,66 mean=2,66 rstd=2,66@pos gain=66 bias=66 over=instance act=lrelu",
  "gy=1,4,6,3 x=1,4,6,3 mean=1,3 rstd=1,3@pos over=instance",
  "gy=2,11,10,3 x=2,5,4,3 mean=3 rstd=3@pos gain=3 bias=3 act=relu pad=3",
  "gy=2,16,13,24 x=2,14,11,24 mean=2,24 rstd=2,24@pos gain=24 bias=24 over=instance act=lrelu pad=1",
  "gy=3,8,8,40 x=3,8,8,40 mean=40 rstd=40@pos gain=40 bias=40 act=lrelu", NULL};

SU_OP(norm_gx) {
  .sig = "norm_gx(gy, x, mean, rstd, gain?, bias?, over:enum(batch|instance)=batch, "
         "act:enum(none|relu|lrelu)=none, pad:int=0, slope:real=0.2) -> gx, ggain, gbias",
  .doc = "Gradients of norm from its input and statistics.", .shape = norm_gx_shape, .ref = norm_gx_ref,
  .cpu_plan = su_norm_gx_plan, .grad = norm_gx_grad, .keep_in = 63, .f32 = 60, .bf16 = true,
  .cases = norm_gx_cases};

bool su_norm_gx(su_tensor *gy, su_tensor *x, su_tensor *mean, su_tensor *rstd, su_tensor *gain,
                su_tensor *bias, const int64_t *over_act_pad, double slope, su_tensor **out) {
  su_tensor *in[SU_MAX_IN] = {gy, x, mean, rstd, gain, bias};
  return su_apply(&norm_gx_op, in, over_act_pad, &slope, out);
}

su_tensor *su_norm(su_tensor *x, su_tensor *gain, su_tensor *bias, su_tensor *residual, su_norm_opt o,
                   su_tensor **mean, su_tensor **rstd) {
  su_tensor *in[SU_MAX_IN] = {x, gain, bias, residual}, *out[SU_MAX_OUT];
  const double r[] = {o.eps ? o.eps : 1e-5, o.slope ? o.slope : 0.2};
  if (!su_apply(&norm_op, in, (int64_t[]){o.over, o.act, o.pad}, r, out)) return NULL;
  if (mean) *mean = out[1];
  if (rstd) *rstd = out[2];
  return out[0];
}
