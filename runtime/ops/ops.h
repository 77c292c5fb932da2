/* ops.h -- the general ops as C functions. Each is documented where it is defined (runtime/ops/NAME.c). */
#ifndef SUMI_OPS_H
#define SUMI_OPS_H

#include "../op.h"
#include "../tape.h"

/* binary.c: numpy broadcasting */
su_tensor *su_add(su_tensor *a, su_tensor *b);
su_tensor *su_sub(su_tensor *a, su_tensor *b);
su_tensor *su_mul(su_tensor *a, su_tensor *b);
su_tensor *su_div(su_tensor *a, su_tensor *b);
su_tensor *su_maximum(su_tensor *a, su_tensor *b);
su_tensor *su_minimum(su_tensor *a, su_tensor *b);
bool su_acc(su_tensor *y, su_tensor *x);           /* y += x in place, one shape; not recorded */
bool su_copy_into(su_tensor *y, su_tensor *x);     /* y = x in place, one shape; not recorded */

/* unary.c */
su_tensor *su_affine(su_tensor *x, double a, double b);      /* a*x + b */
su_tensor *su_neg(su_tensor *x);
su_tensor *su_abs(su_tensor *x);
su_tensor *su_sign(su_tensor *x);
su_tensor *su_exp(su_tensor *x);
su_tensor *su_log(su_tensor *x);
su_tensor *su_sqrt(su_tensor *x);
su_tensor *su_rsqrt(su_tensor *x);
su_tensor *su_square(su_tensor *x);
su_tensor *su_recip(su_tensor *x);
su_tensor *su_pow(su_tensor *x, double p);
su_tensor *su_sin(su_tensor *x);
su_tensor *su_cos(su_tensor *x);
su_tensor *su_tanh(su_tensor *x);
su_tensor *su_sigmoid(su_tensor *x);
su_tensor *su_softplus(su_tensor *x);
su_tensor *su_relu(su_tensor *x);
su_tensor *su_lrelu(su_tensor *x, double slope);
su_tensor *su_lrelu_gx(su_tensor *gy, su_tensor *y, double slope);   /* gy where y > 0, slope*gy elsewhere */
su_tensor *su_tanh_gx(su_tensor *gy, su_tensor *y);                  /* gy * (1 - y*y) */
su_tensor *su_sigmoid_gx(su_tensor *gy, su_tensor *y);               /* gy * y * (1 - y) */
su_tensor *su_clamp(su_tensor *x, double lo, double hi);

/* reduce.c */
su_tensor *su_sum(su_tensor *x, int naxes, const int *axes, bool keep);   /* naxes < 0: all */
su_tensor *su_mean(su_tensor *x, int naxes, const int *axes, bool keep);
su_tensor *su_sum_to(su_tensor *x, const su_spec *to);   /* the adjoint of broadcasting `to` up to x's shape */

/* shape.c */
su_tensor *su_reshape(su_tensor *x, int ndim, const int64_t *shape);
su_tensor *su_expand(su_tensor *x, int ndim, const int64_t *shape);       /* broadcast */
su_tensor *su_slice(su_tensor *x, int axis, int64_t first, int64_t count);
su_tensor *su_pad0(su_tensor *x, int axis, int64_t before, int64_t after);
su_tensor *su_concat(su_tensor *a, su_tensor *b, int axis);
su_tensor *su_permute(su_tensor *x, int n, const int *order);

/* make.c */
su_tensor *su_full(su_device *dev, const su_spec *spec, double value);
su_tensor *su_randn(su_device *dev, const su_spec *spec, double mean, double std);
su_tensor *su_rand(su_device *dev, const su_spec *spec, double lo, double hi);
su_tensor *su_cast(su_tensor *x, int dtype);

#endif
