/* dnn.cu -- runs convolutions that cuDNN has planned (dnn_conv.h), and what it leaves to us around them:
 * the mirrored edge, bias and activation where no engine takes them in, and the f32 gradient of a weight
 * from cuDNN's bf16 one.
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
#include "vec.h"

namespace {

/* Scratch in order: what is made of the first or second operand; what cuDNN makes when that is not the
 * op's result yet; its own. */
struct state {
  cu_dnn_wish wish;                     /* over the mirrored image, where there is one */
  su_conv_geo g;                        /* as asked */
  cu_dnn_conv_plan plan;
  cu_dnn_pack pack;
  su_exec *own;                         /* our own kernels, for operands that lie at odd places */
  size_t raw_at, dnn_at;                /* bytes into the scratch */
  bool more_channels;                   /* in w and in what cuDNN makes, direction gx */
};

constexpr size_t ALIGN = 256;
size_t rounded(size_t bytes) { return (bytes + ALIGN - 1) / ALIGN * ALIGN; }

bool mirrors(const state *s, bool gx) { return s->g.reflect && (s->wish.dir == SU_CONV_GX) == gx; }

/* ---- in front of cuDNN ---- */

/* y [rows,more] = x [rows,channels] and zeros. */
CU_KERNEL(256) dnn_more_channels(int64_t n, int channels, int more, const bf16 *x, bf16 *y) {
  const int64_t step = (int64_t)gridDim.x * 256;
  for (int64_t k = (int64_t)blockIdx.x * 256 + threadIdx.x; k < n; k += step) {
    const int c = (int)(k % more);
    cu_store(y + k, c < channels ? cu_float(x[k / more * channels + c]) : 0);
  }
}

/* The operands as cuDNN wants them. */
void prepare(const state *s, void *const *in, char *scratch, const void **at) {
  const su_conv_geo *g = &s->wish.g;
  at[0] = in[0], at[1] = in[1];
  if (mirrors(s, false)) {
    cu_edge_pad(&s->g, s->wish.bf16 ? SU_BF16 : SU_F32, in[0], scratch);
    at[0] = scratch;
  } else if (s->more_channels) {
    const int64_t n = g->co * g->kh * g->kw * s->plan.channels;
    cu_launch("conv_channels", dnn_more_channels, dim3(cu_blocks(n, 256)), 256, n, (int)g->ci,
              (int)s->plan.channels, (const bf16 *)in[1], (bf16 *)scratch);
    at[1] = scratch;
  }
}

/* ---- behind it ---- */

/* y = act(x + bias), y as large as the result over what `wish` describes. */
template <class X, class Y> void epilogue(const state *s, const X *x, const float *bias, Y *y) {
  const su_conv_geo *g = &s->wish.g;
  const bool makes_y = s->wish.dir == SU_CONV_Y;
  const int64_t pixels = makes_y ? g->n * g->oh * g->ow : g->n * g->h * g->w,
                channels = makes_y ? g->co : g->ci;
  cu_epilogue("conv_epilogue", pixels, channels, x, s->plan.wide ? s->plan.channels : channels, bias, g->act,
              g->slope, y);
}

/* What cuDNN leaves at `raw` becomes the op's result. */
void finish(const state *s, void *raw, const float *bias, void *out) {
  const su_conv_geo *g = &s->wish.g;
  const int64_t cig = g->ci / g->groups;
  if (s->wish.dir == SU_CONV_GW) {
    if (s->wish.bf16)
      cu_epilogue("conv_gw_widen", g->co * g->kh * g->kw, cig, (const bf16 *)raw, cig, nullptr, SU_CONV_PLAIN,
                  0, (float *)out);
  } else if (mirrors(s, true)) {
    const int dtype = s->wish.bf16 ? SU_BF16 : SU_F32;
    cu_edge_fold(&s->g, dtype, raw, dtype, bias, out);
  } else if (s->plan.wide) {
    epilogue(s, (const float *)raw, bias, (bf16 *)out);
  } else if (!s->plan.fused && (bias || g->act)) {
    epilogue(s, (const float *)raw, bias, (float *)out);
  }
}

void exec(const su_plan *p, void *const *in, void *const *out, const double *r, void *ws) {
  state *s = (state *)p->state;
  if (!cu_wide(0, 1, in[0], in[1], s->wish.bias ? in[2] : nullptr)) {
    s->own(p, in, out, r, ws);
    return;
  }
  char *scratch = (char *)(((uintptr_t)ws + ALIGN - 1) / ALIGN * ALIGN);
  const void *at[4], *bias = s->wish.dir == SU_CONV_GW ? nullptr : in[2];
  void *raw = s->dnn_at > s->raw_at ? scratch + s->raw_at : out[0];
  int n = 2;
  prepare(s, in, scratch, at);
  if (s->plan.fused && s->wish.bias) at[n++] = bias;
  at[n] = raw;
  if (!cu_dnn_run(&s->plan.choice, &s->pack, at, scratch + s->dnn_at, cu_stream()))
    rt_keep(false, "%s: cuDNN does not run its plan: %s", p->call.op->name, cu_dnn_refusal());
  finish(s, raw, (const float *)bias, out[0]);
}

/* ---- plan ---- */

size_t w_size(const su_conv_geo *g) { return (size_t)(g->co * g->kh * g->kw * (g->ci / g->groups)); }

/* The scratch's parts. */
void lay_out(state *s) {
  const cu_dnn_wish *w = &s->wish;
  const su_conv_geo *g = &w->g;
  const size_t pixels = (size_t)(w->dir == SU_CONV_Y ? g->n * g->oh * g->ow : g->n * g->h * g->w);
  size_t ahead = 0, raw = 0;
  s->more_channels = s->plan.wide && w->dir == SU_CONV_GX && s->plan.channels != g->ci;
  if (mirrors(s, false)) ahead = cu_edge_size(&s->g) * (w->bf16 ? 2 : 4);
  if (s->more_channels) ahead = w_size(g) / (size_t)g->ci * (size_t)s->plan.channels * 2;
  if (s->plan.wide) raw = pixels * (size_t)s->plan.channels * 4;
  else if (w->dir == SU_CONV_GW && w->bf16) raw = w_size(g) * 2;
  else if (mirrors(s, true)) raw = pixels * (size_t)g->ci * (w->bf16 ? 2 : 4);
  s->raw_at = rounded(ahead);
  s->dnn_at = s->raw_at + rounded(raw);
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
  s->wish.g = s->g.reflect ? cu_edge_inner(*g) : *g;
  s->wish.dir = dir;
  s->wish.bf16 = dtype == SU_BF16;
  s->wish.tf32 = p->call.dev->tf32;
  s->wish.bias = dir != SU_CONV_GW && p->call.in[2].ndim >= 0;
  if (mirrors(s, true) && (s->wish.bias || g->act)) return false; /* the fold would round twice; nobody asks */
  if (!cu_dnn_plan_conv(&s->wish, &s->plan)) return false;
  s->pack.n = cu_dnn_ids(&s->wish, &s->plan, s->pack.id);
  lay_out(s);
  size_t bytes = s->dnn_at + (size_t)s->plan.choice.workspace;
  if (bytes) bytes += ALIGN;            /* the scratch begins at a multiple */
  s->own = p->exec;
  if (p->workspace < bytes) p->workspace = bytes;
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
bool cu_dnn_describe_device(const char *) {
  return su_fail("this build has no cuDNN: its headers were not there");
}
void cu_dnn_version(char *buf, size_t n) {
  snprintf(buf, n, "no cuDNN: this build was made without its headers");
}

#endif
