/* stat.cu -- norm by given statistics, and how running statistics follow the batches (nn/stat.c). */
#include "elem.h"

namespace {

/* ---- norm_eval ---- */

/* Words: eps, and the slope of the activation for numbers below 0. */
void eval_digest(const su_plan *p, const double *r, uint32_t *w) {
  const int64_t act = p->call.i[0];     /* none, relu, lrelu */
  cu_word_f(&w[0], (float)r[0]);
  cu_word_f(&w[1], act == 0 ? 1 : act == 1 ? 0 : (float)r[1]);
}

struct stats { const float *mean, *var, *gain, *bias; };   /* [c]; gain and bias may be NULL */

template <class T> struct evaluated {
  const T *x;
  T *y;
  stats s;
  uint32_t base, c;                     /* base: the number of the span's first element */
  float eps, slope;
  template <int V> CU_DEVICE void at(int i) {
    float t[V];
    const uint32_t first = (base + (uint32_t)i) % c;
    cu_get<V>(x + i, t);
    CU_UNROLL
    for (int k = 0; k < V; k++) {
      const uint32_t j = first + (uint32_t)k;
      const float scale = (s.gain ? s.gain[j] : 1) * rsqrtf(s.var[j] + eps);
      const float u = (t[k] - s.mean[j]) * scale + (s.bias ? s.bias[j] : 0);
      t[k] = u > 0 ? u : u * slope;
    }
    cu_put<V>(y + i, t);
  }
};

template <class T>
CU_KERNEL(CU_THREADS) eval_kernel(int64_t n, int64_t c, bool wide, cu_words w, stats s, const T *x, T *y) {
  const int64_t base = cu_base();
  evaluated<T> m = {x + base, y + base, s, (uint32_t)base, (uint32_t)c, w.f(0), w.f(1)};
  cu_cover<16 / sizeof(T)>(cu_left(base, n), wide, m);
}

template <class T>
void eval_exec(const su_plan *p, void *const *in, void *const *out, const double *r, void *) {
  const su_spec *xs = &p->call.in[0];
  const int64_t n = su_spec_size(xs), c = xs->shape[xs->ndim - 1];
  const cu_words w = cu_reals(p, r);
  const stats s = {(const float *)in[1], (const float *)in[2],
                   p->call.in[3].ndim < 0 ? nullptr : (const float *)in[3],
                   p->call.in[4].ndim < 0 ? nullptr : (const float *)in[4]};
  if (n == 0) return;
  const bool wide = cu_wide(c, 16 / (int)sizeof(T), in[0], out[0]);
  cu_launch("norm_eval", eval_kernel<T>, cu_spans(n), CU_THREADS, n, c, wide, w, s, (const T *)in[0],
            (T *)out[0]);
}

bool eval_plan(su_plan *p) {
  p->exec = p->call.in[0].dtype == SU_BF16 ? eval_exec<bf16> : eval_exec<float>;
  return cu_divisible(p, su_spec_size(&p->call.in[0]));
}

/* ---- stat_update ---- */

/* Words: 1 - momentum, momentum, eps, momentum * count / (count - 1). */
void update_digest(const su_plan *, const double *r, uint32_t *w) {
  cu_word_f(&w[0], (float)(1 - r[0]));
  cu_word_f(&w[1], (float)r[0]);
  cu_word_f(&w[2], (float)r[1]);
  cu_word_f(&w[3], (float)(r[0] * r[2] / (r[2] - 1)));
}

/* A thread takes a channel of mean and rstd [n,c]; in float64, because rstd's square is most of what it
 * subtracts. */
CU_KERNEL(CU_THREADS) update_kernel(int n, int c, double share, cu_words w, float *run_mean, float *run_var,
                                    const float *mean, const float *rstd) {
  const int j = (int)(blockIdx.x * CU_THREADS + threadIdx.x);
  if (j >= c) return;
  double m = 0, v = 0;
  for (int k = 0; k < n; k++) {
    const double r = (double)rstd[(int64_t)k * c + j];
    m += (double)mean[(int64_t)k * c + j];
    v += 1 / (r * r);
  }
  m *= share;
  v = v * share - (double)w.f(2);
  if (v < 0) v = 0;                     /* only by rstd's rounding */
  run_mean[j] = (float)((double)w.f(0) * (double)run_mean[j] + (double)w.f(1) * m);
  run_var[j] = (float)((double)w.f(0) * (double)run_var[j] + (double)w.f(3) * v);
}

void update_exec(const su_plan *p, void *const *in, void *const *, const double *r, void *) {
  const int64_t c = p->call.in[0].shape[0], n = c ? su_spec_size(&p->call.in[2]) / c : 0;
  const cu_words w = cu_reals(p, r);
  if (n == 0) return;
  cu_launch("stat_update", update_kernel, cu_blocks(c, CU_THREADS), CU_THREADS, n, c, 1 / (double)n, w,
            (float *)in[0], (float *)in[1], (const float *)in[2], (const float *)in[3]);
}

bool update_plan(su_plan *p) {
  p->exec = update_exec;
  return true;
}

CU_OP("norm_eval", eval_plan, eval_digest)
CU_OP("stat_update", update_plan, update_digest)

}  // namespace
