/* product.c -- convolutions as one matrix product. With K = kh*kw*ci: y [m,co] = cols [m,K] w', where row m
 * of cols is what the kernel sees at output pixel m. For 1 x 1 kernels, and kernels as large as the image (a
 * critic's last layer, the first layer of a DCGAN generator), cols is x itself. Otherwise it is gathered into
 * the workspace, which pays for few pixels with many channels: there the time goes into reading the weights,
 * and this reads them once, as they lie. */
#include "conv.h"
#include "gemm.h"

#include <string.h>

typedef struct product {
  su_gemm g;
  bool gathers;
  size_t cols;
} product;   /* cols: bytes, in front of the product's workspace */

typedef struct cols_job { const su_conv_geo *g; const float *x; float *gx, *cols; int64_t ld; } cols_job;

/* Rows first .. last-1 of cols. */
static void gather(void *arg, int64_t first, int64_t last) {
  const cols_job *j = arg;
  const su_conv_geo *g = j->g;
  for (int64_t m = first; m < last; m++)
    for (int64_t tap = 0; tap < g->kh * g->kw; tap++) {
      int64_t row = m / g->ow % g->oh * g->sh - g->pt + tap / g->kw * g->dh;
      int64_t col = m % g->ow * g->sw - g->pl + tap % g->kw * g->dw, n = m / g->ow / g->oh;
      float *to = j->cols + m * j->ld + tap * g->ci;
      bool in = row >= 0 && row < g->h && col >= 0 && col < g->w;
      if (in) memcpy(to, j->x + ((n * g->h + row) * g->w + col) * g->ci, (size_t)g->ci * sizeof *to);
      else memset(to, 0, (size_t)g->ci * sizeof *to);
    }
}

/* Output pixel that sees input position i through tap k, or -1. */
static int64_t seen_by(int64_t i, int64_t before, int64_t k, int64_t dilation, int64_t stride,
                       int64_t outputs) {
  int64_t at = i + before - k * dilation;
  return at >= 0 && at % stride == 0 && at / stride < outputs ? at / stride : -1;
}

/* gx rows first .. last-1 (over all images): each pixel sums its places in cols. */
static void put_back(void *arg, int64_t first, int64_t last) {
  const cols_job *j = arg;
  const su_conv_geo *g = j->g;
  for (int64_t r = first; r < last; r++)
    for (int64_t q = 0; q < g->w; q++) {
      float *gx = j->gx + (r * g->w + q) * g->ci;
      memset(gx, 0, (size_t)g->ci * sizeof *gx);
      for (int64_t tap = 0; tap < g->kh * g->kw; tap++) {
        int64_t oh = seen_by(r % g->h, g->pt, tap / g->kw, g->dh, g->sh, g->oh);
        int64_t ow = seen_by(q, g->pl, tap % g->kw, g->dw, g->sw, g->ow);
        if (oh < 0 || ow < 0) continue;
        const float *from = j->cols + ((r / g->h * g->oh + oh) * g->ow + ow) * j->ld + tap * g->ci;
        for (int64_t c = 0; c < g->ci; c++) gx[c] += from[c];
      }
    }
}

static void run(const su_conv_by *by, const float *a, const float *b, const float *bias, float *out,
                void *ws) {
  const product *p = by->state;
  const su_conv_geo *g = &by->g;
  bool gx = by->dir == SU_CONV_GX, gw = by->dir == SU_CONV_GW;
  cols_job j = {g, a, out, ws, gx ? p->g.n : gw ? p->g.b_row : p->g.a_row};
  void *rest = (char *)ws + p->cols;
  if (p->gathers && !gx) su_parallel(g->n * g->oh * g->ow, 1, gather, &j);
  const float *x = p->gathers && !gx ? j.cols : a;
  su_gemm_run(&p->g, gw ? b : x, gw ? x : b, bias, p->gathers && gx ? j.cols : out, rest);
  if (p->gathers && gx) su_parallel(g->n * g->h, 1, put_back, &j);
}

/* Is every row of cols a stretch of x? */
static bool lies_ready(const su_conv_geo *g) {
  bool no_pad = !g->pt && !g->pb && !g->pl && !g->pr;
  bool pixel = g->kh == 1 && g->kw == 1 && g->sh == 1 && g->sw == 1;
  bool whole = g->kh == g->h && g->kw == g->w && g->dh == 1 && g->dw == 1;
  return no_pad && (pixel || whole);
}

bool su_conv_by_product(su_conv_by *by, const su_conv_geo *g, enum su_conv_dir dir) {
  if (g->groups != 1 || g->reflect) return false;
  product *p = su_calloc(sizeof *p);
  if (!p) return false;
  int64_t m = g->n * g->oh * g->ow, k = g->kh * g->kw * g->ci, co = g->co;
  p->gathers = !lies_ready(g);
  int64_t ld =
    p->gathers && dir != SU_CONV_GX ? k + 16 : k; /* rows of cols must not all begin in one cache set */
  if (dir == SU_CONV_Y)
    p->g = (su_gemm){.m = m, .n = co, .k = k, .a_row = ld, .a_k = 1, .b_row = 1, .b_k = k};
  else if (dir == SU_CONV_GX)
    p->g = (su_gemm){.m = m, .n = k, .k = co, .a_row = co, .a_k = 1, .b_row = k, .b_k = 1};
  else p->g = (su_gemm){.m = co, .n = k, .k = m, .a_row = 1, .a_k = co, .b_row = ld, .b_k = 1};
  if (p->gathers) p->cols = ((size_t)(m * ld) * sizeof(float) + 63) / 64 * 64;
  *by = (su_conv_by){"product", run, su_free, p, p->cols + su_gemm_workspace(&p->g), *g, dir};
  return true;
}
