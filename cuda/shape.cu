/* shape.cu -- slices, zeros around an axis, concatenation, broadcasting, permutation (runtime/ops/shape.c):
 * numbers move and do not change, so that kernels see units of 16, 4 or 2 bytes instead of dtypes. */
#include "elem.h"

namespace {

int64_t product(const int64_t *shape, int from, int to) {
  int64_t n = 1;
  for (int k = from; k < to; k++) n *= shape[k];
  return n;
}

/* ---- rows: unit k of a row of y is unit k - shift of a row of x, or 0 where x has none ---- */

/* Lengths in units; stride: from row to row of y; n = count * length. */
struct rows { int64_t count, length, of_x, shift, stride, n; };

template <class U> CU_KERNEL(CU_THREADS) rows_kernel(rows s, const U *x, U *y) {
  const int64_t base = cu_base();
  const int count = cu_left(base, s.n);
  for (int j = (int)threadIdx.x; j < count; j += CU_THREADS) {
    const uint32_t i = (uint32_t)base + (uint32_t)j;
    const int64_t row = i / (uint32_t)s.length, k = i - row * s.length, from = k - s.shift;
    U u = {};
    if (from >= 0 && from < s.of_x) u = x[row * s.of_x + from];
    y[row * s.stride + k] = u;
  }
}

template <class U> void launch_rows(const char *name, rows s, const void *x, void *y) {
  const int64_t w = (int64_t)sizeof(U);
  s.length /= w;
  s.of_x /= w;
  s.shift /= w;
  s.stride /= w;
  s.n = s.count * s.length;
  if (s.n) cu_launch(name, rows_kernel<U>, cu_spans(s.n), CU_THREADS, s, (const U *)x, (U *)y);
}

/* Lengths in bytes; the largest unit that fits all of them is used. */
void copy_rows(const char *name, const rows &s, const void *x, void *y) {
  const uint64_t all = (uint64_t)s.length | (uint64_t)s.of_x | (uint64_t)s.shift | (uint64_t)s.stride |
                       (uintptr_t)x | (uintptr_t)y;
  if (all % 16 == 0) launch_rows<uint4>(name, s, x, y);
  else if (all % 4 == 0) launch_rows<uint32_t>(name, s, x, y);
  else launch_rows<uint16_t>(name, s, x, y);
}

int64_t width(const su_plan *p) { return (int64_t)su_dtype_size(p->call.in[0].dtype); }

void slice_exec(const su_plan *p, void *const *in, void *const *out, const double *, void *) {
  const su_spec *x = &p->call.in[0];
  const int axis = (int)p->call.i[0];
  const int64_t inner = product(x->shape, axis + 1, x->ndim) * width(p), length = p->call.i[2] * inner;
  const rows s = {product(x->shape, 0, axis), length, x->shape[axis] * inner, -p->call.i[1] * inner, length, 0};
  copy_rows("slice", s, in[0], out[0]);
}

void pad0_exec(const su_plan *p, void *const *in, void *const *out, const double *, void *) {
  const su_spec *x = &p->call.in[0];
  const int axis = (int)p->call.i[0];
  const int64_t inner = product(x->shape, axis + 1, x->ndim) * width(p);
  const int64_t length = p->call.out[0].shape[axis] * inner;
  const rows s = {product(x->shape, 0, axis), length, x->shape[axis] * inner, p->call.i[1] * inner, length, 0};
  copy_rows("pad0", s, in[0], out[0]);
}

void concat_exec(const su_plan *p, void *const *in, void *const *out, const double *, void *) {
  const su_spec *a = &p->call.in[0], *b = &p->call.in[1];
  const int axis = (int)p->call.i[0];
  const int64_t na = product(a->shape, axis, a->ndim) * width(p);
  const int64_t nb = product(b->shape, axis, b->ndim) * width(p);
  const int64_t count = product(a->shape, 0, axis);
  copy_rows("concat", {count, na, na, 0, na + nb, 0}, in[0], out[0]);
  copy_rows("concat", {count, nb, nb, 0, na + nb, 0}, in[1], (char *)out[0] + na);
}

/* ---- gathers: expand and permute ---- */

template <class U> CU_KERNEL(CU_THREADS) gather_kernel(int64_t n, cu_walk w, const U *x, U *y) {
  const int64_t base = cu_base();
  const int count = cu_left(base, n);
  for (int i = (int)threadIdx.x; i < count; i += CU_THREADS) {
    int64_t from, unused;
    cu_walk_at(w, (uint32_t)base + (uint32_t)i, &from, &unused);
    y[base + i] = x[from];
  }
}

template <class U> void launch_gather(const char *name, cu_walk w, int64_t n, int per, const void *x, void *y) {
  const int last = w.rank - 1;
  for (int k = 0; k < last; k++) w.a[k] /= per;
  w.size[last] /= per;
  cu_launch(name, gather_kernel<U>, cu_spans(n / per), CU_THREADS, n / per, w, (const U *)x, (U *)y);
}

void gather(const su_plan *p, const int64_t *stride, void *const *in, void *const *out) {
  const char *name = p->call.op->name;
  const su_spec *y = &p->call.out[0];
  const int64_t n = su_spec_size(y);
  const int per = (int)(16 / width(p));
  if (n == 0) return;
  cu_walk w = {};
  cu_walk_axis(&w, 1, 0, 0);
  for (int k = 0; k < y->ndim; k++) cu_walk_axis(&w, y->shape[k], stride[k], 0);
  if (w.a[w.rank - 1] == 1 && cu_walk_wide(&w, per, in[0], nullptr, out[0]))
    launch_gather<uint4>(name, w, n, per, in[0], out[0]);
  else if (per == 4) launch_gather<uint32_t>(name, w, n, 1, in[0], out[0]);
  else launch_gather<uint16_t>(name, w, n, 1, in[0], out[0]);
}

void expand_exec(const su_plan *p, void *const *in, void *const *out, const double *, void *) {
  int64_t stride[SU_MAX_DIM];
  cu_broadcast(&p->call.in[0], &p->call.out[0], stride);
  gather(p, stride, in, out);
}

void permute_exec(const su_plan *p, void *const *in, void *const *out, const double *, void *) {
  const su_spec *x = &p->call.in[0];
  int64_t stride[SU_MAX_DIM];
  for (int k = 0; k < x->ndim; k++) stride[k] = product(x->shape, (int)p->call.i[1 + k] + 1, x->ndim);
  gather(p, stride, in, out);
}

template <su_exec *EXEC> bool plan(su_plan *p) {
  p->exec = EXEC;
  return cu_divisible(p, su_spec_size(&p->call.out[0]));
}

CU_OP("slice", plan<slice_exec>, nullptr)
CU_OP("pad0", plan<pad0_exec>, nullptr)
CU_OP("concat", plan<concat_exec>, nullptr)
CU_OP("expand", plan<expand_exec>, nullptr)
CU_OP("permute", plan<permute_exec>, nullptr)

}  // namespace
