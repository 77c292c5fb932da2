/* dropout.cu -- y = x / (1 - p) where the draw says so, else 0 (nn/dropout.c); the backward pass is the
 * same op. */
#include "draw.h"
#include "elem.h"

namespace {

/* Words: the limit that the 24 bits of a kept element reach, 1 / (1 - p), then the draw's five. */
void digest(const su_plan *, const double *r, uint32_t *w) {
  w[0] = (uint32_t)ceil(r[0] * 16777216.0);
  cu_word_f(&w[1], (float)(1 / (1 - r[0])));
  cu_draw_words(r + 1, w + 2);
}

template <class T> CU_KERNEL(CU_THREADS) dropout_kernel(int64_t n, bool wide, cu_words w, const T *x, T *y) {
  const cu_draw draw(w, 2);
  const uint32_t limit = w.u(0);
  const float scale = w.f(1);
  const int64_t base = cu_base();
  const int count = cu_left(base, n);
  x += base;
  y += base;
  for (int i = (int)threadIdx.x * 4; i < count; i += CU_THREADS * 4) {
    const su_philox q = draw.block((base + i) / 4);
    if (wide && i + 4 <= count) {
      float t[4];
      cu_get<4>(x + i, t);
      CU_UNROLL
      for (int k = 0; k < 4; k++) t[k] = q.v[k] >> 8 >= limit ? t[k] * scale : 0;
      cu_put<4>(y + i, t);
      continue;
    }
    CU_UNROLL
    for (int k = 0; k < 4; k++)
      if (i + k < count) cu_store(y + i + k, q.v[k] >> 8 >= limit ? cu_float(x[i + k]) * scale : 0);
  }
}

template <class T>
void dropout_exec(const su_plan *p, void *const *in, void *const *out, const double *r, void *) {
  const int64_t n = su_spec_size(&p->call.in[0]);
  const cu_words w = cu_reals(p, r);
  if (n == 0) return;
  cu_launch("dropout", dropout_kernel<T>, cu_spans(n), CU_THREADS, n, cu_wide(0, 1, in[0], out[0]), w,
            (const T *)in[0], (T *)out[0]);
}

bool dropout_plan(su_plan *p) {
  p->exec = p->call.in[0].dtype == SU_BF16 ? dropout_exec<bf16> : dropout_exec<float>;
  return true;
}

CU_OP("dropout", dropout_plan, digest)

}  // namespace
