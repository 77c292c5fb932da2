/* binary.cu -- elementwise functions of two tensors, broadcast as in numpy, and acc and copy_into
 * (runtime/ops/binary.c). */
#include "items.h"

#include <string.h>

namespace {

template <class F, class T> struct same {
  const T *a, *b;
  T *y;
  template <int V> CU_DEVICE void at(int i) {
    float s[V], t[V];
    cu_get<V>(a + i, s);
    cu_get<V>(b + i, t);
    CU_UNROLL
    for (int k = 0; k < V; k++) s[k] = F()(s[k], t[k]);
    cu_put<V>(y + i, s);
  }
};

template <class F, class T>
CU_KERNEL(CU_THREADS) same_kernel(int64_t n, bool wide, const T *a, const T *b, T *y) {
  const int64_t base = cu_base();
  same<F, T> m = {a + base, b + base, y + base};
  cu_cover<16 / sizeof(T)>(cu_left(base, n), wide, m);
}

/* V numbers of an input, or one of them V times. */
template <int V, class T> CU_DEVICE void get_or_repeat(const T *p, int64_t stride, float (&f)[V]) {
  if (stride) {
    cu_get<V>(p, f);
    return;
  }
  const float one = cu_float(*p);
  CU_UNROLL
  for (int k = 0; k < V; k++) f[k] = one;
}

template <int V, class F, class T>
CU_KERNEL(CU_THREADS) walk_kernel(int64_t n, cu_walk w, const T *a, const T *b, T *y) {
  const int64_t base = cu_base();
  const int count = cu_left(base, n);
  for (int i = (int)threadIdx.x * V; i < count; i += CU_THREADS * V) {
    int64_t oa, ob;
    float s[V], t[V];
    cu_walk_at(w, (uint32_t)base + (uint32_t)i, &oa, &ob);
    get_or_repeat<V>(a + oa, w.a[w.rank - 1], s);
    get_or_repeat<V>(b + ob, w.b[w.rank - 1], t);
    CU_UNROLL
    for (int k = 0; k < V; k++) s[k] = F()(s[k], t[k]);
    cu_put<V>(y + base + i, s);
  }
}

template <class F, class T>
void binary_exec(const su_plan *p, void *const *in, void *const *out, const double *, void *) {
  constexpr int W = 16 / sizeof(T);
  const char *name = p->call.op->name;
  const su_spec *ys = &p->call.out[0];
  const int64_t n = su_spec_size(ys);
  const T *a = (const T *)in[0], *b = (const T *)in[1];
  T *y = (T *)out[0];
  if (n == 0) return;
  int64_t sa[SU_MAX_DIM], sb[SU_MAX_DIM];
  cu_walk w = {};
  cu_broadcast(&p->call.in[0], ys, sa);
  cu_broadcast(&p->call.in[1], ys, sb);
  cu_walk_axis(&w, 1, 0, 0);
  for (int k = 0; k < ys->ndim; k++) cu_walk_axis(&w, ys->shape[k], sa[k], sb[k]);
  if (w.rank == 1 && w.a[0] && w.b[0])
    cu_launch(name, same_kernel<F, T>, cu_spans(n), CU_THREADS, n, cu_wide(0, 1, a, b, y), a, b, y);
  else if (cu_walk_wide(&w, W, a, b, y))
    cu_launch(name, walk_kernel<W, F, T>, cu_spans(n), CU_THREADS, n, w, a, b, y);
  else cu_launch(name, walk_kernel<1, F, T>, cu_spans(n), CU_THREADS, n, w, a, b, y);
}

template <class F> bool binary_plan(su_plan *p) {
  p->exec = p->call.out[0].dtype == SU_BF16 ? binary_exec<F, bf16> : binary_exec<F, float>;
  return cu_divisible(p, su_spec_size(&p->call.out[0]));
}

#define BINARY(id, E)                                                          \
  struct id##_of {                                                             \
    CU_DEVICE float operator()(float a, float b) const { return E; }           \
  };                                                                           \
  CU_OP(#id, binary_plan<id##_of>, nullptr)

BINARY(add, a + b)
BINARY(sub, a - b)
BINARY(mul, a * b)
BINARY(div, a / b)
BINARY(ge, (float)(a >= b))
BINARY(maximum, a >= b ? a : b)

/* ---- in place ---- */

template <bool ADD, class T> struct into {
  T *y;
  const T *x;
  template <int V> CU_DEVICE void at(int i) {
    float s[V], t[V];
    cu_get<V>(x + i, s);
    if (ADD) {
      cu_get<V>(y + i, t);
      CU_UNROLL
      for (int k = 0; k < V; k++) s[k] = t[k] + s[k];
    }
    cu_put<V>(y + i, s);
  }
};

template <bool ADD, class T> CU_KERNEL(CU_THREADS) into_kernel(cu_batch b) {
  const cu_item it = b.mine();
  const int64_t base = b.base(it);
  into<ADD, T> m = {(T *)it.in[0] + base, (const T *)it.in[1] + base};
  cu_cover<16 / sizeof(T)>(cu_left(base, it.n), cu_item_wide(it, 2), m);
}

template <bool ADD> void into_launch(const su_plan *p, const cu_batch &b, unsigned blocks) {
  const char *name = p->call.op->name;
  if (p->call.in[0].dtype == SU_BF16) cu_launch(name, into_kernel<ADD, bf16>, blocks, CU_THREADS, b);
  else cu_launch(name, into_kernel<ADD, float>, blocks, CU_THREADS, b);
}

template <bool ADD> void into_exec(const su_plan *p, void *const *in, void *const *, const double *, void *) {
  const cu_batch b = cu_batch_of_one(p, in, cu_words{});
  if (b.one.n) into_launch<ADD>(p, b, cu_spans(b.one.n));
}

template <bool ADD> void into_many(const su_plan *p, const cu_item *items, int count, unsigned blocks, void *) {
  into_launch<ADD>(p, cu_batch_of(items, count), blocks);
}

template <bool ADD> bool into_plan(su_plan *p) {
  p->exec = into_exec<ADD>;
  return true;
}

CU_OP_MANY("acc", into_plan<true>, nullptr, into_many<true>)
CU_OP_MANY("copy_into", into_plan<false>, nullptr, into_many<false>)

}  // namespace
