/* parts.c -- convolutions in bf16: oneDNN's kernels (AVX512-BF16, AMX), on our threads. A convolution is cut into parts,
 * groups of images, bands of rows or (gw) groups of outputs, that depend on its shape alone; each is a convolution of its
 * own with its own border, planned by dnn.c and run on one thread. The gw of bands are summed, in order. Who is served is
 * a rule of shape, from measurements on Zen 4 (GFLOP/s of one thread as the definition counts; behind the colon by f32
 * kernels, rounded around them):
 *   3x3, 256 -> 256, 32 px   y 212 : 184   gx 206 : 209   gw 161 : 213
 *   3x3, 64 -> 64, 128 px    y 225 : 167   gx 224 : 160   gw 181 : 162
 *   3x3 /2, 64 -> 128        y 219 : 84    gx 215 : 81    gw 143 : 85
 *   4x4 /2, 64 -> 128, n 64  y 208 : 112   gx 220 : 106   gw 178 : 123
 *   7x7, 3 -> 64             y 161 : 95    gx  42 : 65    gw 144 : 94
 *   7x7, 64 -> 3             y  43 : 55    gx 128 : 71    gw  40 : 84
 * So few channels in the result, few pixels, narrow gw and the gw of few pixels that Winograd serves are left to f32.
 * With AMX, where bf16 is many times faster than f32, the last are not (a rule that no AMX machine has confirmed yet). */
#include "bf16.h"
#include "dnn.h"

#include <string.h>

enum {
  MOST_PARTS = 32, MOST_SUMS = 8,
  WORTH = 4000000,                      /* multiply-adds that make a part */
  OUTPUTS = 32, MANY_PIXELS = 8192,     /* fewer: gw is cut by outputs, so many at least */
  THIN = 16, NARROW = 8
};

typedef struct part {
  su_dnn *by;
  int64_t a, b, out;                    /* elements from the beginnings */
  int64_t outputs;                      /* gw of so many outputs alone, whose gy is copied; 0: all */
  size_t ws;
} part;

typedef struct parts {
  int count;
  size_t turned, sum, size;             /* bytes: weights in oneDNN's order; a part's gw; an element of the result */
  part part[MOST_PARTS];
} parts;

static int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }
static int64_t most(int64_t a, int64_t b) { return a > b ? a : b; }
static int64_t over(int64_t a, int64_t b) { return (a + b - 1) / b; }

/* ---- cutting ---- */

/* Rows first .. last-1 of y (or, for gw, of gy), and the rows of x that they see. */
static bool cut_y(su_conv_geo *g, int64_t first, int64_t last, int64_t *x_row) {
  int64_t reach = (g->kh - 1) * g->dh + 1, top = first * g->sh - g->pt, end = (last - 1) * g->sh - g->pt + reach;
  su_conv_geo c = *g;
  c.pt = most(0, -top), c.pb = most(0, end - g->h);
  *x_row = most(0, top);
  c.h = least(end, g->h) - *x_row, c.oh = last - first;
  *g = c;
  return c.h > 0;
}

/* Rows first .. last-1 of gx, and the rows of gy that reach them. */
static bool cut_gx(su_conv_geo *g, int64_t first, int64_t last, int64_t *gy_row) {
  int64_t reach = (g->kh - 1) * g->dh + 1, from = most(0, over(first + g->pt - reach + 1, g->sh));
  int64_t to = least(g->oh - 1, (last - 1 + g->pt) / g->sh);
  su_conv_geo c = *g;
  c.h = last - first, c.oh = to - from + 1;
  c.pt = g->pt + first - from * g->sh;
  c.pb = most(0, (c.oh - 1) * g->sh + reach - c.h - c.pt);
  *gy_row = from, *g = c;
  return c.oh > 0 && c.pt >= 0 && (c.h + c.pt + c.pb - reach) / g->sh + 1 == c.oh;
}

/* Images n .. n+count-1, rows first .. last-1 of what is cut (y, gy or gx); g becomes the part's geometry. All rows are
 * left uncut: rows that nothing reads lie between one image and the next. */
static bool cut(su_conv_geo *g, enum su_conv_dir dir, part *p, int64_t n, int64_t count, int64_t first, int64_t last) {
  int64_t x = g->h * g->w * g->ci, y = g->oh * g->ow * g->co, row = 0;
  bool gx = dir == SU_CONV_GX, whole = first == 0 && last == (gx ? g->h : g->oh);
  bool fits = whole || (gx ? cut_gx(g, first, last, &row) : cut_y(g, first, last, &row));
  int64_t at_x = n * x + (gx ? first : row) * g->w * g->ci, at_y = n * y + (gx ? row : first) * g->ow * g->co;
  g->n = count;
  p->outputs = 0;
  p->a = gx ? at_y : at_x;
  p->b = dir == SU_CONV_GW ? at_y : 0;
  p->out = dir == SU_CONV_Y ? at_y : gx ? at_x : 0;
  return fits;
}

/* ---- running ---- */

struct job { const su_conv_geo *g; const parts *q; const char *a, *b; const float *bias; char *out, *ws; enum su_conv_dir dir; };

static size_t outputs_bytes(const su_conv_geo *g, int64_t outputs) {
  return ((size_t)(g->n * g->oh * g->ow * outputs) * sizeof(uint16_t) + 63) / 64 * 64;
}

/* gy of some outputs, side by side. */
static const char *take_outputs(const su_conv_geo *g, const part *p, const char *gy, char *to) {
  const size_t bytes = (size_t)p->outputs * sizeof(uint16_t), row = (size_t)g->co * sizeof(uint16_t);
  for (int64_t k = 0; k < g->n * g->oh * g->ow; k++) memcpy(to + (size_t)k * bytes, gy + (size_t)k * row, bytes);
  return to;
}

static void run_parts(void *arg, int64_t first, int64_t last) {
  const struct job *j = arg;
  const parts *q = j->q;
  for (int64_t k = first; k < last; k++) {
    const part *p = &q->part[k];
    char *sum = j->ws + (size_t)k * q->sum;           /* gw alone has sums */
    char *out = q->sum ? sum : j->out + (size_t)p->out * q->size;
    void *turned = !q->turned ? NULL : q->sum ? sum : j->ws;
    const char *b = j->b + 2 * p->b;
    char *ws = j->ws + p->ws;
    if (p->outputs) b = take_outputs(j->g, p, b, ws), ws += outputs_bytes(j->g, p->outputs);
    su_dnn_run(p->by, j->a + 2 * p->a, b, j->bias, out, ws, turned);
  }
}

/* The parts' gw added up, in order, into the first. */
static void add_sums(void *arg, int64_t first, int64_t last) {
  const struct job *j = arg;
  float *sum = (float *)j->ws;
  for (int k = 1; k < j->q->count; k++) {
    const float *more = (const float *)(j->ws + (size_t)k * j->q->sum);
    for (int64_t i = first; i < last; i++) sum[i] += more[i];
  }
}

static void run(const su_conv_by *by, const float *a, const float *b, const float *bias, float *out, void *ws) {
  const parts *q = by->state;
  struct job j = {&by->g, q, (const char *)a, (const char *)b, by->g.bias ? bias : NULL, (char *)out, ws, by->dir};
  if (q->turned && !q->sum) su_dnn_turn(q->part[0].by, (void *)b, ws);
  su_parallel(q->count, 1, run_parts, &j);
  if (!q->sum) return;
  size_t bytes = q->turned ? q->turned : (size_t)(by->g.co * by->g.kh * by->g.kw * by->g.ci) * sizeof(float);
  if (q->count > 1) su_parallel((int64_t)(bytes / sizeof(float)), 16384, add_sums, &j);
  if (q->turned) su_dnn_turn(q->part[0].by, out, ws);
  else memcpy(out, ws, bytes);
}

/* ---- planning ---- */

static void free_parts(void *state) {
  parts *q = state;
  for (int k = 0; q && k < q->count; k++) su_dnn_free(q->part[k].by);
  su_free(q);
}

static su_dnn *part_of(const su_conv_geo *g, enum su_conv_dir dir, bool f32_out, bool shared) {
  struct su_dnn_opt opt = {.as_they_lie = true, .bf16 = true, .f32_out = f32_out, .shared = shared};
  su_dnn *s = su_dnn_new(g, dir, opt);
  opt.as_they_lie = false;
  return s ? s : su_dnn_new(g, dir, opt);
}

static bool add_part(parts *q, const su_conv_geo *g, enum su_conv_dir dir, bool f32_out, int64_t n, int64_t count,
                     int64_t first, int64_t last) {
  su_conv_geo c = *g;
  part *p = &q->part[q->count];
  if (!cut(&c, dir, p, n, count, first, last) || !(p->by = part_of(&c, dir, f32_out, true))) return false;
  q->count++;
  return su_dnn_same_weights(q->part[0].by, p->by);
}

/* gw of few pixels: groups of outputs, so that nothing is summed twice. */
static bool cut_outputs(parts *q, const su_conv_geo *g) {
  int64_t each = over(over(g->co, MOST_PARTS), OUTPUTS) * OUTPUTS;
  for (int64_t o = 0; o < g->co; o += each) {
    su_conv_geo c = *g;
    part *p = &q->part[q->count];
    c.co = p->outputs = least(each, g->co - o);
    p->b = o, p->out = o * g->kh * g->kw * g->ci;
    if (!(p->by = part_of(&c, SU_CONV_GW, true, false))) return false;
    q->count++;
  }
  return true;
}

/* Groups of images, or bands of rows of each image. */
static bool cut_all(parts *q, const su_conv_geo *g, enum su_conv_dir dir, bool f32_out) {
  if (dir == SU_CONV_GW && g->n * g->oh * g->ow < MANY_PIXELS) return cut_outputs(q, g);
  int64_t want = least(dir == SU_CONV_GW ? MOST_SUMS : MOST_PARTS, 1 + su_conv_macs(g) / WORTH);
  int64_t rows = dir == SU_CONV_GX ? g->h : g->oh, unit = dir == SU_CONV_GX ? g->sh : 1;
  int64_t images = g->n >= want ? over(g->n, want) : 1, bands = g->n >= want ? 1 : want / g->n;
  int64_t band = over(over(rows, bands), unit) * unit;
  for (int64_t n = 0; n < g->n; n += images)
    for (int64_t r = 0; r < rows; r += band)
      if (!add_part(q, g, dir, f32_out, n, least(images, g->n - n), r, least(rows, r + band))) return false;
  return true;
}

static size_t plan_workspace(parts *q, const su_conv_geo *g, enum su_conv_dir dir) {
  size_t top = 0;
  const bool by_outputs = q->part[0].outputs > 0;
  q->turned = by_outputs ? 0 : su_dnn_weights(q->part[0].by);
  if (dir == SU_CONV_GW && !by_outputs) {
    size_t ours = (size_t)(g->co * g->kh * g->kw * g->ci) * sizeof(float);
    q->sum = ((q->turned ? q->turned : ours) + 63) / 64 * 64;
    top = q->sum * (size_t)q->count;
  } else {
    top = (q->turned + 63) / 64 * 64;
  }
  for (int k = 0; k < q->count; k++) {
    q->part[k].ws = top;
    if (by_outputs) top += outputs_bytes(g, q->part[k].outputs);
    top += (su_dnn_workspace(q->part[k].by) + 63) / 64 * 64;
  }
  return top;
}

static bool pays(const su_conv_geo *g, enum su_conv_dir dir) {
  int64_t result = dir == SU_CONV_GX ? g->ci : g->co;
  if (su_bf16_unit() == SU_BF16_NONE || g->groups != 1 || g->reflect || result < THIN) return false;
  if (g->n * g->oh * g->ow <= 128) return false;      /* the weights are most of what is read */
  if (dir != SU_CONV_GW) return true;
  const bool wino = g->n * g->oh * g->ow < MANY_PIXELS && su_conv_wino_pays(g) && su_bf16_unit() == SU_BF16_AVX512;
  return g->ow >= NARROW && !wino;
}

bool su_conv_by_parts(su_conv_by *by, const su_conv_geo *g, enum su_conv_dir dir, bool f32_out) {
  if (!pays(g, dir)) return false;
  parts *q = su_calloc(sizeof *q);
  if (!q) return false;
  f32_out = f32_out || dir == SU_CONV_GW;
  if (!cut_all(q, g, dir, f32_out)) {                 /* in one piece, if bands cannot be had */
    while (q->count > 0) su_dnn_free(q->part[--q->count].by);
    int64_t rows = dir == SU_CONV_GX ? g->h : g->oh;
    if (!add_part(q, g, dir, f32_out, 0, g->n, 0, rows)) {
      free_parts(q);
      return false;
    }
  }
  q->size = f32_out ? sizeof(float) : sizeof(uint16_t);
  *by = (su_conv_by){"dnn bf16", run, free_parts, q, plan_workspace(q, g, dir), *g, dir};
  return true;
}
