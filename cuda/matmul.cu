/* matmul.cu -- matmul and linear (runtime/ops/matmul.c): cuBLASLt where it is there and has a plan (blas.h), else
 * the tiles of tile.h. Operands f32 or bf16, sums in f32, the result in the dtype that the shape rule chose. */
#include "tile.h"
#if !defined SUMI_EMU || defined SUMI_PLAYED
#include "blas.h"
#endif

#include <limits.h>

namespace {

/* y [m,n] = A B (+ bias [n]); a is [m,k], or [k,m] where ta; b is [k,n], or [n,k] where tb. */
struct product { int64_t m, n, k; bool ta, tb; };

product product_of(const su_call *c) {
  const int64_t *a = c->in[0].shape, *b = c->in[1].shape;
  if (c->op->nint == 0) return product{a[0], b[0], a[1], false, true};       /* linear */
  const bool ta = c->i[0], tb = c->i[1];
  return product{a[ta], b[!tb], a[!ta], ta, tb};
}

template <class T, bool TA, bool TB> void run(const product &g, const T *a, const T *b, const tile_out &y, void *ws) {
  const tile_matrix<T, !TA> left = {a, TA ? g.m : g.k, (int)g.m};
  const tile_matrix<T, TB> right = {b, TB ? g.k : g.n, (int)g.n};
  tile_run("matmul", left, right, y, g.k, ws);
}

template <class T> void run_typed(const product &g, const T *a, const T *b, const tile_out &y, void *ws) {
  if (g.ta && g.tb) run<T, true, true>(g, a, b, y, ws);
  else if (g.ta) run<T, true, false>(g, a, b, y, ws);
  else if (g.tb) run<T, false, true>(g, a, b, y, ws);
  else run<T, false, false>(g, a, b, y, ws);
}

void exec(const su_plan *p, void *const *in, void *const *out, const double *, void *ws) {
  const product g = product_of(&p->call);
  const void *bias = p->call.op->nin > 2 ? in[2] : nullptr;
  const tile_out y = tile_to(out[0], p->call.out[0].dtype, g.m, g.n, bias);
  if (p->call.in[0].dtype == SU_BF16) run_typed(g, (const bf16 *)in[0], (const bf16 *)in[1], y, ws);
  else run_typed(g, (const float *)in[0], (const float *)in[1], y, ws);
}

bool plan(su_plan *p) {
  const product g = product_of(&p->call);
  const int64_t most = INT_MAX - TILE;
  if (g.m > most || g.n > most || g.k > most)
    return su_fail("%s: a matrix of more than 2^31 rows or columns", p->call.op->name);
  p->exec = exec;
  p->workspace = tile_workspace(g.m, g.n, g.k);
#if !defined SUMI_EMU || defined SUMI_PLAYED
  cu_blas_matmul(p);                    /* where it can't, the tiles serve */
#endif
  return true;
}

CU_OP("matmul", plan, nullptr)
CU_OP("linear", plan, nullptr)

}  // namespace
