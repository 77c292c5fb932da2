/* pool.cu -- the pool of old fakes (nn/pool.c). What happens to a picture depends on draws alone: a thread
 * takes some numbers of every picture and follows them through the batch in order, so that pictures that
 * come back within the batch do so here too. */
#include "draw.h"
#include "elem.h"

namespace {

/* Words: count, then the draw's five. */
void digest(const su_plan *, const double *r, uint32_t *w) {
  w[0] = (uint32_t)r[0];
  cu_draw_words(r + 1, w + 1);
}

/* size pictures are kept, n come, of `length` units each. */
struct shape { uint32_t size, n; int64_t length; };

template <class U> CU_KERNEL(CU_THREADS) pool_kernel(shape s, cu_words w, U *images, const U *x, U *y) {
  const cu_draw draw(w, 1);
  const uint32_t count = w.u(0);
  const int64_t base = cu_base();
  const int mine = cu_left(base, s.length);
  images += base;
  x += base;
  y += base;
  for (uint32_t k = 0; k < s.n; k++, x += s.length, y += s.length) {
    const su_philox q = draw.block(k);
    const bool room = (uint64_t)count + k < s.size, swap = !room && q.v[0] >> 8 > 1u << 23;
    const uint32_t slot = room ? count + k : (uint32_t)((uint64_t)(q.v[1] >> 8) * s.size >> 24);
    U *stored = images + slot * s.length;
    CU_NO_UNROLL                        /* more would spill registers */
    for (int i = (int)threadIdx.x; i < mine; i += CU_THREADS) {
      const U u = x[i];
      y[i] = swap ? stored[i] : u;
      if (room || swap) stored[i] = u;
    }
  }
}

template <class U>
void launch(const su_plan *p, int64_t bytes, void *const *in, void *const *out, const cu_words &w) {
  const shape s = {(uint32_t)p->call.in[0].shape[0], (uint32_t)p->call.in[1].shape[0],
                   bytes / (int64_t)sizeof(U)};
  cu_launch("pool", pool_kernel<U>, cu_spans(s.length), CU_THREADS, s, w, (U *)in[0], (const U *)in[1],
            (U *)out[0]);
}

void pool_exec(const su_plan *p, void *const *in, void *const *out, const double *r, void *) {
  const su_spec *x = &p->call.in[1];
  const cu_words w = cu_reals(p, r);
  if (su_spec_size(x) == 0) return;
  const int64_t bytes = su_spec_size(x) / x->shape[0] * (int64_t)su_dtype_size(x->dtype);
  if (bytes % 16 == 0 && cu_wide(0, 1, in[0], in[1], out[0])) launch<uint4>(p, bytes, in, out, w);
  else if (bytes % 4 == 0) launch<uint32_t>(p, bytes, in, out, w);
  else launch<uint16_t>(p, bytes, in, out, w);
}

bool pool_plan(su_plan *p) {
  p->exec = pool_exec;
  return true;
}

CU_OP("pool", pool_plan, digest)

}  // namespace
