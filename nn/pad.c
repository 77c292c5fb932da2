/* pad.c -- borders around images: zeros, the mirrored image (the edge itself not repeated), or the repeated
 * edge; and the adjoint, which adds a border back onto what it was made of. Each is the other's gradient. */
#include "nn.h"

#include "../runtime/tape.h"

#include <inttypes.h>
#include <string.h>

enum { TOP, BOTTOM, LEFT, RIGHT, EDGE };   /* ints of both ops */

/* Which of n pixels does border position k (0 is the first pixel) show? -1: none. |reach| < n for reflect. */
static inline int64_t source(int64_t k, int64_t n, int64_t edge) {
  if (k >= 0 && k < n) return k;
  if (edge == SU_EDGE_ZERO) return -1;
  if (edge == SU_EDGE_REPLICATE) return k < 0 ? 0 : n - 1;
  return k < 0 ? -k : 2 * (n - 1) - k;
}

#define FOUR "%" PRId64 ",%" PRId64 ",%" PRId64 ",%" PRId64

static bool pad_ok(const su_call *c, int64_t h, int64_t w) {
  const int64_t *p = c->i;
  const int64_t tall = p[TOP] > p[BOTTOM] ? p[TOP] : p[BOTTOM];
  const int64_t wide = p[LEFT] > p[RIGHT] ? p[LEFT] : p[RIGHT];
  if (p[TOP] < 0 || p[BOTTOM] < 0 || p[LEFT] < 0 || p[RIGHT] < 0)
    return su_fail("%s: a border must not be negative (slice cuts); pad is " FOUR, c->op->name, p[TOP],
                   p[BOTTOM], p[LEFT], p[RIGHT]);
  if (h < 1 || w < 1) return su_fail("%s: nothing is left inside this border", c->op->name);
  if (p[EDGE] == SU_EDGE_REFLECT && (tall >= h || wide >= w))
    return su_fail("%s: a mirrored border of " FOUR " wants an image larger than it; this one is %" PRId64
                   " x %" PRId64, c->op->name, p[TOP], p[BOTTOM], p[LEFT], p[RIGHT], h, w);
  return true;
}

static bool pad_shape(su_call *c) {
  if (!su_want_ndim(c, 0, 4) || !pad_ok(c, c->in[0].shape[1], c->in[0].shape[2])) return false;
  c->out[0] = c->in[0];
  c->out[0].shape[1] += c->i[TOP] + c->i[BOTTOM];
  c->out[0].shape[2] += c->i[LEFT] + c->i[RIGHT];
  return true;
}

static bool pad_gx_shape(su_call *c) {
  if (!su_want_ndim(c, 0, 4)) return false;
  c->out[0] = c->in[0];
  c->out[0].shape[1] -= c->i[TOP] + c->i[BOTTOM];
  c->out[0].shape[2] -= c->i[LEFT] + c->i[RIGHT];
  return pad_ok(c, c->out[0].shape[1], c->out[0].shape[2]);
}

/* ---- the specification: visit every (padded, inner) pair of pixels ---- */

static void pad_ref(const su_plan *p, void *const *in, void *const *out, const double *r, void *ws) {
  (void)r; (void)ws;
  const int64_t *s = p->call.out[0].shape, *i = p->call.i;
  const int64_t h = p->call.in[0].shape[1], w = p->call.in[0].shape[2];
  const double *x = in[0];                                    /* [n,h,w,c] */
  double *y = out[0];                                         /* [n,oh,ow,c] */
  for (int64_t n = 0; n < s[0]; n++)
    for (int64_t a = 0; a < s[1]; a++)
      for (int64_t b = 0; b < s[2]; b++)
        for (int64_t c = 0; c < s[3]; c++) {
          const int64_t u = source(a - i[TOP], h, i[EDGE]), v = source(b - i[LEFT], w, i[EDGE]);
          *y++ = u < 0 || v < 0 ? 0 : x[((n * h + u) * w + v) * s[3] + c];
        }
}

static void pad_gx_ref(const su_plan *p, void *const *in, void *const *out, const double *r, void *ws) {
  (void)r; (void)ws;
  const int64_t *s = p->call.in[0].shape, *i = p->call.i;
  const int64_t h = p->call.out[0].shape[1], w = p->call.out[0].shape[2];
  const double *gy = in[0];
  double *gx = out[0];
  memset(gx, 0, (size_t)su_spec_size(&p->call.out[0]) * sizeof *gx);
  for (int64_t n = 0; n < s[0]; n++)
    for (int64_t a = 0; a < s[1]; a++)
      for (int64_t b = 0; b < s[2]; b++)
        for (int64_t c = 0; c < s[3]; c++, gy++) {
          const int64_t u = source(a - i[TOP], h, i[EDGE]), v = source(b - i[LEFT], w, i[EDGE]);
          if (u >= 0 && v >= 0) gx[((n * h + u) * w + v) * s[3] + c] += *gy;
        }
}

/* ---- CPU: a row at a time ---- */

typedef struct job {
  const float *from;
  float *to;
  int64_t h, w, oh, ow, c;              /* inner and padded sizes */
  const int64_t *i;
} job;

static void pad_rows(void *arg, int64_t first, int64_t last) {
  const job *j = arg;
  const int64_t c = j->c, left = j->i[LEFT], edge = j->i[EDGE];
  const size_t pixel = (size_t)c * sizeof(float);
  for (int64_t k = first; k < last; k++) {                    /* row k of [n*oh] */
    float *y = j->to + k * j->ow * c;
    const int64_t u = source(k % j->oh - j->i[TOP], j->h, edge);
    if (u < 0) {
      memset(y, 0, (size_t)j->ow * pixel);
      continue;
    }
    const float *x = j->from + (k / j->oh * j->h + u) * j->w * c;
    memcpy(y + left * c, x, (size_t)j->w * pixel);
    for (int64_t b = 0; b < j->ow; b++) {
      if (b == left) b += j->w;
      if (b >= j->ow) break;
      const int64_t v = source(b - left, j->w, edge);
      if (v < 0) memset(y + b * c, 0, pixel);
      else memcpy(y + b * c, x + v * c, pixel);
    }
  }
}

SU_CLONES static void add_row(float *restrict y, const float *restrict x, int64_t n) {
  for (int64_t k = 0; k < n; k++) y[k] += x[k];
}

/* One padded row added onto the inner row that it shows. */
static void fold_row(const job *j, const float *gy, float *gx) {
  const int64_t c = j->c, left = j->i[LEFT];
  add_row(gx, gy + left * c, j->w * c);
  for (int64_t b = 0; b < j->ow; b++) {
    if (b == left) b += j->w;
    if (b >= j->ow) break;
    const int64_t v = source(b - left, j->w, j->i[EDGE]);
    if (v >= 0) add_row(gx + v * c, gy + b * c, c);
  }
}

static void fold_rows(void *arg, int64_t first, int64_t last) {
  const job *j = arg;
  for (int64_t k = first; k < last; k++) {                    /* row k of [n*h]: gather all rows that show it */
    float *gx = j->to + k * j->w * j->c;
    const float *gy = j->from + k / j->h * j->oh * j->ow * j->c;
    memset(gx, 0, (size_t)(j->w * j->c) * sizeof *gx);
    for (int64_t a = 0; a < j->oh; a++)
      if (source(a - j->i[TOP], j->h, j->i[EDGE]) == k % j->h) fold_row(j, gy + a * j->ow * j->c, gx);
  }
}

/* fn over the rows of y, of which `inner` and `padded` are one. */
static void run_rows(const int64_t *ints, const su_spec *inner, const su_spec *padded, const su_spec *y,
                     const void *from, void *to, su_range *fn) {
  job j = {from, to, inner->shape[1], inner->shape[2], padded->shape[1], padded->shape[2],
           inner->shape[3], ints};
  const int64_t row = y->shape[2] * y->shape[3];
  su_parallel(y->shape[0] * y->shape[1], row < 16384 ? 16384 / (row + 1) + 1 : 1, fn, &j);
}

static void pad_cpu(const su_plan *p, void *const *in, void *const *out, const double *r, void *ws) {
  (void)r; (void)ws;
  const su_call *c = &p->call;
  run_rows(c->i, &c->in[0], &c->out[0], &c->out[0], in[0], out[0], pad_rows);
}

static void pad_gx_cpu(const su_plan *p, void *const *in, void *const *out, const double *r, void *ws) {
  (void)r; (void)ws;
  const su_call *c = &p->call;
  run_rows(c->i, &c->out[0], &c->in[0], &c->out[0], in[0], out[0], fold_rows);
}

/* ---- the ops ---- */

static bool pad_grad(const su_node *n, su_tensor *const *gy, const bool *want, su_tensor **gx) {
  (void)want;
  return (gx[0] = su_pad_gx(gy[0], n->i, (int)n->i[EDGE])) != NULL;
}

static bool pad_gx_grad(const su_node *n, su_tensor *const *gy, const bool *want, su_tensor **gx) {
  (void)want;
  return (gx[0] = su_pad(gy[0], n->i, (int)n->i[EDGE])) != NULL;
}

#define OPTIONS ", pad:int4, edge:enum(zero|reflect|replicate)=zero)"

static const char *const pad_cases[] = {
  "x=2,4,5,3 pad=1,2,0,3", "x=2,4,5,3 pad=3 edge=reflect", "x=1,2,6,1 pad=1,0,5,2 edge=reflect",
  "x=1,1,1,4 pad=2,1,0,3 edge=replicate", "x=1,64,63,17 pad=3 edge=reflect",
  "x=1,2,2,3 pad=0 edge=reflect", NULL};

SU_OP(pad) {.sig = "pad(x" OPTIONS " -> y",
  .doc = "A border of pad = top,bottom,left,right pixels around images [n,h,w,c].", .shape = pad_shape,
  .ref = pad_ref, .cpu = pad_cpu, .grad = pad_grad, .cases = pad_cases};

static const char *const pad_gx_cases[] = {
  "gy=2,7,8,3 pad=1,2,0,3", "gy=2,10,11,3 pad=3 edge=reflect", "gy=1,3,13,1 pad=1,0,5,2 edge=reflect",
  "gy=1,4,4,4 pad=2,1,0,3 edge=replicate", "gy=1,70,69,17 pad=3 edge=reflect", NULL};

SU_OP(pad_gx) {.sig = "pad_gx(gy" OPTIONS " -> gx",
  .doc = "The adjoint of pad: adds the border onto what it shows.", .shape = pad_gx_shape,
  .ref = pad_gx_ref, .cpu = pad_gx_cpu, .grad = pad_gx_grad, .cases = pad_gx_cases};

static su_tensor *apply(const su_op *op, su_tensor *x, const int64_t pad[4], int edge) {
  const int64_t ints[] = {pad[TOP], pad[BOTTOM], pad[LEFT], pad[RIGHT], edge};
  return su_apply1(op, (su_tensor *[SU_MAX_IN]){x}, ints, NULL);
}
su_tensor *su_pad(su_tensor *x, const int64_t pad[4], int edge) { return apply(&pad_op, x, pad, edge); }
su_tensor *su_pad_gx(su_tensor *gy, const int64_t pad[4], int edge) { return apply(&pad_gx_op, gy, pad, edge); }
