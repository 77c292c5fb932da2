/* unary.c -- elementwise functions of one tensor, any shape. Slopes and bounds are reals. */
#include "../cpu/vmath.h"
#include "loops.h"
#include "ops.h"

#include <math.h>

/* An op of one input: its C function, and its gradient given as an expression in gy, x and y. */
#define APPLY(op, x, ...) \
  su_apply1(&op, (su_tensor *[SU_MAX_IN]){x}, (int64_t[SU_MAX_INT]){0}, (double[SU_MAX_REAL]){__VA_ARGS__})

#define GRAD1(id, EXPR)                                                                             \
  static bool id##_grad(const su_node *n, su_tensor *const *g, const bool *want, su_tensor **gx) {  \
    su_tensor *gy = g[0], *x = n->in[0], *y = n->out[0];                                            \
    (void)x; (void)y; (void)want;                                                                   \
    return (gx[0] = (EXPR)) != NULL;                                                                \
  }

static const char *const any_cases[] = {"x=2,3,5,4", "x=7", "x=1,33", NULL};
static const char *const positive_cases[] = {"x=2,3,5,4@pos", "x=17@pos", NULL};

#define REAL(k) ((float)r[k])

/* y = a*x + b */
SU_KERNEL1(affine, r[0] * x + r[1], REAL(0) * x + REAL(1))
GRAD1(affine, su_affine(gy, n->r[0], 0))
SU_OP(affine) {.sig = "affine(x, a:real=1, b:real=0) -> y", .doc = "a*x + b for two numbers a and b.",
  .shape = su_same_out, .ref = affine_ref, .cpu = affine_cpu, .bf16 = true, .grad = affine_grad,
  .cases = (const char *const[]){"x=2,3,5,4 a=-2.5 b=0.75", "x=40001 a=3", NULL}};
su_tensor *su_affine(su_tensor *x, double a, double b) { return APPLY(affine_op, x, a, b); }
su_tensor *su_neg(su_tensor *x) { return su_affine(x, -1, 0); }

/* The sign: its gradient is zero wherever it exists. */
SU_KERNEL1(sign, (x > 0) - (x < 0), (float)((x > 0) - (x < 0)))
GRAD1(sign, su_affine(gy, 0, 0))
SU_OP(sign) {.sig = "sign(x) -> y", .doc = "1, 0 or -1 by the sign of x.", .shape = su_same_out, .ref = sign_ref,
  .cpu = sign_cpu, .bf16 = true, .grad = sign_grad, .cases = any_cases};
su_tensor *su_sign(su_tensor *x) { return APPLY(sign_op, x); }

SU_KERNEL1(abs, fabs(x), fabsf(x))
GRAD1(abs, su_mul(gy, su_sign(x)))
SU_OP(abs) {.sig = "abs(x) -> y", .doc = "|x|; the gradient at 0 is 0.", .shape = su_same_out, .ref = abs_ref,
  .cpu = abs_cpu, .bf16 = true, .grad = abs_grad, .keep_in = 1, .cases = any_cases};
su_tensor *su_abs(su_tensor *x) { return APPLY(abs_op, x); }

SU_KERNEL1(exp, exp(x), su_expf(x))
GRAD1(exp, su_mul(gy, y))
SU_OP(exp) {.sig = "exp(x) -> y", .doc = "e to the x.", .shape = su_same_out, .ref = exp_ref, .cpu = exp_cpu, .bf16 = true,
  .grad = exp_grad, .keep_out = 1, .cases = any_cases};
su_tensor *su_exp(su_tensor *x) { return APPLY(exp_op, x); }

SU_KERNEL1(log, log(x), su_logf(x))
GRAD1(log, su_div(gy, x))
SU_OP(log) {.sig = "log(x) -> y", .doc = "Natural logarithm.", .shape = su_same_out, .ref = log_ref, .cpu = log_cpu, .bf16 = true,
  .grad = log_grad, .keep_in = 1, .cases = positive_cases};
su_tensor *su_log(su_tensor *x) { return APPLY(log_op, x); }

SU_KERNEL1(sqrt, sqrt(x), sqrtf(x))
GRAD1(sqrt, su_div(su_affine(gy, 0.5, 0), y))
SU_OP(sqrt) {.sig = "sqrt(x) -> y", .doc = "Square root.", .shape = su_same_out, .ref = sqrt_ref, .cpu = sqrt_cpu, .bf16 = true,
  .grad = sqrt_grad, .keep_out = 1, .cases = positive_cases};
su_tensor *su_sqrt(su_tensor *x) { return APPLY(sqrt_op, x); }

SU_KERNEL1(rsqrt, 1 / sqrt(x), 1 / sqrtf(x))
GRAD1(rsqrt, su_mul(su_affine(gy, -0.5, 0), su_mul(y, su_square(y))))
SU_OP(rsqrt) {.sig = "rsqrt(x) -> y", .doc = "1 / sqrt(x).", .shape = su_same_out, .ref = rsqrt_ref, .cpu = rsqrt_cpu, .bf16 = true,
  .grad = rsqrt_grad, .keep_out = 1, .cases = positive_cases};
su_tensor *su_rsqrt(su_tensor *x) { return APPLY(rsqrt_op, x); }

SU_KERNEL1(square, x * x, x * x)
GRAD1(square, su_mul(su_affine(gy, 2, 0), x))
SU_OP(square) {.sig = "square(x) -> y", .doc = "x * x.", .shape = su_same_out, .ref = square_ref, .cpu = square_cpu, .bf16 = true,
  .grad = square_grad, .keep_in = 1, .cases = any_cases};
su_tensor *su_square(su_tensor *x) { return APPLY(square_op, x); }

SU_KERNEL1(recip, 1 / x, 1 / x)
GRAD1(recip, su_neg(su_mul(gy, su_square(y))))
SU_OP(recip) {.sig = "recip(x) -> y", .doc = "1 / x.", .shape = su_same_out, .ref = recip_ref, .cpu = recip_cpu, .bf16 = true,
  .grad = recip_grad, .keep_out = 1, .cases = positive_cases};
su_tensor *su_recip(su_tensor *x) { return APPLY(recip_op, x); }

SU_KERNEL1(pow, pow(x, r[0]), powf(x, REAL(0)))
GRAD1(pow, su_mul(su_affine(gy, n->r[0], 0), su_pow(x, n->r[0] - 1)))
SU_OP(pow) {.sig = "pow(x, p:real) -> y", .doc = "x to the number p.", .shape = su_same_out, .ref = pow_ref,
  .cpu = pow_cpu, .bf16 = true, .grad = pow_grad, .keep_in = 1,
  .cases = (const char *const[]){"x=2,3,4@pos p=2.5", "x=5@pos p=-1", "x=3,3 p=3", NULL}};
su_tensor *su_pow(su_tensor *x, double p) { return p == 2 ? su_square(x) : APPLY(pow_op, x, p); }

SU_KERNEL1(sin, sin(x), sinf(x))
GRAD1(sin, su_mul(gy, su_cos(x)))
SU_OP(sin) {.sig = "sin(x) -> y", .doc = "Sine of radians.", .shape = su_same_out, .ref = sin_ref, .cpu = sin_cpu, .bf16 = true,
  .grad = sin_grad, .keep_in = 1, .cases = any_cases};
su_tensor *su_sin(su_tensor *x) { return APPLY(sin_op, x); }

SU_KERNEL1(cos, cos(x), cosf(x))
GRAD1(cos, su_neg(su_mul(gy, su_sin(x))))
SU_OP(cos) {.sig = "cos(x) -> y", .doc = "Cosine of radians.", .shape = su_same_out, .ref = cos_ref, .cpu = cos_cpu, .bf16 = true,
  .grad = cos_grad, .keep_in = 1, .cases = any_cases};
su_tensor *su_cos(su_tensor *x) { return APPLY(cos_op, x); }

/* ---- activations ---- */

SU_KERNEL1(lrelu, x > 0 ? x : r[0] * x, su_selectf(x > 0, x, REAL(0) * x))
GRAD1(lrelu, su_lrelu_gx(gy, y, n->r[0]))
static bool slope_ok(const su_call *c, const double *r) {
  return r[0] >= 0 || su_fail("%s: slope must be at least 0 (the gradient is read off the output); got %g",
                              c->op->name, r[0]);
}
SU_OP(lrelu) {.sig = "lrelu(x, slope:real=0.2) -> y", .doc = "Leaky ReLU: x where x > 0, slope*x elsewhere.",
  .shape = su_same_out, .check = slope_ok, .ref = lrelu_ref, .cpu = lrelu_cpu, .bf16 = true, .grad = lrelu_grad, .keep_out = 1,
  .cases = (const char *const[]){"x=2,3,5,4", "x=33000 slope=0.01", "x=4,4 slope=0", NULL}};
su_tensor *su_lrelu(su_tensor *x, double slope) { return APPLY(lrelu_op, x, slope); }
su_tensor *su_relu(su_tensor *x) { return su_lrelu(x, 0); }

static bool pair(su_call *c) { return su_want_same(c, 0, 1) && su_same_out(c); }
static const char *const pair_cases[] = {"g=2,3,5,4 y=2,3,5,4", "g=9 y=9", NULL};
#define APPLY2(op, g, y, ...) \
  su_apply1(&op, (su_tensor *[SU_MAX_IN]){g, y}, (int64_t[SU_MAX_INT]){0}, (double[SU_MAX_REAL]){__VA_ARGS__})

SU_KERNEL2(lrelu_gx, y > 0 ? g : r[0] * g, su_selectf(y > 0, g, REAL(0) * g))
static bool lrelu_gx_grad(const su_node *n, su_tensor *const *g, const bool *want, su_tensor **gx) {
  if (want[0] && !(gx[0] = su_lrelu_gx(g[0], n->in[1], n->r[0]))) return false;
  return !want[1] || (gx[1] = su_affine(g[0], 0, 0)) != NULL;   /* piecewise constant in y */
}
SU_OP(lrelu_gx) {.sig = "lrelu_gx(g, y, slope:real=0.2) -> gx",
  .doc = "Input gradient of lrelu from its output: g where y > 0, slope*g elsewhere.", .shape = pair,
  .ref = lrelu_gx_ref, .cpu = lrelu_gx_cpu, .bf16 = true, .grad = lrelu_gx_grad, .keep_in = 2, .cases = pair_cases};
su_tensor *su_lrelu_gx(su_tensor *g, su_tensor *y, double slope) { return APPLY2(lrelu_gx_op, g, y, slope); }

SU_KERNEL1(tanh, tanh(x), su_tanhf(x))
GRAD1(tanh, su_tanh_gx(gy, y))
SU_OP(tanh) {.sig = "tanh(x) -> y", .doc = "Hyperbolic tangent.", .shape = su_same_out, .ref = tanh_ref,
  .cpu = tanh_cpu, .bf16 = true, .grad = tanh_grad, .keep_out = 1, .cases = any_cases};
su_tensor *su_tanh(su_tensor *x) { return APPLY(tanh_op, x); }

SU_KERNEL2(tanh_gx, g * (1 - y * y), g * (1 - y * y))
static bool tanh_gx_grad(const su_node *n, su_tensor *const *g, const bool *want, su_tensor **gx) {
  if (want[0] && !(gx[0] = su_tanh_gx(g[0], n->in[1]))) return false;
  return !want[1] || (gx[1] = su_affine(su_mul(g[0], su_mul(n->in[0], n->in[1])), -2, 0)) != NULL;
}
SU_OP(tanh_gx) {.sig = "tanh_gx(g, y) -> gx", .doc = "Input gradient of tanh from its output: g * (1 - y*y).",
  .shape = pair, .ref = tanh_gx_ref, .cpu = tanh_gx_cpu, .bf16 = true, .grad = tanh_gx_grad, .keep_in = 3, .cases = pair_cases};
su_tensor *su_tanh_gx(su_tensor *g, su_tensor *y) { return APPLY2(tanh_gx_op, g, y); }

SU_KERNEL1(sigmoid, 1 / (1 + exp(-x)), su_sigmoidf(x))
GRAD1(sigmoid, su_sigmoid_gx(gy, y))
SU_OP(sigmoid) {.sig = "sigmoid(x) -> y", .doc = "1 / (1 + exp(-x)).", .shape = su_same_out, .ref = sigmoid_ref,
  .cpu = sigmoid_cpu, .bf16 = true, .grad = sigmoid_grad, .keep_out = 1, .cases = any_cases};
su_tensor *su_sigmoid(su_tensor *x) { return APPLY(sigmoid_op, x); }

SU_KERNEL2(sigmoid_gx, g * y * (1 - y), g * y * (1 - y))
static bool sigmoid_gx_grad(const su_node *n, su_tensor *const *g, const bool *want, su_tensor **gx) {
  if (want[0] && !(gx[0] = su_sigmoid_gx(g[0], n->in[1]))) return false;
  return !want[1] || (gx[1] = su_mul(su_mul(g[0], n->in[0]), su_affine(n->in[1], -2, 1))) != NULL;
}
SU_OP(sigmoid_gx) {.sig = "sigmoid_gx(g, y) -> gx", .doc = "Input gradient of sigmoid from its output: g * y * (1 - y).",
  .shape = pair, .ref = sigmoid_gx_ref, .cpu = sigmoid_gx_cpu, .bf16 = true, .grad = sigmoid_gx_grad, .keep_in = 3,
  .cases = pair_cases};
su_tensor *su_sigmoid_gx(su_tensor *g, su_tensor *y) { return APPLY2(sigmoid_gx_op, g, y); }

/* log(1 + e^x), written so that neither end overflows. */
SU_KERNEL1(softplus, (x > 0 ? x : 0) + log1p(exp(-fabs(x))), su_softplusf(x))
GRAD1(softplus, su_mul(gy, su_sigmoid(x)))
SU_OP(softplus) {.sig = "softplus(x) -> y", .doc = "log(1 + exp(x)).", .shape = su_same_out, .ref = softplus_ref,
  .cpu = softplus_cpu, .bf16 = true, .grad = softplus_grad, .keep_in = 1, .cases = any_cases};
su_tensor *su_softplus(su_tensor *x) { return APPLY(softplus_op, x); }

SU_KERNEL1(clamp, x < r[0] ? r[0] : x > r[1] ? r[1] : x, su_at_most(su_at_least(x, REAL(0)), REAL(1)))
SU_KERNEL2(clamp_gx, y < r[0] || y > r[1] ? 0 : g, su_selectf((y < REAL(0)) | (y > REAL(1)), 0, g))
static su_tensor *clamp_gx(su_tensor *g, su_tensor *x, const double *r);
GRAD1(clamp, clamp_gx(gy, x, n->r))
SU_OP(clamp) {.sig = "clamp(x, lo:real, hi:real) -> y", .doc = "x held between lo and hi.", .shape = su_same_out,
  .ref = clamp_ref, .cpu = clamp_cpu, .bf16 = true, .grad = clamp_grad, .keep_in = 1,
  .cases = (const char *const[]){"x=2,3,5 lo=-0.5 hi=0.25", NULL}};
su_tensor *su_clamp(su_tensor *x, double lo, double hi) { return APPLY(clamp_op, x, lo, hi); }

static bool clamp_gx_grad(const su_node *n, su_tensor *const *g, const bool *want, su_tensor **gx) {
  if (want[0] && !(gx[0] = clamp_gx(g[0], n->in[1], n->r))) return false;
  return !want[1] || (gx[1] = su_affine(g[0], 0, 0)) != NULL;
}
SU_OP(clamp_gx) {.sig = "clamp_gx(g, y, lo:real, hi:real) -> gx", .doc = "Input gradient of clamp: g inside, 0 outside.",
  .shape = pair, .ref = clamp_gx_ref, .cpu = clamp_gx_cpu, .bf16 = true, .grad = clamp_gx_grad, .keep_in = 2,
  .cases = (const char *const[]){"g=2,3,5 y=2,3,5 lo=-0.5 hi=0.25", NULL}};
static su_tensor *clamp_gx(su_tensor *g, su_tensor *x, const double *r) { return APPLY2(clamp_gx_op, g, x, r[0], r[1]); }
