/* pad.cu -- borders around images and their adjoint (nn/pad.c), both as a gather: every number of the result is
 * made by one thread, so that nothing is added in an order that changes. Also the border that edge=reflect needs
 * (conv_edge.h). */
#include "conv_edge.h"
#include "edge.h"
#include "vec.h"

#include <limits.h>

namespace {

enum { THREADS = 256, EACH = 4 };       /* vectors of a row that a thread of `pad` copies */

/* inner [n,h,w,c] and padded [n,oh,ow,c] */
struct frame { int n, h, w, oh, ow, c, top, left, edge; };

template <int V, class T> CU_KERNEL(THREADS) pad_kernel(frame f, const T *x, T *y) {
  const unsigned n = blockIdx.x / (unsigned)f.oh, a = blockIdx.x % (unsigned)f.oh, cv = (unsigned)(f.c / V);
  const unsigned row = (unsigned)f.ow * cv, first = blockIdx.y * (THREADS * EACH);
  const int u = cu_edge_source((int)a - f.top, f.h, f.edge);
  const T *from = x + ((int64_t)n * f.h + u) * f.w * f.c;
  T *to = y + (int64_t)blockIdx.x * f.ow * f.c;
  CU_UNROLL
  for (int k = 0; k < EACH; k++) {
    const unsigned e = first + (unsigned)k * THREADS + threadIdx.x;
    if (e >= row) return;
    const int v = cu_edge_source((int)(e / cv) - f.left, f.w, f.edge);
    float t[V] = {};
    if (u >= 0 && v >= 0) cu_get<V>(from + (int64_t)v * f.c + e % cv * V, t);
    cu_put<V>(to + (int64_t)e * V, t);
  }
}

template <int V, class P, class T> CU_KERNEL(THREADS) fold_kernel(frame f, const P *padded, const float *bias, T *gx) {
  const unsigned n = blockIdx.x / (unsigned)f.h, u = blockIdx.x % (unsigned)f.h, cv = (unsigned)(f.c / V);
  const unsigned e = blockIdx.y * THREADS + threadIdx.x, c = e % cv * V;
  if (e >= (unsigned)f.w * cv) return;
  const P *from = padded + (int64_t)n * f.oh * f.ow * f.c + c;
  const cu_edge_shows down((int)u, f.h, f.top, f.oh - f.h - f.top, f.edge);
  const cu_edge_shows right((int)(e / cv), f.w, f.left, f.ow - f.w - f.left, f.edge);
  float sum[V] = {}, t[V];
  if (bias)
    for (int q = 0; q < V; q++) sum[q] = bias[c + q];
  for (int i = 0; i < down.count; i++)
    for (int j = 0; j < right.count; j++) {
      cu_get<V>(from + ((int64_t)down.at(i) * f.ow + right.at(j)) * f.c, t);
      CU_UNROLL
      for (int q = 0; q < V; q++) sum[q] += t[q];
    }
  cu_put<V>(gx + (int64_t)blockIdx.x * f.w * f.c + (int64_t)e * V, sum);
}

/* ---- host ---- */

dim3 grid_of(int64_t rows, int64_t vectors, int64_t each) {
  return dim3((unsigned)rows, cu_blocks(vectors, THREADS * each));
}

template <class T> void run_pad(const frame &f, const T *x, T *y) {
  constexpr int W = 16 / sizeof(T);
  const int64_t rows = (int64_t)f.n * f.oh, each = (int64_t)f.ow * f.c;
  if (cu_wide(f.c, W, x, y)) cu_launch("pad", pad_kernel<W, T>, grid_of(rows, each / W, EACH), THREADS, f, x, y);
  else cu_launch("pad", pad_kernel<1, T>, grid_of(rows, each, EACH), THREADS, f, x, y);
}

/* P: the padded numbers, T: what they become. The wider of both decides how many are taken at once. */
template <class P, class T> void run_fold(const frame &f, const P *padded, const float *bias, T *gx) {
  constexpr int W = 16 / (sizeof(P) > sizeof(T) ? sizeof(P) : sizeof(T));
  const int64_t rows = (int64_t)f.n * f.h, each = (int64_t)f.w * f.c;
  if (cu_wide(f.c, W, padded, gx))
    cu_launch("pad_gx", fold_kernel<W, P, T>, grid_of(rows, each / W, 1), THREADS, f, padded, bias, gx);
  else cu_launch("pad_gx", fold_kernel<1, P, T>, grid_of(rows, each, 1), THREADS, f, padded, bias, gx);
}

void pad_any(const frame &f, int dtype, const void *x, void *y) {
  if (dtype == SU_BF16) run_pad(f, (const bf16 *)x, (bf16 *)y);
  else run_pad(f, (const float *)x, (float *)y);
}

frame frame_of(const su_spec *inner, const su_spec *padded, const int64_t *i) {
  const int64_t *s = inner->shape, *p = padded->shape;
  return frame{(int)s[0], (int)s[1], (int)s[2], (int)p[1], (int)p[2], (int)s[3], (int)i[0], (int)i[2], (int)i[4]};
}

frame frame_of(const su_conv_geo *g) {
  return frame{(int)g->n, (int)g->h, (int)g->w, (int)(g->h + g->pt + g->pb), (int)(g->w + g->pl + g->pr), (int)g->ci,
               (int)g->pt, (int)g->pl, CU_EDGE_REFLECT};
}

void pad_exec(const su_plan *p, void *const *in, void *const *out, const double *, void *) {
  const su_call *c = &p->call;
  if (su_spec_size(&c->out[0]) > 0)
    pad_any(frame_of(&c->in[0], &c->out[0], c->i), c->in[0].dtype, in[0], out[0]);
}

void pad_gx_exec(const su_plan *p, void *const *in, void *const *out, const double *, void *) {
  const su_call *c = &p->call;
  const frame f = frame_of(&c->out[0], &c->in[0], c->i);
  if (su_spec_size(&c->out[0]) == 0) return;
  if (c->in[0].dtype == SU_BF16) run_fold(f, (const bf16 *)in[0], nullptr, (bf16 *)out[0]);
  else run_fold(f, (const float *)in[0], nullptr, (float *)out[0]);
}

/* Limits of a launch: rows are blocks in x, parts of a row blocks in y. */
bool fits(const su_plan *p) {
  const su_spec *s[] = {&p->call.in[0], &p->call.out[0]};
  for (const su_spec *k : s)
    if (k->shape[0] * k->shape[1] > INT_MAX || k->shape[2] * k->shape[3] > 65535 * THREADS)
      return su_fail("%s: %s is more than this device counts: n*h below 2^31, w*c up to 16776960", p->call.op->name,
                     su_shape_text(k));
  return true;
}

bool pad_plan(su_plan *p) {
  p->exec = pad_exec;
  return fits(p);
}

bool pad_gx_plan(su_plan *p) {
  p->exec = pad_gx_exec;
  return fits(p);
}

CU_OP("pad", pad_plan, nullptr)
CU_OP("pad_gx", pad_gx_plan, nullptr)

}  // namespace

void cu_edge_pad(const su_conv_geo *g, int dtype, const void *x, void *padded) {
  pad_any(frame_of(g), dtype, x, padded);
}

void cu_edge_fold(const su_conv_geo *g, int padded_dtype, const void *padded, int dtype, const float *bias, void *gx) {
  const frame f = frame_of(g);
  if (padded_dtype == SU_BF16 && dtype == SU_BF16) run_fold(f, (const bf16 *)padded, bias, (bf16 *)gx);
  else if (padded_dtype == SU_BF16) run_fold(f, (const bf16 *)padded, bias, (float *)gx);
  else if (dtype == SU_BF16) run_fold(f, (const float *)padded, bias, (bf16 *)gx);
  else run_fold(f, (const float *)padded, bias, (float *)gx);
}
