/* norm.h -- batch and instance norm: what the op's definition (nn/norm.c) and its kernels on the CPU share. */
#ifndef SUMI_CPU_NORM_H
#define SUMI_CPU_NORM_H

#include "../op.h"

/* Ints of norm and norm_gx: over (0 the batch, 1 each image), act (0 none, 1 relu, 2 lrelu), pad (pixels mirrored). */
enum { SU_NORM_OVER, SU_NORM_ACT, SU_NORM_PAD };

/* x as [groups,rows,c]: every (group, channel) is a population of `rows`. Rows are cut into `chunks` of `chunk`, which
 * depend on the shape alone, so results do as well. */
typedef struct su_norm_layout { int64_t groups, rows, c, chunk, chunks; } su_norm_layout;
su_norm_layout su_norm_layout_of(const su_spec *x, int64_t over);

/* The slope on the negative side: none 1, relu 0. */
double su_norm_slope(int64_t act, double slope);

/* Images [n,h,w,c], and how many pixels are mirrored around them (0: whatever x is). */
typedef struct su_norm_frame { int64_t h, w, c, pad; } su_norm_frame;
su_norm_frame su_norm_frame_of(const su_call *c, const su_spec *x);

/* The numbers of the padded images that show number k of the images, into at; how many they are. */
enum { SU_NORM_PLACES = 9 };
int su_norm_places(const su_norm_frame *f, int64_t k, int64_t *at);

bool su_norm_plan(su_plan *p);          /* cpu_plan of norm and norm_gx */
bool su_norm_gx_plan(su_plan *p);

#endif
