/* wino.c -- 3 x 3 convolution with stride 1 by Winograd's F(4x4, 3x3), and both its adjoints: 36 multiplications where the
 * definition has 144. The transforms and their source are in wino.h, the matrix products in gemm.c.
 *
 *   y:  M_p = V_p U_p,   V = BT x B per 6x6 patch of x, U = G w GT,   y patch (4x4) = AT M A
 *   gx: M_p = Y_p U_p',  Y = A gy AT per 4x4 patch of gy,             gx patch (6x6, overlapping, summed) = B M BT
 *   gw: M_p = Y_p' V_p   (summed over patches),                       gw (3x3) = GT M G
 * for the 36 positions p. Patches are taken in chunks so that V and M stay in the last-level cache. What lies outside the image
 * is looked up in two tables of rows and columns, so a mirrored edge costs nothing here. */
#include "conv.h"
#include "gemm.h"
#include "wino.h"

#include <string.h>

enum { P = 36 };
#define UNROLL _Pragma("GCC unroll 36")

typedef struct wino {
  su_conv_geo g;
  int64_t th, tw, tiles, chunk;         /* patches down, right, in all, and per chunk */
  int64_t ldx, ldy;                     /* floats from one patch to the next in V and in Y */
  int64_t pu, px, py, pm;               /* floats from one position to the next in U, V, Y, M */
  int64_t ldm;                          /* floats from one row to the next in M */
  size_t u, v, y, m;                    /* where these begin in the workspace, in floats */
  int32_t *rows, *cols;                 /* of x under patch row or column 4t+i; -1: outside, zero */
  float *zeros;                         /* [max(ci,co)] */
} wino;

typedef struct job {
  const wino *q;
  const float *x, *w, *y, *bias;        /* what is read; the one that is written is below */
  float *out;
  float *u, *v, *t, *m;                 /* in the workspace; t: transformed gy */
  int64_t first, count;                 /* patches of this chunk */
} job;

/* ---- from images to products ---- */

/* Where the 36 pixels of patch t begin. */
static void patch_of_x(const wino *q, int64_t t, const float *x, const float *at[P]) {
  const su_conv_geo *g = &q->g;
  int64_t n = t / (q->th * q->tw), r = t / q->tw % q->th * 4, c = t % q->tw * 4;
  for (int i = 0; i < 6; i++)
    for (int j = 0; j < 6; j++) {
      int64_t row = q->rows[r + i], col = q->cols[c + j];
      at[i * 6 + j] = row < 0 || col < 0 ? q->zeros : x + ((n * g->h + row) * g->w + col) * g->ci;
    }
}

SU_CLONES static void transform_x(void *arg, int64_t first, int64_t last) {
  const job *j = arg;
  const wino *q = j->q;
  for (int64_t t = first; t < last; t++) {
    const float *at[P];
    patch_of_x(q, j->first + t, j->x, at);
    for (int64_t c = 0; c < q->g.ci; c += 16) {
      v16 d[P], e[P];
      UNROLL for (int k = 0; k < P; k++) d[k] = *(const v16 *)(at[k] + c);
      UNROLL for (int k = 0; k < 6; k++) wino_bt(d + k, 6, e + k, 6);
      UNROLL for (int k = 0; k < 6; k++) wino_bt(e + 6 * k, 1, d + 6 * k, 1);
      float *v = j->v + t * q->ldx + c;
      UNROLL for (int k = 0; k < P; k++) *(v16 *)(v + k * q->px) = d[k];
    }
  }
}

WINO_INLINE void patches_of_y(const job *j, int64_t first, int64_t last, const int scaled) {
  const wino *q = j->q;
  const su_conv_geo *g = &q->g;
  for (int64_t t = first; t < last; t++) {
    int64_t s = j->first + t, n = s / (q->th * q->tw), r = s / q->tw % q->th * 4, c0 = s % q->tw * 4;
    const float *at[16];
    for (int k = 0; k < 16; k++) {
      int64_t row = r + k / 4, col = c0 + k % 4;
      at[k] = row < g->oh && col < g->ow ? j->y + ((n * g->oh + row) * g->ow + col) * g->co : q->zeros;
    }
    for (int64_t c = 0; c < g->co; c += 16) {
      v16 d[16], e[24], f[P];
      UNROLL for (int k = 0; k < 16; k++) d[k] = *(const v16 *)(at[k] + c);
      UNROLL for (int k = 0; k < 4; k++) wino_a(d + k, 4, e + k, 4, scaled);
      UNROLL for (int k = 0; k < 6; k++) wino_a(e + 4 * k, 1, f + 6 * k, 1, scaled);
      float *v = j->t + t * q->ldy + c;
      UNROLL for (int k = 0; k < P; k++) *(v16 *)(v + k * q->py) = f[k];
    }
  }
}

SU_CLONES static void transform_y(void *arg, int64_t first, int64_t last) { patches_of_y(arg, first, last, 0); }
SU_CLONES static void transform_y_scaled(void *arg, int64_t first, int64_t last) { patches_of_y(arg, first, last, 1); }

/* ---- weights ---- */

/* w: 9 vectors, `step` floats apart; u: 36 vectors, `pu` floats apart. */
WINO_INLINE void transform_taps(const float *w, int64_t step, float *u, int64_t pu) {
  v16 d[9], e[18], f[P];
  UNROLL for (int k = 0; k < 9; k++) d[k] = *(const v16 *)(w + k * step);
  UNROLL for (int k = 0; k < 3; k++) wino_g(d + k, 3, e + k, 3);
  UNROLL for (int k = 0; k < 6; k++) wino_g(e + 3 * k, 1, f + 6 * k, 1);
  UNROLL for (int k = 0; k < P; k++) *(v16 *)(u + k * pu) = f[k];
}

/* For gx: U as panels [p][ci/32][co][32]. Blocks first .. last-1 of 16 rows of a panel. */
SU_CLONES static void weights_as_they_lie(void *arg, int64_t first, int64_t last) {
  const job *j = arg;
  const wino *q = j->q;
  int64_t ci = q->g.ci, co = q->g.co, blocks = co / 16;
  for (int64_t b = first; b < last; b++) {
    int64_t c0 = b / blocks * 32, n = ci - c0 < 32 ? ci - c0 : 32;
    for (int64_t o = b % blocks * 16; o < b % blocks * 16 + 16; o++)
      for (int64_t c = 0; c < n; c += 16)
        transform_taps(j->w + o * 9 * ci + c0 + c, ci, j->u + (c0 * co + o * 32) + c, q->pu);
  }
}

/* For y: U as panels [p][co/32][ci][32], which turns the weights. Panels first .. last-1, 16 rows of ci at a time. */
SU_CLONES static void weights_turned(void *arg, int64_t first, int64_t last) {
  const job *j = arg;
  const wino *q = j->q;
  int64_t ci = q->g.ci, co = q->g.co, blocks = ci / 16;
  float turned[9 * 16 * SU_TILE_N];
  for (int64_t b = first; b < last; b++) {
    int64_t o = b / blocks * 32, c0 = b % blocks * 16;
    int n = co - o < 32 ? (int)(co - o) : 32;
    for (int k = 0; k < 9; k++)
      su_pack_panel(turned + k * 16 * SU_TILE_N, j->w + (o * 9 + k) * ci + c0, 16, n, 1, 9 * ci);
    for (int c = 0; c < 16; c++)
      for (int h = 0; h < n; h += 16)
        transform_taps(turned + c * 32 + h, 16 * SU_TILE_N, j->u + (o * ci + (c0 + c) * 32) + h, q->pu);
  }
}

/* ---- 36 matrix products ---- */

/* Tasks are (position, panel of 32 columns of M); `a` are transformed patches with `ld` and `pa`, depth K channels. */
static void multiply(const job *j, int64_t first, int64_t last, const float *a, int64_t ld, int64_t pa, int64_t depth, int64_t n) {
  const wino *q = j->q;
  int64_t panels = (n + 31) / 32, mr = su_tile_height(j->count);
  for (int64_t task = first; task < last; task++) {
    int64_t p = task / panels, panel = task % panels;
    su_tile t = {.a_row = ld, .a_k = 1, .b_row = 32, .c_row = q->ldm, .depth = depth, .runs = 1};
    t.b = j->u + p * q->pu + panel * 32 * depth;
    t.n = n - panel * 32 < 32 ? (int)(n - panel * 32) : 32;
    for (int64_t i = 0; i < j->count; i += mr) {
      t.m = (int)(j->count - i < mr ? j->count - i : mr);
      t.a = a + p * pa + i * ld;
      t.c = j->m + p * q->pm + i * q->ldm + panel * 32;
      su_tile_run(&t);
    }
  }
}

static void multiply_x(void *arg, int64_t first, int64_t last) {
  const job *j = arg;
  multiply(j, first, last, j->v, j->q->ldx, j->q->px, j->q->g.ci, j->q->g.co);
}

static void multiply_y(void *arg, int64_t first, int64_t last) {
  const job *j = arg;
  multiply(j, first, last, j->t, j->q->ldy, j->q->py, j->q->g.co, j->q->g.ci);
}

/* gw: M_p [co,ci] (+)= Y_p' V_p. Tasks are (position, panel of 32 input channels). */
static void multiply_both(void *arg, int64_t first, int64_t last) {
  const job *j = arg;
  const wino *q = j->q;
  int64_t ci = q->g.ci, co = q->g.co, panels = (ci + 31) / 32, mr = su_tile_height(co);
  for (int64_t task = first; task < last; task++) {
    int64_t p = task / panels, panel = task % panels;
    su_tile t = {.a_row = 1, .a_k = q->ldy, .b_row = q->ldx, .c_row = q->ldm, .depth = j->count, .runs = 1};
    t.add = j->first > 0;
    t.b = j->v + p * q->px + panel * 32;
    t.n = ci - panel * 32 < 32 ? (int)(ci - panel * 32) : 32;
    for (int64_t i = 0; i < co; i += mr) {
      t.m = (int)(co - i < mr ? co - i : mr);
      t.a = j->t + p * q->py + i;
      t.c = j->m + p * q->pm + i * q->ldm + panel * 32;
      su_tile_run(&t);
    }
  }
}

/* ---- from products to results ---- */

SU_CLONES static void finish_y(void *arg, int64_t first, int64_t last) {
  const job *j = arg;
  const wino *q = j->q;
  const su_conv_geo *g = &q->g;
  for (int64_t t = first; t < last; t++) {
    int64_t s = j->first + t, n = s / (q->th * q->tw), r = s / q->tw % q->th * 4, c0 = s % q->tw * 4;
    float *y = j->out + ((n * g->oh + r) * g->ow + c0) * g->co;
    for (int64_t c = 0; c < g->co; c += 16) {
      v16 d[P], e[24], f[16], bias = {0};
      const float *m = j->m + t * q->ldm + c;
      UNROLL for (int k = 0; k < P; k++) d[k] = *(const v16 *)(m + k * q->pm);
      UNROLL for (int k = 0; k < 6; k++) wino_at(d + k, 6, e + k, 6);
      UNROLL for (int k = 0; k < 4; k++) wino_at(e + 6 * k, 1, f + 4 * k, 1);
      if (j->bias) bias = *(const v16 *)(j->bias + c);
      for (int k = 0; k < 16; k++)
        if (r + k / 4 < g->oh && c0 + k % 4 < g->ow) *(v16 *)(y + (k / 4 * g->ow + k % 4) * g->co + c) = f[k] + bias;
    }
  }
}

/* Patches overlap, so threads share out channels: 16-channel slices first .. last-1, all patches of the chunk in order. */
SU_CLONES static void finish_gx(void *arg, int64_t first, int64_t last) {
  const job *j = arg;
  const wino *q = j->q;
  const su_conv_geo *g = &q->g;
  for (int64_t c = first * 16; c < last * 16; c += 16)
    for (int64_t t = 0; t < j->count; t++) {
      int64_t s = j->first + t, n = s / (q->th * q->tw);
      const int32_t *rows = q->rows + s / q->tw % q->th * 4, *cols = q->cols + s % q->tw * 4;
      v16 d[P], e[P];
      const float *m = j->m + t * q->ldm + c;
      UNROLL for (int k = 0; k < P; k++) d[k] = *(const v16 *)(m + k * q->pm);
      UNROLL for (int k = 0; k < 6; k++) wino_b(d + k, 6, e + k, 6);
      UNROLL for (int k = 0; k < 6; k++) wino_b(e + 6 * k, 1, d + 6 * k, 1);
      for (int i = 0; i < 6; i++) {
        float *row = j->out + (n * g->h + rows[i]) * g->w * g->ci + c;
        for (int k = 0; k < 6; k++)
          if (rows[i] >= 0 && cols[k] >= 0) *(v16 *)(row + cols[k] * g->ci) += d[i * 6 + k];
      }
    }
}

SU_CLONES static void finish_gw(void *arg, int64_t first, int64_t last) {
  const job *j = arg;
  const wino *q = j->q;
  int64_t ci = q->g.ci;
  for (int64_t o = first; o < last; o++)
    for (int64_t c = 0; c < ci; c += 16) {
      v16 d[P], e[18], f[9];
      const float *m = j->m + o * q->ldm + c;
      UNROLL for (int k = 0; k < P; k++) d[k] = *(const v16 *)(m + k * q->pm);
      UNROLL for (int k = 0; k < 6; k++) wino_gt(d + k, 6, e + k, 6);
      UNROLL for (int k = 0; k < 3; k++) wino_gt(e + 6 * k, 1, f + 3 * k, 1);
      UNROLL for (int k = 0; k < 9; k++) *(v16 *)(j->out + (o * 9 + k) * ci + c) = f[k];
    }
}

/* ---- the three directions ---- */

static job start(const su_conv_by *by, float *out, void *ws) {
  const wino *q = by->state;
  float *f = ws;
  return (job){.q = q, .out = out, .u = f + q->u, .v = f + q->v, .t = f + q->y, .m = f + q->m};
}

static bool next_chunk(job *j) {
  j->first += j->count;
  j->count = j->q->tiles - j->first < j->q->chunk ? j->q->tiles - j->first : j->q->chunk;
  return j->count > 0;
}

static void run_y(const su_conv_by *by, const float *x, const float *w, const float *bias, float *y, void *ws) {
  job j = start(by, y, ws);
  int64_t ci = by->g.ci, panels = (by->g.co + 31) / 32;
  j.x = x, j.w = w, j.bias = bias;
  su_parallel(panels * (ci / 16), 4, weights_turned, &j);
  while (next_chunk(&j)) {
    su_parallel(j.count, 2, transform_x, &j);
    su_parallel(P * panels, 1, multiply_x, &j);
    su_parallel(j.count, 2, finish_y, &j);
  }
}

static void zero(void *arg, int64_t first, int64_t last) {
  memset((float *)arg + first, 0, (size_t)(last - first) * sizeof(float));
}

static void run_gx(const su_conv_by *by, const float *gy, const float *w, const float *bias, float *gx, void *ws) {
  job j = start(by, gx, ws);
  int64_t ci = by->g.ci;
  (void)bias;
  j.y = gy, j.w = w;
  su_parallel(by->g.n * by->g.h * by->g.w * ci, 1 << 16, zero, gx);
  su_parallel((ci + 31) / 32 * (by->g.co / 16), 4, weights_as_they_lie, &j);
  while (next_chunk(&j)) {
    su_parallel(j.count, 2, transform_y_scaled, &j);
    su_parallel(P * ((ci + 31) / 32), 1, multiply_y, &j);
    su_parallel(ci / 16, 1, finish_gx, &j);
  }
}

static void run_gw(const su_conv_by *by, const float *x, const float *gy, const float *bias, float *gw, void *ws) {
  job j = start(by, gw, ws);
  (void)bias;
  j.x = x, j.y = gy;
  while (next_chunk(&j)) {
    su_parallel(j.count, 2, transform_x, &j);
    su_parallel(j.count, 2, transform_y, &j);
    su_parallel(P * ((by->g.ci + 31) / 32), 1, multiply_both, &j);
  }
  su_parallel(by->g.co, 2, finish_gw, &j);
}

/* ---- planning ---- */

/* Floats rounded up to an odd number of cache lines, so that 36 streams that far apart do not meet in one cache set. */
static int64_t apart(int64_t floats) { return ((floats + 15) / 16 | 1) * 16; }

static void lay_out(wino *q, enum su_conv_dir dir, size_t *bytes) {
  const su_conv_geo *g = &q->g;
  bool y = dir == SU_CONV_Y, gx = dir == SU_CONV_GX;
  int64_t fits = (8 << 20) / (P * (g->ci + g->co) * (int64_t)sizeof(float));        /* V and M in 8 MB */
  if (fits < 56) fits = 56;
  q->chunk = (q->tiles + (q->tiles + fits - 1) / fits - 1) / ((q->tiles + fits - 1) / fits);        /* equal chunks */
  q->ldx = apart(g->ci), q->ldy = apart(g->co), q->ldm = y ? q->ldy : q->ldx;
  q->pu = y ? apart((g->co + 31) / 32 * 32 * g->ci) : gx ? apart((g->ci + 31) / 32 * 32 * g->co) : 0;
  q->px = gx ? 0 : apart(q->chunk * q->ldx);
  q->py = y ? 0 : apart(q->chunk * q->ldy);
  q->pm = apart((y || gx ? q->chunk : g->co) * q->ldm);
  q->u = 0;
  q->v = q->u + (size_t)(P * q->pu);
  q->y = q->v + (size_t)(P * q->px);
  q->m = q->y + (size_t)(P * q->py);
  *bytes = (q->m + (size_t)(P * q->pm)) * sizeof(float);
}

/* Where row or column i - before of an image of n is found. */
static void fill_table(int32_t *at, int64_t count, int64_t n, int64_t before, bool reflect, int64_t used) {
  for (int64_t i = 0; i < count; i++) {
    int64_t k = i - before;
    if (reflect && i < used) k = k < 0 ? -k : k < n ? k : 2 * (n - 1) - k;
    at[i] = k < 0 || k >= n || i >= used ? -1 : (int32_t)k;
  }
}

static void free_wino(void *state) {
  wino *q = state;
  su_free(q->rows);
  su_free(q->zeros);
  su_free(q);
}

static bool serves(const su_conv_geo *g) {
  return g->kh == 3 && g->kw == 3 && g->sh == 1 && g->sw == 1 && g->dh == 1 && g->dw == 1 && g->groups == 1 &&
         g->ci % 16 == 0 && g->co % 16 == 0 && g->h < INT32_MAX && g->w < INT32_MAX;
}

bool su_conv_by_wino(su_conv_by *by, const su_conv_geo *g, enum su_conv_dir dir) {
  if (!serves(g)) return false;
  wino *q = su_calloc(sizeof *q);
  if (!q) return false;
  q->g = *g;
  q->th = (g->oh + 3) / 4, q->tw = (g->ow + 3) / 4, q->tiles = g->n * q->th * q->tw;
  int64_t nr = q->th * 4 + 2, nc = q->tw * 4 + 2, widest = g->ci > g->co ? g->ci : g->co;
  q->rows = su_malloc((size_t)(nr + nc) * sizeof *q->rows);
  q->zeros = su_calloc((size_t)widest * sizeof *q->zeros);
  if (!q->rows || !q->zeros) {
    free_wino(q);
    return false;
  }
  q->cols = q->rows + nr;
  fill_table(q->rows, nr, g->h, g->pt, g->reflect, g->oh + 2);
  fill_table(q->cols, nc, g->w, g->pl, g->reflect, g->ow + 2);
  static void (*const run[3])(const su_conv_by *, const float *, const float *, const float *, float *, void *) = {
    run_y, run_gx, run_gw };
  *by = (su_conv_by){.name = "wino", .run = run[dir], .free_state = free_wino, .state = q, .g = *g, .dir = dir};
  lay_out(q, dir, &by->workspace);
  return true;
}
