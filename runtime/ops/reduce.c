/* reduce.c -- sums over axes, and the sum that undoes a broadcast.
 *
 * The axes are first collapsed: neighbours that are both summed or both kept become one. What is left is almost always [a, r, b]
 * with r summed; anything else goes through the general loop. Sums run over fixed chunks of the summed axis whose partial sums
 * are added in order and in float64, so that the result depends on no thread count and large sums keep their digits. */
#include "../cpu/bf16.h"
#include "ops.h"

#include <inttypes.h>
#include <string.h>

#define CHUNK 512                      /* rows summed in float32 before they are carried in float64 */

enum { AXES = 0, KEEP = 1 + SU_MAX_DIM };   /* int slots of sum */

static bool axis_set(const su_call *c, bool *summed) {
  int nd = c->in[0].ndim;
  int64_t n = c->i[AXES];
  for (int k = 0; k < nd; k++) summed[k] = n < 0;
  for (int64_t j = 0; j < n; j++) {
    int64_t k = c->i[AXES + 1 + j];
    if (k < 0 || k >= nd)
      return su_fail("%s: axis %" PRId64 " of a tensor with shape %s; axes are 1 to %d", c->op->name, k + 1,
                     su_shape_text(&c->in[0]), nd);
    summed[k] = true;
  }
  return true;
}

static bool sum_shape(su_call *c) {
  bool summed[SU_MAX_DIM];
  if (!axis_set(c, summed)) return false;
  su_spec *y = &c->out[0];
  y->dtype = c->dev->real;
  for (int k = 0; k < c->in[0].ndim; k++) {
    if (!summed[k]) y->shape[y->ndim++] = c->in[0].shape[k];
    else if (c->i[KEEP]) y->shape[y->ndim++] = 1;
  }
  return true;
}

/* Collapsed axes: size[] alternates kept, summed, kept, ... starting with a kept one (maybe 1). */
typedef struct groups { int n; int64_t size[SU_MAX_DIM + 2]; } groups;

static groups collapse(const su_call *c) {
  bool summed[SU_MAX_DIM];
  axis_set(c, summed);
  groups g = {.n = 1, .size = {1}};
  for (int k = 0; k < c->in[0].ndim; k++) {
    if (c->in[0].shape[k] == 1) continue;
    if (summed[k] != (g.n % 2 == 0)) g.size[g.n++] = 1;
    g.size[g.n - 1] *= c->in[0].shape[k];
  }
  if (g.n == 1) g.size[g.n++] = 1;
  if (g.n == 2) g.size[g.n++] = 1;
  return g;
}

static void sum_ref(const su_plan *p, void *const *in, void *const *out, const double *r, void *ws) {
  (void)r; (void)ws;
  const double *x = in[0];
  double *y = out[0];
  groups g = collapse(&p->call);
  int64_t n = su_spec_size(&p->call.in[0]), kept[SU_MAX_DIM + 2], stride = 1;
  memset(y, 0, (size_t)su_spec_size(&p->call.out[0]) * sizeof *y);
  for (int k = g.n - 1; k >= 0; k--) {           /* output stride of each kept group, 0 for summed ones */
    kept[k] = k % 2 ? 0 : stride;
    if (k % 2 == 0) stride *= g.size[k];
  }
  for (int64_t k = 0; k < n; k++) {
    int64_t rest = k, at = 0;
    for (int d = g.n - 1; d >= 0; d--) {
      at += rest % g.size[d] * kept[d];
      rest /= g.size[d];
    }
    y[at] += x[k];
  }
}

/* ---- [a, r, b] -> [a, b] in floats ---- */

SU_CLONES static float dot_one(const float *x, int64_t n) {
  float lane[16] = {0};
  int64_t k = 0;
  for (; k + 16 <= n; k += 16)
    for (int j = 0; j < 16; j++) lane[j] += x[k + j];
  float s = 0;
  for (int j = 0; j < 16; j++) s += lane[j];
  for (; k < n; k++) s += x[k];
  return s;
}

SU_CLONES static void add_row(float *restrict acc, const float *restrict x, int64_t n) {
  for (int64_t k = 0; k < n; k++) acc[k] += x[k];
}

/* The same of a bf16 row; the first one is only widened. */
SU_CLONES static void add_row_bf16(float *restrict acc, const uint16_t *restrict x, int64_t n) {
  for (int64_t k = 0; k < n; k++) acc[k] += su_from_bf16(x[k]);
}

typedef struct sums {
  const void *x;
  bool bf16;                           /* x, else f32 */
  float *part;                         /* [a, chunks, b] */
  int64_t r, b, chunks;
} sums;

static void sum_chunks(void *arg, int64_t first, int64_t last) {
  const sums *s = arg;
  for (int64_t k = first; k < last; k++) {
    int64_t a = k / s->chunks, row = k % s->chunks * CHUNK;
    int64_t rows = s->r - row < CHUNK ? s->r - row : CHUNK;
    const int64_t at = (a * s->r + row) * s->b;
    const uint16_t *low = (const uint16_t *)s->x + at;
    const float *x = (const float *)s->x + at;
    float *y = s->part + k * s->b, wide[CHUNK];
    if (s->bf16 && s->b > 1) {
      su_widen(y, low, s->b);
      for (int64_t j = 1; j < rows; j++) add_row_bf16(y, low + j * s->b, s->b);
      continue;
    }
    if (s->bf16) su_widen(wide, low, rows), x = wide;
    if (s->b == 1) {
      *y = dot_one(x, rows);
      continue;
    }
    memcpy(y, x, (size_t)s->b * sizeof *y);
    for (int64_t j = 1; j < rows; j++) add_row(y, x + j * s->b, s->b);
  }
}

static void sum_middle(const void *x, bool bf16, float *y, int64_t a, int64_t r, int64_t b, float *part) {
  int64_t chunks = (r + CHUNK - 1) / CHUNK;
  sums s = {.x = x, .bf16 = bf16, .part = chunks == 1 ? y : part, .r = r, .b = b, .chunks = chunks};
  int64_t grain = 32768 / (CHUNK * b) + 1;
  if (r < CHUNK) grain = 32768 / (r * b) + 1;
  su_parallel(a * chunks, grain, sum_chunks, &s);
  if (chunks == 1) return;
  for (int64_t k = 0; k < a; k++)
    for (int64_t j = 0; j < b; j++) {
      double t = 0;
      for (int64_t c = 0; c < chunks; c++) t += part[(k * chunks + c) * b + j];
      y[k * b + j] = (float)t;
    }
}

/* More than one summed group: the last one first, into workspace, then the one before it. */
static void sum_cpu(const su_plan *p, void *const *in, void *const *out, const double *r, void *ws) {
  (void)r;
  groups g = collapse(&p->call);
  const void *x = in[0];
  bool bf16 = p->call.in[0].dtype == SU_BF16;
  int64_t n = su_spec_size(&p->call.in[0]);
  if (n == 0) {
    memset(out[0], 0, (size_t)su_spec_size(&p->call.out[0]) * sizeof(float));
    return;
  }
  if (g.n % 2 == 0) g.size[g.n++] = 1;
  float *free_half = ws, *part = ws;
  if (g.n > 3) part += 2 * (n / g.size[g.n - 2]);
  while (g.n >= 3) {
    int64_t b = g.size[g.n - 1], m = g.size[g.n - 2], a = n / (b * m);
    bool final = g.n == 3;
    float *y = final ? out[0] : free_half;
    sum_middle(x, bf16, y, a, m, b, part);
    x = y, bf16 = false;
    free_half += a * b;
    n = a * b;
    g.size[g.n - 3] *= b;
    g.n -= 2;
  }
}

static bool sum_plan(su_plan *p) {
  groups g = collapse(&p->call);
  if (g.n % 2 == 0) g.size[g.n++] = 1;
  int64_t n = su_spec_size(&p->call.in[0]), rows = g.size[g.n - 2];
  int64_t between = g.n > 3 && rows ? 2 * (n / rows) : 0;    /* results of all passes but the last */
  p->exec = sum_cpu;
  p->workspace = (size_t)(between + n / CHUNK + (rows > CHUNK || g.n > 3 ? n / (rows ? rows : 1) + 16 : 0)) * sizeof(float);
  if (g.n == 3 && rows <= CHUNK) p->workspace = 0;
  return true;
}

static bool sum_grad(const su_node *n, su_tensor *const *g, const bool *want, su_tensor **gx) {
  (void)want;
  su_call c = {.op = n->op, .dev = n->dev};
  c.in[0] = n->in_spec[0];
  memcpy(c.i, n->i, sizeof c.i);
  bool summed[SU_MAX_DIM];
  axis_set(&c, summed);
  int64_t kept[SU_MAX_DIM];
  const su_spec *x = &n->in_spec[0];
  for (int k = 0; k < x->ndim; k++) kept[k] = summed[k] ? 1 : x->shape[k];
  return (gx[0] = su_expand(su_reshape(g[0], x->ndim, kept), x->ndim, x->shape)) != NULL;
}

SU_OP(sum) {.sig = "sum(x, axes:axes=all, keep:bool=0) -> y",
  .doc = "Sum over the given axes (all by default); keep leaves them as 1.", .shape = sum_shape, .ref = sum_ref,
  .cpu_plan = sum_plan, .bf16 = true, .grad = sum_grad,
  .cases = (const char *const[]){"x=2,3,4,5", "x=2,3,4,5 axes=2,3", "x=2,3,4,5 axes=1,2,3 keep=1", "x=3,4,5 axes=1,3",
    "x=2,3,2,3,2 axes=2,4", "x=3,1200 axes=2", "x=1200,3 axes=1", "x=2,1100,2 axes=2", "x=5 axes=1", "x=2,3,4 axes=3", NULL}};

su_tensor *su_sum(su_tensor *x, int naxes, const int *axes, bool keep) {
  int64_t i[SU_MAX_INT] = {[AXES] = naxes, [KEEP] = keep};
  for (int k = 0; k < naxes; k++) i[AXES + 1 + k] = axes[k];
  return su_apply1(&sum_op, (su_tensor *[SU_MAX_IN]){x}, i, NULL);
}

su_tensor *su_mean(su_tensor *x, int naxes, const int *axes, bool keep) {
  su_tensor *s = su_sum(x, naxes, axes, keep);
  return s ? su_affine(s, (double)s->size / (double)x->size, 0) : NULL;
}

su_tensor *su_sum_to(su_tensor *x, const su_spec *to) {
  if (!x) return NULL;
  const su_spec *xs = &x->spec;
  if (xs->ndim == to->ndim && memcmp(xs->shape, to->shape, sizeof xs->shape) == 0) return x;
  int axes[SU_MAX_DIM], n = 0;
  for (int k = 0; k < xs->ndim; k++) {
    int m = k - (xs->ndim - to->ndim);
    if (m < 0 || (to->shape[m] == 1 && xs->shape[k] != 1)) axes[n++] = k;
  }
  return su_reshape(n ? su_sum(x, n, axes, true) : x, to->ndim, to->shape);
}
