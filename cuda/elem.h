/* elem.h -- kernels over elements: a block of 256 threads covers CU_SPAN of them, 16 bytes at a time where
 * addresses allow it. Also the sums of a block, and how a tensor that is broadcast or permuted is walked. */
#ifndef SUMI_CUDA_ELEM_H
#define SUMI_CUDA_ELEM_H

#include "cu.h"
#include "vec.h"

enum { CU_THREADS = 256, CU_WARPS = CU_THREADS / 32 };

/* The span of elements that this block covers. */
CU_DEVICE int64_t cu_base() { return (int64_t)blockIdx.x * CU_SPAN; }
CU_DEVICE int cu_left(int64_t base, int64_t n) { return n - base < CU_SPAN ? (int)(n - base) : (int)CU_SPAN; }

/* The `count` elements of the block's span: body.at<V>(i) for V of them from i on, body.at<1>(i) for what
 * is left over. What `body` points to begins with the span. */
template <int V, class B> CU_DEVICE void cu_cover(int count, bool wide, B &body) {
  const int last = wide ? count - count % V : 0;
  CU_UNROLL
  for (int k = 0; k < CU_SPAN / (CU_THREADS * V); k++) {
    const int i = (k * CU_THREADS + (int)threadIdx.x) * V;
    if (i < last) body.template at<V>(i);
  }
  for (int i = last + (int)threadIdx.x; i < count; i += CU_THREADS) body.template at<1>(i);
}

static inline unsigned cu_spans(int64_t n) { return cu_blocks(n, CU_SPAN); }

/* The words of an op that may have no reals. */
static inline cu_words cu_words_of(const su_plan *p, const double *r) {
  return p->call.op->nreal ? cu_reals(p, r) : cu_words{};
}

/* The sum over a block's threads, in every thread: warps by butterfly, then their sums in order. All
 * threads must come. */
CU_DEVICE float cu_block_sum(float v) {
  CU_SHARED(float, warps, CU_WARPS);
  v = cu_warp_sum(v);
  cu_sync();                            /* the last sum has been read */
  if (threadIdx.x % 32 == 0) warps[threadIdx.x / 32] = v;
  cu_sync();
  float sum = 0;
  CU_UNROLL
  for (int k = 0; k < CU_WARPS; k++) sum += warps[k];
  return sum;
}

/* The same for doubles; the sum is in thread 0. */
CU_DEVICE double cu_block_sum64(double v) {
  CU_SHARED(double, terms, CU_THREADS);
  cu_sync();
  terms[threadIdx.x] = v;
  cu_sync();
  for (unsigned half = CU_THREADS / 2; half > 0; half /= 2) {
    if (threadIdx.x < half) terms[threadIdx.x] += terms[threadIdx.x + half];
    cu_sync();
  }
  return terms[0];
}

CU_DEVICE float cu_sigmoid(float x) { return 1.0f / (1.0f + expf(-x)); }
CU_DEVICE float cu_softplus(float x) { return (x > 0 ? x : 0) + log1pf(expf(-fabsf(x))); }   /* log(1 + e^x) */

/* All ones in the exponent: infinite or NaN. */
CU_DEVICE bool cu_not_finite(float x) { return !(fabsf(x) <= 3.402823466e38f); }

/* An output in order, axis by axis, and how far one step along each axis moves in two inputs. */
struct cu_walk {
  int rank;                             /* at least 1 once an axis has been added */
  int64_t size[SU_MAX_DIM], a[SU_MAX_DIM], b[SU_MAX_DIM];
};

/* Adds an inner axis; it joins the one before where both inputs move on evenly. */
static inline void cu_walk_axis(cu_walk *w, int64_t size, int64_t a, int64_t b) {
  const int last = w->rank - 1;
  if (last >= 0 && size == 1) return;
  if (last >= 0 && (w->size[last] == 1 || (w->a[last] == size * a && w->b[last] == size * b))) {
    w->size[last] *= size;
    w->a[last] = a;
    w->b[last] = b;
    return;
  }
  w->size[w->rank] = size;
  w->a[w->rank] = a;
  w->b[w->rank++] = b;
}

/* Strides of x broadcast to y, as in numpy: 0 along a repeated axis. */
static inline void cu_broadcast(const su_spec *x, const su_spec *y, int64_t *stride) {
  int64_t step = 1;
  for (int k = 1; k <= y->ndim; k++) {
    const int64_t d = k <= x->ndim ? x->shape[x->ndim - k] : 1;
    stride[y->ndim - k] = d == 1 ? 0 : step;
    step *= d;
  }
}

/* May the walk go V elements at a time? Along the last axis an input moves by 1 or stands still. */
static inline bool cu_walk_wide(const cu_walk *w, int width, const void *a, const void *b, const void *y) {
  const int last = w->rank - 1;
  if (w->size[last] % width || (uintptr_t)y & 15) return false;
  for (int k = 0; k < w->rank; k++) {
    if (w->a[last] && (k == last ? w->a[k] != 1 : w->a[k] % width != 0)) return false;
    if (w->b[last] && (k == last ? w->b[k] != 1 : w->b[k] % width != 0)) return false;
  }
  return (!w->a[last] || !((uintptr_t)a & 15)) && (!w->b[last] || !((uintptr_t)b & 15));
}

/* Kernels that divide an element's number do so in 32 bits: 64 are many times as slow and want a stack. */
static inline bool cu_divisible(const su_plan *p, int64_t n) {
  return n >> 32 == 0 || su_fail("%s: a tensor of 2^32 or more numbers; on a GPU this op counts to there",
                                 p->call.op->name);
}

/* Where element i of the output lies in both inputs. */
CU_DEVICE void cu_walk_at(const cu_walk &w, uint32_t i, int64_t *a, int64_t *b) {
  int64_t oa = 0, ob = 0;
  CU_UNROLL
  for (int d = SU_MAX_DIM - 1; d > 0; d--) {
    if (d >= w.rank) continue;
    const uint32_t size = (uint32_t)w.size[d], q = i / size, at = i - q * size;
    oa += at * w.a[d];
    ob += at * w.b[d];
    i = q;
  }
  *a = oa + i * w.a[0];
  *b = ob + i * w.b[0];
}

#endif
