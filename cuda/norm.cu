/* norm.cu -- batch and instance norm with activation, residual and mirrored border, and their gradients (nn/norm.c
 * has the formulas).
 *
 * x is [groups, rows, c]; a (group, channel) is a population. Rows are cut into chunks; a block of 256 threads has
 * one chunk of one group, 32 rows by 8 vectors of channels at a time. Two launches each way: sums of each chunk to
 * the workspace; then every block adds the chunks of its channels, all in the same order, and makes its chunk of
 * the result. With several groups ggain and gbias take a third, small one. Statistics are f32: deviations are
 * taken from the chunk's first row, so that a mean far larger than the spread does no harm, and chunks are
 * combined by their means and squares (Chan, Golub & LeVeque 1979). */
#include "cu.h"
#include "edge.h"
#include "vec.h"

extern "C" {
#include "../runtime/cpu/norm.h"
}

#include <limits.h>

namespace {

/* LANES: threads that add one channel's 32 rows, or its chunks. */
enum { THREADS = 256, ACROSS = 8, DOWN = 32, LANES = 4 };

struct layout {
  int groups, rows, c, chunk, chunks;   /* chunk: rows of one */
  int h, w, pad;                        /* of an image; read where pad > 0 */
};

struct stat { float *mean, *rstd; };

/* One launch's block: which rows and channels. */
template <int V> struct place {
  static constexpr int WIDE = ACROSS * V;                     /* channels of a block */
  int group, chunk, n;                                        /* n: rows of the chunk */
  int channel0, channel, row;                                 /* the block's first channel; the thread's first */
  int first;                                                  /* the chunk's first row, counted over all groups */
  bool here;                                                  /* does the thread have channels? */

  CU_DEVICE explicit place(const layout &l) {
    group = (int)blockIdx.x / l.chunks, chunk = (int)blockIdx.x % l.chunks;
    n = min(l.chunk, l.rows - chunk * l.chunk);
    first = group * l.rows + chunk * l.chunk;
    channel0 = (int)blockIdx.y * WIDE, channel = channel0 + (int)threadIdx.x % ACROSS * V;
    row = (int)threadIdx.x / ACROSS;
    here = channel < l.c;
  }
};

/* Sums a and b over the block's 32 rows of threads, in a fixed order; thread t < WIDE gets those of channel t. */
template <int V> CU_DEVICE void add_rows(const float (&a)[V], const float (&b)[V], float *ra, float *rb) {
  constexpr int WIDE = ACROSS * V;
  CU_SHARED(float, sa, DOWN * WIDE);
  CU_SHARED(float, sb, DOWN * WIDE);
  const int t = (int)threadIdx.x, at = t / ACROSS * WIDE + t % ACROSS * V;
  cu_put<V>(sa + at, a);
  cu_put<V>(sb + at, b);
  cu_sync();
  if (t < LANES * WIDE) {
    constexpr int EACH = DOWN / LANES;
    float *pa = sa + t / WIDE * EACH * WIDE + t % WIDE, *pb = sb + (pa - sa), u = 0, v = 0;
    for (int k = 0; k < EACH; k++) u += pa[k * WIDE], v += pb[k * WIDE];
    *pa = u, *pb = v;
  }
  cu_sync();
  if (t < WIDE) {
    float u = 0, v = 0;
    for (int k = 0; k < DOWN; k += DOWN / LANES) u += sa[k * WIDE + t], v += sb[k * WIDE + t];
    *ra = u, *rb = v;
  }
}

/* Adds over the LANES threads of each channel; each of them gets the sum. s: [LANES][wide], free before and after. */
CU_DEVICE float add_lanes(float v, float *s, int wide) {
  const int t = (int)threadIdx.x;
  cu_sync();
  if (t < LANES * wide) s[t] = v;
  cu_sync();
  float sum = 0;
  if (t < LANES * wide)
    for (int k = 0; k < LANES; k++) sum += s[k * wide + t % wide];
  return sum;
}

/* ---- forward ---- */

/* Mean and squared deviations of each chunk, part [2][groups, chunks, c]. */
template <int V, class T> CU_KERNEL(THREADS) norm_sums(layout l, const T *x, float *part) {
  const place<V> p(l);
  float s1[V] = {}, s2[V] = {}, shift[V], v[V], a = 0, b = 0;
  if (p.here) {
    cu_get<V>(x + (int64_t)p.first * l.c + p.channel, shift);
    for (int r = p.row; r < p.n; r += DOWN) {
      cu_get<V>(x + (int64_t)(p.first + r) * l.c + p.channel, v);
      CU_UNROLL
      for (int k = 0; k < V; k++) {
        const float d = v[k] - shift[k];
        s1[k] += d, s2[k] += d * d;
      }
    }
  }
  add_rows<V>(s1, s2, &a, &b);
  const int t = (int)threadIdx.x, channel = p.channel0 + t;
  if (t >= p.WIDE || channel >= l.c) return;
  const float mean = a / (float)p.n, square = b - a * mean;   /* about the shift; the squares about the mean */
  const int64_t at = (int64_t)blockIdx.x * l.c + channel;
  part[at] = mean + cu_float(x[(int64_t)p.first * l.c + channel]);
  part[(int64_t)l.groups * l.chunks * l.c + at] = square > 0 || square != square ? square : 0;
}

/* Adds the chunks of this block's channels: thread t < WIDE gets its channel's mean and rstd. */
template <int V>
CU_DEVICE void combine(const layout &l, const place<V> &p, const float *part, float eps, float *mean, float *rstd) {
  CU_SHARED(float, s, LANES * place<V>::WIDE);
  const int t = (int)threadIdx.x, channel = p.channel0 + t % p.WIDE;
  const bool on = t < LANES * p.WIDE && channel < l.c;
  const int64_t size = (int64_t)l.groups * l.chunks * l.c;    /* from a mean to its squares */
  const float *at = part + (int64_t)p.group * l.chunks * l.c + channel;
  const float m0 = on ? *at : 0;
  float m = 0, q = 0;
  at += (int64_t)(t / p.WIDE) * l.c;
  if (on)
    for (int left = l.rows - t / p.WIDE * l.chunk, k = 0; left > 0; left -= LANES * l.chunk, k += LANES * l.c)
      m += (float)min(l.chunk, left) * (at[k] - m0);
  m = m0 + add_lanes(m, s, p.WIDE) / (float)l.rows;
  if (on)
    for (int left = l.rows - t / p.WIDE * l.chunk, k = 0; left > 0; left -= LANES * l.chunk, k += LANES * l.c) {
      const float d = at[k] - m;
      q += at[size + k] + (float)min(l.chunk, left) * d * d;
    }
  q = add_lanes(q, s, p.WIDE);
  *mean = m, *rstd = 1.0f / sqrtf(q / (float)l.rows + eps);
}

CU_DEVICE float slope_of(int act, float slope) { return act == 0 ? 1 : act == 1 ? 0 : slope; }

/* The pixels of the padded images [n, h+2p, w+2p, c] that show pixel `row` of [n, h, w, c]. */
struct padded_pixel {
  int top, wide;                        /* the first row of the padded image, counted over all; its width */
  cu_edge_shows down, right;

  CU_DEVICE padded_pixel(const layout &l, int row)
      : top(row / l.w / l.h * (l.h + 2 * l.pad)), wide(l.w + 2 * l.pad),
        down(row / l.w % l.h, l.h, l.pad, l.pad, CU_EDGE_REFLECT), right(row % l.w, l.w, l.pad, l.pad, CU_EDGE_REFLECT) {}
  CU_DEVICE int64_t operator()(int a, int b) const { return (int64_t)(top + down.at(a)) * wide + right.at(b); }
};

template <int V, class T> CU_DEVICE void put_padded(const layout &l, T *y, int row, int channel, const float (&v)[V]) {
  const padded_pixel at(l, row);
  for (int a = 0; a < at.down.count; a++)
    for (int b = 0; b < at.right.count; b++) cu_put<V>(y + at(a, b) * l.c + channel, v);
}

struct params { const float *gain, *bias; int act; };

template <int V, bool PADDED, class T>
CU_KERNEL(THREADS)
norm_apply(layout l, const T *x, params q, const T *residual, const float *part, stat out, T *y, cu_words w) {
  const place<V> p(l);
  CU_SHARED(float, m, p.WIDE);
  CU_SHARED(float, scale, p.WIDE);
  float mean, rstd;
  combine<V>(l, p, part, w.f(0), &mean, &rstd);
  const int t = (int)threadIdx.x;
  if (t < p.WIDE && p.channel0 + t < l.c) {
    m[t] = mean, scale[t] = q.gain ? rstd * q.gain[p.channel0 + t] : rstd;
    const int64_t at = (int64_t)p.group * l.c + p.channel0 + t;
    if (p.chunk == 0) out.mean[at] = mean, out.rstd[at] = rstd;
  }
  cu_sync();
  if (!p.here) return;
  const float slope = slope_of(q.act, w.f(1));
  float bias[V] = {}, v[V], more[V];
  if (q.bias) cu_get<V>(q.bias + p.channel, bias);
  for (int r = p.row; r < p.n; r += DOWN) {
    const int64_t at = (int64_t)(p.first + r) * l.c + p.channel;
    cu_get<V>(x + at, v);
    CU_UNROLL
    for (int k = 0; k < V; k++) {
      const int s = p.channel - p.channel0 + k;
      const float u = (v[k] - m[s]) * scale[s] + bias[k];
      v[k] = u > 0 ? u : slope * u;
    }
    if (residual) {
      cu_get<V>(residual + at, more);
      CU_UNROLL
      for (int k = 0; k < V; k++) v[k] += more[k];
    }
    if (PADDED) put_padded<V>(l, y, p.first + r, p.channel, v);
    else cu_put<V>(y + at, v);
  }
}

/* ---- backward ---- */

struct saved { const float *mean, *rstd; };

/* x becomes x - mean, gy the gradient behind the activation; u as norm_apply computes it. */
template <int V>
CU_DEVICE void behind(float (&x)[V], float (&gy)[V], const float *mean, const float *scale, const float *bias, float slope) {
  CU_UNROLL
  for (int k = 0; k < V; k++) {
    x[k] -= mean[k];
    const float u = x[k] * scale[k] + bias[k];
    gy[k] = u > 0 ? gy[k] : slope * gy[k];
  }
}

/* gy of pixel `row`: where it is padded, the sum of all that show it. */
template <int V, bool PADDED, class T>
CU_DEVICE void get_gy(const layout &l, const T *gy, int row, int channel, float (&g)[V]) {
  if (!PADDED) {
    cu_get<V>(gy + (int64_t)row * l.c + channel, g);
    return;
  }
  const padded_pixel at(l, row);
  float t[V];
  for (int k = 0; k < V; k++) g[k] = 0;
  for (int a = 0; a < at.down.count; a++)
    for (int b = 0; b < at.right.count; b++) {
      cu_get<V>(gy + at(a, b) * l.c + channel, t);
      CU_UNROLL
      for (int k = 0; k < V; k++) g[k] += t[k];
    }
}

/* s1 = sum of g, s2 = sum of g (x - mean) of each chunk, part [2][groups, chunks, c]. */
template <int V, bool PADDED, class T>
CU_KERNEL(THREADS) norm_gx_sums(layout l, const T *gy, const T *x, saved s, params q, float *part, cu_words w) {
  const place<V> p(l);
  float s1[V] = {}, s2[V] = {}, a = 0, b = 0;
  if (p.here) {
    const float slope = slope_of(q.act, w.f(0));
    float mean[V], scale[V], bias[V];
    CU_UNROLL
    for (int k = 0; k < V; k++) {
      const int channel = p.channel + k;
      mean[k] = s.mean[(int64_t)p.group * l.c + channel];
      scale[k] = s.rstd[(int64_t)p.group * l.c + channel] * (q.gain ? q.gain[channel] : 1);
      bias[k] = q.bias ? q.bias[channel] : 0;
    }
    for (int r = p.row; r < p.n; r += DOWN) {
      float d[V], g[V];
      cu_get<V>(x + (int64_t)(p.first + r) * l.c + p.channel, d);
      get_gy<V, PADDED>(l, gy, p.first + r, p.channel, g);
      behind<V>(d, g, mean, scale, bias, slope);
      CU_UNROLL
      for (int k = 0; k < V; k++) s1[k] += g[k], s2[k] += g[k] * d[k];
    }
  }
  add_rows<V>(s1, s2, &a, &b);
  const int t = (int)threadIdx.x, channel = p.channel0 + t;
  if (t >= p.WIDE || channel >= l.c) return;
  const int64_t at = (int64_t)blockIdx.x * l.c + channel;
  part[at] = a;
  part[(int64_t)l.groups * l.chunks * l.c + at] = b;
}

struct gradients { float *ggain, *gbias; };   /* [groups, c]: the op's outputs where there is one group, else workspace */

template <int V, bool PADDED, class T>
CU_KERNEL(THREADS) norm_gx_apply(layout l, const T *gy, const T *x, saved s, params q, const float *part, gradients out,
                                 T *gx, cu_words w) {
  const place<V> p(l);
  CU_SHARED(float, lanes, LANES * place<V>::WIDE);
  CU_SHARED(float, own, 5 * place<V>::WIDE);                  /* of the block's channels: mean, scale, bias, k1, k2 */
  const int t = (int)threadIdx.x, channel = p.channel0 + t % p.WIDE;
  const bool on = t < LANES * p.WIDE && channel < l.c;
  const float *p1 = part + (int64_t)p.group * l.chunks * l.c + channel, *p2 = p1 + (int64_t)l.groups * l.chunks * l.c;
  float s1 = 0, s2 = 0;
  if (on)
    for (int k = t / p.WIDE; k < l.chunks; k += LANES) s1 += p1[(int64_t)k * l.c], s2 += p2[(int64_t)k * l.c];
  s1 = add_lanes(s1, lanes, p.WIDE);
  s2 = add_lanes(s2, lanes, p.WIDE);
  if (on && t < p.WIDE) {
    const int64_t at = (int64_t)p.group * l.c + channel;
    const float rstd = s.rstd[at];
    own[t] = s.mean[at];
    own[p.WIDE + t] = rstd * (q.gain ? q.gain[channel] : 1);
    own[2 * p.WIDE + t] = q.bias ? q.bias[channel] : 0;
    own[3 * p.WIDE + t] = s1 / (float)l.rows;
    own[4 * p.WIDE + t] = s2 * rstd / (float)l.rows * rstd;
    if (p.chunk == 0) out.gbias[at] = s1, out.ggain[at] = s2 * rstd;
  }
  cu_sync();
  if (!p.here) return;
  const float *mean = own + p.channel - p.channel0, *scale = mean + p.WIDE, *bias = scale + p.WIDE, *k1 = bias + p.WIDE;
  const float slope = slope_of(q.act, w.f(0));
  for (int r = p.row; r < p.n; r += DOWN) {
    const int64_t at = (int64_t)(p.first + r) * l.c + p.channel;
    float d[V], g[V];
    cu_get<V>(x + at, d);
    get_gy<V, PADDED>(l, gy, p.first + r, p.channel, g);
    behind<V>(d, g, mean, scale, bias, slope);
    CU_UNROLL
    for (int k = 0; k < V; k++) g[k] = scale[k] * (g[k] - k1[k] - d[k] * k1[p.WIDE + k]);
    cu_put<V>(gx + at, g);
  }
}

CU_KERNEL(THREADS) norm_add_groups(int groups, int c, gradients of, float *ggain, float *gbias) {
  const int k = (int)(blockIdx.x * THREADS + threadIdx.x);
  if (k >= c) return;
  float a = 0, b = 0;
  for (int g = 0; g < groups; g++) a += of.ggain[(int64_t)g * c + k], b += of.gbias[(int64_t)g * c + k];
  ggain[k] = a, gbias[k] = b;
}

/* ---- host ---- */

/* About 512 blocks of 64 channels, each of at least 64 rows; from the shape alone. */
layout layout_of(const su_spec *x, const su_call *call) {
  const int64_t c = x->shape[x->ndim - 1], groups = call->i[SU_NORM_OVER] ? x->shape[0] : 1;
  const int64_t rows = su_spec_size(x) / (groups * c);
  const int64_t most = rows < 64 * 256 ? (rows + 63) / 64 : 256;
  int64_t chunks = 512 / (groups * ((c + 63) / 64));
  chunks = chunks > most ? most : chunks < 1 ? 1 : chunks;
  const int64_t chunk = (rows + chunks - 1) / chunks;
  layout l = {(int)groups, (int)rows, (int)c, (int)chunk, (int)((rows + chunk - 1) / chunk), 0, 0, 0};
  l.pad = (int)call->i[SU_NORM_PAD];
  if (x->ndim == 4) l.h = (int)x->shape[1], l.w = (int)x->shape[2];
  return l;
}

size_t part_size(const layout &l) { return (size_t)l.groups * (size_t)l.chunks * (size_t)l.c; }

dim3 grid_of(const layout &l, int wide) {
  return dim3((unsigned)(l.groups * l.chunks), (unsigned)((l.c + wide - 1) / wide));
}

template <int V, bool PADDED, class T>
void run_norm(const layout &l, void *const *in, void *const *out, params q, float *part, cu_words w) {
  const T *x = (const T *)in[0], *residual = (const T *)in[3];
  const dim3 grid = grid_of(l, place<V>::WIDE);
  const stat s = {(float *)out[1], (float *)out[2]};
  cu_launch("norm_sums", norm_sums<V, T>, grid, THREADS, l, x, part);
  cu_launch("norm", norm_apply<V, PADDED, T>, grid, THREADS, l, x, q, residual, part, s, (T *)out[0], w);
}

template <int V, bool PADDED, class T>
void run_norm_gx(const layout &l, void *const *in, void *const *out, params q, float *part, cu_words w) {
  const T *gy = (const T *)in[0], *x = (const T *)in[1];
  const dim3 grid = grid_of(l, place<V>::WIDE);
  const saved s = {(const float *)in[2], (const float *)in[3]};
  float *more = part + 2 * part_size(l), *ggain = (float *)out[1], *gbias = (float *)out[2];
  gradients g = {ggain, gbias};
  if (l.groups > 1) g = {more, more + (size_t)l.groups * (size_t)l.c};
  cu_launch("norm_gx_sums", norm_gx_sums<V, PADDED, T>, grid, THREADS, l, gy, x, s, q, part, w);
  cu_launch("norm_gx", norm_gx_apply<V, PADDED, T>, grid, THREADS, l, gy, x, s, q, part, g, (T *)out[0], w);
  if (l.groups > 1)
    cu_launch("norm_gx", norm_add_groups, cu_blocks(l.c, THREADS), THREADS, l.groups, l.c, g, ggain, gbias);
}

/* The kernels for a dtype, the width that addresses allow, and a border or none. */
template <class T> struct variants {
  static constexpr int W = 16 / sizeof(T);
  static void norm(const layout &l, bool wide, void *const *in, void *const *out, params q, float *part, cu_words w) {
    auto thin = l.pad ? run_norm<1, true, T> : run_norm<1, false, T>;
    (wide ? l.pad ? run_norm<W, true, T> : run_norm<W, false, T> : thin)(l, in, out, q, part, w);
  }
  static void norm_gx(const layout &l, bool wide, void *const *in, void *const *out, params q, float *part, cu_words w) {
    auto thin = l.pad ? run_norm_gx<1, true, T> : run_norm_gx<1, false, T>;
    (wide ? l.pad ? run_norm_gx<W, true, T> : run_norm_gx<W, false, T> : thin)(l, in, out, q, part, w);
  }
};

bool aligned(const void *a, const void *b, const void *c, const void *d) {
  return (((uintptr_t)a | (uintptr_t)b | (uintptr_t)c | (uintptr_t)d) & 15) == 0;
}

void exec(const su_plan *p, void *const *in, void *const *out, const double *r, void *ws) {
  const su_call *c = &p->call;
  const layout l = layout_of(&c->in[0], c);
  const params q = {(const float *)in[1], (const float *)in[2], (int)c->i[SU_NORM_ACT]};
  const cu_words w = cu_reals(p, r);
  const bool bf = c->in[0].dtype == SU_BF16, wide = l.c % (bf ? 8 : 4) == 0 && aligned(in[0], in[2], in[3], out[0]);
  if (bf) variants<bf16>::norm(l, wide, in, out, q, (float *)ws, w);
  else variants<float>::norm(l, wide, in, out, q, (float *)ws, w);
}

void exec_gx(const su_plan *p, void *const *in, void *const *out, const double *r, void *ws) {
  const su_call *c = &p->call;
  const layout l = layout_of(&c->in[1], c);
  const params q = {(const float *)in[4], (const float *)in[5], (int)c->i[SU_NORM_ACT]};
  const cu_words w = cu_reals(p, r);
  const bool bf = c->in[1].dtype == SU_BF16, wide = l.c % (bf ? 8 : 4) == 0 && aligned(in[0], in[1], out[0], nullptr);
  if (bf) variants<bf16>::norm_gx(l, wide, in, out, q, (float *)ws, w);
  else variants<float>::norm_gx(l, wide, in, out, q, (float *)ws, w);
}

/* Limits of a launch: chunks are blocks in x, channels in y. */
bool fits(const su_plan *p, const su_spec *x, const su_spec *y) {
  const int64_t c = x->shape[x->ndim - 1];
  if (su_spec_size(y) / c <= INT_MAX / 2 && c <= ACROSS * 65535) return true;
  return su_fail("%s: %s is more than this device counts: 2^30 pixels, %d channels", p->call.op->name, su_shape_text(y),
                 ACROSS * 65535);
}

bool plan(su_plan *p) {
  const su_spec *x = &p->call.in[0];
  if (!fits(p, x, &p->call.out[0])) return false;
  p->exec = exec;
  p->workspace = 2 * part_size(layout_of(x, &p->call)) * sizeof(float);
  return true;
}

bool plan_gx(su_plan *p) {
  const su_spec *x = &p->call.in[1];
  if (!fits(p, x, &p->call.in[0])) return false;
  const layout l = layout_of(x, &p->call);
  p->exec = exec_gx;
  p->workspace = 2 * (part_size(l) + (size_t)l.groups * (size_t)l.c) * sizeof(float);
  return true;
}

CU_OP("norm", plan, nullptr)
CU_OP("norm_gx", plan_gx, nullptr)

}  // namespace
