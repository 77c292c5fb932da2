/* fake_dnn.cpp -- dnn.cu over a cuDNN that is plain loops, for the emulator: what Sumi does around cuDNN's
 * plans (the mirrored edge, scratch, bias, activation, bf16 gradients of weights) is held against ref by
 * the op harness, without a GPU and without cuDNN.
 *
 * Like cuDNN it reads only what the plan names, writes only its result, wants them on 16 bytes, and spoils its
 * whole scratch.
 * Kernels of an odd height take bias and activation in, others do not; an f32 result of bf16 operands has
 * a multiple of 8 channels in direction gx. */
void *cu_stream();

#include "../../cuda/dnn.cu"

#include <string.h>

#include <vector>

void *cu_stream() { return nullptr; }

enum { SCRATCH = 1000 };                /* bytes, no multiple of anything */

struct fake_plan { cu_dnn_wish wish; bool fused, wide; };

bool cu_dnn_open_handle() { return true; }
bool cu_dnn_ready() { return true; }
const char *cu_dnn_refusal() { return "the fake refuses"; }

bool cu_dnn_plan_conv(const cu_dnn_wish *wish, cu_dnn_conv_plan *out) {
  const bool more = wish->bias || wish->g.act;
  cu_dnn_wish w = *wish;
  out->fused = wish->g.kh % 2 && more;
  out->wide = !out->fused && wish->bf16 && more;
  if (out->wide && w.dir == SU_CONV_GX && w.g.groups == 1) w.g.ci = (w.g.ci + 7) / 8 * 8;
  out->channels = w.dir == SU_CONV_GX ? w.g.ci : w.g.co;
  out->choice.plan = std::make_shared<fake_plan>(fake_plan{w, out->fused, out->wide});
  out->choice.workspace = SCRATCH;
  return !wish->g.reflect;
}

int cu_dnn_ids(const cu_dnn_wish *wish, const cu_dnn_conv_plan *plan, int64_t *id) {
  int n = 0;
  while (n < (plan->fused && wish->bias ? 4 : 3)) id[n] = n, n++;
  return n;
}

static std::vector<double> operand(const cu_dnn_wish *w, const void *p, int64_t n) {
  std::vector<double> v((size_t)n);
  for (size_t k = 0; k < v.size(); k++)
    v[k] = w->bf16 ? cu_float(((const bf16 *)p)[k]) : ((const float *)p)[k];
  return v;
}

/* fn(index of x, of w, of y) for every product of the convolution. */
template <class F> static void every_product(const su_conv_geo *g, F fn) {
  const int64_t cig = g->ci / g->groups, cog = g->co / g->groups;
  for (int64_t pixel = 0; pixel < g->n * g->oh * g->ow; pixel++)
    for (int64_t tap = 0; tap < g->kh * g->kw; tap++) {
      const int64_t b = pixel % g->ow, a = pixel / g->ow % g->oh, n = pixel / g->ow / g->oh;
      const int64_t i = a * g->sh - g->pt + tap / g->kw * g->dh, j = b * g->sw - g->pl + tap % g->kw * g->dw;
      if (i < 0 || i >= g->h || j < 0 || j >= g->w) continue;
      for (int64_t co = 0; co < g->co; co++) {
        const int64_t x = ((n * g->h + i) * g->w + j) * g->ci + co / cog * cig,
                      k = (co * g->kh * g->kw + tap) * cig;
        for (int64_t c = 0; c < cig; c++) fn(x + c, k + c, pixel * g->co + co);
      }
    }
}

static void store(const fake_plan *p, const std::vector<double> &sum, const float *bias, void *out) {
  const su_conv_geo *g = &p->wish.g;
  const size_t channels = (size_t)(p->wish.dir == SU_CONV_Y ? g->co : g->ci);
  for (size_t k = 0; k < sum.size(); k++) {
    float v = (float)sum[k];
    if (p->fused && bias) v += bias[k % channels];
    if (p->fused) v = cu_conv_act(g->act, g->slope, v);
    if (p->wish.bf16 && !p->wide) cu_store((bf16 *)out + k, v);
    else cu_store((float *)out + k, v);
  }
}

bool cu_dnn_run(const cu_dnn_choice *c, cu_dnn_pack *pack, const void *const *at, void *workspace, void *) {
  const fake_plan *p = (const fake_plan *)c->plan.get();
  const cu_dnn_wish *w = &p->wish;
  const su_conv_geo *g = &w->g;
  const int64_t y = g->n * g->oh * g->ow * g->co, x = g->n * g->h * g->w * g->ci,
                k = g->co * g->kh * g->kw * (g->ci / g->groups);
  const std::vector<double> a = operand(w, at[0], w->dir == SU_CONV_GX ? y : x),
                            b = operand(w, at[1], w->dir == SU_CONV_GW ? y : k);
  std::vector<double> sum((size_t)(w->dir == SU_CONV_Y ? y : w->dir == SU_CONV_GX ? x : k));
  double *s = sum.data();
  const double *pa = a.data(), *pb = b.data();
  for (int n = 0; n < pack->n; n++)
    if ((uintptr_t)at[n] & 15) return false;
  memset(workspace, 0xff, SCRATCH);
  if (w->dir == SU_CONV_Y) every_product(g, [=](int64_t i, int64_t j, int64_t o) { s[o] += pa[i] * pb[j]; });
  if (w->dir == SU_CONV_GX) every_product(g, [=](int64_t i, int64_t j, int64_t o) { s[i] += pa[o] * pb[j]; });
  if (w->dir == SU_CONV_GW) every_product(g, [=](int64_t i, int64_t j, int64_t o) { s[j] += pa[i] * pb[o]; });
  store(p, sum, pack->n > 3 ? (const float *)at[2] : nullptr, (void *)at[pack->n - 1]);
  return true;
}
