/* optim.cu -- Adam, SGD and weight averages, in place, and whether all numbers are finite (nn/optim.c). All
 * are kernels over a batch (items.h), so that a captured step can run all tensors of a net in one launch.
 *
 * `bad` counts tensors whose gradient is not finite: every block notes whether it met such a number, then
 * one block looks at the notes of each tensor in turn. No atomics, and the order of additions stays. */
#include "items.h"

#include <math.h>

namespace {

/* The blocks' notes of each item; to its counter (in[SLOT]) 1 is added where one is not 0. */
template <int SLOT> CU_KERNEL(CU_THREADS) count_bad(cu_batch b, unsigned blocks, const float *note) {
  for (int k = 0; k < b.count; k++) {
    const unsigned first = b.items ? b.items[k].first : 0;
    const unsigned last = k + 1 < b.count ? b.items[k + 1].first : blocks;
    float *bad = (float *)(b.items ? b.items[k].in[SLOT] : b.one.in[SLOT]);
    float any = 0;
    for (unsigned j = first + threadIdx.x; j < last; j += CU_THREADS) any += note[j];
    any = cu_block_sum(any);
    if (threadIdx.x == 0 && any != 0) *bad += 1;
  }
}

CU_DEVICE void write_note(float *note, bool bad) {
  const float any = cu_block_sum(bad ? 1.0f : 0.0f);
  if (threadIdx.x == 0) note[blockIdx.x] = any;
}

/* ---- Adam: p = shrink*p - rate * m / (sqrt(v)*root + eps), after g += l2*p. ---- */

enum { LR, BETA1, BETA2, EPS, DECAY, STEP };                  /* reals */
enum { EPS_HAT, DECOUPLED };                                  /* ints */

/* Words: beta1, 1 - beta1, beta2, 1 - beta2, decay (shrink if decoupled, else l2), rate, root, eps; in
 * float64 as on the CPU. */
void adam_digest(const su_plan *p, const double *r, uint32_t *w) {
  const bool hat = p->call.i[EPS_HAT] != 0, decoupled = p->call.i[DECOUPLED] != 0;
  const double left1 = 1 - pow(r[BETA1], r[STEP]), left2 = sqrt(1 - pow(r[BETA2], r[STEP]));
  const double decay = decoupled ? 1 - r[LR] * r[DECAY] : r[DECAY];
  const double words[] = {r[BETA1], 1 - r[BETA1], r[BETA2], 1 - r[BETA2], decay,
                          r[LR] / left1 * (hat ? left2 : 1), hat ? 1 : 1 / left2, r[EPS]};
  for (int k = 0; k < 8; k++) cu_word_f(&w[k], (float)words[k]);
}

struct adam_rule {
  float *p, *m, *v;
  const float *g;
  float b1, c1, b2, c2, l2, shrink, rate, root, eps;
  bool bad;

  CU_DEVICE adam_rule(const cu_item &it, int64_t base, const cu_words &w, bool decoupled)
      : p((float *)it.in[0] + base), m((float *)it.in[2] + base), v((float *)it.in[3] + base),
        g((const float *)it.in[1] + base), b1(w.f(0)), c1(w.f(1)), b2(w.f(2)), c2(w.f(3)),
        l2(decoupled ? 0 : w.f(4)), shrink(decoupled ? w.f(4) : 1), rate(w.f(5)), root(w.f(6)),
        eps(w.f(7)), bad(false) {}

  template <int V> CU_DEVICE void at(int i) {
    float a[V], b[V], x[V], d[V];
    cu_get<V>(p + i, x);
    cu_get<V>(g + i, d);
    cu_get<V>(m + i, a);
    cu_get<V>(v + i, b);
    CU_UNROLL
    for (int k = 0; k < V; k++) {
      bad = bad || cu_not_finite(d[k]);
      const float t = d[k] + l2 * x[k];
      a[k] = b1 * a[k] + c1 * t;
      b[k] = b2 * b[k] + c2 * t * t;
      x[k] = shrink * x[k] - rate * a[k] / (sqrtf(b[k]) * root + eps);
    }
    cu_put<V>(m + i, a);
    cu_put<V>(v + i, b);
    cu_put<V>(p + i, x);
  }
};

CU_KERNEL(CU_THREADS) adam_kernel(cu_batch b, bool decoupled, float *note) {
  const cu_item it = b.mine();
  const int64_t base = b.base(it);
  adam_rule rule(it, base, b.words(it), decoupled);
  cu_cover<4>(cu_left(base, it.n), cu_item_wide(it, 4), rule);
  if (note) write_note(note, rule.bad);
}

void adam_launch(const su_plan *p, const cu_batch &b, unsigned blocks, void *ws) {
  float *note = p->call.in[4].ndim < 0 ? nullptr : (float *)ws;
  cu_launch("adam", adam_kernel, blocks, CU_THREADS, b, p->call.i[DECOUPLED] != 0, note);
  if (note) cu_launch("adam", count_bad<4>, 1, CU_THREADS, b, blocks, (const float *)note);
}

void adam_exec(const su_plan *p, void *const *in, void *const *, const double *r, void *ws) {
  const cu_batch b = cu_batch_of_one(p, in, cu_reals(p, r));
  adam_launch(p, b, cu_spans(b.one.n), ws);
}

void adam_many(const su_plan *p, const cu_item *items, int count, unsigned blocks, void *ws) {
  adam_launch(p, cu_batch_of(items, count), blocks, ws);
}

/* Workspace for the notes, where there is a counter (input k). */
void set_notes(su_plan *p, int k) {
  if (p->call.in[k].ndim >= 0) p->workspace = cu_spans(su_spec_size(&p->call.in[0])) * sizeof(float);
}

bool adam_plan(su_plan *p) {
  set_notes(p, 4);
  p->exec = adam_exec;
  return true;
}

/* ---- SGD: b = momentum*b + keep*d with d = g + l2*p; p -= lr * b, or with Nesterov lr * (d + momentum*b) ---- */

enum { SGD_LR, MOMENTUM, DAMPENING, SGD_DECAY, SGD_STEP };

/* Words: lr, momentum, keep, l2, Nesterov's momentum or 0, whether it is the first step. */
void sgd_digest(const su_plan *p, const double *r, uint32_t *w) {
  const bool first = r[SGD_STEP] == 1;
  cu_word_f(&w[0], (float)r[SGD_LR]);
  cu_word_f(&w[1], first ? 0 : (float)r[MOMENTUM]);
  cu_word_f(&w[2], first ? 1 : (float)(1 - r[DAMPENING]));
  cu_word_f(&w[3], (float)r[SGD_DECAY]);
  cu_word_f(&w[4], p->call.i[0] ? (float)r[MOMENTUM] : 0);
  w[5] = first;
}

struct sgd_rule {
  float *p, *b;                         /* b may be NULL */
  const float *g;
  float lr, momentum, keep, l2, ahead;
  bool first, bad;

  CU_DEVICE sgd_rule(const cu_item &it, int64_t base, const cu_words &w)
      : p((float *)it.in[0] + base), b(it.in[2] ? (float *)it.in[2] + base : nullptr),
        g((const float *)it.in[1] + base), lr(w.f(0)), momentum(w.f(1)), keep(w.f(2)), l2(w.f(3)), ahead(w.f(4)),
        first(w.u(5) != 0), bad(false) {}

  template <int V> CU_DEVICE void at(int i) {
    float x[V], d[V], a[V] = {};
    cu_get<V>(p + i, x);
    cu_get<V>(g + i, d);
    if (b && !first) cu_get<V>(b + i, a);         /* what was there before must not count, not even if it is NaN */
    CU_UNROLL
    for (int k = 0; k < V; k++) {
      bad = bad || cu_not_finite(d[k]);
      const float t = d[k] + l2 * x[k];
      a[k] = momentum * a[k] + keep * t;
      x[k] -= lr * (!b ? t : ahead != 0 ? t + ahead * a[k] : a[k]);
    }
    if (b) cu_put<V>(b + i, a);
    cu_put<V>(p + i, x);
  }
};

CU_KERNEL(CU_THREADS) sgd_kernel(cu_batch b, float *note) {
  const cu_item it = b.mine();
  const int64_t base = b.base(it);
  sgd_rule rule(it, base, b.words(it));
  cu_cover<4>(cu_left(base, it.n), cu_item_wide(it, 3), rule);
  if (note) write_note(note, rule.bad);
}

void sgd_launch(const su_plan *p, const cu_batch &b, unsigned blocks, void *ws) {
  float *note = p->call.in[3].ndim < 0 ? nullptr : (float *)ws;
  cu_launch("sgd", sgd_kernel, blocks, CU_THREADS, b, note);
  if (note) cu_launch("sgd", count_bad<3>, 1, CU_THREADS, b, blocks, (const float *)note);
}

void sgd_exec(const su_plan *p, void *const *in, void *const *, const double *r, void *ws) {
  const cu_batch b = cu_batch_of_one(p, in, cu_reals(p, r));
  sgd_launch(p, b, cu_spans(b.one.n), ws);
}

void sgd_many(const su_plan *p, const cu_item *items, int count, unsigned blocks, void *ws) {
  sgd_launch(p, cu_batch_of(items, count), blocks, ws);
}

bool sgd_plan(su_plan *p) {
  set_notes(p, 3);
  p->exec = sgd_exec;
  return true;
}

/* ---- ema: avg = decay*avg + (1 - decay)*p ---- */

void ema_digest(const su_plan *, const double *r, uint32_t *w) {
  cu_word_f(&w[0], (float)r[0]);
  cu_word_f(&w[1], (float)(1 - r[0]));
}

struct ema_rule {
  float *avg;
  const float *p;
  float keep, take;
  template <int V> CU_DEVICE void at(int i) {
    float a[V], x[V];
    cu_get<V>(avg + i, a);
    cu_get<V>(p + i, x);
    CU_UNROLL
    for (int k = 0; k < V; k++) a[k] = keep * a[k] + take * x[k];
    cu_put<V>(avg + i, a);
  }
};

CU_KERNEL(CU_THREADS) ema_kernel(cu_batch b) {
  const cu_item it = b.mine();
  const int64_t base = b.base(it);
  const cu_words w = b.words(it);
  ema_rule rule = {(float *)it.in[0] + base, (const float *)it.in[1] + base, w.f(0), w.f(1)};
  cu_cover<4>(cu_left(base, it.n), cu_item_wide(it, 2), rule);
}

void ema_exec(const su_plan *p, void *const *in, void *const *, const double *r, void *) {
  const cu_batch b = cu_batch_of_one(p, in, cu_reals(p, r));
  cu_launch("ema", ema_kernel, cu_spans(b.one.n), CU_THREADS, b);
}

void ema_many(const su_plan *, const cu_item *items, int count, unsigned blocks, void *) {
  cu_launch("ema", ema_kernel, blocks, CU_THREADS, cu_batch_of(items, count));
}

bool ema_plan(su_plan *p) {
  p->exec = ema_exec;
  return true;
}

/* ---- finite ---- */

template <class T> struct finite_rule {
  const T *x;
  bool bad;
  template <int V> CU_DEVICE void at(int i) {
    float t[V];
    cu_get<V>(x + i, t);
    CU_UNROLL
    for (int k = 0; k < V; k++) bad = bad || cu_not_finite(t[k]);
  }
};

template <class T> CU_KERNEL(CU_THREADS) finite_kernel(int64_t n, bool wide, const T *x, float *note) {
  const int64_t base = cu_base();
  finite_rule<T> rule = {x + base, false};
  cu_cover<16 / sizeof(T)>(cu_left(base, n), wide, rule);
  write_note(note, rule.bad);
}

template <class T> CU_KERNEL(CU_THREADS) all_finite(unsigned blocks, const float *note, T *y) {
  float any = 0;
  for (unsigned k = threadIdx.x; k < blocks; k += CU_THREADS) any += note[k];
  any = cu_block_sum(any);
  if (threadIdx.x == 0) cu_store(y, any != 0 ? 0.0f : 1.0f);
}

template <class T>
void finite_exec(const su_plan *p, void *const *in, void *const *out, const double *, void *ws) {
  const int64_t n = su_spec_size(&p->call.in[0]);
  const unsigned blocks = cu_spans(n);
  cu_launch("finite", finite_kernel<T>, blocks, CU_THREADS, n, cu_wide(0, 1, in[0]), (const T *)in[0],
            (float *)ws);
  if (p->call.out[0].dtype == SU_BF16)
    cu_launch("finite", all_finite<bf16>, 1, CU_THREADS, blocks, (const float *)ws, (bf16 *)out[0]);
  else cu_launch("finite", all_finite<float>, 1, CU_THREADS, blocks, (const float *)ws, (float *)out[0]);
}

bool finite_plan(su_plan *p) {
  p->workspace = cu_spans(su_spec_size(&p->call.in[0])) * sizeof(float);
  p->exec = p->call.in[0].dtype == SU_BF16 ? finite_exec<bf16> : finite_exec<float>;
  return true;
}

CU_OP_MANY("adam", adam_plan, adam_digest, adam_many)
CU_OP_MANY("sgd", sgd_plan, sgd_digest, sgd_many)
CU_OP_MANY("ema", ema_plan, ema_digest, ema_many)
CU_OP("finite", finite_plan, nullptr)

}  // namespace
