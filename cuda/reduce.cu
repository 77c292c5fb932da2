/* reduce.cu -- sums over axes (runtime/ops/reduce.c), in float32 and with a fixed tree: how a sum is cut
 * depends on its shape alone.
 *
 * Axes are collapsed to [a, r, b] with r summed, as on the CPU; where several groups are summed, the last
 * one goes first. Each pass has at most two stages: sums of chunks of r, then the sum of these. */
#include "elem.h"

namespace {

enum { AXES = 0, KEEP = 1 + SU_MAX_DIM };  /* int slots of sum */
enum { MOST_CHUNKS = 512 };

/* size[] alternates kept, summed, kept, ..., starting and ending with a kept one (maybe 1). */
struct groups { int n; int64_t size[SU_MAX_DIM + 3]; };

groups collapse(const su_call *c) {
  bool summed[SU_MAX_DIM];
  for (int k = 0; k < SU_MAX_DIM; k++) summed[k] = c->i[AXES] < 0;
  for (int64_t j = 0; j < c->i[AXES]; j++) summed[c->i[AXES + 1 + j]] = true;
  groups g = {1, {1}};
  for (int k = 0; k < c->in[0].ndim; k++) {
    if (c->in[0].shape[k] == 1) continue;
    if (summed[k] != (g.n % 2 == 0)) g.size[g.n++] = 1;
    g.size[g.n - 1] *= c->in[0].shape[k];
  }
  while (g.n < 3 || g.n % 2 == 0) g.size[g.n++] = 1;
  return g;
}

/* A pass over x [a, r, b]: chunks of `rows` of r. A block has `lanes` rows at a time of `columns` columns
 * (b > 1), or runs along one row (b = 1). */
struct pass { int64_t a, r, b, rows, chunks; int columns, lanes; };

pass pass_of(int64_t a, int64_t r, int64_t b) {
  pass s = {a, r, b, 0, 1, 1, CU_THREADS};
  while (s.columns < 32 && s.columns < b) s.columns *= 2;
  s.lanes = CU_THREADS / s.columns;
  const int64_t least = s.lanes * 16;
  s.rows = r / MOST_CHUNKS < least ? least : (r / MOST_CHUNKS / least + 1) * least;
  if (r > s.rows) s.chunks = (r + s.rows - 1) / s.rows;
  return s;
}

/* y [a, chunks, b] (chunks 1: [a, b]). A thread adds every lanes-th row of its column; then the lanes are
 * added in pairs. */
template <class T> CU_KERNEL(CU_THREADS) sum_columns(pass s, const T *x, float *y) {
  CU_SHARED(float, part, CU_THREADS);
  const int64_t blocks_b = (s.b + s.columns - 1) / s.columns, at = (int64_t)blockIdx.x;
  const int64_t column = at % blocks_b * s.columns + threadIdx.x % (unsigned)s.columns;
  const int64_t chunk = at / blocks_b % s.chunks, a = at / blocks_b / s.chunks;
  const int64_t last = (chunk + 1) * s.rows < s.r ? (chunk + 1) * s.rows : s.r;
  float sum = 0;
  if (column < s.b)
    for (int64_t k = chunk * s.rows + threadIdx.x / (unsigned)s.columns; k < last; k += s.lanes)
      sum += cu_float(x[(a * s.r + k) * s.b + column]);
  part[threadIdx.x] = sum;
  cu_sync();
  for (unsigned half = CU_THREADS / 2; half >= (unsigned)s.columns; half /= 2) {
    if (threadIdx.x < half) part[threadIdx.x] += part[threadIdx.x + half];
    cu_sync();
  }
  if (threadIdx.x < (unsigned)s.columns && column < s.b)
    y[(a * s.chunks + chunk) * s.b + column] = part[threadIdx.x];
}

/* The same for b = 1: short rows one to a warp, CU_WARPS to a block. */
template <class T> CU_KERNEL(CU_THREADS) sum_short_rows(pass s, const T *x, float *y) {
  const int64_t row = (int64_t)blockIdx.x * CU_WARPS + threadIdx.x / 32;
  float sum = 0;
  if (row < s.a)
    for (int64_t k = threadIdx.x % 32; k < s.r; k += 32) sum += cu_float(x[row * s.r + k]);
  sum = cu_warp_sum(sum);
  if (row < s.a && threadIdx.x % 32 == 0) y[row] = sum;
}

template <class T> void sum_pass(const char *name, const pass &s, const T *x, float *y, float *part) {
  const pass second = {s.a, s.chunks, s.b, s.chunks, 1, s.columns, s.lanes};
  const int64_t blocks_b = (s.b + s.columns - 1) / s.columns;
  if (s.a * s.b == 0) return;
  if (s.b == 1 && s.r <= 1024) {
    cu_launch(name, sum_short_rows<T>, cu_blocks(s.a, CU_WARPS), CU_THREADS, s, x, y);
    return;
  }
  float *to = s.chunks == 1 ? y : part;
  cu_launch(name, sum_columns<T>, cu_blocks(s.a * s.chunks * blocks_b, 1), CU_THREADS, s, x, to);
  if (s.chunks == 1) return;
  cu_launch(name, sum_columns<float>, cu_blocks(s.a * blocks_b, 1), CU_THREADS, second, (const float *)part, y);
}

/* Passes over the groups from the last one back: sums of all but the final one, then chunks, lie in ws. */
template <class T>
void sum_exec(const su_plan *p, void *const *in, void *const *out, const double *, void *ws) {
  const char *name = p->call.op->name;
  groups g = collapse(&p->call);
  float *next = (float *)ws;
  const float *from = nullptr;          /* NULL: the input itself */
  for (; g.n >= 3; g.n -= 2) {
    const int64_t b = g.size[g.n - 1], r = g.size[g.n - 2];
    int64_t a = 1;
    for (int k = 0; k < g.n - 2; k++) a *= g.size[k];
    const pass s = pass_of(a, r, b);
    float *to = g.n == 3 ? (float *)out[0] : next, *part = g.n == 3 ? next : next + a * b;
    if (from) sum_pass(name, s, from, to, part);
    else sum_pass(name, s, (const T *)in[0], to, part);
    from = to;
    next += a * b;
    g.size[g.n - 3] *= b;
  }
}

bool sum_plan(su_plan *p) {
  groups g = collapse(&p->call);
  int64_t floats = 0, before = 0;       /* before: results of the passes so far */
  for (; g.n >= 3; g.n -= 2) {
    const int64_t b = g.size[g.n - 1];
    int64_t a = 1;
    for (int k = 0; k < g.n - 2; k++) a *= g.size[k];
    const pass s = pass_of(a, g.size[g.n - 2], b);
    if (g.n > 3) before += a * b;
    const int64_t here = before + (s.chunks > 1 ? a * s.chunks * b : 0);
    if (here > floats) floats = here;
    g.size[g.n - 3] *= b;
  }
  p->workspace = (size_t)floats * sizeof(float);
  p->exec = p->call.in[0].dtype == SU_BF16 ? sum_exec<bf16> : sum_exec<float>;
  return true;
}

CU_OP("sum", sum_plan, nullptr)

}  // namespace
