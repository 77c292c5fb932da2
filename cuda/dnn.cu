/* dnn.cu -- runs convolutions that cuDNN has planned (dnn_conv.h), and what it leaves to us around them: the mirrored edge,
 * bias and activation where no engine takes them in, and the f32 gradient of a weight from cuDNN's bf16 one.
 *
 * The first run of a plan may load kernels; a step runs once before it is captured. */
#include "dnn.h"

#include <stdio.h>

#ifdef SUMI_HAVE_CUDNN
#include <new>

#include "conv_edge.h"
#include "dnn_conv.h"
#include "epilogue.h"
#include "rt.h"

namespace {

/* Scratch in order: the mirrored image; a result that an epilogue still has to round or widen; cuDNN's own. */
struct state {
  cu_dnn_wish wish;                     /* over the mirrored image, where there is one */
  su_conv_geo g;                        /* as asked */
  cu_dnn_conv_plan plan;
  cu_dnn_pack pack;
  size_t raw_at, dnn_at;                /* bytes into the scratch */
};

constexpr size_t ALIGN = 256;
size_t rounded(size_t bytes) { return (bytes + ALIGN - 1) / ALIGN * ALIGN; }

/* ---- behind cuDNN ---- */

template <class X, class Y> void epilogue(const state *s, const X *x, const void *bias, Y *y) {
  const su_conv_geo *g = &s->wish.g;
  const bool makes_y = s->wish.dir == SU_CONV_Y;
  cu_epilogue("conv_epilogue", makes_y ? g->n * g->oh * g->ow : g->n * g->h * g->w, makes_y ? g->co : g->ci, x,
              (const float *)bias, g->act, g->slope, y);
}

CU_KERNEL(256) dnn_widen(int64_t n, const bf16 *x, float *y) {
  const int64_t step = (int64_t)gridDim.x * 256;
  for (int64_t k = (int64_t)blockIdx.x * 256 + threadIdx.x; k < n; k += step) y[k] = cu_float(x[k]);
}

void widen(const state *s, const void *x, void *y) {
  const su_conv_geo *g = &s->g;
  const int64_t n = g->co * g->kh * g->kw * (g->ci / g->groups);
  cu_launch("conv_gw_widen", dnn_widen, dim3(cu_blocks(n, 256)), 256, n, (const bf16 *)x, (float *)y);
}

/* ---- exec ---- */

/* What cuDNN leaves at `raw` becomes the op's result. */
void finish(const state *s, void *raw, const void *bias, void *out) {
  const cu_dnn_wish *w = &s->wish;
  const int dtype = w->bf16 ? SU_BF16 : SU_F32;
  if (w->dir == SU_CONV_GW) {
    if (w->bf16) widen(s, raw, out);
  } else if (w->dir == SU_CONV_GX && s->g.reflect) {
    cu_edge_fold(&s->g, dtype, raw, dtype, (const float *)bias, out);
  } else if (!s->plan.fused && (bias || w->g.act)) {
    if (s->plan.wide) epilogue(s, (const float *)raw, bias, (bf16 *)out);
    else if (w->bf16) epilogue(s, (const bf16 *)raw, bias, (bf16 *)out);
    else epilogue(s, (const float *)raw, bias, (float *)out);
  }
}

void exec(const su_plan *p, void *const *in, void *const *out, const double *, void *ws) {
  state *s = (state *)p->state;
  char *scratch = (char *)(((uintptr_t)ws + ALIGN - 1) / ALIGN * ALIGN);
  const void *at[4] = {in[0], in[1], nullptr, nullptr};
  const void *bias = s->wish.dir == SU_CONV_GW ? nullptr : in[2];
  int n = 2;
  if (s->g.reflect && s->wish.dir != SU_CONV_GX) {
    cu_edge_pad(&s->g, s->wish.bf16 ? SU_BF16 : SU_F32, in[0], scratch);
    at[0] = scratch;
  }
  if (s->plan.fused && s->wish.bias) at[n++] = bias;
  void *raw = s->dnn_at > s->raw_at ? scratch + s->raw_at : out[0];
  at[n] = raw;
  if (!cu_dnn_run(&s->plan.choice, &s->pack, at, scratch + s->dnn_at, cu_stream()))
    rt_keep(false, "%s: cuDNN does not run its plan: %s", p->call.op->name, cu_dnn_refusal());
  finish(s, raw, bias, out[0]);
}

/* ---- plan ---- */

/* Bytes of what cuDNN makes when it is not the op's result itself. */
size_t raw_bytes(const state *s) {
  const cu_dnn_wish *w = &s->wish;
  const su_conv_geo *g = &w->g;
  if (w->dir == SU_CONV_GW) return w->bf16 ? (size_t)(g->co * g->kh * g->kw * (g->ci / g->groups)) * 2 : 0;
  const size_t pixels = (size_t)(w->dir == SU_CONV_Y ? g->n * g->oh * g->ow * g->co : g->n * g->h * g->w * g->ci);
  if (w->dir == SU_CONV_GX && s->g.reflect) return pixels * (w->bf16 ? 2 : 4);
  return s->plan.wide ? pixels * 4 : 0;
}

/* cuDNN is opened for the first convolution. When it can't be, nobody asks again. */
bool ready() {
  static bool tried;
  if (!cu_dnn_ready() && !tried) cu_dnn_open_handle();
  tried = true;
  return cu_dnn_ready();
}

bool fill(state *s, su_plan *p, const su_conv_geo *g, enum su_conv_dir dir) {
  const bool edge = g->pt || g->pb || g->pl || g->pr;
  const int dtype = p->call.in[0].dtype;
  s->g = *g;
  s->g.reflect = g->reflect && edge;
  if (dtype != SU_F32 && dtype != SU_BF16) return false;
  if (s->g.reflect && dir == SU_CONV_GX && g->act) return false;       /* nobody asks for it; the fold has no activation */
  s->wish.g = s->g.reflect ? cu_edge_inner(*g) : *g;
  s->wish.dir = dir;
  s->wish.bf16 = dtype == SU_BF16;
  s->wish.tf32 = p->call.dev->tf32;
  s->wish.bias = dir != SU_CONV_GW && p->call.in[2].ndim >= 0 && !(s->g.reflect && dir == SU_CONV_GX);
  if (!cu_dnn_plan_conv(&s->wish, &s->plan)) return false;
  s->pack.n = cu_dnn_ids(&s->wish, &s->plan, s->pack.id);
  const size_t padded = s->g.reflect && dir != SU_CONV_GX ? cu_edge_size(g) * (s->wish.bf16 ? 2 : 4) : 0;
  s->raw_at = rounded(padded);
  s->dnn_at = s->raw_at + rounded(raw_bytes(s));
  p->workspace = s->dnn_at + (size_t)s->plan.choice.workspace;
  if (p->workspace) p->workspace += ALIGN;                               /* the scratch begins at a multiple */
  return true;
}

void free_state(void *s) { delete (state *)s; }

}  // namespace

bool cu_dnn_conv(su_plan *p, const su_conv_geo *g, enum su_conv_dir dir) {
  if (!ready()) return false;
  state *s = new (std::nothrow) state();
  if (!s || !fill(s, p, g, dir)) {
    delete s;
    return false;
  }
  p->exec = exec;
  p->state = s;
  p->state_free = free_state;
  return true;
}

#else

bool cu_dnn_conv(su_plan *, const su_conv_geo *, enum su_conv_dir) { return false; }
bool cu_dnn_describe_device(const char *) { return su_fail("this build has no cuDNN: its headers were not there"); }
void cu_dnn_version(char *buf, size_t n) { snprintf(buf, n, "no cuDNN: this build was made without its headers"); }

#endif
