/* conv.c -- convolution (cross-correlation, as networks mean it) and its adjoints, three ops closed under
 * differentiation.
 *
 *   y[n,oh,ow,co] = b[co] + sum over kh,kw,ci of X(oh*sh - pt + kh*dh, ow*sw - pl + kw*dw) * w[co,kh,kw,ci]
 * where X(i,j) is x[n,i,j,ci] inside the picture and, outside, zero (edge=zero) or the mirror image that does
 * not repeat the border (edge=reflect). conv is bilinear in x and w; conv_gx is its adjoint in x (a
 * transposed convolution), conv_gw its adjoint in w. The gradient of each is made of the other two, so
 * gradients of gradients come free. How the CPU runs them is chosen in runtime/cpu/conv.c. Groups split ci
 * and co into equal parts that do not meet. conv and conv_gx may end in an activation, y = act(...): what follows it in a
 * net costs no pass of its own. */
#include "conv.h"

#include "../runtime/cpu/conv.h"
#include "../runtime/ops/ops.h"

#include <math.h>
#include <string.h>

/* ---- what is asked: one geometry for three ops ---- */

enum {
  STRIDE = 0,
  PAD = 2,
  DILATION = 6,
  GROUPS = 8,
  EDGE = 9,
  OPTIONS = 10,
  ACT = 10,                             /* conv and conv_gx alone */
  LEAK = 11
};   /* slots, behind `size` or `kernel` */

static void take_options(su_conv_geo *g, const int64_t *i) {
  g->sh = i[STRIDE], g->sw = i[STRIDE + 1];
  g->pt = i[PAD], g->pb = i[PAD + 1], g->pl = i[PAD + 2], g->pr = i[PAD + 3];
  g->dh = i[DILATION], g->dw = i[DILATION + 1];
  g->groups = i[GROUPS];
  g->reflect = i[EDGE] == 1;
}

/* The slope shapes the plan: a library compiles it into its kernel. So it is an int, in thousandths. */
static double slope_of(const int64_t *i) { return (double)i[LEAK] / 1000; }

static void take_act(su_conv_geo *g, const int64_t *i) {
  g->act = (enum su_conv_act)i[ACT];
  g->slope = (float)slope_of(i);
}

static void take_x(su_conv_geo *g, const su_spec *x) {
  g->n = x->shape[0], g->h = x->shape[1], g->w = x->shape[2], g->ci = x->shape[3];
}

static void take_w(su_conv_geo *g, const su_spec *w) {
  g->co = w->shape[0], g->kh = w->shape[1], g->kw = w->shape[2];
}

static void take_y(su_conv_geo *g, const su_spec *y) {
  g->n = y->shape[0], g->oh = y->shape[1], g->ow = y->shape[2], g->co = y->shape[3];
}

/* Outputs along one axis; 0 when the kernel does not fit. */
static int64_t outputs(int64_t size, int64_t before, int64_t after, int64_t k, int64_t dilation,
                       int64_t stride) {
  int64_t room = size + before + after - (dilation * (k - 1) + 1);
  return room < 0 ? 0 : room / stride + 1;
}

static su_conv_geo geo_y(const su_call *c) {
  su_conv_geo g = {0};
  take_x(&g, &c->in[0]);
  take_w(&g, &c->in[1]);
  take_options(&g, c->i);
  take_act(&g, c->i);
  g.oh = outputs(g.h, g.pt, g.pb, g.kh, g.dh, g.sh);
  g.ow = outputs(g.w, g.pl, g.pr, g.kw, g.dw, g.sw);
  return g;
}

static su_conv_geo geo_gx(const su_call *c) {
  su_conv_geo g = {0};
  take_options(&g, c->i + 2);
  take_act(&g, c->i + 2);
  take_y(&g, &c->in[0]);
  take_w(&g, &c->in[1]);
  g.h = c->i[0], g.w = c->i[1], g.ci = c->in[1].shape[3] * g.groups;
  return g;
}

static su_conv_geo geo_gw(const su_call *c) {
  su_conv_geo g = {0};
  take_options(&g, c->i + 2);
  take_x(&g, &c->in[0]);
  take_y(&g, &c->in[1]);
  g.kh = c->i[0], g.kw = c->i[1];
  return g;
}

su_conv_geo su_conv_geo_of(const su_call *c, enum su_conv_dir dir) {
  return dir == SU_CONV_Y ? geo_y(c) : dir == SU_CONV_GX ? geo_gx(c) : geo_gw(c);
}

/* ---- the judge ---- */

static bool options_make_sense(const su_call *c, const int64_t *i) {
  const char *op = c->op->name;
  if (i[STRIDE] < 1 || i[STRIDE + 1] < 1) return su_fail("%s: stride must be at least 1", op);
  if (i[DILATION] < 1 || i[DILATION + 1] < 1) return su_fail("%s: dilation must be at least 1", op);
  if (i[GROUPS] < 1) return su_fail("%s: groups must be at least 1", op);
  for (int k = 0; k < 4; k++)
    if (i[PAD + k] < 0) return su_fail("%s: pad must not be negative (slice cuts)", op);
  return true;
}

static bool channels_fit(const su_call *c, const su_conv_geo *g, int64_t per_group) {
  const char *op = c->op->name;
  long long ci = g->ci, co = g->co, groups = g->groups, wants = per_group * g->groups;
  if (wants != ci) return su_fail("%s: weight wants %lld input channels, input has %lld", op, wants, ci);
  if (ci % groups || co % groups)
    return su_fail("%s: %lld groups do not divide %lld input and %lld output channels", op, groups, ci, co);
  return true;
}

static bool reflection_fits(const su_call *c, const su_conv_geo *g) {
  if (!g->reflect) return true;
  if (g->pt < g->h && g->pb < g->h && g->pl < g->w && g->pr < g->w) return true;
  return su_fail(
    "%s: edge=reflect needs an image larger than its pad; it is %lld x %lld with pad %lld,%lld,%lld,%lld",
    c->op->name, (long long)g->h, (long long)g->w, (long long)g->pt, (long long)g->pb, (long long)g->pl,
    (long long)g->pr);
}

static bool bias_fits(const su_call *c, int64_t channels) {
  if (c->in[2].ndim < 0) return true;
  if (c->in[2].ndim == 1 && c->in[2].shape[0] == channels) return true;
  return su_fail("%s: bias should be [%lld], it is %s", c->op->name, (long long)channels,
                 su_shape_text(&c->in[2]));
}

/* conv_gx and conv_gw are told both ends; the convolution between them must exist. */
static bool ends_meet(const su_call *c, const su_conv_geo *g, const char *told) {
  int64_t oh = outputs(g->h, g->pt, g->pb, g->kh, g->dh, g->sh);
  int64_t ow = outputs(g->w, g->pl, g->pr, g->kw, g->dw, g->sw);
  if (oh == g->oh && ow == g->ow) return true;
  return su_fail("%s: a %lld x %lld kernel makes %lld x %lld of an image of %lld x %lld, gy is %lld x %lld; "
                 "%s, stride or pad "
                 "does not fit",
                 c->op->name, (long long)g->kh, (long long)g->kw, (long long)oh, (long long)ow,
                 (long long)g->h, (long long)g->w, (long long)g->oh, (long long)g->ow, told);
}

static void image_out(su_call *c, int64_t n, int64_t h, int64_t w, int64_t ch) {
  int64_t shape[4] = {n, h, w, ch};
  c->out[0] = su_spec_of(c->in[0].dtype, 4, shape);
}

static bool act_makes_sense(const su_call *c, const int64_t *i) {
  if (i[ACT] == SU_CONV_LRELU ? i[LEAK] > 0 : i[LEAK] == 0) return true;
  return su_fail("%s: act=lrelu wants its slope in thousandths, leak=200 for 0.2, and no other act has one; got leak=%lld",
                 c->op->name, (long long)i[LEAK]);
}

static bool shape_y(su_call *c) {
  if (!su_want_ndim(c, 0, 4) || !su_want_ndim(c, 1, 4) || !options_make_sense(c, c->i)) return false;
  if (!act_makes_sense(c, c->i)) return false;
  su_conv_geo g = geo_y(c);
  if (!channels_fit(c, &g, c->in[1].shape[3]) || !bias_fits(c, g.co) || !reflection_fits(c, &g)) return false;
  if (g.oh < 1 || g.ow < 1)
    return su_fail("conv: a %lld x %lld kernel does not fit into an image of %lld x %lld with this pad",
                   (long long)g.kh, (long long)g.kw, (long long)g.h, (long long)g.w);
  image_out(c, g.n, g.oh, g.ow, g.co);
  return true;
}

static bool shape_gx(su_call *c) {
  if (!su_want_ndim(c, 0, 4) || !su_want_ndim(c, 1, 4) || !options_make_sense(c, c->i + 2)) return false;
  if (!act_makes_sense(c, c->i + 2)) return false;
  su_conv_geo g = geo_gx(c);
  if (c->in[1].shape[0] != c->in[0].shape[3])
    return su_fail("conv_gx: weight wants %lld channels, gy has %lld", (long long)c->in[1].shape[0],
                   (long long)c->in[0].shape[3]);
  if (!channels_fit(c, &g, c->in[1].shape[3]) || !bias_fits(c, g.ci)) return false;
  if (!reflection_fits(c, &g) || !ends_meet(c, &g, "size")) return false;
  image_out(c, g.n, g.h, g.w, g.ci);
  return true;
}

static bool shape_gw(su_call *c) {
  if (!su_want_ndim(c, 0, 4) || !su_want_ndim(c, 1, 4) || !options_make_sense(c, c->i + 2)) return false;
  su_conv_geo g = geo_gw(c);
  if (c->in[0].shape[0] != c->in[1].shape[0])
    return su_fail("conv_gw: x holds %lld images, gy %lld", (long long)c->in[0].shape[0],
                   (long long)c->in[1].shape[0]);
  if (!channels_fit(c, &g, g.ci / g.groups) || !reflection_fits(c, &g) || !ends_meet(c, &g, "kernel"))
    return false;
  image_out(c, g.co, g.kh, g.kw, g.ci / g.groups);
  c->out[0].dtype = c->dev->real;      /* gradients of weights are summed in f32 */
  return true;
}

/* ---- the specification ---- */

/* Index into the image for position i of n, or -1 for a zero. */
static int64_t inside(int64_t i, int64_t n, bool reflect) {
  if (i >= 0 && i < n) return i;
  if (!reflect) return -1;
  return i < 0 ? -i : 2 * (n - 1) - i;
}

/* One output position: all taps and channels of all groups. */
static void meet(const su_conv_geo *g, double *x, double *w, double *y, enum su_conv_dir dir, int64_t top,
                 int64_t left) {
  int64_t cig = g->ci / g->groups, cog = g->co / g->groups;
  for (int64_t co = 0; co < g->co; co++)
    for (int64_t kh = 0; kh < g->kh; kh++)
      for (int64_t kw = 0; kw < g->kw; kw++) {
        int64_t i = inside(top + kh * g->dh, g->h, g->reflect),
                j = inside(left + kw * g->dw, g->w, g->reflect);
        if (i < 0 || j < 0) continue;
        double *px = x + (i * g->w + j) * g->ci + co / cog * cig,
               *pw = w + ((co * g->kh + kh) * g->kw + kw) * cig;
        for (int64_t ci = 0; ci < cig; ci++) {
          if (dir == SU_CONV_Y) y[co] += px[ci] * pw[ci];
          if (dir == SU_CONV_GX) px[ci] += y[co] * pw[ci];
          if (dir == SU_CONV_GW) pw[ci] += y[co] * px[ci];
        }
      }
}

/* Every product of the convolution, once; `dir` says which of x, w, y is being summed into. */
static void every_product(const su_conv_geo *g, double *x, double *w, double *y, enum su_conv_dir dir) {
  for (int64_t n = 0; n < g->n; n++)
    for (int64_t oh = 0; oh < g->oh; oh++)
      for (int64_t ow = 0; ow < g->ow; ow++)
        meet(g, x + n * g->h * g->w * g->ci, w, y + ((n * g->oh + oh) * g->ow + ow) * g->co, dir,
             oh * g->sh - g->pt, ow * g->sw - g->pl);
}

static void start_from_bias(double *out, int64_t pixels, int64_t channels, const double *b) {
  for (int64_t p = 0; p < pixels; p++)
    for (int64_t c = 0; c < channels; c++) out[p * channels + c] = b ? b[c] : 0;
}

static void activate(const su_conv_geo *g, int64_t n, double *y, double slope) {
  for (int64_t k = 0; k < n; k++) {
    if (g->act == SU_CONV_TANH) y[k] = tanh(y[k]);
    else if (g->act) y[k] = y[k] > 0 ? y[k] : slope * y[k];
  }
}

static void ref_y(const su_plan *p, void *const *in, void *const *out, const double *r, void *ws) {
  su_conv_geo g = geo_y(&p->call);
  (void)r, (void)ws;
  start_from_bias(out[0], g.n * g.oh * g.ow, g.co, in[2]);
  every_product(&g, in[0], in[1], out[0], SU_CONV_Y);
  activate(&g, g.n * g.oh * g.ow * g.co, out[0], slope_of(p->call.i));
}

static void ref_gx(const su_plan *p, void *const *in, void *const *out, const double *r, void *ws) {
  su_conv_geo g = geo_gx(&p->call);
  (void)r, (void)ws;
  start_from_bias(out[0], g.n * g.h * g.w, g.ci, in[2]);
  every_product(&g, out[0], in[1], in[0], SU_CONV_GX);
  activate(&g, g.n * g.h * g.w * g.ci, out[0], slope_of(p->call.i + 2));
}

static void ref_gw(const su_plan *p, void *const *in, void *const *out, const double *r, void *ws) {
  su_conv_geo g = geo_gw(&p->call);
  (void)r, (void)ws;
  start_from_bias(out[0], g.co * g.kh * g.kw, g.ci / g.groups, NULL);
  every_product(&g, in[0], out[0], in[1], SU_CONV_GW);
}

/* ---- the CPU ---- */

static bool plan_y(su_plan *p) {
  su_conv_geo g = geo_y(&p->call);
  return su_conv_plan(p, &g, SU_CONV_Y);
}

static bool plan_gx(su_plan *p) {
  su_conv_geo g = geo_gx(&p->call);
  return su_conv_plan(p, &g, SU_CONV_GX);
}

static bool plan_gw(su_plan *p) {
  su_conv_geo g = geo_gw(&p->call);
  return su_conv_plan(p, &g, SU_CONV_GW);
}

/* ---- as C functions ---- */

static void put_options(int64_t *i, const su_conv_opt *o) {
  static const su_conv_opt plain;
  if (!o) o = &plain;
  for (int k = 0; k < 2; k++) {
    i[STRIDE + k] = o->stride[k] ? o->stride[k] : 1;
    i[DILATION + k] = o->dilation[k] ? o->dilation[k] : 1;
  }
  memcpy(i + PAD, o->pad, sizeof o->pad);
  i[GROUPS] = o->groups ? o->groups : 1;
  i[EDGE] = o->reflect;
}

static su_op conv_op, conv_gx_op, conv_gw_op;

su_tensor *su_conv(su_tensor *x, su_tensor *w, su_tensor *b, const su_conv_opt *o) {
  int64_t i[SU_MAX_INT] = {0};
  put_options(i, o);
  return su_apply1(&conv_op, (su_tensor *[SU_MAX_IN]){x, w, b}, i, NULL);
}

su_tensor *su_conv_gx(su_tensor *gy, su_tensor *w, su_tensor *b, const int64_t size[2],
                      const su_conv_opt *o) {
  int64_t i[SU_MAX_INT] = {size[0], size[1]};
  put_options(i + 2, o);
  return su_apply1(&conv_gx_op, (su_tensor *[SU_MAX_IN]){gy, w, b}, i, NULL);
}

su_tensor *su_conv_gw(su_tensor *x, su_tensor *gy, const int64_t kernel[2], const su_conv_opt *o) {
  int64_t i[SU_MAX_INT] = {kernel[0], kernel[1]};
  put_options(i + 2, o);
  return su_apply1(&conv_gw_op, (su_tensor *[SU_MAX_IN]){x, gy}, i, NULL);
}

/* ---- gradients: each adjoint is one of the other two ---- */

/* Apply `op` to two tensors with the node's own options; size: the two ints in front of them, or NULL. */
static su_tensor *again(su_op *op, const int64_t *options, su_tensor *a, su_tensor *b, const int64_t *size) {
  int64_t i[SU_MAX_INT] = {0};
  if (size) memcpy(i, size, 2 * sizeof *i);
  memcpy(i + (size ? 2 : 0), options, OPTIONS * sizeof *i);
  return su_apply1(op, (su_tensor *[SU_MAX_IN]){a, b, NULL}, i, NULL);
}

static su_tensor *sum_pixels(su_tensor *g) { return su_sum(g, 3, (int[]){0, 1, 2}, false); }

/* The gradient in front of the activation, from its output; the activation's options are at i. */
static su_tensor *before_act(const su_node *n, su_tensor *gy, const int64_t *i) {
  if (i[ACT] == SU_CONV_PLAIN) return gy;
  return i[ACT] == SU_CONV_TANH ? su_tanh_gx(gy, n->out[0]) : su_lrelu_gx(gy, n->out[0], slope_of(i));
}

static bool has_act(const su_call *c) { return c->i[ACT + (c->op == &conv_gx_op ? 2 : 0)] != SU_CONV_PLAIN; }

static bool grad_y(const su_node *n, su_tensor *const *gy, const bool *want, su_tensor **gx) {
  const int64_t *size = n->in_spec[0].shape + 1, *kernel = n->in_spec[1].shape + 1;
  su_tensor *g = before_act(n, gy[0], n->i);
  if (!g) return false;
  if (want[0] && !(gx[0] = again(&conv_gx_op, n->i, g, n->in[1], size))) return false;
  if (want[1] && !(gx[1] = again(&conv_gw_op, n->i, n->in[0], g, kernel))) return false;
  if (want[2] && !(gx[2] = sum_pixels(g))) return false;
  return true;
}

/* Here gy[0] has the shape of the image: g = d/d(conv_gx's output). */
static bool grad_gx(const su_node *n, su_tensor *const *gy, const bool *want, su_tensor **gx) {
  const int64_t *kernel = n->in_spec[1].shape + 1;
  su_tensor *g = before_act(n, gy[0], n->i + 2);
  if (!g) return false;
  if (want[0] && !(gx[0] = again(&conv_op, n->i + 2, g, n->in[1], NULL))) return false;
  if (want[1] && !(gx[1] = again(&conv_gw_op, n->i + 2, g, n->in[0], kernel))) return false;
  if (want[2] && !(gx[2] = sum_pixels(g))) return false;
  return true;
}

/* Here gy[0] has the shape of the weight, and meets images as one: in their dtype. */
static bool grad_gw(const su_node *n, su_tensor *const *gy, const bool *want, su_tensor **gx) {
  const int64_t *size = n->in_spec[0].shape + 1;
  su_tensor *w = su_cast(gy[0], n->in_spec[0].dtype);
  if (want[0] && !(gx[0] = again(&conv_gx_op, n->i + 2, n->in[1], w, size))) return false;
  if (want[1] && !(gx[1] = again(&conv_op, n->i + 2, n->in[0], w, NULL))) return false;
  return true;
}

/* ---- the entries ---- */

static const char *const cases_y[] = {
  "x=2,5,5,3 w=4,3,3,3 b=4", "x=1,6,7,2 w=3,3,3,2 pad=1", "x=2,7,5,4 w=6,4,4,4 stride=2 pad=1",
  "x=1,6,5,3 w=2,3,3,3 b=2 pad=1 edge=reflect", "x=1,8,8,3 w=4,7,7,3 pad=3 edge=reflect",
  "x=1,9,8,4 w=6,3,2,2 stride=2,1 pad=1,0,2,1 dilation=2,1 groups=2", "x=3,1,1,5 w=4,1,1,5 b=4",
  "x=1,10,9,16 w=16,3,3,16 b=16 pad=1", "x=2,9,13,17 w=35,3,3,17 b=35 pad=1 edge=reflect",
  "x=1,8,8,33 w=1,4,4,33 b=1 pad=1", "x=1,11,10,16 w=20,3,3,16 b=20 stride=2 pad=0,1,1,2 edge=reflect",
  "x=5,4,4,6 w=3,4,4,6 b=3", "x=1,6,6,16 w=32,4,4,16 b=32 stride=2 pad=1",
  "x=2,5,5,3 w=4,3,3,3 b=4 act=lrelu leak=200", "x=1,6,7,2 w=3,3,3,2 pad=1 act=relu",
  "x=1,6,5,3 w=3,3,3,3 b=3 pad=1 edge=reflect act=tanh", "x=1,9,8,4 w=6,3,2,2 b=6 stride=2,1 pad=1 groups=2 act=tanh",
  /* strides and dilations that do not divide each other, steps over more than the kernel, groups at a mirrored edge */
  "x=1,11,13,3 w=4,2,3,3 stride=3,2 pad=2,0,1,3 dilation=2,3", "x=2,11,12,2 w=3,2,2,2 stride=5 pad=1",
  "x=1,7,6,4 w=6,3,3,2 b=6 stride=1,2 pad=2 groups=2 edge=reflect", "x=1,3,40,7 w=70,1,2,7 b=70",
  /* large enough for Winograd to be chosen */
  "x=1,23,25,64 w=48,3,3,64 b=48 pad=1 edge=reflect", "x=2,22,25,48 w=64,3,3,48 pad=0,0,2,2",
  "x=2,46,49,64 w=32,4,4,64 b=32 stride=2 pad=1", "x=1,17,16,64 w=64,4,4,64 pad=1", NULL };
static const char *const cases_gx[] = {
  "gy=2,3,3,4 w=4,3,3,3 b=3 size=5",
  "gy=1,6,7,3 w=3,3,3,2 pad=1 size=6,7",
  "gy=2,3,2,6 w=6,4,4,4 stride=2 pad=1 size=7,5",
  "gy=1,6,5,2 w=2,3,3,3 b=3 pad=1 edge=reflect size=6,5",
  "gy=2,1,1,5 w=5,4,4,6 size=4",
  "gy=2,4,4,6 w=6,4,4,5 b=5 stride=2 pad=1 size=8",
  "gy=2,4,4,6 w=6,4,4,5 b=5 stride=2 pad=1 size=8 act=tanh",
  "gy=1,6,7,3 w=3,3,3,2 pad=1 size=6,7 act=lrelu leak=10",
  "gy=1,6,5,2 w=2,3,3,3 b=3 pad=1 edge=reflect size=6,5 act=relu",
  "gy=1,4,5,6 w=6,3,3,2 b=4 stride=2 pad=1 groups=2 size=7,9 act=lrelu leak=200",
  "gy=1,4,5,16 w=16,3,3,20 b=20 stride=2 pad=1 size=8,10",
  "gy=1,4,10,6 w=6,3,2,2 stride=2,1 pad=1,0,2,1 dilation=2,1 groups=2 size=10,8",
  "gy=1,10,9,16 w=16,3,3,16 pad=1 size=10,9",
  "gy=1,4,6,4 w=4,2,3,3 b=3 stride=3,2 pad=2,0,1,3 dilation=2,3 size=11,13",
  "gy=2,3,3,3 w=3,2,2,2 stride=5 pad=1 size=11,12",
  "gy=1,9,4,6 w=6,3,3,2 b=4 stride=1,2 pad=2 groups=2 edge=reflect size=7,6",
  "gy=1,5,3,5 w=5,4,3,2 b=2 stride=2,4 pad=3,2,1,2 edge=reflect size=7,8",
  "gy=1,3,39,70 w=70,1,2,7 b=7 size=3,40",
  "gy=2,9,13,35 w=35,3,3,17 b=17 pad=1 edge=reflect size=9,13",
  "gy=1,3,3,32 w=32,4,4,16 b=16 stride=2 pad=1 size=6",
  "gy=1,23,25,48 w=48,3,3,64 b=64 pad=1 edge=reflect size=23,25",
  "gy=2,20,27,64 w=64,3,3,48 pad=0,0,2,2 size=22,25",
  "gy=2,23,24,32 w=32,4,4,64 b=64 stride=2 pad=1 size=46,49",
  "gy=1,16,15,64 w=64,4,4,64 pad=1 size=17,16",
  NULL};
static const char *const cases_gw[] = {
  "x=2,5,5,3 gy=2,3,3,4 kernel=3",
  "x=1,6,7,2 gy=1,6,7,3 kernel=3 pad=1",
  "x=2,7,5,4 gy=2,3,2,6 kernel=4 stride=2 pad=1",
  "x=1,6,5,3 gy=1,6,5,2 kernel=3 pad=1 edge=reflect",
  "x=1,8,8,3 gy=1,8,8,4 kernel=7 pad=3 edge=reflect",
  "x=1,10,8,4 gy=1,4,10,6 kernel=3,2 stride=2,1 pad=1,0,2,1 dilation=2,1 groups=2",
  "x=1,10,9,16 gy=1,10,9,16 kernel=3 pad=1",
  "x=2,9,13,17 gy=2,9,13,35 kernel=3 pad=1 edge=reflect",
  "x=5,4,4,6 gy=5,1,1,3 kernel=4",
  "x=1,11,13,3 gy=1,4,6,4 kernel=2,3 stride=3,2 pad=2,0,1,3 dilation=2,3",
  "x=2,11,12,2 gy=2,3,3,3 kernel=2 stride=5 pad=1",
  "x=1,7,6,4 gy=1,9,4,6 kernel=3 stride=1,2 pad=2 groups=2 edge=reflect",
  "x=1,3,40,7 gy=1,3,39,70 kernel=1,2",
  "x=2,5,3,12 gy=2,5,3,20 kernel=1",
  "x=1,6,6,16 gy=1,3,3,32 kernel=4 stride=2 pad=1",
  "x=1,23,25,64 gy=1,23,25,48 kernel=3 pad=1 edge=reflect",
  "x=2,22,25,48 gy=2,20,27,64 kernel=3 pad=0,0,2,2",
  "x=2,46,49,64 gy=2,23,24,32 kernel=4 stride=2 pad=1",
  "x=1,17,16,64 gy=1,16,15,64 kernel=4 pad=1",
  NULL};

#define OPTIONS_TEXT "stride:int2=1, pad:int4=0, dilation:int2=1, groups:int=1, edge:enum(zero|reflect)=zero"
#define ACT_TEXT ", act:enum(none|relu|lrelu|tanh)=none, leak:int=0"

SU_OP(conv) {
  .sig = "conv(x, w, b?, " OPTIONS_TEXT ACT_TEXT ") -> y",
  .doc = "Convolution of images x [n,h,w,ci] with w [co,kh,kw,ci/groups]; pad is top,bottom,left,right. act follows b; "
         "leak is lrelu's slope in thousandths.",
  .keep_out = 1, .keeps_out = has_act,
  .shape = shape_y, .ref = ref_y, .cpu_plan = plan_y, .grad = grad_y, .keep_in = 3, .f32 = 4, .bf16 = true,
  .cases = cases_y };

SU_OP(conv_gx){
  .sig = "conv_gx(gy, w, b?, size:int2, " OPTIONS_TEXT ACT_TEXT ") -> gx",
  .doc =
    "Transposed convolution: the adjoint of conv in x, where size is the height and width of what comes out.",
  .keep_out = 1,
  .keeps_out = has_act,
  .shape = shape_gx,
  .ref = ref_gx,
  .cpu_plan = plan_gx,
  .grad = grad_gx,
  .keep_in = 3,
  .f32 = 4,
  .bf16 = true,
  .cases = cases_gx};

SU_OP(conv_gw) {
  .sig = "conv_gw(x, gy, kernel:int2, " OPTIONS_TEXT ") -> gw",
  .doc = "The adjoint of conv in w: how much each weight of a kh x kw kernel matters to gy.",
  .shape = shape_gw, .ref = ref_gw, .cpu_plan = plan_gw, .grad = grad_gw, .keep_in = 3, .bf16 = true,
  .cases = cases_gw };
