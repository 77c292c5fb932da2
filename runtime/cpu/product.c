/* product.c -- convolutions that are one matrix product: 1 x 1 kernels, and kernels as large as the image (a critic's last layer,
 * the first layer of a DCGAN generator). With K = kh*kw*ci: y [m,co] = x [m,K] w'. */
#include "conv.h"
#include "gemm.h"

static void run(const su_conv_by *by, const float *a, const float *b, const float *bias, float *out, void *ws) {
  bool gw = by->dir == SU_CONV_GW;                   /* gy' x: the operands change places */
  su_gemm_run(by->state, gw ? b : a, gw ? a : b, bias, out, ws);
}

bool su_conv_by_product(su_conv_by *by, const su_conv_geo *g, enum su_conv_dir dir) {
  bool no_pad = !g->pt && !g->pb && !g->pl && !g->pr;
  bool pixel = g->kh == 1 && g->kw == 1 && g->sh == 1 && g->sw == 1;
  bool whole = g->kh == g->h && g->kw == g->w && g->dh == 1 && g->dw == 1;
  if (g->groups != 1 || !no_pad || !(pixel || whole)) return false;
  int64_t m = g->n * g->oh * g->ow, k = g->kh * g->kw * g->ci, co = g->co;
  su_gemm *p = su_malloc(sizeof *p);
  if (!p) return false;
  if (dir == SU_CONV_Y) *p = (su_gemm){.m = m, .n = co, .k = k, .a_row = k, .a_k = 1, .b_row = 1, .b_k = k};
  else if (dir == SU_CONV_GX) *p = (su_gemm){.m = m, .n = k, .k = co, .a_row = co, .a_k = 1, .b_row = k, .b_k = 1};
  else *p = (su_gemm){.m = co, .n = k, .k = m, .a_row = 1, .a_k = co, .b_row = k, .b_k = 1};
  *by = (su_conv_by){"product", run, su_free, p, su_gemm_workspace(p), *g, dir};
  return true;
}
