/* direct.c -- convolution as its definition has it, in register tiles (gemm.c): no patches are gathered, the
 * kernel's taps are the runs of a tile. y:  rows of a tile are neighbouring output pixels, whose inputs lie
 * stride*ci apart; a run is a tap (or, for few channels, a row of taps, which are contiguous); weights are
 * packed into panels of 32 outputs. gx: the pixels that meet the same taps (one phase of the stride) are
 * neighbours in gy; otherwise as y. gw: a tile is outputs x inputs of one tap; its sum runs along rows of
 * pixels, a band of rows at a time for all tiles of a thread, so that the band stays in its L2 cache. With
 * few input channels the two sides change places. The image whose border is read (x, or gy for gx) is padded
 * with zeros into the workspace. */
#include "conv.h"
#include "gemm.h"

#include <string.h>

enum { TAPS = 128, FEW = 16, BAND_BYTES = 600 << 10 };

typedef struct direct {
  su_conv_geo g;
  su_conv_geo pad;                      /* the image that is padded, seen as an input */
  int64_t hp, wp, c;                    /* its padded size, its channels */
  size_t packed, padded, turned;        /* floats: weights, image, gw with its sides changed */
} direct;

typedef struct direct_job {
  const direct *q;
  const float *x, *gy, *w, *bias;       /* x and gy: padded where the direction wants it */
  float *out, *packed;
} direct_job;

static int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }
static int64_t panels_of(int64_t channels) { return (channels + SU_TILE_N - 1) / SU_TILE_N; }
static int width_of(int64_t panel, int64_t channels) {
  return (int)least(channels - panel * SU_TILE_N, SU_TILE_N);
}

/* ---- y ---- */

/* Panels of 32 outputs, [kh,kw,ci][32] each. */
static void pack_for_y(void *arg, int64_t first, int64_t last) {
  const direct_job *j = arg;
  const su_conv_geo *g = &j->q->g;
  int64_t depth = g->kh * g->kw * g->ci;
  for (int64_t p = first; p < last; p++)
    su_pack_panel(j->packed + p * depth * SU_TILE_N, j->w + p * SU_TILE_N * depth, depth, width_of(p, g->co),
                  1, depth);
}

/* Tasks are (panel, row of outputs). */
static void rows_of_y(void *arg, int64_t first, int64_t last) {
  const direct_job *j = arg;
  const direct *q = j->q;
  const su_conv_geo *g = &q->g;
  int64_t a_run[TAPS], rows = g->n * g->oh, mr = su_tile_height(g->ow), taps = g->kh * g->kw;
  bool whole_rows = g->dw == 1;         /* a row of taps is contiguous */
  su_tile t = {.runs = whole_rows ? g->kh : taps, .depth = whole_rows ? g->kw * g->ci : g->ci};
  for (int64_t k = 0; k < t.runs; k++)
    a_run[k] =
      whole_rows ? k * g->dh * q->wp * g->ci : (k / g->kw * g->dh * q->wp + k % g->kw * g->dw) * g->ci;
  t.a_run = a_run, t.a_row = g->sw * g->ci, t.a_k = 1;
  t.b_row = SU_TILE_N, t.b_step = t.depth * SU_TILE_N, t.c_row = g->co;
  for (int64_t task = first; task < last; task++) {
    int64_t panel = task / rows, r = task % rows, n = r / g->oh, i = r % g->oh;
    t.b = j->packed + panel * taps * g->ci * SU_TILE_N;
    t.n = width_of(panel, g->co);
    t.bias = j->bias ? j->bias + panel * SU_TILE_N : NULL;
    for (int64_t o = 0; o < g->ow; o += mr) {
      t.m = (int)least(g->ow - o, mr);
      t.a = j->x + ((n * q->hp + i * g->sh) * q->wp + o * g->sw) * g->ci;
      t.c = j->out + (r * g->ow + o) * g->co + panel * SU_TILE_N;
      su_tile_run(&t);
    }
  }
}

/* ---- gx ---- */

/* Panels of 32 inputs, [kh,kw][co][32] each. */
static void pack_for_gx(void *arg, int64_t first, int64_t last) {
  const direct_job *j = arg;
  const su_conv_geo *g = &j->q->g;
  int64_t taps = g->kh * g->kw;
  for (int64_t k = first; k < last; k++) {
    int64_t panel = k / taps, tap = k % taps;
    su_pack_panel(j->packed + k * g->co * SU_TILE_N, j->w + tap * g->ci + panel * SU_TILE_N, g->co,
                  width_of(panel, g->ci), taps * g->ci, 1);
  }
}

/* The taps that input row i (or column) meets, and the padded gy row that each meets; returns how many. */
static int taps_at(int64_t i, int64_t before, int64_t k, int64_t dilation, int64_t stride, int64_t padded_by,
                   int64_t *tap, int64_t *row) {
  int count = 0;
  for (int64_t t = 0; t < k; t++) {
    int64_t at = i + before - t * dilation + padded_by * stride;
    if (at % stride == 0) tap[count] = t, row[count++] = at / stride;
  }
  return count;
}

/* One row of gx, columns first, first + sw, ... : all meet the same taps. */
static void phase_of_row(const direct_job *j, su_tile t, int64_t r, int64_t first, int64_t panel) {
  const direct *q = j->q;
  const su_conv_geo *g = &q->g;
  int64_t kh[TAPS], kw[TAPS], row[TAPS], col[TAPS], a_run[TAPS], b_run[TAPS];
  int nh = taps_at(r % g->h, g->pt, g->kh, g->dh, g->sh, q->pad.pt, kh, row);
  int nw = taps_at(first, g->pl, g->kw, g->dw, g->sw, q->pad.pl, kw, col);
  int64_t count = (g->w - first + g->sw - 1) / g->sw, mr = su_tile_height(count);
  for (int k = 0; k < nh * nw; k++) {
    a_run[k] = (row[k / nw] * q->wp + col[k % nw]) * g->co;
    b_run[k] = (kh[k / nw] * g->kw + kw[k % nw]) * g->co * SU_TILE_N;
  }
  t.runs = nh * nw, t.a_run = a_run, t.b_run = b_run;
  for (int64_t o = 0; o < count; o += mr) {
    t.m = (int)least(count - o, mr);
    t.a = j->gy + (r / g->h * q->hp * q->wp + o) * g->co;
    t.c = j->out + (r * g->w + first + o * g->sw) * g->ci + panel * SU_TILE_N;
    su_tile_run(&t);
  }
}

/* Tasks are (panel, row of gx). */
static void rows_of_gx(void *arg, int64_t first, int64_t last) {
  const direct_job *j = arg;
  const su_conv_geo *g = &j->q->g;
  int64_t rows = g->n * g->h;
  su_tile t = {.a_row = g->co, .a_k = 1, .b_row = SU_TILE_N, .c_row = g->sw * g->ci, .depth = g->co};
  for (int64_t task = first; task < last; task++) {
    int64_t panel = task / rows;
    t.b = j->packed + panel * g->kh * g->kw * g->co * SU_TILE_N;
    t.n = width_of(panel, g->ci);
    for (int64_t p = 0; p < least(g->sw, g->w); p++) phase_of_row(j, t, task % rows, p, panel);
  }
}

/* ---- gw ---- */

/* Rows of outputs whose x and gy fit a core's L2 cache together. */
static int64_t band_rows(const direct *q) {
  const su_conv_geo *g = &q->g;
  int64_t row = (g->ow * g->co + g->sh * q->wp * g->ci) * (int64_t)sizeof(float), rows = BAND_BYTES / row;
  return rows < 1 ? 1 : least(rows, g->oh);
}

/* Tile `task` of gw over `rows` rows of outputs from row i of image n: outputs x inputs of one tap. */
static void tile_of_gw(const direct_job *j, int64_t task, int64_t n, int64_t i, int64_t rows, bool add) {
  const direct *q = j->q;
  const su_conv_geo *g = &q->g;
  int64_t mr = su_tile_height(g->co), tiles = (g->co + mr - 1) / mr, taps = g->kh * g->kw;
  int64_t o = task % tiles * mr, tap = task / tiles % taps, panel = task / tiles / taps;
  int64_t row = i * g->sh + tap / g->kw * g->dh, col = tap % g->kw * g->dw;
  su_tile t = {
    .a_row = 1, .a_k = g->co, .b_row = g->sw * g->ci, .c_row = taps * g->ci, .depth = g->ow, .runs = rows};
  t.m = (int)least(g->co - o, mr), t.n = width_of(panel, g->ci), t.add = add;
  t.a = j->gy + (n * g->oh + i) * g->ow * g->co + o, t.a_step = g->ow * g->co;
  t.b = j->x + ((n * q->hp + row) * q->wp + col) * g->ci + panel * SU_TILE_N,
  t.b_step = g->sh * q->wp * g->ci;
  t.c = j->out + (o * taps + tap) * g->ci + panel * SU_TILE_N;
  su_tile_run(&t);
}

/* The same with the sides changed: inputs of one row of taps x outputs, into turned [kh][kw,ci][co]. */
static void tile_of_turned(const direct_job *j, int64_t task, int64_t n, int64_t i, int64_t rows, bool add) {
  const direct *q = j->q;
  const su_conv_geo *g = &q->g;
  int64_t side = g->kw * g->ci, mr = su_tile_height(side), tiles = (side + mr - 1) / mr;
  int64_t o = task % tiles * mr, kh = task / tiles % g->kh, panel = task / tiles / g->kh;
  su_tile t = {
    .a_row = 1, .a_k = g->sw * g->ci, .b_row = g->co, .c_row = g->co, .depth = g->ow, .runs = rows};
  t.m = (int)least(side - o, mr), t.n = width_of(panel, g->co), t.add = add;
  t.a = j->x + (n * q->hp + i * g->sh + kh * g->dh) * q->wp * g->ci + o, t.a_step = g->sh * q->wp * g->ci;
  t.b = j->gy + (n * g->oh + i) * g->ow * g->co + panel * SU_TILE_N, t.b_step = g->ow * g->co;
  t.c = j->packed + (kh * side + o) * g->co + panel * SU_TILE_N;
  su_tile_run(&t);
}

static void tiles_of_gw(void *arg, int64_t first, int64_t last) {
  const direct_job *j = arg;
  const su_conv_geo *g = &j->q->g;
  int64_t band = band_rows(j->q);
  for (int64_t n = 0; n < g->n; n++)
    for (int64_t i = 0; i < g->oh; i += band)
      for (int64_t task = first; task < last; task++) {
        bool add = n > 0 || i > 0;
        if (j->q->turned) tile_of_turned(j, task, n, i, least(g->oh - i, band), add);
        else tile_of_gw(j, task, n, i, least(g->oh - i, band), add);
      }
}

/* gw [co][kh,kw,ci] from turned [kh,kw,ci][co]. */
static void turn_back(void *arg, int64_t first, int64_t last) {
  const direct_job *j = arg;
  const su_conv_geo *g = &j->q->g;
  int64_t side = g->kh * g->kw * g->ci;
  for (int64_t o = first; o < last; o++)
    for (int64_t k = 0; k < side; k++) j->out[o * side + k] = j->packed[k * g->co + o];
}

/* ---- running and planning ---- */

static void run_direct(const su_conv_by *by, const float *a, const float *b, const float *bias, float *out,
                       void *ws) {
  const direct *q = by->state;
  const su_conv_geo *g = &q->g;
  float *padded = (float *)ws + q->packed;
  int64_t taps = g->kh * g->kw, mr = su_tile_height(g->co), side = su_tile_height(g->kw * g->ci);
  if (q->padded) su_conv_pad(&q->pad, a, padded, q->c), a = padded;
  direct_job j = {.q = q, .x = a, .gy = a, .w = b, .bias = bias, .out = out, .packed = ws};
  if (by->dir == SU_CONV_Y) {
    su_parallel(panels_of(g->co), 1, pack_for_y, &j);
    su_parallel(panels_of(g->co) * g->n * g->oh, 4, rows_of_y, &j);
  } else if (by->dir == SU_CONV_GX) {
    su_parallel(panels_of(g->ci) * taps, 1, pack_for_gx, &j);
    su_parallel(panels_of(g->ci) * g->n * g->h, 4, rows_of_gx, &j);
  } else {
    j.gy = b;
    int64_t tasks = q->turned ? g->kh * ((g->kw * g->ci + side - 1) / side) * panels_of(g->co)
                              : taps * ((g->co + mr - 1) / mr) * panels_of(g->ci);
    su_parallel(tasks, (tasks + 2 * su_threads() - 1) / (2 * su_threads()), tiles_of_gw, &j);
    if (q->turned) su_parallel(g->co, 8, turn_back, &j);
  }
}

/* What must be padded, and by how much so that no tap reads outside. */
static void plan_padding(direct *q, enum su_conv_dir dir) {
  const su_conv_geo *g = &q->g;
  su_conv_geo *p = &q->pad;
  *p = (su_conv_geo){
    .n = g->n, .h = g->h, .w = g->w, .ci = g->ci, .pt = g->pt, .pb = g->pb, .pl = g->pl, .pr = g->pr};
  if (dir == SU_CONV_GX) {
    int64_t up = (g->kh - 1) * g->dh - g->pt, left = (g->kw - 1) * g->dw - g->pl;
    int64_t down = (g->h - 1 + g->pt) / g->sh - (g->oh - 1), right = (g->w - 1 + g->pl) / g->sw - (g->ow - 1);
    *p = (su_conv_geo){.n = g->n, .h = g->oh, .w = g->ow, .ci = g->co};
    p->pt = up > 0 ? (up + g->sh - 1) / g->sh : 0, p->pl = left > 0 ? (left + g->sw - 1) / g->sw : 0;
    p->pb = down > 0 ? down : 0, p->pr = right > 0 ? right : 0;
  }
  q->hp = p->h + p->pt + p->pb, q->wp = p->w + p->pl + p->pr, q->c = p->ci;
  bool any = p->pt || p->pb || p->pl || p->pr;
  q->padded = any ? (size_t)(p->n * q->hp * q->wp * q->c) : 0;
}

bool su_conv_by_direct(su_conv_by *by, const su_conv_geo *g, enum su_conv_dir dir) {
  int64_t taps = g->kh * g->kw;
  if (g->groups != 1 || g->reflect || taps > TAPS) return false;
  direct *q = su_calloc(sizeof *q);
  if (!q) return false;
  q->g = *g;
  plan_padding(q, dir);
  bool change = dir == SU_CONV_GW && g->ci < FEW && g->co >= FEW && g->dw == 1;
  q->turned = change ? (size_t)(taps * g->ci * g->co) : 0;
  if (dir == SU_CONV_Y) q->packed = (size_t)(panels_of(g->co) * SU_TILE_N * taps * g->ci);
  else if (dir == SU_CONV_GX) q->packed = (size_t)(panels_of(g->ci) * SU_TILE_N * taps * g->co);
  else q->packed = q->turned;
  q->packed = (q->packed + 15) / 16 * 16;
  size_t bytes = (q->packed + q->padded) * sizeof(float);
  *by = (su_conv_by){"direct", run_direct, su_free, q, bytes, *g, dir};
  return true;
}
