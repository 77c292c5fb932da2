/* matmul.c -- products of two matrices: y = A B where A is a or its transpose, B is b or its transpose; and
 * linear: y[n,co] = b[co] + sum over ci of x[n,ci] w[co,ci]. The tiles are in runtime/cpu/gemm.c. */
#include "matmul.h"

#include "../cpu/gemm.h"
#include "ops.h"

static su_op matmul_op, linear_op;

su_tensor *su_matmul(su_tensor *a, su_tensor *b, bool ta, bool tb) {
  return su_apply1(&matmul_op, (su_tensor *[SU_MAX_IN]){a, b}, (int64_t[SU_MAX_INT]){ta, tb}, NULL);
}

/* In f32 whatever a and b are: what is summed into the gradient of a weight. */
static su_tensor *matmul_f32(su_tensor *a, su_tensor *b, bool ta, bool tb) {
  return su_apply1(&matmul_op, (su_tensor *[SU_MAX_IN]){a, b}, (int64_t[SU_MAX_INT]){ta, tb, 1}, NULL);
}

su_tensor *su_linear(su_tensor *x, su_tensor *w, su_tensor *b) {
  return su_apply1(&linear_op, (su_tensor *[SU_MAX_IN]){x, w, b}, NULL, NULL);
}

/* ---- shapes ---- */

static su_gemm matmul_sizes(const su_call *c) {
  const int64_t *a = c->in[0].shape, *b = c->in[1].shape;
  bool ta = c->i[0], tb = c->i[1];
  su_gemm g = {.m = a[ta], .k = a[!ta], .n = b[!tb]};
  g.a_row = ta ? 1 : g.k, g.a_k = ta ? g.m : 1;
  g.b_row = tb ? 1 : g.n, g.b_k = tb ? g.k : 1;
  return g;
}

static su_gemm linear_sizes(const su_call *c) {
  int64_t n = c->in[0].shape[0], ci = c->in[0].shape[1], co = c->in[1].shape[0];
  return (su_gemm){.m = n, .n = co, .k = ci, .a_row = ci, .a_k = 1, .b_row = 1, .b_k = ci};
}

static void matrix_out(su_call *c, int64_t m, int64_t n) {
  c->out[0] = su_spec_of(c->in[0].dtype, 2, (int64_t[]){m, n});
}

static bool matmul_shape(su_call *c) {
  if (!su_want_ndim(c, 0, 2) || !su_want_ndim(c, 1, 2)) return false;
  su_gemm g = matmul_sizes(c);
  int64_t k = c->in[1].shape[c->i[1] ? 1 : 0];
  if (k != g.k)
    return su_fail("matmul: the left matrix has %lld columns, the right one %lld rows (%s%s times %s%s)",
                   (long long)g.k, (long long)k, su_shape_text(&c->in[0]), c->i[0] ? " transposed" : "",
                   su_shape_text(&c->in[1]), c->i[1] ? " transposed" : "");
  matrix_out(c, g.m, g.n);
  if (c->i[2]) c->out[0].dtype = c->dev->real;
  return true;
}

static bool linear_shape(su_call *c) {
  if (!su_want_ndim(c, 0, 2) || !su_want_ndim(c, 1, 2)) return false;
  su_gemm g = linear_sizes(c);
  if (c->in[1].shape[1] != g.k)
    return su_fail("linear: weight wants %lld inputs, input has %lld", (long long)c->in[1].shape[1],
                   (long long)g.k);
  if (c->in[2].ndim >= 0 && (c->in[2].ndim != 1 || c->in[2].shape[0] != g.n))
    return su_fail("linear: bias should be [%lld], it is %s", (long long)g.n, su_shape_text(&c->in[2]));
  matrix_out(c, g.m, g.n);
  return true;
}

/* ---- the specification ---- */

static void product(su_gemm g, const double *a, const double *b, const double *bias, double *y) {
  for (int64_t i = 0; i < g.m; i++)
    for (int64_t j = 0; j < g.n; j++) {
      double sum = bias ? bias[j] : 0;
      for (int64_t k = 0; k < g.k; k++) sum += a[i * g.a_row + k * g.a_k] * b[k * g.b_row + j * g.b_k];
      y[i * g.n + j] = sum;
    }
}

static void matmul_ref(const su_plan *p, void *const *in, void *const *out, const double *r, void *ws) {
  (void)r, (void)ws;
  product(matmul_sizes(&p->call), in[0], in[1], NULL, out[0]);
}

static void linear_ref(const su_plan *p, void *const *in, void *const *out, const double *r, void *ws) {
  (void)r, (void)ws;
  product(linear_sizes(&p->call), in[0], in[1], in[2], out[0]);
}

/* ---- the CPU ---- */

static void matmul_run(const su_plan *p, void *const *in, void *const *out, const double *r, void *ws) {
  su_gemm g = matmul_sizes(&p->call);
  (void)r;
  su_gemm_run(&g, in[0], in[1], NULL, out[0], ws);
}

static void linear_run(const su_plan *p, void *const *in, void *const *out, const double *r, void *ws) {
  su_gemm g = linear_sizes(&p->call);
  (void)r;
  su_gemm_run(&g, in[0], in[1], in[2], out[0], ws);
}

static bool matmul_plan(su_plan *p) {
  su_gemm g = matmul_sizes(&p->call);
  p->exec = matmul_run;
  p->workspace = su_gemm_workspace(&g);
  return true;
}

static bool linear_plan(su_plan *p) {
  su_gemm g = linear_sizes(&p->call);
  p->exec = linear_run;
  p->workspace = su_gemm_workspace(&g);
  return true;
}

/* ---- gradients: y = A B gives gA = gy B', gB = A' gy; where a is the transpose of A, ga is the transpose of
 * gA ---- */

static bool matmul_grad(const su_node *n, su_tensor *const *gy, const bool *want, su_tensor **gx) {
  su_tensor *a = n->in[0], *b = n->in[1], *g = su_cast(gy[0], n->in_spec[0].dtype);
  bool ta = n->i[0], tb = n->i[1];
  if (want[0] && !(gx[0] = ta ? matmul_f32(b, g, tb, true) : matmul_f32(g, b, false, !tb))) return false;
  if (want[1] && !(gx[1] = tb ? matmul_f32(g, a, true, ta) : matmul_f32(a, g, !ta, false))) return false;
  return true;
}

static bool linear_grad(const su_node *n, su_tensor *const *gy, const bool *want, su_tensor **gx) {
  if (want[0] && !(gx[0] = su_matmul(gy[0], n->in[1], false, false))) return false;
  if (want[1] && !(gx[1] = matmul_f32(gy[0], n->in[0], true, false))) return false;
  if (want[2] && !(gx[2] = su_sum(gy[0], 1, (int[]){0}, false))) return false;
  return true;
}

/* ---- the entries ---- */

static const char *const matmul_cases[] = {
  "a=3,4 b=4,5",           "a=4,3 b=4,5 ta=1",     "a=3,4 b=5,4 tb=1",
  "a=4,3 b=5,4 ta=1 tb=1", "a=1,7 b=7,1",          "a=37,21 b=21,45",
  "a=40,29 b=40,70 ta=1",  "a=64,33 b=35,33 tb=1", NULL};
static const char *const linear_cases[] = { "x=3,4 w=5,4 b=5", "x=2,6 w=1,6", "x=37,19 w=43,19 b=43", NULL };

SU_OP(matmul) {
  .sig = "matmul(a, b, ta:bool=0, tb:bool=0, out:enum(same|f32)=same) -> y",
  .doc = "Matrix product of a and b, each transposed first if asked; out = f32 keeps the sums of bf16 factors.",
  .shape = matmul_shape, .ref = matmul_ref, .cpu_plan = matmul_plan, .grad = matmul_grad, .keep_in = 3,
  .cases = matmul_cases };

SU_OP(linear) {
  .sig = "linear(x, w, b?) -> y",
  .doc = "x [n,ci] times the transpose of w [co,ci], plus b [co].",
  .shape = linear_shape, .ref = linear_ref, .cpu_plan = linear_plan, .grad = linear_grad, .keep_in = 3, .f32 = 4,
  .cases = linear_cases };
