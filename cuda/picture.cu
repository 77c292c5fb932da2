/* picture.cu -- bytes to numbers from -1 to 1, cut out and mirrored (nn/picture.c): a thread makes a pixel.
 * Exact division: the floats are those of the CPU's loader. */
#include "elem.h"

namespace {

/* x [n,h,w,c], y [n,oh,ow,c] with `pixels` = n * oh * ow */
struct frame { int64_t pixels; int h, w, oh, ow, c; };

CU_DEVICE int within(int v, int most) { return v < 0 ? 0 : v > most ? most : v; }

template <class T> CU_KERNEL(CU_THREADS) picture_kernel(frame f, const uint8_t *x, const int32_t *at, T *y) {
  const int64_t base = cu_base();
  const int count = cu_left(base, f.pixels);
  for (int i = (int)threadIdx.x; i < count; i += CU_THREADS) {
    const uint32_t pixel = (uint32_t)base + (uint32_t)i, row = pixel / (uint32_t)f.ow, n = row / (uint32_t)f.oh;
    int v = (int)(pixel - row * (uint32_t)f.ow), u = (int)(row - n * (uint32_t)f.oh);
    if (at) {
      if (at[3 * n + 2]) v = f.ow - 1 - v;
      u += within(at[3 * n], f.h - f.oh);
      v += within(at[3 * n + 1], f.w - f.ow);
    }
    const uint8_t *from = x + (((int64_t)n * f.h + u) * f.w + v) * f.c;
    for (int k = 0; k < f.c; k++) cu_store(y + (base + i) * f.c + k, (float)(2 * from[k] - 255) / 255.0f);
  }
}

template <class T>
void picture_exec(const su_plan *p, void *const *in, void *const *out, const double *, void *) {
  const su_spec *x = &p->call.in[0], *y = &p->call.out[0];
  const int32_t *at = p->call.in[1].ndim < 0 ? nullptr : (const int32_t *)in[1];
  const frame f = {y->shape[0] * y->shape[1] * y->shape[2], (int)x->shape[1], (int)x->shape[2],
                   (int)y->shape[1], (int)y->shape[2], (int)y->shape[3]};
  if (f.pixels == 0) return;
  cu_launch("picture", picture_kernel<T>, cu_spans(f.pixels), CU_THREADS, f, (const uint8_t *)in[0], at, (T *)out[0]);
}

bool picture_plan(su_plan *p) {
  p->exec = p->call.out[0].dtype == SU_BF16 ? picture_exec<bf16> : picture_exec<float>;
  return cu_divisible(p, su_spec_size(&p->call.out[0]));
}

CU_OP("picture", picture_plan, nullptr)

}  // namespace
