/* conv.cu -- convolution and its two adjoints (nn/conv.c has the formulas): cuDNN where it is there and has a plan
 * (dnn.h), else the kernels here, which serve every geometry. Without groups they are products in tiles (tile.h)
 * whose operands are read through the taps, nothing is copied:
 *   y  [pixels of y, co]       = x seen through the taps  times w          k = (tap, ci)
 *   gx [pixels of x, ci]       = gy gathered              times w          k = (tap, co)
 *   gw [co, (tap, ci)]         = gy transposed            times x seen through the taps, k = pixels of y
 * A stride leaves most taps of a pixel of gx without a gy; pixels of one phase (i mod sh, j mod sw) meet the same
 * taps, so every phase is a product of its own over those alone. With groups (or more phases than MAX_PHASES)
 * plain loops. A mirrored edge: x is read mirrored; gx is made for the padded image, then folded (conv_edge.h). */
#include "conv_edge.h"
#include "edge.h"
#include "tile.h"

extern "C" {
#include "../nn/conv.h"
}

/* SUMI_PLAYED: a test plays NVIDIA's libraries in the emulator (tests/cudnn). */
#if !defined SUMI_EMU || defined SUMI_PLAYED
#define BY_CUDNN
#include "dnn.h"
#endif

#include <limits.h>

namespace {

enum { MAX_PHASES = 16 };

/* su_conv_geo in 32 bits, for kernels. */
struct geo {
  int n, h, w, ci, co, kh, kw, oh, ow, sh, sw, pt, pl, dh, dw, groups, edge, act;
  float slope;
};

/* ---- operands of tiles ---- */

/* x through the taps, rows: pixels of y, k: (tap, ci). */
template <class T> struct taps_of_x {
  static constexpr bool ALONG_K = true;
  const T *x;
  geo g;
  struct cursor { int k, k1; };

  CU_DEVICE void rows(tile_row *r, int m) const {
    const int b = m % g.ow, a = m / g.ow % g.oh, n = m / g.ow / g.oh;
    *r = {n < g.n ? n * g.h : -1, a * g.sh - g.pt, b * g.sw - g.pl};
  }
  CU_DEVICE cursor begin(const tile_row *, int, int k0, int k1) const { return {k0 + (int)threadIdx.x % TILE_K, k1}; }
  CU_DEVICE void load(cursor &c, const tile_row *r, float (&v)[8]) const {
    const int tap = c.k / g.ci, channel = c.k % g.ci, down = tap / g.kw * g.dh, right = tap % g.kw * g.dw;
    CU_UNROLL
    for (int i = 0; i < 8; i++) {
      const tile_row q = r[threadIdx.x / TILE_K + 8u * (unsigned)i];
      const int a = cu_edge_source(q.h + down, g.h, g.edge), b = cu_edge_source(q.w + right, g.w, g.edge);
      const bool there = c.k < c.k1 && q.at >= 0 && a >= 0 && b >= 0;
      v[i] = there ? cu_float(x[(int64_t)((q.at + a) * g.w + b) * g.ci + channel]) : 0;
    }
    c.k += TILE_K;
  }
};

/* The taps along one axis that pixels of one phase meet: first + step * t, t < count; y's position for tap t is
 * origin + a - t * apart for the a-th pixel of the phase. */
struct phase { int at, pixels, first, step, count, origin, apart; };

/* gy gathered, rows: pixels of x of one phase, k: (taps of the phase, co). */
template <class T> struct gathered_gy {
  static constexpr bool ALONG_K = true;
  const T *gy;
  geo g;
  phase down, right;
  struct cursor { int k, k1; };

  CU_DEVICE void rows(tile_row *r, int m) const {
    const int b = m % right.pixels, a = m / right.pixels % down.pixels, n = m / right.pixels / down.pixels;
    *r = {n < g.n ? n * g.oh : -1, down.origin + a, right.origin + b};
  }
  CU_DEVICE cursor begin(const tile_row *, int, int k0, int k1) const { return {k0 + (int)threadIdx.x % TILE_K, k1}; }
  CU_DEVICE void load(cursor &c, const tile_row *r, float (&v)[8]) const {
    const int tap = c.k / g.co, channel = c.k % g.co;
    const int up = tap / right.count * down.apart, left = tap % right.count * right.apart;
    CU_UNROLL
    for (int i = 0; i < 8; i++) {
      const tile_row q = r[threadIdx.x / TILE_K + 8u * (unsigned)i];
      const int a = q.h - up, b = q.w - left;
      const bool there = c.k < c.k1 && q.at >= 0 && a >= 0 && a < g.oh && b >= 0 && b < g.ow;
      v[i] = there ? cu_float(gy[(int64_t)((q.at + a) * g.ow + b) * g.co + channel]) : 0;
    }
    c.k += TILE_K;
  }
};

/* The weight for gx, rows: ci, k: (taps of the phase, co). */
template <class T> struct weight_of_phase {
  static constexpr bool ALONG_K = false;
  const T *w;
  geo g;
  phase down, right;
  struct cursor { int row, k, k1, co, a, b; };   /* the next k is tap (a, b), channel co */

  CU_DEVICE void rows(tile_row *, int) const {}
  CU_DEVICE cursor begin(const tile_row *, int row0, int k0, int k1) const {
    const int k = k0 + (int)threadIdx.x / TILE, row = row0 + (int)threadIdx.x % TILE;
    if (k >= k1) return {row, k, k1, 0, 0, 0};                /* a phase that meets no tap has no counts to divide by */
    const int tap = k / g.co;
    return {row, k, k1, k % g.co, tap / right.count, tap % right.count};
  }
  CU_DEVICE void load(cursor &c, const tile_row *, float (&v)[8]) const {
    CU_UNROLL
    for (int i = 0; i < 8; i++) {
      const int kh = down.first + c.a * down.step, kw = right.first + c.b * right.step;
      const bool there = c.k < c.k1 && c.row < g.ci;
      v[i] = there ? cu_float(w[((int64_t)(c.co * g.kh + kh) * g.kw + kw) * g.ci + c.row]) : 0;
      c.k += 2;
      for (c.co += 2; c.co >= g.co; c.co -= g.co)
        if (++c.b == right.count) c.b = 0, c.a++;
    }
  }
};

/* x through the taps, rows: (tap, ci), k: pixels of y. */
template <class T> struct pixels_of_x {
  static constexpr bool ALONG_K = false;
  const T *x;
  geo g;
  struct cursor { int k, k1, n, a, b, down, right, channel; };   /* the next k is pixel (a, b) of image n */

  CU_DEVICE void rows(tile_row *, int) const {}
  CU_DEVICE cursor begin(const tile_row *, int row0, int k0, int k1) const {
    const int k = k0 + (int)threadIdx.x / TILE, row = row0 + (int)threadIdx.x % TILE, tap = row / g.ci;
    const int channel = tap < g.kh * g.kw ? row % g.ci : -1;
    const int down = tap / g.kw * g.dh - g.pt, right = tap % g.kw * g.dw - g.pl;
    return {k, k1, k / g.ow / g.oh, k / g.ow % g.oh, k % g.ow, down, right, channel};
  }
  CU_DEVICE void load(cursor &c, const tile_row *, float (&v)[8]) const {
    CU_UNROLL
    for (int i = 0; i < 8; i++) {
      const int a = cu_edge_source(c.a * g.sh + c.down, g.h, g.edge);
      const int b = cu_edge_source(c.b * g.sw + c.right, g.w, g.edge);
      const bool there = c.k < c.k1 && c.channel >= 0 && a >= 0 && b >= 0;
      v[i] = there ? cu_float(x[(int64_t)((c.n * g.h + a) * g.w + b) * g.ci + c.channel]) : 0;
      c.k += 2;
      for (c.b += 2; c.b >= g.ow; c.b -= g.ow)
        if (++c.a == g.oh) c.a = 0, c.n++;
    }
  }
};

/* ---- plain loops: one thread per number of y and gx, one block per number of gw ---- */

template <class T> CU_KERNEL(256) plain_y(geo g, const T *x, const T *w, const float *bias, T *y) {
  const int64_t size = (int64_t)g.n * g.oh * g.ow * g.co, step = (int64_t)gridDim.x * 256;
  const int cig = g.ci / g.groups, cog = g.co / g.groups;
  for (int64_t k = (int64_t)blockIdx.x * 256 + threadIdx.x; k < size; k += step) {
    const int co = (int)(k % g.co), pixel = (int)(k / g.co);
    const int b = pixel % g.ow, a = pixel / g.ow % g.oh, n = pixel / g.ow / g.oh;
    float sum = bias ? bias[co] : 0;
    for (int kh = 0; kh < g.kh; kh++)
      for (int kw = 0; kw < g.kw; kw++) {
        const int i = cu_edge_source(a * g.sh - g.pt + kh * g.dh, g.h, g.edge);
        const int j = cu_edge_source(b * g.sw - g.pl + kw * g.dw, g.w, g.edge);
        if (i < 0 || j < 0) continue;
        const T *px = x + (int64_t)((n * g.h + i) * g.w + j) * g.ci + co / cog * cig;
        const T *pw = w + (int64_t)((co * g.kh + kh) * g.kw + kw) * cig;
        for (int ci = 0; ci < cig; ci++) sum += cu_float(px[ci]) * cu_float(pw[ci]);
      }
    cu_store(y + k, cu_conv_act(g.act, g.slope, sum));
  }
}

/* y's position whose tap k shows position i; -1: none. */
CU_DEVICE int met(int i, int before, int k, int dilation, int stride, int outputs) {
  const int at = i + before - k * dilation;
  return at < 0 || at % stride || at / stride >= outputs ? -1 : at / stride;
}

template <class T, class O> CU_KERNEL(256) plain_gx(geo g, const T *gy, const T *w, const float *bias, O *gx) {
  const int64_t size = (int64_t)g.n * g.h * g.w * g.ci, step = (int64_t)gridDim.x * 256;
  const int cig = g.ci / g.groups, cog = g.co / g.groups, tap = g.kh * g.kw * cig;
  for (int64_t k = (int64_t)blockIdx.x * 256 + threadIdx.x; k < size; k += step) {
    const int ci = (int)(k % g.ci), pixel = (int)(k / g.ci);
    const int j = pixel % g.w, i = pixel / g.w % g.h, n = pixel / g.w / g.h;
    float sum = bias ? bias[ci] : 0;
    for (int kh = 0; kh < g.kh; kh++)
      for (int kw = 0; kw < g.kw; kw++) {
        const int a = met(i, g.pt, kh, g.dh, g.sh, g.oh), b = met(j, g.pl, kw, g.dw, g.sw, g.ow);
        if (a < 0 || b < 0) continue;
        const int co = ci / cig * cog;
        const T *py = gy + (int64_t)((n * g.oh + a) * g.ow + b) * g.co + co;
        const T *pw = w + (int64_t)((co * g.kh + kh) * g.kw + kw) * cig + ci % cig;
        for (int q = 0; q < cog; q++) sum += cu_float(py[q]) * cu_float(pw[(int64_t)q * tap]);
      }
    cu_store(gx + k, cu_conv_act(g.act, g.slope, sum));
  }
}

template <class T> CU_KERNEL(128) plain_gw(geo g, const T *x, const T *gy, float *gw) {
  CU_SHARED(float, part, 4);
  const int cig = g.ci / g.groups, cog = g.co / g.groups, pixels = g.n * g.oh * g.ow, k = (int)blockIdx.x;
  const int ci = k % cig, kw = k / cig % g.kw, kh = k / cig / g.kw % g.kh, co = k / cig / g.kw / g.kh;
  float sum = 0;
  for (int q = (int)threadIdx.x; q < pixels; q += 128) {
    const int b = q % g.ow, a = q / g.ow % g.oh, n = q / g.ow / g.oh;
    const int i = cu_edge_source(a * g.sh - g.pt + kh * g.dh, g.h, g.edge);
    const int j = cu_edge_source(b * g.sw - g.pl + kw * g.dw, g.w, g.edge);
    if (i < 0 || j < 0) continue;
    const int64_t at = (int64_t)((n * g.h + i) * g.w + j) * g.ci + co / cog * cig + ci;
    sum += cu_float(x[at]) * cu_float(gy[(int64_t)q * g.co + co]);
  }
  sum = cu_warp_sum(sum);
  if (threadIdx.x % 32 == 0) part[threadIdx.x / 32] = sum;
  cu_sync();
  if (threadIdx.x == 0) gw[k] = (part[0] + part[1]) + (part[2] + part[3]);
}

/* ---- host ---- */

/* A stride or dilation beyond any image acts like any other that is. */
int bounded(int64_t v) { return (int)(v < 1 << 24 ? v : 1 << 24); }

geo geo_of(const su_conv_geo *c) {
  geo g = {(int)c->n,       (int)c->h,       (int)c->w,     (int)c->ci,      (int)c->co,    (int)c->kh,
           (int)c->kw,      (int)c->oh,      (int)c->ow,    bounded(c->sh),  bounded(c->sw), (int)c->pt,
           (int)c->pl,      bounded(c->dh),  bounded(c->dw), (int)c->groups, c->reflect ? CU_EDGE_REFLECT : CU_EDGE_ZERO,
           (int)c->act,     c->slope};
  if (c->kh == 1) g.dh = 1;
  if (c->kw == 1) g.dw = 1;
  return g;
}

/* Phase `at` of one axis. */
phase phase_of(int at, int size, int before, int taps, int dilation, int stride) {
  int common = stride, d = dilation;
  while (d) {
    const int rest = common % d;
    common = d, d = rest;
  }
  phase p = {at, (size - at + stride - 1) / stride, 0, stride / common, 0, 0, dilation / common};
  while (p.first < taps && (at + before - p.first * dilation) % stride) p.first++;
  if (p.first >= taps) return p;
  p.count = (taps - 1 - p.first) / p.step + 1;
  p.origin = (at + before - p.first * dilation) / stride;
  return p;
}

bool in_phases(const geo &g) {
  return g.groups == 1 && (int64_t)(g.sh < g.h ? g.sh : g.h) * (g.sw < g.w ? g.sw : g.w) <= MAX_PHASES;
}

/* fn(down, right) for every phase of gx. */
template <class F> void each_phase(const geo &g, F fn) {
  for (int i = 0; i < g.sh && i < g.h; i++)
    for (int j = 0; j < g.sw && j < g.w; j++)
      fn(phase_of(i, g.h, g.pt, g.kh, g.dh, g.sh), phase_of(j, g.w, g.pl, g.kw, g.dw, g.sw));
}

tile_out with_act(const geo &g, tile_out o) {
  o.act = g.act, o.slope = g.slope;
  return o;
}

template <class T> void run_y(const geo &g, const T *x, const T *w, const float *bias, T *y, int dtype, void *ws) {
  const int64_t m = (int64_t)g.n * g.oh * g.ow, k = (int64_t)g.kh * g.kw * g.ci;
  if (g.groups > 1) {
    if (m > 0) cu_launch("conv", plain_y<T>, cu_blocks(m * g.co, 256), 256, g, x, w, bias, y);
    return;
  }
  const tile_matrix<T, true> weight = {w, k, g.co};
  tile_run("conv", taps_of_x<T>{x, g}, weight, with_act(g, tile_to(y, dtype, m, g.co, bias)), k, ws);
}

/* T: gy and w; O: what is written, with its dtype. */
template <class T, class O>
void run_gx(const geo &g, const T *gy, const T *w, const float *bias, O *gx, int dtype, void *ws) {
  const int64_t size = (int64_t)g.n * g.h * g.w * g.ci;
  if (size == 0) return;
  if (!in_phases(g)) {
    cu_launch("conv_gx", plain_gx<T, O>, cu_blocks(size, 256), 256, g, gy, w, bias, gx);
    return;
  }
  each_phase(g, [&](const phase &down, const phase &right) {
    const int64_t m = (int64_t)g.n * down.pixels * right.pixels, k = (int64_t)down.count * right.count * g.co;
    tile_out o = with_act(g, tile_to(gx, dtype, m, g.ci, bias));
    o.rw = right.pixels, o.rh = down.pixels, o.w = g.w, o.sw = g.sw, o.sh = g.sh;
    o.first = (int64_t)down.at * g.w + right.at, o.image = (int64_t)g.h * g.w;
    tile_run("conv_gx", gathered_gy<T>{gy, g, down, right}, weight_of_phase<T>{w, g, down, right}, o, k, ws);
  });
}

template <class T> void run_gw(const geo &g, const T *x, const T *gy, float *gw, void *ws) {
  const int64_t m = g.co, n = (int64_t)g.kh * g.kw * g.ci, k = (int64_t)g.n * g.oh * g.ow;
  if (g.groups > 1) {
    const int64_t size = m * n / g.groups;
    if (size > 0) cu_launch("conv_gw", plain_gw<T>, dim3((unsigned)size), 128, g, x, gy, gw);
    return;
  }
  const tile_matrix<T, false> left = {gy, m, g.co};
  tile_run("conv_gw", left, pixels_of_x<T>{x, g}, tile_to(gw, SU_F32, m, n, nullptr), k, ws);
}

size_t parts_of_gx(const geo &g) {
  size_t most = 0;
  if (in_phases(g))
    each_phase(g, [&](const phase &down, const phase &right) {
      const int64_t m = (int64_t)g.n * down.pixels * right.pixels, k = (int64_t)down.count * right.count * g.co;
      const size_t ws = tile_workspace(m, g.ci, k);
      if (ws > most) most = ws;
    });
  return most;
}

void exec_y(const su_plan *p, void *const *in, void *const *out, const double *, void *ws) {
  const su_conv_geo c = su_conv_geo_of(&p->call, SU_CONV_Y);
  const float *bias = (const float *)in[2];
  if (p->call.in[0].dtype == SU_BF16)
    run_y(geo_of(&c), (const bf16 *)in[0], (const bf16 *)in[1], bias, (bf16 *)out[0], SU_BF16, ws);
  else run_y(geo_of(&c), (const float *)in[0], (const float *)in[1], bias, (float *)out[0], SU_F32, ws);
}

template <class T> void exec_gx_typed(const su_conv_geo *c, int dtype, void *const *in, void *const *out, char *ws) {
  const T *gy = (const T *)in[0], *w = (const T *)in[1];
  const float *bias = (const float *)in[2];
  if (!c->reflect) {
    run_gx(geo_of(c), gy, w, bias, (T *)out[0], dtype, ws);
    return;
  }
  su_conv_geo inner = cu_edge_inner(*c);
  inner.act = SU_CONV_PLAIN;
  float *padded = (float *)ws;
  run_gx(geo_of(&inner), gy, w, nullptr, padded, SU_F32, ws + (cu_edge_size(c) + 15) / 16 * 64);
  if (!cu_edge_size(c)) return;
  cu_edge_fold(c, SU_F32, padded, dtype, bias, out[0]);
  T *gx = (T *)out[0];
  if (c->act) cu_epilogue("conv_gx", c->n * c->h * c->w, c->ci, (const T *)gx, c->ci, nullptr, c->act, c->slope, gx);
}

void exec_gx(const su_plan *p, void *const *in, void *const *out, const double *, void *ws) {
  const su_conv_geo c = su_conv_geo_of(&p->call, SU_CONV_GX);
  if (p->call.in[0].dtype == SU_BF16) exec_gx_typed<bf16>(&c, SU_BF16, in, out, (char *)ws);
  else exec_gx_typed<float>(&c, SU_F32, in, out, (char *)ws);
}

void exec_gw(const su_plan *p, void *const *in, void *const *out, const double *, void *ws) {
  const su_conv_geo c = su_conv_geo_of(&p->call, SU_CONV_GW);
  if (p->call.in[0].dtype == SU_BF16) run_gw(geo_of(&c), (const bf16 *)in[0], (const bf16 *)in[1], (float *)out[0], ws);
  else run_gw(geo_of(&c), (const float *)in[0], (const float *)in[1], (float *)out[0], ws);
}

/* Pixels, and the lines that are summed, are counted in 32 bits; numbers are not. */
bool countable(const su_plan *p, const su_conv_geo *c) {
  const int64_t most = INT_MAX / 2, line = c->ci > c->co ? c->ci : c->co;
  const int64_t h = c->h + c->pt + c->pb, w = c->w + c->pl + c->pr;
  if (h <= most && w <= most && h * w <= most && c->n * h * w <= most && c->kh * c->kw <= most / (line + 1)) return true;
  return su_fail("%s: this device counts up to 2^30 pixels, and weights per channel", p->call.op->name);
}

bool plan(su_plan *p, enum su_conv_dir dir) {
  const su_conv_geo c = su_conv_geo_of(&p->call, dir);
  if (!countable(p, &c)) return false;
  const geo g = geo_of(&c);
  const int64_t taps = c.kh * c.kw, pixels = c.n * c.oh * c.ow;
  if (dir == SU_CONV_Y) {
    p->exec = exec_y;
    p->workspace = c.groups > 1 ? 0 : tile_workspace(pixels, c.co, taps * c.ci);
  } else if (dir == SU_CONV_GW) {
    p->exec = exec_gw;
    p->workspace = c.groups > 1 ? 0 : tile_workspace(c.co, taps * c.ci, pixels);
  } else {
    const su_conv_geo inner = cu_edge_inner(c);
    p->exec = exec_gx;
    p->workspace = c.reflect ? (cu_edge_size(&c) + 15) / 16 * 64 + parts_of_gx(geo_of(&inner)) : parts_of_gx(g);
  }
#ifdef BY_CUDNN
  cu_dnn_conv(p, &c, dir);             /* where it can't, ours serve */
#endif
  return true;
}

bool plan_y(su_plan *p) { return plan(p, SU_CONV_Y); }
bool plan_gx(su_plan *p) { return plan(p, SU_CONV_GX); }
bool plan_gw(su_plan *p) { return plan(p, SU_CONV_GW); }

CU_OP("conv", plan_y, nullptr)
CU_OP("conv_gx", plan_gx, nullptr)
CU_OP("conv_gw", plan_gw, nullptr)

}  // namespace
