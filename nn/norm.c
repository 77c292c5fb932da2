/* norm.c -- batch and instance norm: y = act((x - m) / sqrt(v + eps) * gain + bias) [+ residual], one
 * fused op each way. No running averages here, see stat.c.
 * (Ioffe & Szegedy 2015; Ulyanov, Vedaldi & Lempitsky 2016)
 *
 * Both are one thing: x is [groups, rows, c] in memory, and every (group, channel) is a population of
 * `rows` numbers; batch norm has one group, instance norm one per image. m is the mean, v the biased
 * variance. Backward keeps x, m and 1/sqrt(v + eps) alone: the activation's mask is computed again. */
#include "nn.h"

#include "../runtime/ops/ops.h"

#include <inttypes.h>
#include <math.h>
#include <string.h>

enum { BATCH, INSTANCE };
/* Channels summed side by side; elements of a chunk, 64 KiB, so that its second reading is from cache. */
enum { BLOCK = 64, CHUNK = 16384 };

/* A population layout, cut into chunks of whole rows. It depends on the shape alone, so results do as well. */
typedef struct layout { int64_t groups, rows, c, chunk, chunks; } layout;

static layout layout_of(const su_spec *x, int64_t over) {
  layout l = {.groups = over == INSTANCE ? x->shape[0] : 1, .c = x->shape[x->ndim - 1]};
  l.rows = su_spec_size(x) / (l.groups * l.c);
  l.chunk = CHUNK / l.c < 8 ? 8 : CHUNK / l.c / 4 * 4;
  if (l.chunk > l.rows) l.chunk = l.rows;
  l.chunks = (l.rows + l.chunk - 1) / l.chunk;
  return l;
}

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
  if (layout_of(x, c->i[0]).rows > 1) return true;
  return su_fail("%s: %s norm of %s averages over a single number, which makes it 0; it wants %s",
                 c->op->name, c->i[0] == BATCH ? "batch" : "instance", su_shape_text(x),
                 c->i[0] == BATCH ? "n*h*w > 1" : "h*w > 1 (or over = \"batch\", or no norm here)");
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
  c->out[0] = *x;
  c->out[1] = c->out[2] = stat_spec(c, x, c->i[0]);
  return true;
}

static bool norm_gx_shape(su_call *c) {
  const su_spec *x = &c->in[1];
  if (!want_population(c, 1) || !su_want_same(c, 0, 1)) return false;
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

/* The slope on the negative side: none 1, relu 0. */
static double slope_of(int64_t act, double slope) {
  return act == SU_ACT_NONE ? 1 : act == SU_ACT_RELU ? 0 : slope;
}

static bool eps_ok(const su_call *c, const double *r) {
  (void)c;
  return r[0] >= 0 || su_fail("norm: eps must be at least 0, is %g", r[0]);
}

/* ---- the specification ---- */

static void norm_ref(const su_plan *p, void *const *in, void *const *out, const double *r, void *ws) {
  (void)ws;
  const layout l = layout_of(&p->call.in[0], p->call.i[0]);
  const double *x = in[0], *gain = in[1], *bias = in[2], *residual = in[3];   /* x [groups,rows,c] */
  const double slope = slope_of(p->call.i[1], r[1]);
  double *y = out[0], *mean = out[1], *rstd = out[2];         /* mean, rstd [groups,c] */
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
        y[k] = (u > 0 ? u : slope * u) + (residual ? residual[k] : 0);
      }
    }
}

/* With g = gy * act'(u) and xh = (x - mean) * rstd:
 * gx = gain * rstd * (g - mean(g) - xh * mean(g * xh)), ggain = sum(g * xh), gbias = sum(g). */
static void norm_gx_ref(const su_plan *p, void *const *in, void *const *out, const double *r, void *ws) {
  (void)ws;
  const layout l = layout_of(&p->call.in[1], p->call.i[0]);
  const double *gy = in[0], *x = in[1], *mean = in[2], *rstd = in[3], *gain = in[4], *bias = in[5];
  const double slope = slope_of(p->call.i[1], r[0]);
  double *gx = out[0], *ggain = out[1], *gbias = out[2];
  memset(ggain, 0, (size_t)l.c * sizeof *ggain);
  memset(gbias, 0, (size_t)l.c * sizeof *gbias);
  for (int64_t g = 0; g < l.groups; g++)
    for (int64_t j = 0; j < l.c; j++) {
      const int64_t first = g * l.rows * l.c + j, end = first + l.rows * l.c, s = g * l.c + j;
      const double a = gain ? gain[j] : 1, b = bias ? bias[j] : 0;
      double s1 = 0, s2 = 0;
      for (int64_t k = first; k < end; k += l.c) {
        double xh = (x[k] - mean[s]) * rstd[s];
        gx[k] = xh * a + b > 0 ? gy[k] : slope * gy[k];
        s1 += gx[k];
        s2 += gx[k] * xh;
      }
      gbias[j] += s1;
      ggain[j] += s2;
      for (int64_t k = first; k < end; k += l.c)
        gx[k] = a * rstd[s] * (gx[k] - (s1 + (x[k] - mean[s]) * rstd[s] * s2) / (double)l.rows);
    }
}

/* ---- CPU: three passes: sums of each chunk, their combination, the result ----
 * A chunk's rows are summed in floats, chunks are combined in doubles, always in order. */

typedef struct job {
  layout l;
  const float *x, *gy, *residual;      /* [groups,rows,c] */
  const float *gain, *bias;            /* [c]; bias points at zeros when there is none */
  const float *mean, *rstd;            /* [groups,c] */
  float *y, *mean_out, *rstd_out;
  float *p1, *p2;                      /* [groups,chunks,c]: a chunk's mean and squares, or s1 and s2 */
  float *scale, *k1, *k2;              /* [groups,c]: rstd * gain; the means that gx subtracts */
  float *ggain, *gbias;                /* [c] */
  double eps;
  float slope;
} job;

/* Workspace in floats: p1, p2, scale, k1, k2, zeros. */
static size_t carve(job *j, float *ws) {
  const layout *l = &j->l;
  const size_t part = (size_t)(l->groups * l->chunks * l->c), stat = (size_t)(l->groups * l->c);
  float **const at[] = {&j->p1, &j->p2, &j->scale, &j->k1, &j->k2};
  const size_t size[] = {part, part, stat, stat, stat};
  size_t n = 0;
  for (int k = 0; k < 5; k++) {
    if (ws) *at[k] = ws + n;
    n += (size[k] + 15) / 16 * 16;
  }
  if (ws && !j->bias) j->bias = memset(ws + n, 0, (size_t)l->c * sizeof *ws);
  return n + (size_t)l->c;
}

static void over_chunks(job *j, su_range *fn) {
  const int64_t each = j->l.chunk * j->l.c, grain = each < CHUNK ? CHUNK / each : 1;
  su_parallel(j->l.groups * j->l.chunks, grain, fn, j);
}

static void over_blocks(job *j, su_range *fn) { su_parallel((j->l.c + BLOCK - 1) / BLOCK, 1, fn, j); }

typedef struct chunk { int64_t n, at, stat, part; } chunk;   /* its rows, and where its numbers begin */

static chunk chunk_at(const layout *l, int64_t k) {
  const int64_t g = k / l->chunks, first = k % l->chunks * l->chunk;
  const int64_t left = l->rows - first;
  return (chunk){left < l->chunk ? left : l->chunk, (g * l->rows + first) * l->c, g * l->c, k * l->c};
}

#define INLINE static inline __attribute__((always_inline))

/* Mean and sum of squared deviations of b <= BLOCK channels over n rows. The deviations are taken from
 * the rounded mean, and their own sum corrects what that rounding did, so that a mean far larger than the
 * spread does no harm. */
INLINE void block_stats(const float *restrict x, int64_t n, int64_t c, int64_t b, float *restrict mean,
                        float *restrict square) {
  float m[BLOCK] = {0}, d1[BLOCK] = {0}, d2[BLOCK] = {0};
  int64_t k = 0;
  for (; k + 4 <= n; k += 4) {
    const float *restrict r = x + k * c;
    for (int64_t j = 0; j < b; j++) m[j] += (r[j] + r[c + j]) + (r[2 * c + j] + r[3 * c + j]);
  }
  for (; k < n; k++)
    for (int64_t j = 0; j < b; j++) m[j] += x[k * c + j];
  const float per = 1.0f / (float)n;
  for (int64_t j = 0; j < b; j++) m[j] *= per;
  for (k = 0; k + 2 <= n; k += 2) {
    const float *restrict r = x + k * c;
    for (int64_t j = 0; j < b; j++) {
      const float u = r[j] - m[j], v = r[c + j] - m[j];
      d1[j] += u + v;
      d2[j] += u * u + v * v;
    }
  }
  for (; k < n; k++)
    for (int64_t j = 0; j < b; j++) {
      const float u = x[k * c + j] - m[j];
      d1[j] += u;
      d2[j] += u * u;
    }
  for (int64_t j = 0; j < b; j++) {
    mean[j] = m[j] + d1[j] * per;
    square[j] = d2[j] - d1[j] * d1[j] * per;
  }
}

SU_CLONES static void stats_range(void *arg, int64_t first, int64_t last) {
  const job *j = arg;
  for (int64_t k = first; k < last; k++) {
    const chunk q = chunk_at(&j->l, k);
    const float *x = j->x + q.at;
    float *p1 = j->p1 + q.part, *p2 = j->p2 + q.part;
    int64_t b = 0, c = j->l.c;
    for (; b + BLOCK <= c; b += BLOCK) block_stats(x + b, q.n, c, BLOCK, p1 + b, p2 + b);
    if (b < c) block_stats(x + b, q.n, c, c - b, p1 + b, p2 + b);
  }
}

/* Squares about the whole mean = those about each chunk's, plus n * (difference)^2.
 * (Chan, Golub & LeVeque 1979) */
SU_CLONES static void stats_combine(void *arg, int64_t first, int64_t last) {
  const job *j = arg;
  const layout *l = &j->l;
  const int64_t a = first * BLOCK, b = last * BLOCK < l->c ? BLOCK : l->c - a;
  for (int64_t g = 0; g < l->groups; g++) {
    const float *p1 = j->p1 + g * l->chunks * l->c + a, *p2 = j->p2 + g * l->chunks * l->c + a;
    double m[BLOCK] = {0}, s[BLOCK] = {0};
    for (int64_t k = 0; k < l->chunks; k++) {
      const double w = (double)chunk_at(l, k).n / (double)l->rows;
      for (int64_t i = 0; i < b; i++) m[i] += w * (double)p1[k * l->c + i];
    }
    for (int64_t k = 0; k < l->chunks; k++) {
      const double w = (double)chunk_at(l, k).n;
      for (int64_t i = 0; i < b; i++) {
        const double d = (double)p1[k * l->c + i] - m[i];
        s[i] += (double)p2[k * l->c + i] + w * d * d;
      }
    }
    for (int64_t i = 0; i < b; i++) {
      const int64_t at = g * l->c + a + i;
      const double rstd = 1 / sqrt(s[i] / (double)l->rows + j->eps);
      j->mean_out[at] = (float)m[i];
      j->rstd_out[at] = (float)rstd;
      j->scale[at] = j->gain ? (float)(rstd * (double)j->gain[a + i]) : (float)rstd;
    }
  }
}

INLINE void apply_rows(const float *restrict x, const float *restrict mean, const float *restrict scale,
                       const float *restrict bias, const float *restrict residual, float *restrict y,
                       int64_t n, int64_t c, float slope) {
  for (int64_t k = 0; k < n; k++, x += c, y += c, residual += residual ? c : 0)
    for (int64_t j = 0; j < c; j++) {
      const float u = (x[j] - mean[j]) * scale[j] + bias[j];
      y[j] = residual ? u + residual[j] : u * (u > 0 ? 1.0f : slope);
    }
}

SU_CLONES static void apply_range(void *arg, int64_t first, int64_t last) {
  const job *j = arg;
  for (int64_t k = first; k < last; k++) {
    const chunk q = chunk_at(&j->l, k);
    const float *mean = j->mean + q.stat, *scale = j->scale + q.stat;
    if (j->residual)
      apply_rows(j->x + q.at, mean, scale, j->bias, j->residual + q.at, j->y + q.at, q.n, j->l.c, 1);
    else if (j->slope == 1)
      apply_rows(j->x + q.at, mean, scale, j->bias, NULL, j->y + q.at, q.n, j->l.c, 1);
    else
      apply_rows(j->x + q.at, mean, scale, j->bias, NULL, j->y + q.at, q.n, j->l.c, j->slope);
  }
}

static void norm_cpu(const su_plan *p, void *const *in, void *const *out, const double *r, void *ws) {
  job j = {.l = layout_of(&p->call.in[0], p->call.i[0]), .x = in[0], .gain = in[1], .bias = in[2],
           .residual = in[3], .y = out[0], .mean = out[1], .mean_out = out[1], .rstd_out = out[2],
           .eps = r[0], .slope = (float)slope_of(p->call.i[1], r[1])};
  carve(&j, ws);
  over_chunks(&j, stats_range);
  over_blocks(&j, stats_combine);
  over_chunks(&j, apply_range);
}

static bool norm_plan(su_plan *p) {
  job j = {.l = layout_of(&p->call.in[0], p->call.i[0])};
  p->workspace = carve(&j, NULL) * sizeof(float);
  p->exec = norm_cpu;
  return true;
}

/* ---- CPU, backward ---- */

/* The gradient behind the activation; u is computed as in apply_rows. */
INLINE float behind(float gy, float d, float scale, float bias, float slope) {
  return slope == 1 ? gy : gy * (d * scale + bias > 0 ? 1.0f : slope);
}

/* s1 = sum of g, s2 = sum of g * (x - mean), for b <= BLOCK channels over n rows. */
INLINE void block_sums(const float *restrict gy, const float *restrict x, const float *restrict mean,
                       const float *restrict scale, const float *restrict bias, int64_t n, int64_t c,
                       int64_t b, float slope, float *restrict s1, float *restrict s2) {
  float a1[BLOCK] = {0}, a2[BLOCK] = {0};
  int64_t k = 0;
  for (; k + 2 <= n; k += 2, gy += 2 * c, x += 2 * c)
    for (int64_t j = 0; j < b; j++) {
      const float d = x[j] - mean[j], e = x[c + j] - mean[j];
      const float g = behind(gy[j], d, scale[j], bias[j], slope);
      const float h = behind(gy[c + j], e, scale[j], bias[j], slope);
      a1[j] += g + h;
      a2[j] += g * d + h * e;
    }
  for (; k < n; k++, gy += c, x += c)
    for (int64_t j = 0; j < b; j++) {
      const float d = x[j] - mean[j], g = behind(gy[j], d, scale[j], bias[j], slope);
      a1[j] += g;
      a2[j] += g * d;
    }
  for (int64_t j = 0; j < b; j++) {
    s1[j] = a1[j];
    s2[j] = a2[j];
  }
}

INLINE void chunk_sums(const job *j, int64_t k, float slope) {
  const chunk q = chunk_at(&j->l, k);
  const float *gy = j->gy + q.at, *x = j->x + q.at, *mean = j->mean + q.stat, *scale = j->scale + q.stat;
  float *p1 = j->p1 + q.part, *p2 = j->p2 + q.part;
  const int64_t c = j->l.c;
  int64_t b = 0;
  for (; b + BLOCK <= c; b += BLOCK)
    block_sums(gy + b, x + b, mean + b, scale + b, j->bias + b, q.n, c, BLOCK, slope, p1 + b, p2 + b);
  if (b < c)
    block_sums(gy + b, x + b, mean + b, scale + b, j->bias + b, q.n, c, c - b, slope, p1 + b, p2 + b);
}

SU_CLONES static void sums_range(void *arg, int64_t first, int64_t last) {
  const job *j = arg;
  if (j->slope == 1)
    for (int64_t k = first; k < last; k++) chunk_sums(j, k, 1);
  else
    for (int64_t k = first; k < last; k++) chunk_sums(j, k, j->slope);
}

SU_CLONES static void sums_combine(void *arg, int64_t first, int64_t last) {
  const job *j = arg;
  const layout *l = &j->l;
  const int64_t a = first * BLOCK, b = last * BLOCK < l->c ? BLOCK : l->c - a;
  double gain[BLOCK] = {0}, bias[BLOCK] = {0};
  for (int64_t g = 0; g < l->groups; g++) {
    const float *p1 = j->p1 + g * l->chunks * l->c + a, *p2 = j->p2 + g * l->chunks * l->c + a;
    const float *rstd = j->rstd + g * l->c + a;
    double s1[BLOCK] = {0}, s2[BLOCK] = {0};
    for (int64_t k = 0; k < l->chunks; k++)
      for (int64_t i = 0; i < b; i++) {
        s1[i] += (double)p1[k * l->c + i];
        s2[i] += (double)p2[k * l->c + i];
      }
    for (int64_t i = 0; i < b; i++) {
      const double v = (double)rstd[i];
      bias[i] += s1[i];
      gain[i] += s2[i] * v;
      j->k1[g * l->c + a + i] = (float)(s1[i] / (double)l->rows);
      j->k2[g * l->c + a + i] = (float)(s2[i] * v * v / (double)l->rows);
    }
  }
  for (int64_t i = 0; i < b; i++) {
    j->gbias[a + i] = (float)bias[i];
    j->ggain[a + i] = (float)gain[i];
  }
}

INLINE void chunk_gx(const job *j, int64_t k, float slope) {
  const chunk q = chunk_at(&j->l, k);
  const int64_t c = j->l.c;
  const float *restrict gy = j->gy + q.at, *restrict x = j->x + q.at, *restrict bias = j->bias;
  const float *restrict mean = j->mean + q.stat, *restrict scale = j->scale + q.stat;
  const float *restrict k1 = j->k1 + q.stat, *restrict k2 = j->k2 + q.stat;
  float *restrict gx = j->y + q.at;
  for (int64_t r = 0; r < q.n; r++, gy += c, x += c, gx += c)
    for (int64_t i = 0; i < c; i++) {
      const float d = x[i] - mean[i], g = behind(gy[i], d, scale[i], bias[i], slope);
      gx[i] = scale[i] * (g - k1[i] - d * k2[i]);
    }
}

SU_CLONES static void gx_range(void *arg, int64_t first, int64_t last) {
  const job *j = arg;
  if (j->slope == 1)
    for (int64_t k = first; k < last; k++) chunk_gx(j, k, 1);
  else
    for (int64_t k = first; k < last; k++) chunk_gx(j, k, j->slope);
}

static void norm_gx_cpu(const su_plan *p, void *const *in, void *const *out, const double *r, void *ws) {
  job j = {.l = layout_of(&p->call.in[1], p->call.i[0]), .gy = in[0], .x = in[1], .mean = in[2], .rstd = in[3],
           .gain = in[4], .bias = in[5], .y = out[0], .ggain = out[1], .gbias = out[2],
           .slope = (float)slope_of(p->call.i[1], r[0])};
  carve(&j, ws);
  for (int64_t k = 0; k < j.l.groups * j.l.c; k++) j.scale[k] = j.rstd[k] * (j.gain ? j.gain[k % j.l.c] : 1);
  over_chunks(&j, sums_range);
  over_blocks(&j, sums_combine);
  over_chunks(&j, gx_range);
}

static bool norm_gx_plan(su_plan *p) {
  job j = {.l = layout_of(&p->call.in[1], p->call.i[0])};
  p->workspace = carve(&j, NULL) * sizeof(float);
  p->exec = norm_gx_cpu;
  return true;
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
  const double per = 1 / (double)layout_of(x, n->i[0]).rows;
  su_tensor *sum = gmean ? spread(su_affine(gmean, per, 0), x) : NULL;
  if (!grstd) return su_expand(sum, x->ndim, x->shape);
  su_tensor *rstd = n->out[2], *weight = su_affine(su_mul(grstd, su_mul(rstd, su_square(rstd))), -per, 0);
  su_tensor *back = su_mul(su_sub(n->in[0], spread(n->out[1], x)), spread(weight, x));
  return gmean ? su_add(back, sum) : back;
}

static bool norm_grad(const su_node *n, su_tensor *const *gy, const bool *want, su_tensor **gx) {
  if (gy[0] && (want[0] || want[1] || want[2])) {
    su_tensor *out[SU_MAX_OUT];
    su_tensor *const *in = n->in;
    if (!su_norm_gx(gy[0], in[0], n->out[1], n->out[2], in[1], in[2], n->i, n->r[1], out)) return false;
    for (int k = 0; k < 3; k++) gx[k] = out[k];
  }
  gx[3] = gy[0];
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
  su_tensor *gy = n->in[0], *gain = n->in[4], *bias = n->in[5];
  const su_spec *xs = &n->in_spec[1];
  const int64_t over = n->i[0];
  const double per = 1 / (double)layout_of(xs, over).rows, slope = slope_of(n->i[1], n->r[0]);
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
  if (want[0] && !(gx[0] = n->i[1] ? su_lrelu_gx(tg, u, slope) : tg)) return false;
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
  "x=2,7,1,1 over=instance act=relu", "x=4,3,3,130 gain=130", "x=5,2,3 bias=3 over=instance", NULL};

SU_OP(norm) {
  .sig = "norm(x, gain?, bias?, residual?, over:enum(batch|instance)=batch, "
         "act:enum(none|relu|lrelu)=none, eps:real=1e-5, slope:real=0.2) -> y, mean, rstd",
  .doc = "act((x - mean) / sqrt(var + eps) * gain + bias) + residual, over the batch or each image.",
  .shape = norm_shape, .check = eps_ok, .ref = norm_ref, .cpu_plan = norm_plan, .grad = norm_grad, .keep_in = 7,
  .keep_out = 6, .f32 = 6, .cases = norm_cases};

static const char *const norm_gx_cases[] = {
  "gy=2,3,5,7 x=2,3,5,7 mean=7 rstd=7@pos gain=7 bias=7 act=relu", "gy=6,5 x=6,5 mean=5 rstd=5@pos",
  "gy=2,5,3,66 x=2,5,3,66 mean=2,66 rstd=2,66@pos gain=66 bias=66 over=instance act=lrelu",
  "gy=1,4,6,3 x=1,4,6,3 mean=1,3 rstd=1,3@pos over=instance", NULL};

SU_OP(norm_gx) {
  .sig = "norm_gx(gy, x, mean, rstd, gain?, bias?, over:enum(batch|instance)=batch, "
         "act:enum(none|relu|lrelu)=none, slope:real=0.2) -> gx, ggain, gbias",
  .doc = "Gradients of norm from its input and statistics.", .shape = norm_gx_shape, .ref = norm_gx_ref,
  .cpu_plan = norm_gx_plan, .grad = norm_gx_grad, .keep_in = 63, .f32 = 60,
  .cases = norm_gx_cases};

bool su_norm_gx(su_tensor *gy, su_tensor *x, su_tensor *mean, su_tensor *rstd, su_tensor *gain,
                su_tensor *bias, const int64_t *over_act, double slope, su_tensor **out) {
  su_tensor *in[SU_MAX_IN] = {gy, x, mean, rstd, gain, bias};
  return su_apply(&norm_gx_op, in, over_act, &slope, out);
}

su_tensor *su_norm(su_tensor *x, su_tensor *gain, su_tensor *bias, su_tensor *residual, su_norm_opt o,
                   su_tensor **mean, su_tensor **rstd) {
  su_tensor *in[SU_MAX_IN] = {x, gain, bias, residual}, *out[SU_MAX_OUT];
  const double r[] = {o.eps ? o.eps : 1e-5, o.slope ? o.slope : 0.2};
  if (!su_apply(&norm_op, in, (int64_t[]){o.over, o.act}, r, out)) return NULL;
  if (mean) *mean = out[1];
  if (rstd) *rstd = out[2];
  return out[0];
}
