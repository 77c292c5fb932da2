/* loss.cu -- losses averaged over all elements, and their slopes (nn/loss.c). A loss is summed block by
 * block, then the blocks' sums by one block in float64: the same cuts for the same number of elements. */
#include "elem.h"

namespace {

/* f(x, t) and its slope in x. */
struct bce_of {
  CU_DEVICE static float value(float x, float t) { return (x > 0 ? x : 0) - x * t + log1pf(expf(-fabsf(x))); }
  CU_DEVICE static float slope(float x, float t) { return cu_sigmoid(x) - t; }
};
struct mse_of {
  CU_DEVICE static float value(float x, float t) { return (x - t) * (x - t); }
  CU_DEVICE static float slope(float x, float t) { return 2 * (x - t); }
};
struct l1_of {
  CU_DEVICE static float value(float x, float t) { return fabsf(x - t); }
  CU_DEVICE static float slope(float x, float t) { return x > t ? 1 : x < t ? -1 : x - t; }   /* 0, or NaN */
};
struct hinge_of {
  CU_DEVICE static float value(float x, float t) { return 1 - t * x < 0 ? 0 : 1 - t * x; }    /* a NaN stays */
  CU_DEVICE static float slope(float x, float t) { return t * x < 1 ? -t : 0; }
};

/* t: targets, or NULL for the one number `target`. */
template <class F, class T> struct summed {
  const T *x, *t;
  float target, sum;
  template <int V> CU_DEVICE void at(int i) {
    float u[V], v[V];
    cu_get<V>(x + i, u);
    if (t) cu_get<V>(t + i, v);
    CU_UNROLL
    for (int k = 0; k < V; k++) sum += F::value(u[k], t ? v[k] : target);
  }
};

template <class F, class T>
CU_KERNEL(CU_THREADS) loss_kernel(int64_t n, bool wide, cu_words w, const T *x, const T *t, float *part) {
  const int64_t base = cu_base();
  summed<F, T> m = {x + base, t ? t + base : nullptr, w.f(0), 0};
  cu_cover<16 / sizeof(T)>(cu_left(base, n), wide, m);
  const float sum = cu_block_sum(m.sum);
  if (threadIdx.x == 0) part[blockIdx.x] = sum;
}

CU_KERNEL(CU_THREADS) mean_kernel(int64_t n, int64_t parts, const float *part, float *y) {
  double sum = 0;
  for (int64_t k = threadIdx.x; k < parts; k += CU_THREADS) sum += (double)part[k];
  sum = cu_block_sum64(sum);
  if (threadIdx.x == 0) *y = (float)(sum / (double)n);
}

template <class F, class T>
void loss_exec(const su_plan *p, void *const *in, void *const *out, const double *r, void *ws) {
  const char *name = p->call.op->name;
  const int64_t n = su_spec_size(&p->call.in[0]);
  const T *t = p->call.in[1].ndim < 0 ? nullptr : (const T *)in[1];
  const cu_words w = cu_reals(p, r);
  float *part = (float *)ws;
  cu_launch(name, loss_kernel<F, T>, cu_spans(n), CU_THREADS, n, cu_wide(0, 1, in[0], t), w, (const T *)in[0], t,
            part);
  cu_launch(name, mean_kernel, 1, CU_THREADS, n, (int64_t)cu_spans(n), (const float *)part, (float *)out[0]);
}

template <class F> bool loss_plan(su_plan *p) {
  p->workspace = cu_spans(su_spec_size(&p->call.in[0])) * sizeof(float);
  p->exec = p->call.in[0].dtype == SU_BF16 ? loss_exec<F, bf16> : loss_exec<F, float>;
  return true;
}

template <class F, class T> struct slopes {
  const T *x, *t;
  T *gx;
  float target, scale;
  template <int V> CU_DEVICE void at(int i) {
    float u[V], v[V];
    cu_get<V>(x + i, u);
    if (t) cu_get<V>(t + i, v);
    CU_UNROLL
    for (int k = 0; k < V; k++) u[k] = scale * F::slope(u[k], t ? v[k] : target);
    cu_put<V>(gx + i, u);
  }
};

template <class F, class T>
CU_KERNEL(CU_THREADS) slope_kernel(int64_t n, bool wide, cu_words w, const float *gy, const T *x,
                                                              const T *t, T *gx) {
  const int64_t base = cu_base();
  slopes<F, T> m = {x + base, t ? t + base : nullptr, gx + base, w.f(0), *gy / (float)n};
  cu_cover<16 / sizeof(T)>(cu_left(base, n), wide, m);
}

template <class F, class T>
void slope_exec(const su_plan *p, void *const *in, void *const *out, const double *r, void *) {
  const int64_t n = su_spec_size(&p->call.in[1]);
  const T *t = p->call.in[2].ndim < 0 ? nullptr : (const T *)in[2];
  const cu_words w = cu_reals(p, r);
  if (n == 0) return;
  cu_launch(p->call.op->name, slope_kernel<F, T>, cu_spans(n), CU_THREADS, n, cu_wide(0, 1, in[1], t, out[0]), w,
            (const float *)in[0], (const T *)in[1], t, (T *)out[0]);
}

template <class F> bool slope_plan(su_plan *p) {
  p->exec = p->call.in[1].dtype == SU_BF16 ? slope_exec<F, bf16> : slope_exec<F, float>;
  return true;
}

CU_OP("bce", loss_plan<bce_of>, nullptr)
CU_OP("bce_gx", slope_plan<bce_of>, nullptr)
CU_OP("mse", loss_plan<mse_of>, nullptr)
CU_OP("mse_gx", slope_plan<mse_of>, nullptr)
CU_OP("l1", loss_plan<l1_of>, nullptr)
CU_OP("l1_gx", slope_plan<l1_of>, nullptr)
CU_OP("hinge", loss_plan<hinge_of>, nullptr)
CU_OP("hinge_gx", slope_plan<hinge_of>, nullptr)

}  // namespace
