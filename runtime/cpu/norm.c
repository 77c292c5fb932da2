/* norm.c -- batch and instance norm on the CPU; the formulas are in nn/norm.c. */
#include "norm.h"

#include "bf16.h"

#include <math.h>
#include <string.h>

/* Channels summed side by side; elements of a chunk, 64 KiB, so that its second reading is from cache. */
enum { BLOCK = 64, CHUNK = 16384 };

su_norm_layout su_norm_layout_of(const su_spec *x, int64_t over) {
  su_norm_layout l = {.groups = over ? x->shape[0] : 1, .c = x->shape[x->ndim - 1]};
  l.rows = su_spec_size(x) / (l.groups * l.c);
  l.chunk = CHUNK / l.c < 8 ? 8 : CHUNK / l.c / 4 * 4;
  if (l.chunk > l.rows) l.chunk = l.rows;
  l.chunks = (l.rows + l.chunk - 1) / l.chunk;
  return l;
}

double su_norm_slope(int64_t act, double slope) { return act == 0 ? 1 : act == 1 ? 0 : slope; }

/* ---- the mirrored border ---- */

su_norm_frame su_norm_frame_of(const su_call *c, const su_spec *x) {
  if (c->i[SU_NORM_PAD] == 0) return (su_norm_frame){.pad = 0};
  return (su_norm_frame){x->shape[1], x->shape[2], x->shape[3], c->i[SU_NORM_PAD]};
}

/* The positions of the padded axis that show pixel i of n; how many they are. */
static int shown_at(int64_t i, int64_t n, int64_t pad, int64_t *at) {
  int m = 0;
  at[m++] = pad + i;
  if (i > 0 && i <= pad) at[m++] = pad - i;
  if (i < n - 1 && n - 1 - i <= pad) at[m++] = pad + 2 * (n - 1) - i;
  return m;
}

int su_norm_places(const su_norm_frame *f, int64_t k, int64_t *at) {
  if (f->pad == 0) {
    at[0] = k;
    return 1;
  }
  const int64_t pixel = k / f->c, oh = f->h + 2 * f->pad, ow = f->w + 2 * f->pad;
  int64_t a[3], b[3];
  const int down = shown_at(pixel / f->w % f->h, f->h, f->pad, a), right = shown_at(pixel % f->w, f->w, f->pad, b);
  int m = 0;
  for (int i = 0; i < down; i++)
    for (int j = 0; j < right; j++)
      at[m++] = ((pixel / f->w / f->h * oh + a[i]) * ow + b[j]) * f->c + k % f->c;
  return m;
}

/* ---- CPU: three passes: sums of each chunk, their combination, the result ----
 * A chunk's rows are summed in floats, chunks are combined in doubles, always in order.
 *
 * Activations are f32 or bf16: the loops are written once, over `at` and `put`, and compiled for both. */

typedef struct job {
  su_norm_layout l;
  const void *x, *gy, *residual;       /* [groups,rows,c], f32 or bf16 */
  bool bf16;
  const float *gain, *bias;            /* [c]; bias points at zeros when there is none */
  const float *mean, *rstd;            /* [groups,c] */
  void *y;
  float *mean_out, *rstd_out;
  float *p1, *p2;                      /* [groups,chunks,c]: a chunk's mean and squares, or s1 and s2 */
  float *scale, *k1, *k2;              /* [groups,c]: rstd * gain; the means that gx subtracts */
  float *ggain, *gbias;                /* [c] */
  double eps;
  float slope;
} job;

/* Workspace in floats: p1, p2, scale, k1, k2, zeros. */
static size_t carve(job *j, float *ws) {
  const su_norm_layout *l = &j->l;
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

static chunk chunk_at(const su_norm_layout *l, int64_t k) {
  const int64_t g = k / l->chunks, first = k % l->chunks * l->chunk;
  const int64_t left = l->rows - first;
  return (chunk){left < l->chunk ? left : l->chunk, (g * l->rows + first) * l->c, g * l->c, k * l->c};
}

#define INLINE static inline __attribute__((always_inline))

INLINE float at(const void *x, int64_t k, const bool bf16) {
  return bf16 ? su_from_bf16(((const uint16_t *)x)[k]) : ((const float *)x)[k];
}

INLINE void put(void *y, int64_t k, float v, const bool bf16) {
  if (bf16) ((uint16_t *)y)[k] = su_to_bf16(v);
  else ((float *)y)[k] = v;
}

/* fn over both dtypes; `bf16` is a constant in each. */
#define BY_DTYPE(j, ...)                   \
  do {                                     \
    if ((j)->bf16) {                       \
      enum { bf16 = 1 };                   \
      __VA_ARGS__;                         \
    } else {                               \
      enum { bf16 = 0 };                   \
      __VA_ARGS__;                         \
    }                                      \
  } while (0)

/* Mean and sum of squared deviations of b <= BLOCK channels over n rows. The deviations are taken from
 * the rounded mean, and their own sum corrects what that rounding did, so that a mean far larger than the
 * spread does no harm. */
INLINE void block_stats(const void *restrict x, int64_t first, int64_t n, int64_t c, int64_t b,
                        float *restrict mean, float *restrict square, const bool bf16) {
  float m[BLOCK] = {0}, d1[BLOCK] = {0}, d2[BLOCK] = {0};
  int64_t k = 0;
#define X(row, j) at(x, first + (row) * c + (j), bf16)
  for (; k + 4 <= n; k += 4)
    for (int64_t j = 0; j < b; j++) m[j] += (X(k, j) + X(k + 1, j)) + (X(k + 2, j) + X(k + 3, j));
  for (; k < n; k++)
    for (int64_t j = 0; j < b; j++) m[j] += X(k, j);
  const float per = 1.0f / (float)n;
  for (int64_t j = 0; j < b; j++) m[j] *= per;
  for (k = 0; k + 2 <= n; k += 2)
    for (int64_t j = 0; j < b; j++) {
      const float u = X(k, j) - m[j], v = X(k + 1, j) - m[j];
      d1[j] += u + v;
      d2[j] += u * u + v * v;
    }
  for (; k < n; k++)
    for (int64_t j = 0; j < b; j++) {
      const float u = X(k, j) - m[j];
      d1[j] += u;
      d2[j] += u * u;
    }
#undef X
  for (int64_t j = 0; j < b; j++) {
    mean[j] = m[j] + d1[j] * per;
    square[j] = d2[j] - d1[j] * d1[j] * per;
  }
}

INLINE void chunk_stats(const job *j, int64_t k, const bool bf16) {
  const chunk q = chunk_at(&j->l, k);
  float *p1 = j->p1 + q.part, *p2 = j->p2 + q.part;
  int64_t b = 0, c = j->l.c;
  for (; b + BLOCK <= c; b += BLOCK) block_stats(j->x, q.at + b, q.n, c, BLOCK, p1 + b, p2 + b, bf16);
  if (b < c) block_stats(j->x, q.at + b, q.n, c, c - b, p1 + b, p2 + b, bf16);
}

SU_CLONES static void stats_range(void *arg, int64_t first, int64_t last) {
  const job *j = arg;
  BY_DTYPE(j, for (int64_t k = first; k < last; k++) chunk_stats(j, k, bf16));
}

/* Squares about the whole mean = those about each chunk's, plus n * (difference)^2.
 * (Chan, Golub & LeVeque 1979) */
SU_CLONES static void stats_combine(void *arg, int64_t first, int64_t last) {
  const job *j = arg;
  const su_norm_layout *l = &j->l;
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

INLINE void apply_chunk(const job *j, int64_t k, const void *restrict residual, float slope, const bool bf16) {
  const chunk q = chunk_at(&j->l, k);
  const int64_t c = j->l.c;
  const void *restrict x = j->x;
  void *restrict y = j->y;
  const float *restrict mean = j->mean + q.stat, *restrict scale = j->scale + q.stat, *restrict bias = j->bias;
  for (int64_t r = q.at; r < q.at + q.n * c; r += c)
    for (int64_t i = 0; i < c; i++) {
      const float u = (at(x, r + i, bf16) - mean[i]) * scale[i] + bias[i];
      put(y, r + i, residual ? u + at(residual, r + i, bf16) : u * (u > 0 ? 1.0f : slope), bf16);
    }
}

INLINE void apply_chunks(const job *j, int64_t first, int64_t last, const bool bf16) {
  if (j->residual)
    for (int64_t k = first; k < last; k++) apply_chunk(j, k, j->residual, 1, bf16);
  else if (j->slope == 1)
    for (int64_t k = first; k < last; k++) apply_chunk(j, k, NULL, 1, bf16);
  else
    for (int64_t k = first; k < last; k++) apply_chunk(j, k, NULL, j->slope, bf16);
}

SU_CLONES static void apply_range(void *arg, int64_t first, int64_t last) {
  const job *j = arg;
  BY_DTYPE(j, apply_chunks(j, first, last, bf16));
}

static void norm_cpu(const su_plan *p, void *const *in, void *const *out, const double *r, void *ws) {
  job j = {.l = su_norm_layout_of(&p->call.in[0], p->call.i[0]), .x = in[0], .gain = in[1], .bias = in[2],
           .residual = in[3], .y = out[0], .mean = out[1], .mean_out = out[1], .rstd_out = out[2],
           .eps = r[0], .slope = (float)su_norm_slope(p->call.i[1], r[1]),
           .bf16 = p->call.in[0].dtype == SU_BF16};
  carve(&j, ws);
  over_chunks(&j, stats_range);
  over_blocks(&j, stats_combine);
  over_chunks(&j, apply_range);
}

static bool norm_unpadded_plan(su_plan *p) {
  job j = {.l = su_norm_layout_of(&p->call.in[0], p->call.i[0])};
  p->workspace = carve(&j, NULL) * sizeof(float);
  p->exec = norm_cpu;
  return true;
}

/* ---- CPU with a border: as without one, on a copy in front of the workspace. In f32: bf16 is widened around it ---- */

typedef struct border { su_norm_frame f; float *inner, *padded; } border;

static void show_pixels(void *arg, int64_t first, int64_t last) {
  const border *b = arg;
  int64_t at[SU_NORM_PLACES];
  for (int64_t k = first * b->f.c; k < last * b->f.c; k += b->f.c)
    for (int i = su_norm_places(&b->f, k, at) - 1; i >= 0; i--)
      memcpy(b->padded + at[i], b->inner + k, (size_t)b->f.c * sizeof(float));
}

static void fold_pixels(void *arg, int64_t first, int64_t last) {
  const border *b = arg;
  int64_t at[SU_NORM_PLACES];
  for (int64_t k = first * b->f.c; k < last * b->f.c; k += b->f.c) {
    const int n = su_norm_places(&b->f, k, at);
    for (int64_t c = 0; c < b->f.c; c++) {
      float sum = b->padded[at[0] + c];
      for (int i = 1; i < n; i++) sum += b->padded[at[i] + c];
      b->inner[k + c] = sum;
    }
  }
}

/* Bytes of the copy of x. */
static size_t copy_size(const su_spec *x) { return ((size_t)su_spec_size(x) * sizeof(float) + 63) / 64 * 64; }

static void norm_padded_cpu(const su_plan *p, void *const *in, void *const *out, const double *r, void *ws) {
  const su_spec *x = &p->call.in[0];
  border b = {su_norm_frame_of(&p->call, x), ws, out[0]};
  norm_cpu(p, in, (void *[]){ws, out[1], out[2]}, r, (char *)ws + copy_size(x));
  su_parallel(su_spec_size(x) / b.f.c, 64, show_pixels, &b);
}

static bool padded_plan(su_plan *p, bool (*unpadded)(su_plan *p), su_exec *exec, int x) {
  if (!unpadded(p)) return false;
  p->workspace += copy_size(&p->call.in[x]);
  p->exec = exec;
  return true;
}

static bool norm_f32_plan(su_plan *p) { return padded_plan(p, norm_unpadded_plan, norm_padded_cpu, 0); }

bool su_norm_plan(su_plan *p) {
  if (p->call.i[SU_NORM_PAD] == 0) return norm_unpadded_plan(p);
  return p->call.in[0].dtype == SU_BF16 ? su_bf16_wrap_plan(p, norm_f32_plan) : norm_f32_plan(p);
}

/* ---- CPU, backward ---- */

/* The gradient behind the activation; u is computed as in apply_chunk. */
INLINE float behind(float gy, float d, float scale, float bias, float slope) {
  return slope == 1 ? gy : gy * (d * scale + bias > 0 ? 1.0f : slope);
}

/* s1 = sum of g, s2 = sum of g * (x - mean), for b <= BLOCK channels over n rows. */
INLINE void block_sums(const void *restrict gy, const void *restrict x, int64_t first,
                       const float *restrict mean, const float *restrict scale, const float *restrict bias,
                       int64_t n, int64_t c, int64_t b, float slope, float *restrict s1, float *restrict s2,
                       const bool bf16) {
  float a1[BLOCK] = {0}, a2[BLOCK] = {0};
  int64_t k = 0, r = first;
  for (; k + 2 <= n; k += 2, r += 2 * c)
    for (int64_t j = 0; j < b; j++) {
      const float d = at(x, r + j, bf16) - mean[j], e = at(x, r + c + j, bf16) - mean[j];
      const float g = behind(at(gy, r + j, bf16), d, scale[j], bias[j], slope);
      const float h = behind(at(gy, r + c + j, bf16), e, scale[j], bias[j], slope);
      a1[j] += g + h;
      a2[j] += g * d + h * e;
    }
  for (; k < n; k++, r += c)
    for (int64_t j = 0; j < b; j++) {
      const float d = at(x, r + j, bf16) - mean[j];
      const float g = behind(at(gy, r + j, bf16), d, scale[j], bias[j], slope);
      a1[j] += g;
      a2[j] += g * d;
    }
  for (int64_t j = 0; j < b; j++) {
    s1[j] = a1[j];
    s2[j] = a2[j];
  }
}

INLINE void chunk_sums(const job *j, int64_t k, float slope, const bool bf16) {
  const chunk q = chunk_at(&j->l, k);
  const float *mean = j->mean + q.stat, *scale = j->scale + q.stat;
  float *p1 = j->p1 + q.part, *p2 = j->p2 + q.part;
  const int64_t c = j->l.c;
  int64_t b = 0;
  for (; b + BLOCK <= c; b += BLOCK)
    block_sums(j->gy, j->x, q.at + b, mean + b, scale + b, j->bias + b, q.n, c, BLOCK, slope, p1 + b, p2 + b, bf16);
  if (b < c)
    block_sums(j->gy, j->x, q.at + b, mean + b, scale + b, j->bias + b, q.n, c, c - b, slope, p1 + b, p2 + b, bf16);
}

INLINE void sum_chunks(const job *j, int64_t first, int64_t last, const bool bf16) {
  if (j->slope == 1)
    for (int64_t k = first; k < last; k++) chunk_sums(j, k, 1, bf16);
  else
    for (int64_t k = first; k < last; k++) chunk_sums(j, k, j->slope, bf16);
}

SU_CLONES static void sums_range(void *arg, int64_t first, int64_t last) {
  const job *j = arg;
  BY_DTYPE(j, sum_chunks(j, first, last, bf16));
}

SU_CLONES static void sums_combine(void *arg, int64_t first, int64_t last) {
  const job *j = arg;
  const su_norm_layout *l = &j->l;
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

INLINE void chunk_gx(const job *j, int64_t k, float slope, const bool bf16) {
  const chunk q = chunk_at(&j->l, k);
  const int64_t c = j->l.c;
  const void *restrict gy = j->gy, *restrict x = j->x;
  const float *restrict mean = j->mean + q.stat, *restrict scale = j->scale + q.stat, *restrict bias = j->bias;
  const float *restrict k1 = j->k1 + q.stat, *restrict k2 = j->k2 + q.stat;
  void *restrict gx = j->y;
  for (int64_t r = q.at; r < q.at + q.n * c; r += c)
    for (int64_t i = 0; i < c; i++) {
      const float d = at(x, r + i, bf16) - mean[i];
      const float g = behind(at(gy, r + i, bf16), d, scale[i], bias[i], slope);
      put(gx, r + i, scale[i] * (g - k1[i] - d * k2[i]), bf16);
    }
}

INLINE void gx_chunks(const job *j, int64_t first, int64_t last, const bool bf16) {
  if (j->slope == 1)
    for (int64_t k = first; k < last; k++) chunk_gx(j, k, 1, bf16);
  else
    for (int64_t k = first; k < last; k++) chunk_gx(j, k, j->slope, bf16);
}

SU_CLONES static void gx_range(void *arg, int64_t first, int64_t last) {
  const job *j = arg;
  BY_DTYPE(j, gx_chunks(j, first, last, bf16));
}

static void norm_gx_cpu(const su_plan *p, void *const *in, void *const *out, const double *r, void *ws) {
  job j = {.l = su_norm_layout_of(&p->call.in[1], p->call.i[0]), .gy = in[0], .x = in[1], .mean = in[2], .rstd = in[3],
           .gain = in[4], .bias = in[5], .y = out[0], .ggain = out[1], .gbias = out[2],
           .slope = (float)su_norm_slope(p->call.i[1], r[0]), .bf16 = p->call.in[1].dtype == SU_BF16};
  carve(&j, ws);
  for (int64_t k = 0; k < j.l.groups * j.l.c; k++) j.scale[k] = j.rstd[k] * (j.gain ? j.gain[k % j.l.c] : 1);
  over_chunks(&j, sums_range);
  over_blocks(&j, sums_combine);
  over_chunks(&j, gx_range);
}

static bool norm_gx_unpadded_plan(su_plan *p) {
  job j = {.l = su_norm_layout_of(&p->call.in[1], p->call.i[0])};
  p->workspace = carve(&j, NULL) * sizeof(float);
  p->exec = norm_gx_cpu;
  return true;
}

static void norm_gx_padded_cpu(const su_plan *p, void *const *in, void *const *out, const double *r, void *ws) {
  const su_spec *x = &p->call.in[1];
  border b = {su_norm_frame_of(&p->call, x), ws, in[0]};
  su_parallel(su_spec_size(x) / b.f.c, 64, fold_pixels, &b);
  norm_gx_cpu(p, (void *[]){ws, in[1], in[2], in[3], in[4], in[5]}, out, r, (char *)ws + copy_size(x));
}

static bool norm_gx_f32_plan(su_plan *p) { return padded_plan(p, norm_gx_unpadded_plan, norm_gx_padded_cpu, 1); }

bool su_norm_gx_plan(su_plan *p) {
  if (p->call.i[SU_NORM_PAD] == 0) return norm_gx_unpadded_plan(p);
  return p->call.in[1].dtype == SU_BF16 ? su_bf16_wrap_plan(p, norm_gx_f32_plan) : norm_gx_f32_plan(p);
}
