/* binary.c -- elementwise functions of two tensors, broadcast as in numpy: shapes are aligned at their ends, and an axis of
 * 1 (or a missing one) is repeated. The gradient of a broadcast input is summed back to its shape. */
#include "loops.h"
#include "ops.h"

#include <inttypes.h>
#include <string.h>

static bool broadcast(su_call *c) {
  const su_spec *a = &c->in[0], *b = &c->in[1];
  su_spec *y = &c->out[0];
  y->ndim = a->ndim > b->ndim ? a->ndim : b->ndim;
  for (int k = 1; k <= y->ndim; k++) {
    int64_t da = k <= a->ndim ? a->shape[a->ndim - k] : 1, db = k <= b->ndim ? b->shape[b->ndim - k] : 1;
    if (da != db && da != 1 && db != 1)
      return su_fail("%s: shapes %s and %s do not broadcast: axis %d from the end is %" PRId64 " and %" PRId64,
                     c->op->name, su_shape_text(a), su_shape_text(b), k, da, db);
    y->shape[y->ndim - k] = da == 1 ? db : da;
  }
  return true;
}

/* How far one step along each output axis moves in an input: 0 where it is repeated. */
static void strides(const su_spec *x, const su_spec *y, int64_t *s) {
  int64_t step = 1;
  for (int k = 1; k <= y->ndim; k++) {
    int64_t d = k <= x->ndim ? x->shape[x->ndim - k] : 1;
    s[y->ndim - k] = d == 1 ? 0 : step;
    step *= d;
  }
}

/* Visit every row (last axis) of the output: offsets of both inputs at its start. */
typedef struct rows { int64_t sa[SU_MAX_DIM], sb[SU_MAX_DIM], at[SU_MAX_DIM], a, b; } rows;

static void rows_begin(rows *w, const su_call *c) {
  memset(w, 0, sizeof *w);
  strides(&c->in[0], &c->out[0], w->sa);
  strides(&c->in[1], &c->out[0], w->sb);
}

static void rows_next(rows *w, const su_spec *y) {
  for (int k = y->ndim - 2; k >= 0; k--) {
    w->a += w->sa[k];
    w->b += w->sb[k];
    if (++w->at[k] < y->shape[k]) return;
    w->a -= w->sa[k] * y->shape[k];
    w->b -= w->sb[k] * y->shape[k];
    w->at[k] = 0;
  }
}

/* A float row with either side repeated. One of the two strides may be 0, the others are 1. */
#define BINARY(id, E)                                                                                         \
  static void id##_ref(const su_plan *p, void *const *in, void *const *out, const double *r, void *ws) {      \
    (void)r; (void)ws;                                                                                        \
    const su_spec *ys = &p->call.out[0];                                                                      \
    int64_t row = ys->ndim ? ys->shape[ys->ndim - 1] : 1, n = su_spec_size(ys);                               \
    int last = ys->ndim ? ys->ndim - 1 : 0;                                                                   \
    double *y = out[0];                                                                                       \
    rows w;                                                                                                   \
    rows_begin(&w, &p->call);                                                                                 \
    for (int64_t k = 0; k < n; k += row, rows_next(&w, ys))                                                   \
      for (int64_t j = 0; j < row; j++) {                                                                     \
        double a = ((const double *)in[0])[w.a + j * w.sa[last]];                                             \
        double b = ((const double *)in[1])[w.b + j * w.sb[last]];                                             \
        y[k + j] = (E);                                                                                       \
      }                                                                                                       \
  }                                                                                                           \
  SU_CLONES static void id##_loop(const float *restrict as, const float *restrict bs, float *restrict ys,     \
                                  int64_t n, const double *r) {                                               \
    (void)r;                                                                                                  \
    for (int64_t k = 0; k < n; k++) { float a = as[k], b = bs[k]; ys[k] = (E); }                              \
  }                                                                                                           \
  SU_CLONES static void id##_row(const float *as, const float *bs, float *ys, int64_t n, int64_t sa, int64_t sb) { \
    if (sa && sb) for (int64_t k = 0; k < n; k++) { float a = as[k], b = bs[k]; ys[k] = (E); }                \
    else if (sa) { float b = *bs; for (int64_t k = 0; k < n; k++) { float a = as[k]; ys[k] = (E); } }         \
    else { float a = *as; for (int64_t k = 0; k < n; k++) { float b = sb ? bs[k] : *bs; ys[k] = (E); } }      \
  }                                                                                                           \
  static void id##_same(const su_plan *p, void *const *in, void *const *out, const double *r, void *ws) {     \
    (void)ws;                                                                                                 \
    su_loop_run(p, (su_loop_arg){.f2 = id##_loop, .a = in[0], .b = in[1], .y = out[0], .r = r});              \
  }                                                                                                           \
  static void id##_cpu(const su_plan *p, void *const *in, void *const *out, const double *r, void *ws) {      \
    (void)r; (void)ws;                                                                                        \
    const su_spec *ys = &p->call.out[0];                                                                      \
    int64_t row = ys->ndim ? ys->shape[ys->ndim - 1] : 1, n = su_spec_size(ys);                               \
    int last = ys->ndim ? ys->ndim - 1 : 0;                                                                   \
    rows w;                                                                                                   \
    rows_begin(&w, &p->call);                                                                                 \
    for (int64_t k = 0; k < n; k += row, rows_next(&w, ys))                                                   \
      id##_row((const float *)in[0] + w.a, (const float *)in[1] + w.b, (float *)out[0] + k, row, w.sa[last], w.sb[last]); \
  }                                                                                                           \
  static bool id##_plan(su_plan *p) {                                                                         \
    const su_spec *a = &p->call.in[0], *b = &p->call.in[1];                                                   \
    bool same = a->ndim == b->ndim && memcmp(a->shape, b->shape, sizeof a->shape) == 0;                       \
    if (!same && a->dtype == SU_BF16) return su_bf16_wrap_plan(p, id##_plan);                                 \
    p->exec = same ? id##_same : id##_cpu;                                                                    \
    return true;                                                                                              \
  }

static const char *const cases[] = {"a=2,3,4,5 b=2,3,4,5", "a=2,3,4,5 b=5", "a=1 b=3,4", "a=2,1,4 b=3,1", "a=7 b=2,1",
                                    "a=3,4,1 b=4,6", "a=40000 b=40000", NULL};
static const char *const div_cases[] = {"a=2,3,4,5 b=2,3,4,5@pos", "a=2,3,4 b=4@pos", "a=1 b=3,4@pos", NULL};

#define APPLY2(op, a, b) su_apply1(&op, (su_tensor *[SU_MAX_IN]){a, b}, (int64_t[SU_MAX_INT]){0}, NULL)

/* gx of input k: EXPR summed back to its shape; stops at the first failure. */
#define BACK(k, EXPR) \
  if (want[k] && !(gx[k] = su_sum_to((EXPR), &n->in_spec[k]))) return false

BINARY(add, a + b)
static bool add_grad(const su_node *n, su_tensor *const *g, const bool *want, su_tensor **gx) {
  BACK(0, g[0]);
  BACK(1, g[0]);
  return true;
}
SU_OP(add) {.sig = "add(a, b) -> y", .doc = "a + b, broadcast.", .shape = broadcast, .ref = add_ref,
  .cpu_plan = add_plan, .bf16 = true, .grad = add_grad, .cases = cases};
su_tensor *su_add(su_tensor *a, su_tensor *b) { return APPLY2(add_op, a, b); }

BINARY(sub, a - b)
static bool sub_grad(const su_node *n, su_tensor *const *g, const bool *want, su_tensor **gx) {
  BACK(0, g[0]);
  BACK(1, su_neg(g[0]));
  return true;
}
SU_OP(sub) {.sig = "sub(a, b) -> y", .doc = "a - b, broadcast.", .shape = broadcast, .ref = sub_ref,
  .cpu_plan = sub_plan, .bf16 = true, .grad = sub_grad, .cases = cases};
su_tensor *su_sub(su_tensor *a, su_tensor *b) { return APPLY2(sub_op, a, b); }

BINARY(mul, a * b)
static bool mul_grad(const su_node *n, su_tensor *const *g, const bool *want, su_tensor **gx) {
  BACK(0, su_mul(g[0], n->in[1]));
  BACK(1, su_mul(g[0], n->in[0]));
  return true;
}
SU_OP(mul) {.sig = "mul(a, b) -> y", .doc = "a * b, elementwise, broadcast.", .shape = broadcast, .ref = mul_ref,
  .cpu_plan = mul_plan, .bf16 = true, .grad = mul_grad, .keep_in = 3, .cases = cases};
su_tensor *su_mul(su_tensor *a, su_tensor *b) { return APPLY2(mul_op, a, b); }

BINARY(div, a / b)
static bool div_grad(const su_node *n, su_tensor *const *g, const bool *want, su_tensor **gx) {
  BACK(0, su_div(g[0], n->in[1]));
  BACK(1, su_neg(su_div(su_mul(g[0], n->in[0]), su_square(n->in[1]))));
  return true;
}
SU_OP(div) {.sig = "div(a, b) -> y", .doc = "a / b, elementwise, broadcast.", .shape = broadcast, .ref = div_ref,
  .cpu_plan = div_plan, .bf16 = true, .grad = div_grad, .keep_in = 3, .cases = div_cases};
su_tensor *su_div(su_tensor *a, su_tensor *b) { return APPLY2(div_op, a, b); }

/* 1 where a >= b (ge) or a > b (gt), else 0: the masks of maximum and minimum. Constant almost everywhere. */
BINARY(ge, a >= b)
static bool mask_grad(const su_node *n, su_tensor *const *g, const bool *want, su_tensor **gx) {
  BACK(0, su_affine(g[0], 0, 0));
  BACK(1, su_affine(g[0], 0, 0));
  return true;
}
SU_OP(ge) {.sig = "ge(a, b) -> y", .doc = "1 where a >= b, 0 elsewhere, broadcast.", .shape = broadcast, .ref = ge_ref,
  .cpu_plan = ge_plan, .bf16 = true, .grad = mask_grad, .cases = cases};
static su_tensor *ge(su_tensor *a, su_tensor *b) { return APPLY2(ge_op, a, b); }

BINARY(maximum, a >= b ? a : b)
static bool maximum_grad(const su_node *n, su_tensor *const *g, const bool *want, su_tensor **gx) {
  su_tensor *m = ge(n->in[0], n->in[1]);
  BACK(0, su_mul(g[0], m));
  BACK(1, su_mul(g[0], su_affine(m, -1, 1)));
  return true;
}
SU_OP(maximum) {.sig = "maximum(a, b) -> y", .doc = "The larger of a and b, broadcast; at a tie the gradient goes to a.",
  .shape = broadcast, .ref = maximum_ref, .cpu_plan = maximum_plan, .bf16 = true, .grad = maximum_grad, .keep_in = 3, .cases = cases};
su_tensor *su_maximum(su_tensor *a, su_tensor *b) { return APPLY2(maximum_op, a, b); }

su_tensor *su_minimum(su_tensor *a, su_tensor *b) { return su_neg(su_maximum(su_neg(a), su_neg(b))); }

/* ---- in place ---- */

static bool inplace(su_call *c) { return su_want_same(c, 0, 1); }

#define INPLACE(id, E)                                                                                        \
  static void id##_ref(const su_plan *p, void *const *in, void *const *out, const double *r, void *ws) {      \
    (void)r; (void)ws; (void)out;                                                                             \
    double *ys = in[0];                                                                                       \
    const double *xs = in[1];                                                                                 \
    int64_t n = su_spec_size(&p->call.in[0]);                                                                 \
    for (int64_t k = 0; k < n; k++) { double y = ys[k], x = xs[k]; (void)y; ys[k] = (E); }                    \
  }                                                                                                           \
  SU_CLONES static void id##_loop(const float *restrict xs, float *restrict ys, int64_t n, const double *r) { \
    (void)r;                                                                                                  \
    for (int64_t k = 0; k < n; k++) { float y = ys[k], x = xs[k]; (void)y; ys[k] = (E); }                     \
  }                                                                                                           \
  static void id##_cpu(const su_plan *p, void *const *in, void *const *out, const double *r, void *ws) {      \
    (void)ws; (void)out;                                                                                      \
    su_loop_run(p, (su_loop_arg){.f1 = id##_loop, .a = in[1], .y = in[0], .r = r, .reads_y = true});          \
  }

INPLACE(acc, y + x)
SU_OP(acc) {.sig = "acc(y, x)", .doc = "y += x in place.", .shape = inplace, .ref = acc_ref, .cpu = acc_cpu, .bf16 = true, .writes = 1,
  .cases = (const char *const[]){"y=3,4 x=3,4", NULL}};
bool su_acc(su_tensor *y, su_tensor *x) {
  return su_apply(&acc_op, (su_tensor *[SU_MAX_IN]){y, x}, (int64_t[SU_MAX_INT]){0}, NULL, NULL);
}

INPLACE(copy_into, x)
SU_OP(copy_into) {.sig = "copy_into(y, x)", .doc = "y = x in place.", .shape = inplace, .ref = copy_into_ref,
  .cpu = copy_into_cpu, .bf16 = true, .writes = 1, .cases = (const char *const[]){"y=3,4 x=3,4", NULL}};
bool su_copy_into(su_tensor *y, su_tensor *x) {
  return su_apply(&copy_into_op, (su_tensor *[SU_MAX_IN]){y, x}, (int64_t[SU_MAX_INT]){0}, NULL, NULL);
}
