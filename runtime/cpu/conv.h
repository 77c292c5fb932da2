/* conv.h -- convolution on the CPU device: what one is (geometry), and who can run it. The ops are in
 * nn/conv.c.
 *
 * Three directions share one geometry: y = conv(x, w), gx = its adjoint in x, gw = its adjoint in w.
 *   y[n,oh,ow,co] = b[co] + sum over kh,kw,ci of x[n, oh*sh - pt + kh*dh, ow*sw - pl + kw*dw, ci] *
 * w[co,kh,kw,ci] Memory is channels last throughout; w is [co,kh,kw,ci/groups]. */
#ifndef SUMI_CPU_CONV_H
#define SUMI_CPU_CONV_H

#include "../op.h"

enum su_conv_dir { SU_CONV_Y, SU_CONV_GX, SU_CONV_GW };
/* What becomes of y (or of gx, in a transposed convolution) behind the bias; the numbers are those of the ops' option act. */
enum su_conv_act { SU_CONV_PLAIN, SU_CONV_RELU, SU_CONV_LRELU, SU_CONV_TANH };

typedef struct su_conv_geo {
  int64_t n, h, w, ci;                  /* x: [n,h,w,ci] */
  int64_t co, kh, kw;                   /* w: [co,kh,kw,ci/groups] */
  int64_t oh, ow;                       /* y: [n,oh,ow,co] */
  int64_t sh, sw, pt, pb, pl, pr, dh, dw, groups;
  bool bias;                            /* direction y: b is added */
  bool reflect; /* what lies outside x: its mirror image (without the border twice), or zeros */
  enum su_conv_act act;
  float slope;                          /* of a leaky ReLU */
} su_conv_geo;

/* Somebody who runs one direction of one geometry (edge zero). a, b are (x,w), (gy,w) or (x,gy); bias: where
 * geo.bias says so, else NULL. ws: `workspace` bytes, 64-byte aligned. `run` neither allocates nor fails. */
typedef struct su_conv_by su_conv_by;
struct su_conv_by {
  const char *name;                     /* "wino 4x4", for tables and tests */
  void (*run)(const su_conv_by *by, const float *a, const float *b, const float *bias, float *out, void *ws);
  void (*free_state)(void *state);
  void *state;
  size_t workspace;
  su_conv_geo g;
  enum su_conv_dir dir;
};

/* Each fills `by` and returns true, or returns false when it cannot serve this geometry (no message: ask the
 * next). */
bool su_conv_by_wino(su_conv_by *by, const su_conv_geo *g, enum su_conv_dir dir);     /* wino.c */
bool su_conv_wino_pays(const su_conv_geo *g);           /* by a count of its work against the definition's */
bool su_conv_by_product(su_conv_by *by, const su_conv_geo *g, enum su_conv_dir dir);  /* product.c */
bool su_conv_by_direct(su_conv_by *by, const su_conv_geo *g, enum su_conv_dir dir); /* direct.c */
bool su_conv_by_thin(su_conv_by *by, const su_conv_geo *g, enum su_conv_dir dir);     /* thin.c */
bool su_conv_by_dnn(su_conv_by *by, const su_conv_geo *g, enum su_conv_dir dir);      /* dnn.c */
/* parts.c: a and b are bf16, so is out unless f32_out (of gw always); false too where f32 kernels are faster. */
bool su_conv_by_parts(su_conv_by *by, const su_conv_geo *g, enum su_conv_dir dir, bool f32_out);

/* Plans a conv op: chooses who runs it from shape and CPU alone (never by timing, so that a run repeats),
 * adds the padding for edge reflect. in = {x,w,b?} | {gy,w,b?} | {x,gy}. Fails with a message when nobody
 * can. */
bool su_conv_plan(su_plan *p, const su_conv_geo *g, enum su_conv_dir dir);
const char *su_conv_plan_name(const su_plan *p);        /* who runs it */

/* conv.c: x [n,h,w,c] into the middle of y [n, h+pt+pb, w+pl+pr, ld] (ld >= c; what lies between c and ld is
 * not written). */
void su_conv_pad(const su_conv_geo *g, const float *x, float *y, int64_t ld);
int64_t su_conv_macs(const su_conv_geo *g);             /* multiply-adds of any direction */

#endif
