/* conv.c -- who runs a convolution on the CPU, and the mirrored edge around whoever it is. The runners
 * themselves are in wino.c, product.c, thin.c, direct.c and dnn.c; the ops and the specification in
 * nn/conv.c.
 *
 * A mirrored edge is made here: the image is padded into the workspace, so the tape never holds a padded
 * image; in the gradient's direction the padded gradient is folded back (a pixel that was copied k times sums
 * k gradients). */
#include "conv.h"

#include "bf16.h"

#include <string.h>

typedef struct conv_state {
  su_conv_geo g;                        /* as asked */
  su_conv_by by;                        /* who runs `inner` */
  enum su_conv_dir dir;
  size_t padded;                        /* bytes of the padded image in front of the runner's workspace */
  size_t wide;                          /* bytes of the result in f32 in front of that, where it is rounded to bf16 after */
} conv_state;

int64_t su_conv_macs(const su_conv_geo *g) {
  return g->n * g->oh * g->ow * g->co * g->kh * g->kw * (g->ci / g->groups);
}

static int64_t mirrored(int64_t i, int64_t n) {
  if (i < 0) i = -i;
  return i < n ? i : 2 * (n - 1) - i;
}

/* ---- padding ---- */

struct pad_job { const su_conv_geo *g; const char *x; char *y; int64_t ld; size_t size; };   /* size of a number */

static void pad_rows(void *arg, int64_t first, int64_t last) {
  const struct pad_job *j = arg;
  const su_conv_geo *g = j->g;
  int64_t hp = g->h + g->pt + g->pb, wp = g->w + g->pl + g->pr;
  const size_t pixel = (size_t)g->ci * j->size, step = (size_t)j->ld * j->size;
  for (int64_t r = first; r < last; r++) {
    int64_t i = r % hp - g->pt;
    bool out = i < 0 || i >= g->h;
    const char *row = out && !g->reflect ? NULL : j->x + (size_t)((r / hp * g->h + mirrored(i, g->h)) * g->w) * pixel;
    for (int64_t q = 0; q < wp; q++) {
      char *y = j->y + (size_t)(r * wp + q) * step;
      int64_t c = q - g->pl;
      if (!row || (!g->reflect && (c < 0 || c >= g->w))) memset(y, 0, pixel);
      else memcpy(y, row + (size_t)mirrored(c, g->w) * pixel, pixel);
    }
  }
}

static void pad(const su_conv_geo *g, const void *x, void *y, int64_t ld, size_t size) {
  struct pad_job j = {g, x, y, ld, size};
  su_parallel(g->n * (g->h + g->pt + g->pb), 4, pad_rows, &j);
}

void su_conv_pad(const su_conv_geo *g, const float *x, float *y, int64_t ld) { pad(g, x, y, ld, sizeof *x); }

/* ---- folding: gx[i,j] = sum of the padded gradient over the places that show pixel (i,j) ---- */

struct fold_job { const su_conv_geo *g; const float *gp, *bias; float *gx; };

/* Rows (or columns) of the padded image that show row i: at most 3. */
static int shown_at(int64_t i, int64_t n, int64_t before, int64_t after, int64_t *at) {
  int k = 0;
  at[k++] = i + before;
  if (i > 0 && i <= before) at[k++] = before - i;
  if (i < n - 1 && n - 1 - i <= after) at[k++] = before + 2 * (n - 1) - i;
  return k;
}

static void fold_rows(void *arg, int64_t first, int64_t last) {
  const struct fold_job *j = arg;
  const su_conv_geo *g = j->g;
  int64_t hp = g->h + g->pt + g->pb, wp = g->w + g->pl + g->pr, rows[3], cols[3];
  for (int64_t r = first; r < last; r++) {
    const float *image = j->gp + r / g->h * hp * wp * g->ci;
    int nr = shown_at(r % g->h, g->h, g->pt, g->pb, rows);
    for (int64_t q = 0; q < g->w; q++) {
      float *gx = j->gx + (r * g->w + q) * g->ci;
      int nc = shown_at(q, g->w, g->pl, g->pr, cols);
      for (int64_t c = 0; c < g->ci; c++) gx[c] = j->bias ? j->bias[c] : 0;
      for (int k = 0; k < nr * nc; k++) {
        const float *gp = image + (rows[k / nc] * wp + cols[k % nc]) * g->ci;
        for (int64_t c = 0; c < g->ci; c++) gx[c] += gp[c];
      }
    }
  }
}

struct bias_job { float *y; const float *bias; int64_t c; };

static void bias_pixels(void *arg, int64_t first, int64_t last) {
  const struct bias_job *j = arg;
  for (int64_t p = first; p < last; p++)
    for (int64_t c = 0; c < j->c; c++) j->y[p * j->c + c] += j->bias[c];
}

/* ---- what follows the bias ---- */

struct act_job { float *y; float slope; enum su_conv_act act; };

SU_CLONES static void act_tanh(float *y, int64_t n) {
  for (int64_t k = 0; k < n; k++) y[k] = su_tanhf(y[k]);
}

SU_CLONES static void act_lrelu(float *y, int64_t n, float slope) {
  for (int64_t k = 0; k < n; k++) y[k] = su_selectf(y[k] > 0, y[k], slope * y[k]);
}

static void act_range(void *arg, int64_t first, int64_t last) {
  const struct act_job *j = arg;
  if (j->act == SU_CONV_TANH) act_tanh(j->y + first, last - first);
  else act_lrelu(j->y + first, last - first, j->slope);
}

/* In place, while the result is still in the cache where it is small. */
static void activate(const conv_state *s, float *y) {
  const su_conv_geo *g = &s->g;
  struct act_job j = {y, g->slope, g->act};
  int64_t n = s->dir == SU_CONV_Y ? g->n * g->oh * g->ow * g->co : g->n * g->h * g->w * g->ci;
  if (g->act) su_parallel(n, 16384, act_range, &j);
}

/* ---- running ---- */

static void run_plain(const su_plan *p, void *const *in, void *const *out, const double *r, void *ws) {
  const conv_state *s = p->state;
  (void)r;
  s->by.run(&s->by, in[0], in[1], s->g.bias ? in[2] : NULL, out[0], ws);
  if (s->dir == SU_CONV_GX && in[2]) {
    struct bias_job j = {out[0], in[2], s->g.ci};
    su_parallel(s->g.n * s->g.h * s->g.w, 1024, bias_pixels, &j);
  }
  activate(s, out[0]);
}

static void run_mirrored(const su_plan *p, void *const *in, void *const *out, const double *r, void *ws) {
  const conv_state *s = p->state;
  float *padded = ws;
  void *rest = (char *)ws + s->padded;
  (void)r;
  if (s->dir != SU_CONV_GX) {
    pad(&s->g, in[0], padded, s->g.ci, su_dtype_size(p->call.in[0].dtype));
    s->by.run(&s->by, padded, in[1], s->g.bias ? in[2] : NULL, out[0], rest);
    activate(s, out[0]);
    return;
  }
  s->by.run(&s->by, in[0], in[1], NULL, padded, rest);
  struct fold_job j = {&s->g, padded, in[2], out[0]};
  su_parallel(s->g.n * s->g.h, 4, fold_rows, &j);
  activate(s, out[0]);
}

/* Operands in bf16: what must still be finished comes in f32, and is rounded at the end. */
static void run_low(const su_plan *p, void *const *in, void *const *out, const double *r, void *ws) {
  const conv_state *s = p->state;
  void *result[SU_MAX_OUT] = {s->wide ? ws : out[0]};
  (s->padded ? run_mirrored : run_plain)(p, in, result, r, (char *)ws + s->wide);
  if (s->wide) su_narrow_all(out[0], ws, su_spec_size(&p->call.out[0]));
}

/* ---- planning ---- */

/* Few output pixels: the weights are most of what is read. */
static bool few_pixels(const su_conv_geo *g) {
  return g->n * g->oh * g->ow <= 128 && g->ci >= 16 && g->co >= 16;
}

/* The first that can. The order is a rule of shape alone, from measurements on Zen 4 with AVX-512. */
static bool choose(su_conv_by *by, const su_conv_geo *g, enum su_conv_dir dir) {
  bool ready = g->kh == 1 || (g->oh == 1 && g->ow == 1 && !g->pt && !g->pl);
  if (su_conv_wino_pays(g) && su_conv_by_wino(by, g, dir)) return true;
  if ((ready || few_pixels(g)) && su_conv_by_product(by, g, dir)) return true;
  return su_conv_by_thin(by, g, dir) || su_conv_by_direct(by, g, dir) || su_conv_by_dnn(by, g, dir);
}

static size_t round64(size_t bytes) { return (bytes + 63) / 64 * 64; }

static void free_conv(void *state) {
  conv_state *s = state;
  if (s->by.free_state) s->by.free_state(s->by.state);
  su_free(s);
}

const char *su_conv_plan_name(const su_plan *p) {
  return p->state_free == free_conv ? ((const conv_state *)p->state)->by.name : "f32, rounded to bf16";
}

/* The geometry behind a border that is made here; returns the padded image's bytes. */
static size_t behind_border(su_conv_geo *g, size_t size) {
  g->h += g->pt + g->pb, g->w += g->pl + g->pr;
  g->pt = g->pb = g->pl = g->pr = 0;
  g->reflect = false;
  return round64((size_t)(g->n * g->h * g->w * g->ci) * size);
}

static bool plan_low(su_plan *p, su_conv_geo inner, enum su_conv_dir dir) {
  conv_state *s = su_calloc(sizeof *s);
  if (!s) return false;
  const bool gx = dir == SU_CONV_GX;
  s->g = inner, s->dir = dir;
  if (inner.reflect) s->padded = behind_border(&inner, gx ? sizeof(float) : sizeof(uint16_t));
  const bool more = (gx && (s->padded || p->call.in[2].ndim >= 0)) || inner.act;
  if (!su_conv_by_parts(&s->by, &inner, dir, more)) {
    su_free(s);
    return su_bf16_wrap_plan(p, p->call.op->cpu_plan);
  }
  if (more) s->wide = round64((size_t)su_spec_size(&p->call.out[0]) * sizeof(float));
  p->state = s, p->state_free = free_conv;
  p->exec = run_low;
  p->workspace = s->wide + s->padded + s->by.workspace;
  return true;
}

bool su_conv_plan(su_plan *p, const su_conv_geo *g, enum su_conv_dir dir) {
  su_conv_geo inner = *g;
  inner.bias = dir == SU_CONV_Y && p->call.in[2].ndim >= 0;
  inner.reflect = g->reflect && (g->pt || g->pb || g->pl || g->pr);
  if (p->call.in[0].dtype == SU_BF16) return plan_low(p, inner, dir);
  conv_state *s = su_calloc(sizeof *s);
  if (!s) return false;
  bool mirror = inner.reflect && !(su_conv_wino_pays(g) && su_conv_by_wino(&s->by, &inner, dir));
  s->g = inner, s->dir = dir;
  if (mirror) s->padded = behind_border(&inner, sizeof(float));
  if (!s->by.run && !choose(&s->by, &inner, dir)) {
    free_conv(s);
    return su_fail("%s: no kernel of this machine runs this convolution", p->call.op->name);
  }
  p->state = s, p->state_free = free_conv;
  p->exec = mirror ? run_mirrored : run_plain;
  p->workspace = s->padded + s->by.workspace;
  return true;
}
