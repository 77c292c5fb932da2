/* shape.c -- reshape, expand, slice, pad with zeros, concat, permute. Each one's gradient is another of them.
 *
 * In C axes count from 0; scripts count from 1 and the binding converts. */
#include "ops.h"

#include <inttypes.h>
#include <string.h>

/* Row copies are the same for all dtypes but for their size. */
static size_t width(const su_plan *p) { return su_dtype_size(p->call.in[0].dtype); }

static int64_t product(const int64_t *shape, int from, int to) {
  int64_t n = 1;
  for (int k = from; k < to; k++) n *= shape[k];
  return n;
}

/* ---- reshape: a view ---- */

static bool reshape_shape(su_call *c) {
  int64_t n = su_spec_size(&c->in[0]), known = 1;
  int hole = -1;
  su_spec *y = &c->out[0];
  y->dtype = c->in[0].dtype;
  y->ndim = (int)c->i[0];
  for (int k = 0; k < y->ndim; k++) {
    y->shape[k] = c->i[1 + k];
    if (y->shape[k] == -1 && hole < 0) hole = k;
    else known *= y->shape[k];
  }
  if (hole >= 0 && known > 0) y->shape[hole] = n / known;
  if (su_spec_size(y) == n) return true;
  return su_fail("reshape: %s has %" PRId64 " elements, which do not fit %s", su_shape_text(&c->in[0]), n,
                 su_shape_text(y));
}

static bool reshape_grad(const su_node *n, su_tensor *const *g, const bool *want, su_tensor **gx) {
  (void)want;
  return (gx[0] = su_reshape(g[0], n->in_spec[0].ndim, n->in_spec[0].shape)) != NULL;
}

SU_OP(reshape) {.sig = "reshape(x, to:shape) -> y", .doc = "The same numbers under another shape; one axis may be -1.",
  .shape = reshape_shape, .grad = reshape_grad, .view = true, .any_dtype = true,
  .cases = (const char *const[]){"x=2,3,4 to=6,4", "x=2,3,4 to=-1", NULL}};

su_tensor *su_reshape(su_tensor *x, int ndim, const int64_t *shape) {
  int64_t i[SU_MAX_INT] = {ndim};
  for (int k = 0; k < ndim; k++) i[1 + k] = shape[k];
  return su_apply1(&reshape_op, (su_tensor *[SU_MAX_IN]){x}, i, NULL);
}

/* ---- expand ---- */

static bool expand_shape(su_call *c) {
  su_spec *y = &c->out[0];
  const su_spec *x = &c->in[0];
  y->ndim = (int)c->i[0];
  for (int k = 0; k < y->ndim; k++) y->shape[k] = c->i[1 + k];
  bool ok = y->ndim >= x->ndim;
  for (int k = 1; ok && k <= x->ndim; k++)
    ok = x->shape[x->ndim - k] == 1 || x->shape[x->ndim - k] == y->shape[y->ndim - k];
  return ok || su_fail("expand: %s cannot be broadcast to %s", su_shape_text(x), su_shape_text(y));
}

static void expand_any(const su_plan *p, void *const *in, void *const *out, const double *r, void *ws) {
  (void)r; (void)ws;
  const su_spec *x = &p->call.in[0], *y = &p->call.out[0];
  size_t w = width(p);
  int64_t stride[SU_MAX_DIM], at[SU_MAX_DIM] = {0}, step = 1, off = 0, n = su_spec_size(y);
  for (int k = 1; k <= y->ndim; k++) {
    int64_t d = k <= x->ndim ? x->shape[x->ndim - k] : 1;
    stride[y->ndim - k] = d == 1 ? 0 : step;
    step *= d;
  }
  int last = y->ndim - 1;
  int64_t row = last >= 0 ? y->shape[last] : 1;
  char *dst = out[0];
  for (int64_t k = 0; k < n; k += row) {
    const char *src = (const char *)in[0] + (size_t)off * w;
    if (last < 0 || stride[last]) memcpy(dst, src, (size_t)row * w);
    else if (w == 2) for (int64_t j = 0; j < row; j++) ((uint16_t *)dst)[j] = *(const uint16_t *)src;
    else if (w == 4) for (int64_t j = 0; j < row; j++) ((float *)dst)[j] = *(const float *)src;
    else for (int64_t j = 0; j < row; j++) ((double *)dst)[j] = *(const double *)src;
    dst += (size_t)row * w;
    for (int d = last - 1; d >= 0; d--) {
      off += stride[d];
      if (++at[d] < y->shape[d]) break;
      off -= stride[d] * y->shape[d];
      at[d] = 0;
    }
  }
}

static bool expand_grad(const su_node *n, su_tensor *const *g, const bool *want, su_tensor **gx) {
  (void)want;
  return (gx[0] = su_sum_to(g[0], &n->in_spec[0])) != NULL;
}

SU_OP(expand) {.sig = "expand(x, to:shape) -> y", .doc = "x broadcast to a larger shape, as in numpy.",
  .shape = expand_shape, .ref = expand_any, .cpu = expand_any, .bf16 = true, .grad = expand_grad,
  .cases = (const char *const[]){"x=3,1 to=2,3,4", "x=1 to=3,4", "x=4 to=2,4", NULL}};

su_tensor *su_expand(su_tensor *x, int ndim, const int64_t *shape) {
  int64_t i[SU_MAX_INT] = {ndim};
  for (int k = 0; k < ndim; k++) i[1 + k] = shape[k];
  return su_apply1(&expand_op, (su_tensor *[SU_MAX_IN]){x}, i, NULL);
}

/* ---- slice and its adjoint ---- */

static bool axis_ok(const su_call *c) {
  if (c->i[0] >= 0 && c->i[0] < c->in[0].ndim) return true;
  return su_fail("%s: axis %" PRId64 " of %s; axes are 1 to %d", c->op->name, c->i[0] + 1, su_shape_text(&c->in[0]),
                 c->in[0].ndim);
}

static bool slice_shape(su_call *c) {
  if (!axis_ok(c)) return false;
  int64_t first = c->i[1], count = c->i[2], d = c->in[0].shape[c->i[0]];
  if (first < 0 || count < 0 || first + count > d)
    return su_fail("slice: entries %" PRId64 " to %" PRId64 " of axis %" PRId64 " are asked for; it has %" PRId64 " in %s", first + 1,
                   first + count, c->i[0] + 1, d, su_shape_text(&c->in[0]));
  c->out[0] = c->in[0];
  c->out[0].shape[c->i[0]] = count;
  return true;
}

static void slice_any(const su_plan *p, void *const *in, void *const *out, const double *r, void *ws) {
  (void)r; (void)ws;
  const su_spec *x = &p->call.in[0];
  int axis = (int)p->call.i[0];
  size_t inner = (size_t)product(x->shape, axis + 1, x->ndim) * width(p);
  size_t from = (size_t)x->shape[axis] * inner, part = (size_t)p->call.i[2] * inner;
  const char *src = (const char *)in[0] + (size_t)p->call.i[1] * inner;
  int64_t outer = product(x->shape, 0, axis);
  for (int64_t k = 0; k < outer; k++) memcpy((char *)out[0] + (size_t)k * part, src + (size_t)k * from, part);
}

static bool slice_grad(const su_node *n, su_tensor *const *g, const bool *want, su_tensor **gx) {
  (void)want;
  int axis = (int)n->i[0];
  int64_t after = n->in_spec[0].shape[axis] - n->i[1] - n->i[2];
  return (gx[0] = su_pad0(g[0], axis, n->i[1], after)) != NULL;
}

SU_OP(slice) {.sig = "slice(x, axis:int, first:int, count:int) -> y", .doc = "count entries of one axis, from first on.",
  .shape = slice_shape, .ref = slice_any, .cpu = slice_any, .bf16 = true, .grad = slice_grad,
  .cases = (const char *const[]){"x=4,5,3 axis=2 first=1 count=2", "x=4,5 axis=1 first=2 count=2", "x=6 axis=1 first=0 count=6",
    NULL}};

su_tensor *su_slice(su_tensor *x, int axis, int64_t first, int64_t count) {
  return su_apply1(&slice_op, (su_tensor *[SU_MAX_IN]){x}, (int64_t[SU_MAX_INT]){axis, first, count}, NULL);
}

static bool pad0_shape(su_call *c) {
  if (!axis_ok(c)) return false;
  if (c->i[1] < 0 || c->i[2] < 0) return su_fail("pad0: before and after must be at least 0");
  c->out[0] = c->in[0];
  c->out[0].shape[c->i[0]] += c->i[1] + c->i[2];
  return true;
}

static void pad0_any(const su_plan *p, void *const *in, void *const *out, const double *r, void *ws) {
  (void)r; (void)ws;
  const su_spec *x = &p->call.in[0];
  int axis = (int)p->call.i[0];
  size_t inner = (size_t)product(x->shape, axis + 1, x->ndim) * width(p);
  size_t row = (size_t)x->shape[axis] * inner, before = (size_t)p->call.i[1] * inner, after = (size_t)p->call.i[2] * inner;
  int64_t outer = product(x->shape, 0, axis);
  char *dst = out[0];
  for (int64_t k = 0; k < outer; k++) {
    memset(dst, 0, before);
    memcpy(dst + before, (const char *)in[0] + (size_t)k * row, row);
    memset(dst + before + row, 0, after);
    dst += before + row + after;
  }
}

static bool pad0_grad(const su_node *n, su_tensor *const *g, const bool *want, su_tensor **gx) {
  (void)want;
  return (gx[0] = su_slice(g[0], (int)n->i[0], n->i[1], n->in_spec[0].shape[n->i[0]])) != NULL;
}

SU_OP(pad0) {.sig = "pad0(x, axis:int, before:int, after:int) -> y", .doc = "Zeros before and after one axis.",
  .shape = pad0_shape, .ref = pad0_any, .cpu = pad0_any, .bf16 = true, .grad = pad0_grad,
  .cases = (const char *const[]){"x=4,5,3 axis=2 before=1 after=2", "x=3 axis=1 before=0 after=1", NULL}};

su_tensor *su_pad0(su_tensor *x, int axis, int64_t before, int64_t after) {
  return su_apply1(&pad0_op, (su_tensor *[SU_MAX_IN]){x}, (int64_t[SU_MAX_INT]){axis, before, after}, NULL);
}

/* ---- concat ---- */

static bool concat_shape(su_call *c) {
  const su_spec *a = &c->in[0], *b = &c->in[1];
  if (!axis_ok(c)) return false;
  bool ok = a->ndim == b->ndim;
  for (int k = 0; ok && k < a->ndim; k++) ok = k == c->i[0] || a->shape[k] == b->shape[k];
  if (!ok)
    return su_fail("concat: %s and %s differ in more than axis %" PRId64, su_shape_text(a), su_shape_text(b), c->i[0] + 1);
  c->out[0] = *a;
  c->out[0].shape[c->i[0]] += b->shape[c->i[0]];
  return true;
}

static void concat_any(const su_plan *p, void *const *in, void *const *out, const double *r, void *ws) {
  (void)r; (void)ws;
  const su_spec *a = &p->call.in[0], *b = &p->call.in[1];
  int axis = (int)p->call.i[0];
  size_t na = (size_t)product(a->shape, axis, a->ndim) * width(p), nb = (size_t)product(b->shape, axis, b->ndim) * width(p);
  int64_t outer = product(a->shape, 0, axis);
  char *dst = out[0];
  for (int64_t k = 0; k < outer; k++) {
    memcpy(dst, (const char *)in[0] + (size_t)k * na, na);
    memcpy(dst + na, (const char *)in[1] + (size_t)k * nb, nb);
    dst += na + nb;
  }
}

static bool concat_grad(const su_node *n, su_tensor *const *g, const bool *want, su_tensor **gx) {
  int axis = (int)n->i[0];
  int64_t da = n->in_spec[0].shape[axis], db = n->in_spec[1].shape[axis];
  if (want[0] && !(gx[0] = su_slice(g[0], axis, 0, da))) return false;
  return !want[1] || (gx[1] = su_slice(g[0], axis, da, db)) != NULL;
}

SU_OP(concat) {.sig = "concat(a, b, axis:int) -> y", .doc = "a and b joined along one axis.", .shape = concat_shape,
  .ref = concat_any, .cpu = concat_any, .bf16 = true, .grad = concat_grad,
  .cases = (const char *const[]){"a=2,3,4 b=2,3,1 axis=3", "a=2,3 b=4,3 axis=1", NULL}};

su_tensor *su_concat(su_tensor *a, su_tensor *b, int axis) {
  return su_apply1(&concat_op, (su_tensor *[SU_MAX_IN]){a, b}, (int64_t[SU_MAX_INT]){axis}, NULL);
}

/* ---- permute ---- */

static bool permute_shape(su_call *c) {
  const su_spec *x = &c->in[0];
  unsigned seen = 0;
  for (int k = 0; k < x->ndim && c->i[0] == x->ndim; k++)
    if (c->i[1 + k] >= 0 && c->i[1 + k] < x->ndim) seen |= 1u << c->i[1 + k];
  if (c->i[0] != x->ndim || seen != (1u << x->ndim) - 1)
    return su_fail("permute: order must name each of the %d axes of %s once", x->ndim, su_shape_text(x));
  c->out[0].ndim = x->ndim;
  for (int k = 0; k < x->ndim; k++) c->out[0].shape[k] = x->shape[c->i[1 + k]];
  return true;
}

static void permute_any(const su_plan *p, void *const *in, void *const *out, const double *r, void *ws) {
  (void)r; (void)ws;
  const su_spec *x = &p->call.in[0], *y = &p->call.out[0];
  int64_t of_x[SU_MAX_DIM], stride[SU_MAX_DIM], at[SU_MAX_DIM] = {0}, step = 1, off = 0, n = su_spec_size(y);
  for (int k = x->ndim - 1; k >= 0; step *= x->shape[k--]) of_x[k] = step;
  for (int k = 0; k < y->ndim; k++) stride[k] = of_x[p->call.i[1 + k]];
  for (int64_t k = 0; k < n; k++) {
    if (width(p) == 2) ((uint16_t *)out[0])[k] = ((const uint16_t *)in[0])[off];
    else if (width(p) == 4) ((float *)out[0])[k] = ((const float *)in[0])[off];
    else ((double *)out[0])[k] = ((const double *)in[0])[off];
    for (int d = y->ndim - 1; d >= 0; d--) {
      off += stride[d];
      if (++at[d] < y->shape[d]) break;
      off -= stride[d] * y->shape[d];
      at[d] = 0;
    }
  }
}

static bool permute_grad(const su_node *n, su_tensor *const *g, const bool *want, su_tensor **gx) {
  (void)want;
  int back[SU_MAX_DIM];
  for (int k = 0; k < n->in_spec[0].ndim; k++) back[n->i[1 + k]] = k;
  return (gx[0] = su_permute(g[0], n->in_spec[0].ndim, back)) != NULL;
}

SU_OP(permute) {.sig = "permute(x, order:axes) -> y", .doc = "Axis k of the result is axis order[k] of x.",
  .shape = permute_shape, .ref = permute_any, .cpu = permute_any, .bf16 = true, .grad = permute_grad,
  .cases = (const char *const[]){"x=2,3,4,5 order=1,4,2,3", "x=3,4 order=2,1", NULL}};

su_tensor *su_permute(su_tensor *x, int n, const int *order) {
  int64_t i[SU_MAX_INT] = {n};
  for (int k = 0; k < n; k++) i[1 + k] = order[k];
  return su_apply1(&permute_op, (su_tensor *[SU_MAX_IN]){x}, i, NULL);
}
