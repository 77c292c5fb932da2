/* nn.h -- the neural ops as C functions; each is documented where it is defined. Convolution is in conv.h.
 * Options stand in structs where zero means the default. Failure: NULL or false with su_error() set. */
#ifndef SUMI_NN_H
#define SUMI_NN_H

#include "../runtime/op.h"

/* ---- norm.c ---- */
enum { SU_OVER_BATCH, SU_OVER_INSTANCE };
enum { SU_ACT_NONE, SU_ACT_RELU, SU_ACT_LRELU };
/* eps 0: 1e-5; slope 0: 0.2; pad: pixels mirrored around y. */
typedef struct su_norm_opt { int over, act, pad; double eps, slope; } su_norm_opt;

/* y of x [n,..,c]; gain, bias [c] and residual (x's shape, act none only) may be NULL; mean and rstd, [c]
 * or [n,c], are handed out where the pointers are not NULL. */
su_tensor *su_norm(su_tensor *x, su_tensor *gain, su_tensor *bias, su_tensor *residual, su_norm_opt o,
                   su_tensor **mean, su_tensor **rstd);
/* out = gx, ggain, gbias. over_act_pad: two ints of the enums above and the pad. */
bool su_norm_gx(su_tensor *gy, su_tensor *x, su_tensor *mean, su_tensor *rstd, su_tensor *gain,
                su_tensor *bias, const int64_t *over_act_pad, double slope, su_tensor **out);

/* ---- stat.c ---- */
/* With given statistics [c] instead of the batch's own. o.over is not read. */
su_tensor *su_norm_eval(su_tensor *x, su_tensor *mean, su_tensor *var, su_tensor *gain, su_tensor *bias,
                        su_norm_opt o);
/* Running averages [c], in place, from what su_norm handed out; count: numbers per population. */
bool su_stat_update(su_tensor *running_mean, su_tensor *running_var, su_tensor *mean, su_tensor *rstd,
                    double momentum, double eps, double count);

/* ---- pad.c ---- */
enum { SU_EDGE_ZERO, SU_EDGE_REFLECT, SU_EDGE_REPLICATE };
/* x [n,h,w,c]; pad = top, bottom, left, right. */
su_tensor *su_pad(su_tensor *x, const int64_t pad[4], int edge);
su_tensor *su_pad_gx(su_tensor *gy, const int64_t pad[4], int edge);

/* ---- dropout.c ---- */
su_tensor *su_dropout(su_tensor *x, double p);   /* draws from the step's counter, see su_rng_next */

/* ---- pool.c ---- */
/* y like x [n,h,w,c]; images [size,h,w,c], of which `count` are stored, changes in place. Draws from the step's counter. */
su_tensor *su_pool(su_tensor *images, su_tensor *x, double count);

/* ---- picture.c ---- */
su_tensor *su_picture(su_tensor *x);                    /* u8 [n,h,w,c] as numbers from -1 to 1 */

/* ---- loss.c: scalars (ndim 0), means over all elements ---- */
/* t: targets of x's shape, or NULL for the number `target`. */
su_tensor *su_bce(su_tensor *x, su_tensor *t, double target);      /* x are logits */
su_tensor *su_mse(su_tensor *x, su_tensor *t, double target);
su_tensor *su_l1(su_tensor *x, su_tensor *t, double target);
enum { SU_SAMPLE_REAL, SU_SAMPLE_FAKE };
su_tensor *su_hinge(su_tensor *x, int sample);   /* a critic's: max(0, 1 - x) if real, max(0, 1 + x) if fake */
bool su_bce_target_ok(const su_tensor *t);       /* reads t; fails: "... found 3.2 at [0,4]" */

/* ---- optim.c: all in place, all of one shape; none is recorded ---- */
typedef struct su_adam_opt {
  double lr, beta1, beta2, eps, weight_decay;    /* taken as they are: no defaults here */
  double step;                                   /* 1 for the first */
  bool eps_hat;                                  /* eps joins the uncorrected root (Torch7, TensorFlow 1) */
  bool decoupled;                                /* AdamW's weight decay */
} su_adam_opt;
/* p, m, v of g. bad (one number, or NULL) gets 1 added when g holds a NaN or an infinity. */
bool su_adam(su_tensor *p, su_tensor *g, su_tensor *m, su_tensor *v, su_tensor *bad, su_adam_opt o);

typedef struct su_sgd_opt {
  double lr, momentum, dampening, weight_decay, step;
  bool nesterov;
} su_sgd_opt;
/* momentum NULL: none is kept. */
bool su_sgd(su_tensor *p, su_tensor *g, su_tensor *momentum, su_tensor *bad, su_sgd_opt o);
bool su_ema(su_tensor *avg, su_tensor *p, double decay);           /* avg = decay*avg + (1-decay)*p */
su_tensor *su_finite(su_tensor *x);                     /* 1 if no element is NaN or infinite, else 0 */
bool su_all_finite(su_tensor *x, bool *finite);         /* the same, read back */

#endif
