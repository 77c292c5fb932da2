/* unary.cu -- elementwise functions of one tensor (runtime/ops/unary.c), and of a cotangent and a tensor. */
#include "elem.h"

namespace {

template <class F, class T> struct map1 {
  F f;
  const T *x;
  T *y;
  template <int V> CU_DEVICE void at(int i) {
    float t[V];
    cu_get<V>(x + i, t);
    CU_UNROLL
    for (int k = 0; k < V; k++) t[k] = f(t[k]);
    cu_put<V>(y + i, t);
  }
};

template <class F, class T>
CU_KERNEL(CU_THREADS) map1_kernel(int64_t n, bool wide, cu_words w, const T *x, T *y) {
  const int64_t base = cu_base();
  map1<F, T> m = {{w.f(0), w.f(1)}, x + base, y + base};
  cu_cover<16 / sizeof(T)>(cu_left(base, n), wide, m);
}

template <class F, class T>
void map1_exec(const su_plan *p, void *const *in, void *const *out, const double *r, void *) {
  const int64_t n = su_spec_size(&p->call.out[0]);
  if (n == 0) return;
  cu_launch(p->call.op->name, map1_kernel<F, T>, cu_spans(n), CU_THREADS, n, cu_wide(0, 1, in[0], out[0]),
            cu_words_of(p, r), (const T *)in[0], (T *)out[0]);
}

template <class F> bool map1_plan(su_plan *p) {
  p->exec = p->call.out[0].dtype == SU_BF16 ? map1_exec<F, bf16> : map1_exec<F, float>;
  return true;
}

template <class F, class T> struct map2 {
  F f;
  const T *g, *y;
  T *gx;
  template <int V> CU_DEVICE void at(int i) {
    float s[V], t[V];
    cu_get<V>(g + i, s);
    cu_get<V>(y + i, t);
    CU_UNROLL
    for (int k = 0; k < V; k++) s[k] = f(s[k], t[k]);
    cu_put<V>(gx + i, s);
  }
};

template <class F, class T>
CU_KERNEL(CU_THREADS) map2_kernel(int64_t n, bool wide, cu_words w, const T *g, const T *y, T *gx) {
  const int64_t base = cu_base();
  map2<F, T> m = {{w.f(0), w.f(1)}, g + base, y + base, gx + base};
  cu_cover<16 / sizeof(T)>(cu_left(base, n), wide, m);
}

template <class F, class T>
void map2_exec(const su_plan *p, void *const *in, void *const *out, const double *r, void *) {
  const int64_t n = su_spec_size(&p->call.out[0]);
  if (n == 0) return;
  const bool wide = cu_wide(0, 1, in[0], in[1], out[0]);
  cu_launch(p->call.op->name, map2_kernel<F, T>, cu_spans(n), CU_THREADS, n, wide, cu_words_of(p, r),
            (const T *)in[0], (const T *)in[1], (T *)out[0]);
}

template <class F> bool map2_plan(su_plan *p) {
  p->exec = p->call.out[0].dtype == SU_BF16 ? map2_exec<F, bf16> : map2_exec<F, float>;
  return true;
}

/* sin(x) without the slow reduction of large angles: turns by pi in double, then by whole turns, which is
 * exact. */
CU_DEVICE float half_turns(float x) {
  const double t = (double)x * 0.31830988618379067154;
  return (float)(t - 2 * rint(t * 0.5));
}

/* An op from an expression in x and its reals a, b. */
#define UNARY(id, E)                                                  \
  struct id##_of {                                                    \
    float a, b;                                                       \
    CU_DEVICE float operator()(float x) const { return E; }           \
  };                                                                  \
  CU_OP(#id, map1_plan<id##_of>, nullptr)

/* The same for a cotangent g and a tensor y. */
#define UNARY_GX(id, E)                                               \
  struct id##_of {                                                    \
    float a, b;                                                       \
    CU_DEVICE float operator()(float g, float y) const { return E; }  \
  };                                                                  \
  CU_OP(#id, map2_plan<id##_of>, nullptr)

UNARY(affine, a * x + b)
UNARY(sign, (float)((x > 0) - (x < 0)))
UNARY(abs, fabsf(x))
UNARY(exp, expf(x))
UNARY(log, logf(x))
UNARY(sqrt, sqrtf(x))
UNARY(rsqrt, 1.0f / sqrtf(x))
UNARY(square, x * x)
UNARY(recip, 1.0f / x)
UNARY(pow, powf(x, a))
UNARY(sin, sinpif(half_turns(x)))
UNARY(cos, cospif(half_turns(x)))
UNARY(lrelu, x > 0 ? x : a * x)
UNARY(tanh, tanhf(x))
UNARY(sigmoid, cu_sigmoid(x))
UNARY(softplus, cu_softplus(x))
UNARY(clamp, x < a ? a : x > b ? b : x)

UNARY_GX(lrelu_gx, y > 0 ? g : a * g)
UNARY_GX(tanh_gx, g * (1 - y * y))
UNARY_GX(sigmoid_gx, g * y * (1 - y))
UNARY_GX(clamp_gx, y < a || y > b ? 0 : g)

}  // namespace
