/* make.cu -- constants, Philox draws and casts (runtime/ops/make.c). */
#include "draw.h"
#include "elem.h"

namespace {

/* ---- fill ---- */

template <class T> struct filled {
  float value;
  T *y;
  template <int V> CU_DEVICE void at(int i) {
    float t[V];
    CU_UNROLL
    for (int k = 0; k < V; k++) t[k] = value;
    cu_put<V>(y + i, t);
  }
};

template <class T> CU_KERNEL(CU_THREADS) fill_kernel(int64_t n, bool wide, cu_words w, T *y) {
  const int64_t base = cu_base();
  filled<T> m = {w.f(0), y + base};
  cu_cover<16 / sizeof(T)>(cu_left(base, n), wide, m);
}

template <class T> void fill_exec(const su_plan *p, void *const *in, void *const *, const double *r, void *) {
  const int64_t n = su_spec_size(&p->call.in[0]);
  const cu_words w = cu_reals(p, r);
  if (n) cu_launch("fill", fill_kernel<T>, cu_spans(n), CU_THREADS, n, cu_wide(0, 1, in[0]), w, (T *)in[0]);
}

bool fill_plan(su_plan *p) {
  p->exec = p->call.in[0].dtype == SU_BF16 ? fill_exec<bf16> : fill_exec<float>;
  return true;
}

/* ---- draws: a thread turns one Philox block into four numbers ---- */

/* Words: lo, hi - lo (or mean, deviation), then the draw's five. */
template <bool SPAN> void draw_digest(const su_plan *, const double *r, uint32_t *w) {
  cu_word_f(&w[0], (float)r[0]);
  cu_word_f(&w[1], (float)(SPAN ? r[1] - r[0] : r[1]));
  cu_draw_words(r + 2, w + 2);
}

struct uniform {
  CU_DEVICE void operator()(const su_philox &q, float a, float b, float (&y)[4]) const {
    CU_UNROLL
    for (int k = 0; k < 4; k++) y[k] = a + b * cu_u01(q.v[k]);
  }
};

/* Box and Muller's normals: two from two uniforms, the first in (0,1]. */
struct normal {
  CU_DEVICE void operator()(const su_philox &q, float a, float b, float (&y)[4]) const {
    CU_UNROLL
    for (int k = 0; k < 4; k += 2) {
      const float m = b * sqrtf(-2.0f * logf(1.0f - cu_u01(q.v[k]))), t = 2.0f * cu_u01(q.v[k + 1]);
      y[k] = a + m * cospif(t);
      y[k + 1] = a + m * sinpif(t);
    }
  }
};

template <class F, class T> CU_KERNEL(CU_THREADS) draw_kernel(int64_t n, bool wide, cu_words w, T *y) {
  const cu_draw draw(w, 2);
  const float a = w.f(0), b = w.f(1);
  const int64_t base = cu_base();
  const int count = cu_left(base, n);
  y += base;
  for (int i = (int)threadIdx.x * 4; i < count; i += CU_THREADS * 4) {
    float t[4];
    F()(draw.block((base + i) / 4), a, b, t);
    if (wide && i + 4 <= count) {
      cu_put<4>(y + i, t);
      continue;
    }
    CU_UNROLL
    for (int k = 0; k < 4; k++)
      if (i + k < count) cu_store(y + i + k, t[k]);
  }
}

template <class F, class T>
void draw_exec(const su_plan *p, void *const *in, void *const *, const double *r, void *) {
  const int64_t n = su_spec_size(&p->call.in[0]);
  const cu_words w = cu_reals(p, r);
  if (n) cu_launch(p->call.op->name, draw_kernel<F, T>, cu_spans(n), CU_THREADS, n, cu_wide(0, 1, in[0]), w,
                   (T *)in[0]);
}

template <class F> bool draw_plan(su_plan *p) {
  p->exec = p->call.in[0].dtype == SU_BF16 ? draw_exec<F, bf16> : draw_exec<F, float>;
  return true;
}

/* ---- cast ---- */

template <class X, class Y> struct rounded {
  const X *x;
  Y *y;
  template <int V> CU_DEVICE void at(int i) {
    float t[V];
    cu_get<V>(x + i, t);
    cu_put<V>(y + i, t);
  }
};

template <class X, class Y> CU_KERNEL(CU_THREADS) round_kernel(int64_t n, bool wide, const X *x, Y *y) {
  const int64_t base = cu_base();
  rounded<X, Y> m = {x + base, y + base};
  cu_cover<4>(cu_left(base, n), wide, m);
}

/* Between f32 and bf16. */
template <class X, class Y>
void round_exec(const su_plan *p, void *const *in, void *const *out, const double *, void *) {
  const int64_t n = su_spec_size(&p->call.in[0]);
  if (n == 0) return;
  cu_launch("cast", round_kernel<X, Y>, cu_spans(n), CU_THREADS, n, cu_wide(0, 1, in[0], out[0]),
            (const X *)in[0], (Y *)out[0]);
}

template <class X> CU_DEVICE double number(X v) { return (double)v; }
template <> CU_DEVICE double number(bf16 v) { return (double)cu_float(v); }

/* As su_convert: u8 rounds and holds, i32 cuts off. */
CU_DEVICE void put(double *y, double v) { *y = v; }
CU_DEVICE void put(float *y, double v) { *y = (float)v; }
CU_DEVICE void put(bf16 *y, double v) { cu_store(y, (float)v); }
CU_DEVICE void put(uint8_t *y, double v) { *y = (uint8_t)(v < 0 ? 0 : v > 255 ? 255 : v + 0.5); }
CU_DEVICE void put(int32_t *y, double v) { *y = (int32_t)v; }

template <class X, class Y> CU_KERNEL(CU_THREADS) convert_kernel(int64_t n, const X *x, Y *y) {
  const int64_t base = cu_base();
  const int count = cu_left(base, n);
  for (int i = (int)threadIdx.x; i < count; i += CU_THREADS) put(y + base + i, number(x[base + i]));
}

template <class X, class Y>
void convert_exec(const su_plan *p, void *const *in, void *const *out, const double *, void *) {
  const int64_t n = su_spec_size(&p->call.in[0]);
  if (n) cu_launch("cast", convert_kernel<X, Y>, cu_spans(n), CU_THREADS, n, (const X *)in[0], (Y *)out[0]);
}

template <class X> su_exec *convert_to(int dtype) {
  switch (dtype) {
    case SU_F32: return convert_exec<X, float>;
    case SU_BF16: return convert_exec<X, bf16>;
    case SU_F64: return convert_exec<X, double>;
    case SU_U8: return convert_exec<X, uint8_t>;
    default: return convert_exec<X, int32_t>;
  }
}

bool cast_plan(su_plan *p) {
  const int from = p->call.in[0].dtype, to = p->call.out[0].dtype;
  switch (from) {
    case SU_F32: p->exec = to == SU_BF16 ? round_exec<float, bf16> : convert_to<float>(to); break;
    case SU_BF16: p->exec = to == SU_F32 ? round_exec<bf16, float> : convert_to<bf16>(to); break;
    case SU_F64: p->exec = convert_to<double>(to); break;
    case SU_U8: p->exec = convert_to<uint8_t>(to); break;
    default: p->exec = convert_to<int32_t>(to);
  }
  return true;
}

CU_OP("fill", fill_plan, nullptr)
CU_OP("fill_uniform", draw_plan<uniform>, draw_digest<true>)
CU_OP("fill_normal", draw_plan<normal>, draw_digest<false>)
CU_OP("cast", cast_plan, nullptr)

}  // namespace
