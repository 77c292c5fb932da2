/* thin.c -- convolutions with few channels on the side that is produced: 64 -> 3 at a generator's end, 512 ->
 * 1 at a patch critic's, and the input gradient of 3 -> 64. Vectors over channels would be mostly empty
 * there, so: results (y, or gx): Z[tap,c][pixel] = sum over thick channels of w * thick pixel, one matrix
 * product per row of pixels, vectors over pixels; a result is then the sum of kh*kw entries of Z, which for
 * vectors over pixels are shifted loads. Each thread walks down its share of rows with a ring of kh rows of
 * Z, which stays in its cache. gw: gw[c,kh][kw][thick] = sum over pixels of thin plane c, shifted by kh and
 * kw, times the thick pixel: the kw shifts are the rows of a tile, so the shifted planes never exist. */
#include "conv.h"
#include "gemm.h"

#include <string.h>

enum {
  FEW = 8,
  BAND = 16
}; /* most thin channels; rows of thick pixels per pass of gw (they stay in the L2 cache) */

/* ---- results ---- */

typedef struct thin {
  int64_t hs, ws, ck;                   /* thick source [n,hs,ws,ck] */
  int64_t hr, wr, ct;                   /* thin result [n,hr,wr,ct] */
  int64_t kh, kw, sh, sw, pt, pl; /* result (i,j) sums the sources ((i+pt-kh)/sh, (j+pl-kw)/sw) that exist */
  int64_t a_row, a_k, tap_step,
    c_step; /* weights as the left matrix; row of Z for (tap, c) = tap*tap_step + c*c_step */
  bool flip;                            /* tap (kh,kw) of the sum is w's (KH-1-kh, KW-1-kw) */
  int64_t rows, ldz, lanes, lane; /* rows of Z, floats between them; lanes and floats of workspace for each */
} thin;

typedef struct thin_job { const thin *q; int64_t n; const float *src, *w, *bias; float *out, *ws; } thin_job;

static int64_t floats_up(int64_t n) { return (n + 15) / 16 * 16; }

/* Z for one row of thick pixels. */
static void project(const thin_job *j, const float *src, float *z, float *panel) {
  const thin *q = j->q;
  int64_t mr = su_tile_height(q->rows);
  for (int64_t px = 0; px < q->ws; px += SU_TILE_N) {
    su_tile t = {.b = panel,
                 .b_row = SU_TILE_N,
                 .a_row = q->a_row,
                 .a_k = q->a_k,
                 .c_row = q->ldz,
                 .depth = q->ck,
                 .runs = 1};
    t.n = (int)(q->ws - px < SU_TILE_N ? q->ws - px : SU_TILE_N);
    su_pack_panel(panel, src + px * q->ck, q->ck, t.n, 1, q->ck);
    for (int64_t i = 0; i < q->rows; i += mr) {
      t.m = (int)(q->rows - i < mr ? q->rows - i : mr);
      t.a = j->w + i * q->a_row;
      t.c = z + i * q->ldz + px;
      su_tile_run(&t);
    }
  }
}

/* acc[c][j] += what source row z gives to result row, through row kh of taps. */
SU_CLONES static void collect(const thin *q, const float *z, int64_t kh, float *acc) {
  for (int64_t kw = 0; kw < q->kw; kw++) {
    int64_t tap = q->flip ? (q->kh - 1 - kh) * q->kw + q->kw - 1 - kw : kh * q->kw + kw;
    int64_t shift = q->pl - kw;                                    /* j + shift = sw * column of the source */
    int64_t first = shift < 0 ? -shift : 0, last = (q->ws - 1) * q->sw - shift + 1;
    first += (q->sw - (first + shift) % q->sw) % q->sw;
    if (last > q->wr) last = q->wr;
    for (int64_t c = 0; c < q->ct; c++) {
      const float *from = z + (tap * q->tap_step + c * q->c_step) * q->ldz;
      float *to = acc + c * floats_up(q->wr);
      if (q->sw == 1)
        for (int64_t j = first; j < last; j++) to[j] += from[j + shift];
      else
        for (int64_t j = first; j < last; j += q->sw) to[j] += from[(j + shift) / q->sw];
    }
  }
}

/* Result rows first .. last-1, counted over all images. */
static void result_rows(const thin_job *j, int64_t first, int64_t last, float *ws) {
  const thin *q = j->q;
  int64_t z_row = q->rows * q->ldz, done = -1, image = -1; /* source rows up to `done` are in the ring */
  float *acc = ws, *panel = acc + q->ct * floats_up(q->wr), *ring = panel + q->ck * SU_TILE_N;
  for (int64_t r = first; r < last; r++) {
    int64_t n = r / q->hr, i = r % q->hr;
    if (n != image) image = n, done = -1;
    memset(acc, 0, (size_t)(q->ct * floats_up(q->wr)) * sizeof *acc);
    for (int64_t kh = q->kh - 1; kh >= 0; kh--) {                  /* downwards: the sources' rows upwards */
      int64_t row = (i + q->pt - kh) / q->sh;
      if (i + q->pt < kh || (i + q->pt - kh) % q->sh || row >= q->hs) continue;
      if (row > done)
        project(j, j->src + (n * q->hs + row) * q->ws * q->ck, ring + row % q->kh * z_row, panel), done = row;
      collect(q, ring + row % q->kh * z_row, kh, acc);
    }
    float *out = j->out + r * q->wr * q->ct;
    for (int64_t p = 0; p < q->wr; p++)
      for (int64_t c = 0; c < q->ct; c++)
        out[p * q->ct + c] = acc[c * floats_up(q->wr) + p] + (j->bias ? j->bias[c] : 0);
  }
}

static void lanes(void *arg, int64_t first, int64_t last) {
  const thin_job *j = arg;
  int64_t rows = j->n * j->q->hr;
  for (int64_t l = first; l < last; l++)
    result_rows(j, rows * l / j->q->lanes, rows * (l + 1) / j->q->lanes, j->ws + l * j->q->lane);
}

static void run_result(const su_conv_by *by, const float *a, const float *b, const float *bias, float *out,
                       void *ws) {
  const thin *q = by->state;
  thin_job j = {q, by->g.n, a, b, bias, out, ws};
  su_parallel(q->lanes, 1, lanes, &j);
}

static bool plan_result(su_conv_by *by, const su_conv_geo *g, enum su_conv_dir dir) {
  int64_t taps = g->kh * g->kw;
  thin q = {.kh = g->kh, .kw = g->kw, .sh = g->sh, .sw = g->sw};
  if (dir == SU_CONV_Y) { /* stride 1: seen from the result, taps run backwards */
    q.hs = g->h, q.ws = g->w, q.ck = g->ci, q.hr = g->oh, q.wr = g->ow, q.ct = g->co;
    q.pt = g->kh - 1 - g->pt, q.pl = g->kw - 1 - g->pl, q.flip = true;
    q.a_row = g->ci, q.a_k = 1, q.tap_step = 1, q.c_step = taps;
  } else {
    q.hs = g->oh, q.ws = g->ow, q.ck = g->co, q.hr = g->h, q.wr = g->w, q.ct = g->ci;
    q.pt = g->pt, q.pl = g->pl;
    q.a_row = 1, q.a_k = taps * g->ci, q.tap_step = g->ci, q.c_step = 1;
  }
  q.rows = taps * q.ct;
  q.ldz = floats_up(q.ws) + 16;
  q.lanes = su_threads() < g->n * q.hr ? su_threads() : g->n * q.hr;
  q.lane = floats_up(q.ct * floats_up(q.wr) + q.ck * SU_TILE_N + q.kh * q.rows * q.ldz);
  thin *state = su_malloc(sizeof q);
  if (!state) return false;
  *state = q;
  *by = (su_conv_by){"thin", run_result, su_free, state, (size_t)(q.lanes * q.lane) * sizeof(float), *g, dir};
  return true;
}

/* ---- gw ---- */

typedef struct gw_job {
  const su_conv_geo *g;
  const float *x, *gy;
  float *gw, *planes;
  int64_t ph, pw;
} gw_job;

/* planes[n][c][u][v] = gy[n, u-(KH-1)+pt, v-(KW-1)+pl, c], zero outside. Rows of all planes. */
static void spread(void *arg, int64_t first, int64_t last) {
  const gw_job *j = arg;
  const su_conv_geo *g = j->g;
  for (int64_t r = first; r < last; r++) {
    int64_t u = r % j->ph, c = r / j->ph % g->co, n = r / j->ph / g->co, i = u - (g->kh - 1) + g->pt;
    for (int64_t v = 0; v < j->pw; v++) {
      int64_t k = v - (g->kw - 1) + g->pl;
      bool in = i >= 0 && i < g->oh && k >= 0 && k < g->ow;
      j->planes[r * j->pw + v] = in ? j->gy[((n * g->oh + i) * g->ow + k) * g->co + c] : 0;
    }
  }
}

/* Tasks are (co, kh, panel of 32 input channels): a tile of kw rows. */
static void sum_bands(void *arg, int64_t first, int64_t last) {
  const gw_job *j = arg;
  const su_conv_geo *g = j->g;
  int64_t panels = (g->ci + 31) / 32, bands = (g->h + BAND - 1) / BAND;
  for (int64_t s = 0; s < g->n * bands; s++)
    for (int64_t task = first; task < last; task++) {
      int64_t n = s / bands, r = s % bands * BAND, c = task / panels / g->kh, kh = task / panels % g->kh,
              p = task % panels;
      su_tile t = {
        .m = (int)g->kw, .a_row = -1, .a_k = 1, .a_step = j->pw, .b_row = g->ci, .b_step = g->w * g->ci};
      t.n = (int)(g->ci - p * 32 < 32 ? g->ci - p * 32 : 32);
      t.depth = g->w, t.runs = g->h - r < BAND ? g->h - r : BAND, t.add = s > 0;
      t.a = j->planes + ((n * g->co + c) * j->ph + r + g->kh - 1 - kh) * j->pw + g->kw - 1;
      t.b = j->x + (n * g->h + r) * g->w * g->ci + p * 32;
      t.c = j->gw + (c * g->kh + kh) * g->kw * g->ci + p * 32, t.c_row = g->ci;
      su_tile_run(&t);
    }
}

static void run_gw(const su_conv_by *by, const float *x, const float *gy, const float *bias, float *gw,
                   void *ws) {
  const su_conv_geo *g = &by->g;
  gw_job j = {g, x, gy, gw, ws, g->h + g->kh - 1, g->w + g->kw - 1};
  (void)bias;
  int64_t tasks = g->co * g->kh * ((g->ci + 31) / 32);
  su_parallel(g->n * g->co * j.ph, 64, spread, &j);
  su_parallel(tasks, (tasks + su_threads() - 1) / su_threads(), sum_bands, &j);
}

bool su_conv_by_thin(su_conv_by *by, const su_conv_geo *g, enum su_conv_dir dir) {
  bool one_step = g->sh == 1 && g->sw == 1;
  if (g->groups != 1 || g->dh != 1 || g->dw != 1 || g->reflect) return false;
  if (dir == SU_CONV_GX) return g->ci <= FEW && plan_result(by, g, dir);
  if (!one_step || g->co > FEW) return false;
  if (dir == SU_CONV_Y) return plan_result(by, g, dir);
  if (g->kw > su_tile_rows()) return false;
  size_t floats = (size_t)(g->n * g->co * (g->h + g->kh - 1) * (g->w + g->kw - 1));
  *by = (su_conv_by){.name = "thin", .run = run_gw, .workspace = floats * sizeof(float), .g = *g, .dir = dir};
  return true;
}
