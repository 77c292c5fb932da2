/* conv_edge.h -- the mirrored border of edge=reflect as a copy: what a convolution that only knows zeros around an
 * image needs before it (conv, conv_gw) or behind it (conv_gx). The kernels are in pad.cu. Launches only: for
 * exec.
 *
 * The padded image is [n, h+pt+pb, w+pl+pr, ci]; a convolution without padding over it is the mirrored one. */
#ifndef SUMI_CUDA_CONV_EDGE_H
#define SUMI_CUDA_CONV_EDGE_H

#include "cu.h"

extern "C" {
#include "../runtime/cpu/conv.h"
}

/* The geometry over the padded image: its size for h and w, no padding, edge zero. */
static inline su_conv_geo cu_edge_inner(su_conv_geo g) {
  g.h += g.pt + g.pb, g.w += g.pl + g.pr;
  g.pt = g.pb = g.pl = g.pr = 0;
  g.reflect = false;
  return g;
}

/* Elements of the padded image. */
static inline size_t cu_edge_size(const su_conv_geo *g) {
  return (size_t)g->n * (size_t)(g->h + g->pt + g->pb) * (size_t)(g->w + g->pl + g->pr) * (size_t)g->ci;
}

/* x [n,h,w,ci] with its mirrored border, into padded; both of dtype SU_F32 or SU_BF16. */
void cu_edge_pad(const su_conv_geo *g, int dtype, const void *x, void *padded);
/* The adjoint: gx [n,h,w,ci] = the padded image with its border added onto what it shows, plus bias [ci] (or NULL).
 * Sums in f32 and rounds once. */
void cu_edge_fold(const su_conv_geo *g, int padded_dtype, const void *padded, int dtype, const float *bias, void *gx);

#endif
