/* wino.c -- small convolutions by Winograd's method, in all three directions. Three forms, as m x m outputs
 * of r x r weights:
 *
 *   3x3, stride 1       F(4,3)   36 multiplications where the definition has 144
 *   4x4, stride 1       F(3,4)   36 for 144
 *   4x4 or 3x3, stride 2  F(4,2)  the image is taken apart into its 2 x 2 phases, which meet 2x2 weights with
 * stride 1 and are summed inside the matrix products: 100 for 256 (or, 3x3, for 144)
 *
 *   y:  M_p = V_p U_p,   V = BT x B per patch of x (A x A), U = E(r) w E(r)',   y patch (m x m) = E(m)' M
 * E(m) gx: M_p = Y_p U_p',  Y = E(m) gy E(m)' per patch of gy,                     gx patch (A x A,
 * overlapping, summed) = B M BT gw: M_p = Y_p' V_p   (summed over patches), gw (r x r) = E(r)' M E(r) for the
 * A*A positions p. The transforms are in wino.h, the matrix products in gemm.c. Patches are taken in chunks
 * so that V and M stay in the last-level cache. What lies outside the image is looked up in tables of rows
 * and columns, so a mirrored edge costs nothing here. */
#include "conv.h"
#include "gemm.h"
#include "wino.h"

#include <string.h>

enum { MOST = 36 };                     /* positions */
#define UNROLL _Pragma("GCC unroll 36")

typedef struct form { /* m outputs, r weights per phase, A points, s phases along each axis (the stride) */
  int m, r, A, s;
  su_range *x, *y, *y_divided, *w_turned, *w_straight, *finish_y, *finish_gx, *finish_gw;
} form;

typedef struct wino {
  su_conv_geo g;
  const form *f;
  int64_t th, tw, tiles, chunk;         /* patches down, right, in all, and per chunk */
  int64_t kx;                           /* channels of all phases: s*s*ci */
  int64_t ldx, ldy, ldm; /* floats from one patch to the next in V and Y, from one row to the next in M */
  int64_t pu, px, py, pm;               /* floats from one position to the next in U, V, Y, M */
  size_t u, v, y, m;                    /* where these begin in the workspace, in floats */
  int32_t *rows, *cols;                 /* of x, for padded row or column i; -1: outside, zero */
  float *zeros;                         /* [max(ci,co)] */
} wino;

typedef struct job {
  const wino *q;
  const float *x, *w, *y, *bias;        /* what is read */
  float *out;
  float *u, *v, *t, *m;                 /* in the workspace; t: transformed gy */
  int64_t first, count;                 /* patches of this chunk */
} job;

/* Image, row and column of outputs where patch t begins. */
static void place(const wino *q, int64_t t, int64_t *n, int64_t *row, int64_t *col) {
  *n = t / (q->th * q->tw), *row = t / q->tw % q->th * q->f->m, *col = t % q->tw * q->f->m;
}

/* ---- from images to products ---- */

/* V for patches first .. last-1. Phase (a,b) of a patch has the pixels (s*i + a, s*j + b), i, j < A. */
WINO_INLINE void from_x(const job *j, int64_t first, int64_t last, const int A, const int s) {
  const wino *q = j->q;
  const su_conv_geo *g = &q->g;
  for (int64_t t = first; t < last; t++)
    for (int phase = 0; phase < s * s; phase++) {
      const float *at[MOST];
      int64_t n, r, c0;
      place(q, j->first + t, &n, &r, &c0);
      for (int k = 0; k < A * A; k++) {
        int64_t row = q->rows[s * (r + k / A) + phase / s], col = q->cols[s * (c0 + k % A) + phase % s];
        at[k] = row < 0 || col < 0 ? q->zeros : j->x + ((n * g->h + row) * g->w + col) * g->ci;
      }
      float *v = j->v + t * q->ldx + phase * g->ci;
      for (int64_t c = 0; c < g->ci; c += 16) {
        v16 d[MOST], e[MOST];
        UNROLL for (int k = 0; k < A * A; k++) d[k] = *(const v16 *)(at[k] + c);
        UNROLL for (int k = 0; k < A; k++) wino_bt(A, d + k, A, e + k, A);
        UNROLL for (int k = 0; k < A; k++) wino_bt(A, e + A * k, 1, d + A * k, 1);
        UNROLL for (int k = 0; k < A * A; k++) *(v16 *)(v + k * q->px + c) = d[k];
      }
    }
}

/* Y for patches first .. last-1. */
WINO_INLINE void from_y(const job *j, int64_t first, int64_t last, const int A, const int m,
                        const int divided) {
  const wino *q = j->q;
  const su_conv_geo *g = &q->g;
  for (int64_t t = first; t < last; t++) {
    const float *at[16];
    int64_t n, r, c0;
    place(q, j->first + t, &n, &r, &c0);
    for (int k = 0; k < m * m; k++) {
      int64_t row = r + k / m, col = c0 + k % m;
      at[k] = row < g->oh && col < g->ow ? j->y + ((n * g->oh + row) * g->ow + col) * g->co : q->zeros;
    }
    for (int64_t c = 0; c < g->co; c += 16) {
      v16 d[16], e[24], f[MOST];
      float *v = j->t + t * q->ldy + c;
      UNROLL for (int k = 0; k < m * m; k++) d[k] = *(const v16 *)(at[k] + c);
      UNROLL for (int k = 0; k < m; k++) wino_e(m, A, divided, d + k, m, e + k, m);
      UNROLL for (int k = 0; k < A; k++) wino_e(m, A, divided, e + m * k, 1, f + A * k, 1);
      UNROLL for (int k = 0; k < A * A; k++) *(v16 *)(v + k * q->py) = f[k];
    }
  }
}

/* ---- weights ---- */

/* One vector of channels of all phases. w: tap (i,j) lies at w + (i*kw + j)*step; u + phase*pstep + p*pu:
 * product p of a phase. */
WINO_INLINE void from_taps(const wino *q, const float *w, int64_t step, float *u, int64_t pstep, const int A,
                           const int r, const int s) {
  int64_t kh = q->g.kh, kw = q->g.kw;
  for (int phase = 0; phase < s * s; phase++) {
    v16 d[16], e[24], f[MOST];
    UNROLL for (int k = 0; k < r * r; k++) {
      int64_t i = s * (k / r) + phase / s, j = s * (k % r) + phase % s;
      d[k] = i < kh && j < kw ? *(const v16 *)(w + (i * kw + j) * step) : (v16){0};
    }
    UNROLL for (int k = 0; k < r; k++) wino_e(r, A, 0, d + k, r, e + k, r);
    UNROLL for (int k = 0; k < A; k++) wino_e(r, A, 0, e + r * k, 1, f + A * k, 1);
    UNROLL for (int k = 0; k < A * A; k++) *(v16 *)(u + phase * pstep + k * q->pu) = f[k];
  }
}

/* For gx: U as panels [p][phase,ci/32][co][32]. Blocks first .. last-1 of 16 rows of a panel of one phase. */
WINO_INLINE void straight(const job *j, int64_t first, int64_t last, const int A, const int r, const int s) {
  const wino *q = j->q;
  int64_t ci = q->g.ci, co = q->g.co, taps = q->g.kh * q->g.kw, blocks = co / 16;
  for (int64_t b = first; b < last; b++) {
    int64_t c0 = b / blocks * 32, n = ci - c0 < 32 ? ci - c0 : 32;
    for (int64_t o = b % blocks * 16; o < b % blocks * 16 + 16; o++)
      for (int64_t c = 0; c < n; c += 16)
        from_taps(q, j->w + o * taps * ci + c0 + c, ci, j->u + c0 * co + o * 32 + c, (ci + 31) / 32 * 32 * co,
                  A, r, s);
  }
}

/* For y: U as panels [p][co/32][phase,ci][32], which turns the weights. Blocks of 16 rows of a panel. */
WINO_INLINE void turned(const job *j, int64_t first, int64_t last, const int A, const int r, const int s) {
  const wino *q = j->q;
  int64_t ci = q->g.ci, co = q->g.co, taps = q->g.kh * q->g.kw, blocks = ci / 16;
  float w[16 * 16 * SU_TILE_N];
  for (int64_t b = first; b < last; b++) {
    int64_t o = b / blocks * 32, c0 = b % blocks * 16;
    int n = co - o < 32 ? (int)(co - o) : 32;
    for (int64_t k = 0; k < taps; k++)
      su_pack_panel(w + k * 16 * SU_TILE_N, j->w + (o * taps + k) * ci + c0, 16, n, 1, taps * ci);
    for (int c = 0; c < 16; c++)
      for (int h = 0; h < n; h += 16)
        from_taps(q, w + c * 32 + h, 16 * SU_TILE_N, j->u + o * q->kx + (c0 + c) * 32 + h, ci * 32, A, r, s);
  }
}

/* ---- the matrix products, one for each position ---- */

/* M_p = a_p U_p. Tasks are (position, panel of 32 columns); a: V or Y, with `ld` and `pa`; depth: its
 * channels; n: columns of M. */
static void multiply(const job *j, int64_t first, int64_t last, const float *a, int64_t ld, int64_t pa,
                     int64_t depth, int64_t n) {
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
  multiply(j, first, last, j->v, j->q->ldx, j->q->px, j->q->kx, j->q->g.co);
}

static void multiply_y(void *arg, int64_t first, int64_t last) {
  const job *j = arg;
  multiply(j, first, last, j->t, j->q->ldy, j->q->py, j->q->g.co, j->q->kx);
}

/* gw: M_p [co, phase,ci] (+)= Y_p' V_p. Tasks are (position, panel of 32 columns). */
static void multiply_both(void *arg, int64_t first, int64_t last) {
  const job *j = arg;
  const wino *q = j->q;
  int64_t n = q->kx, co = q->g.co, panels = (n + 31) / 32, mr = su_tile_height(co);
  for (int64_t task = first; task < last; task++) {
    int64_t p = task / panels, panel = task % panels;
    su_tile t = {.a_row = 1, .a_k = q->ldy, .b_row = q->ldx, .c_row = q->ldm, .depth = j->count, .runs = 1};
    t.add = j->first > 0;
    t.b = j->v + p * q->px + panel * 32;
    t.n = n - panel * 32 < 32 ? (int)(n - panel * 32) : 32;
    for (int64_t i = 0; i < co; i += mr) {
      t.m = (int)(co - i < mr ? co - i : mr);
      t.a = j->t + p * q->py + i;
      t.c = j->m + p * q->pm + i * q->ldm + panel * 32;
      su_tile_run(&t);
    }
  }
}

/* ---- from products to results ---- */

WINO_INLINE void to_y(const job *j, int64_t first, int64_t last, const int A, const int m) {
  const wino *q = j->q;
  const su_conv_geo *g = &q->g;
  for (int64_t t = first; t < last; t++) {
    int64_t n, r, c0;
    place(q, j->first + t, &n, &r, &c0);
    float *y = j->out + ((n * g->oh + r) * g->ow + c0) * g->co;
    for (int64_t c = 0; c < g->co; c += 16) {
      v16 d[MOST], e[24], f[16], bias = {0};
      const float *from = j->m + t * q->ldm + c;
      UNROLL for (int k = 0; k < A * A; k++) d[k] = *(const v16 *)(from + k * q->pm);
      UNROLL for (int k = 0; k < A; k++) wino_et(m, A, d + k, A, e + k, A);
      UNROLL for (int k = 0; k < m; k++) wino_et(m, A, e + A * k, 1, f + m * k, 1);
      if (j->bias) bias = *(const v16 *)(j->bias + c);
      UNROLL for (int k = 0; k < m * m; k++) if (r + k / m < g->oh && c0 + k % m < g->ow) *
        (v16 *)(y + (k / m * g->ow + k % m) * g->co + c) = f[k] + bias;
    }
  }
}

/* Patches overlap, so threads share out channels: 16-channel slices first .. last-1, all patches of the chunk
 * in order. */
WINO_INLINE void to_gx(const job *j, int64_t first, int64_t last, const int A, const int s) {
  const wino *q = j->q;
  const su_conv_geo *g = &q->g;
  int64_t slices = g->ci / 16;
  for (int64_t k0 = first; k0 < last; k0++)
    for (int64_t t = 0; t < j->count; t++) {
      int64_t n, r, c0, c = k0 % slices * 16, phase = k0 / slices;
      place(q, j->first + t, &n, &r, &c0);
      const int32_t *rows = q->rows + s * r + phase / s, *cols = q->cols + s * c0 + phase % s;
      v16 d[MOST], e[MOST];
      const float *from = j->m + t * q->ldm + phase * ((g->ci + 31) / 32 * 32) + c;
      UNROLL for (int k = 0; k < A * A; k++) d[k] = *(const v16 *)(from + k * q->pm);
      UNROLL for (int k = 0; k < A; k++) wino_b(A, d + k, A, e + k, A);
      UNROLL for (int k = 0; k < A; k++) wino_b(A, e + A * k, 1, d + A * k, 1);
      float *image = j->out + n * g->h * g->w * g->ci + c;
      UNROLL for (int k = 0; k < A * A; k++) {
        int64_t row = rows[s * (k / A)], col = cols[s * (k % A)];
        if (row >= 0 && col >= 0) *(v16 *)(image + (row * g->w + col) * g->ci) += d[k];
      }
    }
}

WINO_INLINE void to_gw(const job *j, int64_t first, int64_t last, const int A, const int r, const int s) {
  const wino *q = j->q;
  int64_t ci = q->g.ci, kh = q->g.kh, kw = q->g.kw;
  for (int64_t o = first; o < last; o++)
    for (int phase = 0; phase < s * s; phase++)
      for (int64_t c = 0; c < ci; c += 16) {
        v16 d[MOST], e[24], f[16];
        const float *from = j->m + o * q->ldm + phase * ci + c;
        UNROLL for (int k = 0; k < A * A; k++) d[k] = *(const v16 *)(from + k * q->pm);
        UNROLL for (int k = 0; k < A; k++) wino_et(r, A, d + k, A, e + k, A);
        UNROLL for (int k = 0; k < r; k++) wino_et(r, A, e + A * k, 1, f + r * k, 1);
        UNROLL for (int k = 0; k < r * r; k++) {
          int64_t i = s * (k / r) + phase / s, l = s * (k % r) + phase % s;
          if (i < kh && l < kw) *(v16 *)(j->out + ((o * kh + i) * kw + l) * ci + c) = f[k];
        }
      }
}

/* ---- the three forms, compiled ---- */

#define FORM(id, m_, r_, A_, s_)                                                                  \
  SU_CLONES static void id##_x(void *j, int64_t a, int64_t b) { from_x(j, a, b, A_, s_); }        \
  SU_CLONES static void id##_y(void *j, int64_t a, int64_t b) { from_y(j, a, b, A_, m_, 0); }     \
  SU_CLONES static void id##_yd(void *j, int64_t a, int64_t b) { from_y(j, a, b, A_, m_, 1); }    \
  SU_CLONES static void id##_wt(void *j, int64_t a, int64_t b) { turned(j, a, b, A_, r_, s_); }   \
  SU_CLONES static void id##_ws(void *j, int64_t a, int64_t b) { straight(j, a, b, A_, r_, s_); } \
  SU_CLONES static void id##_fy(void *j, int64_t a, int64_t b) { to_y(j, a, b, A_, m_); }         \
  SU_CLONES static void id##_fx(void *j, int64_t a, int64_t b) { to_gx(j, a, b, A_, s_); }        \
  SU_CLONES static void id##_fw(void *j, int64_t a, int64_t b) { to_gw(j, a, b, A_, r_, s_); }    \
  static const form id = {m_,      r_,      A_,      s_,      id##_x,  id##_y,                    \
                          id##_yd, id##_wt, id##_ws, id##_fy, id##_fx, id##_fw};

FORM(form43, 4, 3, 6, 1)
FORM(form34, 3, 4, 6, 1)
FORM(form42, 4, 2, 5, 2)

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

static int64_t panels(int64_t channels) { return (channels + 31) / 32; }

static void run_y(const su_conv_by *by, const float *x, const float *w, const float *bias, float *y,
                  void *ws) {
  job j = start(by, y, ws);
  const form *f = j.q->f;
  j.x = x, j.w = w, j.bias = bias;
  su_parallel(panels(by->g.co) * (by->g.ci / 16), 4, f->w_turned, &j);
  while (next_chunk(&j)) {
    su_parallel(j.count, 2, f->x, &j);
    su_parallel(f->A * f->A * panels(by->g.co), 1, multiply_x, &j);
    su_parallel(j.count, 2, f->finish_y, &j);
  }
}

static void zero(void *arg, int64_t first, int64_t last) {
  memset((float *)arg + first, 0, (size_t)(last - first) * sizeof(float));
}

static void run_gx(const su_conv_by *by, const float *gy, const float *w, const float *bias, float *gx,
                   void *ws) {
  job j = start(by, gx, ws);
  const form *f = j.q->f;
  (void)bias;
  j.y = gy, j.w = w;
  su_parallel(by->g.n * by->g.h * by->g.w * by->g.ci, 1 << 16, zero, gx);
  su_parallel(panels(by->g.ci) * (by->g.co / 16), 4, f->w_straight, &j);
  while (next_chunk(&j)) {
    su_parallel(j.count, 2, f->y_divided, &j);
    su_parallel(f->A * f->A * panels(j.q->kx), 1, multiply_y, &j);
    su_parallel(f->s * f->s * (by->g.ci / 16), 1, f->finish_gx, &j);
  }
}

static void run_gw(const su_conv_by *by, const float *x, const float *gy, const float *bias, float *gw,
                   void *ws) {
  job j = start(by, gw, ws);
  const form *f = j.q->f;
  (void)bias;
  j.x = x, j.y = gy;
  while (next_chunk(&j)) {
    su_parallel(j.count, 2, f->x, &j);
    su_parallel(j.count, 2, f->y, &j);
    su_parallel(f->A * f->A * panels(j.q->kx), 1, multiply_both, &j);
  }
  su_parallel(by->g.co, 2, f->finish_gw, &j);
}

/* ---- planning ---- */

/* Floats rounded up to an odd number of cache lines, so that streams that far apart do not meet in one cache
 * set. */
static int64_t apart(int64_t floats) { return ((floats + 15) / 16 | 1) * 16; }

static void lay_out(wino *q, enum su_conv_dir dir, size_t *bytes) {
  const su_conv_geo *g = &q->g;
  int64_t P = q->f->A * q->f->A;
  bool y = dir == SU_CONV_Y, gx = dir == SU_CONV_GX;
  int64_t fits = (8 << 20) / (P * (q->kx + g->co) * (int64_t)sizeof(float));        /* V and M in 8 MB */
  if (fits < 56) fits = 56;
  int64_t chunks = (q->tiles + fits - 1) / fits;
  q->chunk = (q->tiles + chunks - 1) / chunks;
  q->ldx = apart(q->kx), q->ldy = apart(g->co), q->ldm = y ? q->ldy : q->ldx;
  q->pu = y ? apart(panels(g->co) * 32 * q->kx) : gx ? apart(panels(q->kx) * 32 * g->co) : 0;
  q->px = gx ? 0 : apart(q->chunk * q->ldx);
  q->py = y ? 0 : apart(q->chunk * q->ldy);
  q->pm = apart((y || gx ? q->chunk : g->co) * q->ldm);
  q->u = 0;
  q->v = q->u + (size_t)(P * q->pu);
  q->y = q->v + (size_t)(P * q->px);
  q->m = q->y + (size_t)(P * q->py);
  *bytes = (q->m + (size_t)(P * q->pm)) * sizeof(float);
}

/* Where padded row or column i of an image of n is found. used: how many of them the definition reads. */
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

static const form *form_of(const su_conv_geo *g) {
  bool even = g->ci % 16 == 0 && g->co % 16 == 0, small = g->h < INT32_MAX && g->w < INT32_MAX;
  if (!even || !small || g->dh != 1 || g->dw != 1 || g->groups != 1 || g->kh != g->kw || g->sh != g->sw)
    return NULL;
  if (g->kh == 3 && g->sh == 1) return &form43;
  if (g->kh == 4 && g->sh == 1) return &form34;
  if ((g->kh == 4 || g->kh == 3) && g->sh == 2 && g->ci % 32 == 0)
    return &form42; /* phases begin at whole panels */
  return NULL;
}

/* Cycles, roughly, of both ways: a vector of 16 products takes one, and a transformed number was measured to
 * take 1.5 (weights; twice that when they leave the last-level cache), 1.2 (inputs) or 1.8 (outputs) on
 * Zen 4. A quarter must be gained to bother. */
bool su_conv_wino_pays(const su_conv_geo *g) {
  const form *f = form_of(g);
  if (!f) return false;
  double tiles = (double)(g->n * ((g->oh + f->m - 1) / f->m) * ((g->ow + f->m - 1) / f->m));
  double kx = (double)(f->s * f->s * g->ci), co = (double)g->co, positions = f->A * f->A;
  double u = positions * kx * co;
  double ours = positions * tiles * (kx * co / 14.4 + 1.2 * kx + 1.8 * co) + (u > 4e6 ? 3.0 : 1.5) * u;
  return (double)su_conv_macs(g) / 14.4 > 1.25 * ours;
}

bool su_conv_by_wino(su_conv_by *by, const su_conv_geo *g, enum su_conv_dir dir) {
  const form *f = form_of(g);
  wino *q = f ? su_calloc(sizeof *q) : NULL;
  if (!q) return false;
  q->g = *g, q->f = f, q->kx = f->s * f->s * g->ci;
  q->th = (g->oh + f->m - 1) / f->m, q->tw = (g->ow + f->m - 1) / f->m, q->tiles = g->n * q->th * q->tw;
  int64_t nr = f->s * (q->th * f->m + f->r), nc = f->s * (q->tw * f->m + f->r),
          widest = g->ci > g->co ? g->ci : g->co;
  q->rows = su_malloc((size_t)(nr + nc) * sizeof *q->rows);
  q->zeros = su_calloc((size_t)widest * sizeof *q->zeros);
  if (!q->rows || !q->zeros) {
    free_wino(q);
    return false;
  }
  q->cols = q->rows + nr;
  fill_table(q->rows, nr, g->h, g->pt, g->reflect, (g->oh - 1) * g->sh + g->kh);
  fill_table(q->cols, nc, g->w, g->pl, g->reflect, (g->ow - 1) * g->sw + g->kw);
  static void (*const run[3])(const su_conv_by *, const float *, const float *, const float *, float *,
                              void *) = {run_y, run_gx, run_gw};
  *by =
    (su_conv_by){.name = "wino", .run = run[dir], .free_state = free_wino, .state = q, .g = *g, .dir = dir};
  lay_out(q, dir, &by->workspace);
  return true;
}
