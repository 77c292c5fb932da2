/* conv.h -- convolution and its two adjoints as C functions; see conv.c for the formulas. */
#ifndef SUMI_NN_CONV_H
#define SUMI_NN_CONV_H

#include "../runtime/cpu/conv.h"

/* Zero means: stride 1, pad 0, dilation 1, groups 1, edge zero. */
typedef struct su_conv_opt {
  int64_t stride[2];                    /* down, right */
  int64_t pad[4];                       /* top, bottom, left, right */
  int64_t dilation[2], groups;
  bool reflect;                         /* the edge is mirrored instead of filled with zeros */
} su_conv_opt;

/* y [n,oh,ow,co] of x [n,h,w,ci] and w [co,kh,kw,ci/groups]; b [co] or NULL. */
su_tensor *su_conv(su_tensor *x, su_tensor *w, su_tensor *b, const su_conv_opt *o);
/* The adjoint in x: gx [n,h,w,ci] of gy [n,oh,ow,co]; with b [ci], a transposed convolution. size = {h,w} of
 * gx. */
su_tensor *su_conv_gx(su_tensor *gy, su_tensor *w, su_tensor *b, const int64_t size[2], const su_conv_opt *o);
/* The adjoint in w: gw [co,kh,kw,ci/groups]. kernel = {kh,kw}. */
su_tensor *su_conv_gw(su_tensor *x, su_tensor *gy, const int64_t kernel[2], const su_conv_opt *o);

/* The geometry of a judged call of conv (dir y), conv_gx or conv_gw; what devices plan from. `bias` is not set. */
su_conv_geo su_conv_geo_of(const su_call *c, enum su_conv_dir dir);

#endif
