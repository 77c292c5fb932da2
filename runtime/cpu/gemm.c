/* gemm.c -- matrix products in tiles of up to 14 x 32 sums held in registers. See gemm.h for what a tile
 * computes.
 *
 * Which width: AVX-512 (16 floats, 14 x 2 sums), AVX2 with FMA (8 floats, 6 x 2 sums, a panel in two halves),
 * else the compiler's lowering of 4 floats. Chosen once from what the CPU has. The k loop is the classic one
 * (Goto & van de Geijn 2008): a row of B loaded, elements of A broadcast, sums stay in registers. */
#include "gemm.h"

#include <string.h>

#define INLINE static inline __attribute__((always_inline))

typedef int v8i __attribute__((vector_size(32)));
typedef float v8 __attribute__((vector_size(32), aligned(4), may_alias));

static int64_t a_at(const su_tile *t, int64_t s) { return t->a_run ? t->a_run[s] : s * t->a_step; }
static int64_t b_at(const su_tile *t, int64_t s) { return t->b_run ? t->b_run[s] : s * t->b_step; }

/* ---- AVX-512 ---- */

#if defined(__x86_64__)
#include <immintrin.h>
#define V4 __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,fma,avx2")))
#define V3 __attribute__((target("fma,avx2")))

/* m rows x 2 vectors; `last` masks the columns of the second vector, `first` those of the first. */
INLINE V4 void tile16(const su_tile *t, const int m, const bool whole, __mmask16 first, __mmask16 last) {
  __m512 c[14][2];
#define LOAD(p, mask) (whole ? _mm512_loadu_ps(p) : _mm512_maskz_loadu_ps(mask, p))
#pragma GCC unroll 14 /* all of these loops: only then do the sums live in registers */
  for (int i = 0; i < m; i++) {
    const float *from = t->add ? t->c + i * t->c_row : t->bias;
    c[i][0] = from ? LOAD(from, first) : _mm512_setzero_ps();
    c[i][1] = from ? LOAD(from + 16, last) : _mm512_setzero_ps();
  }
  const int64_t r = t->a_row, ak = t->a_k, br = t->b_row;
  for (int64_t s = 0; s < t->runs; s++) {
    const float *a0 = t->a + a_at(t, s), *b = t->b + b_at(t, s);
    const float *a5 = a0 + 5 * r, *a10 = a0 + 10 * r;
    for (int64_t k = t->depth; k > 0; k--) {
      __m512 b0 = LOAD(b, first), b1 = LOAD(b + 16, last);
#pragma GCC unroll 14
      for (int i = 0; i < m; i++) {
        const float *row = i < 5 ? a0 : i < 10 ? a5 : a10;
        __m512 x = _mm512_set1_ps(row[i % 5 * r]);
        c[i][0] = _mm512_fmadd_ps(x, b0, c[i][0]);
        c[i][1] = _mm512_fmadd_ps(x, b1, c[i][1]);
      }
      a0 += ak, a5 += ak, a10 += ak, b += br;
    }
  }
#undef LOAD
#pragma GCC unroll 14
  for (int i = 0; i < m; i++) {
    float *to = t->c + i * t->c_row;
    if (whole) _mm512_storeu_ps(to, c[i][0]), _mm512_storeu_ps(to + 16, c[i][1]);
    else _mm512_mask_storeu_ps(to, first, c[i][0]), _mm512_mask_storeu_ps(to + 16, last, c[i][1]);
  }
}

#define CASE16(m) case m: if (whole) tile16(t, m, true, 0, 0); else tile16(t, m, false, first, last); break;
V4 static void run16(const su_tile *t) {
  bool whole = t->n == 32;
  __mmask16 first = (__mmask16)(t->n >= 16 ? 0xffff : (1 << t->n) - 1);
  __mmask16 last = (__mmask16)(t->n <= 16 ? 0 : (1 << (t->n - 16)) - 1);
  switch (t->m) {
    CASE16(1) CASE16(2) CASE16(3) CASE16(4) CASE16(5) CASE16(6) CASE16(7)
    CASE16(8) CASE16(9) CASE16(10) CASE16(11) CASE16(12) CASE16(13) CASE16(14)
  }
}
#endif

/* ---- eight floats at a time: AVX2 when compiled for it, otherwise whatever the compiler makes of it ---- */

/* m rows x 2 vectors at column j of the tile, all columns present. */
INLINE void tile8(const su_tile *t, const int m, int j) {
  v8 c[6][2];
#pragma GCC unroll 6
  for (int i = 0; i < m; i++)
    for (int h = 0; h < 2; h++) {
      const float *from = t->add ? t->c + i * t->c_row : t->bias;
      c[i][h] = from ? *(const v8 *)(from + j + 8 * h) : (v8){0};
    }
  for (int64_t s = 0; s < t->runs; s++) {
    const float *a = t->a + a_at(t, s), *b = t->b + b_at(t, s) + j;
    for (int64_t k = 0; k < t->depth; k++) {
      v8 b0 = *(const v8 *)b, b1 = *(const v8 *)(b + 8);
#pragma GCC unroll 6
      for (int i = 0; i < m; i++) {
        float x = a[i * t->a_row];
        c[i][0] += x * b0;
        c[i][1] += x * b1;
      }
      a += t->a_k, b += t->b_row;
    }
  }
#pragma GCC unroll 6
  for (int i = 0; i < m; i++)
    for (int h = 0; h < 2; h++) *(v8 *)(t->c + i * t->c_row + j + 8 * h) = c[i][h];
}

/* Columns j.. of a tile that has fewer than 16 left. */
INLINE void ragged(const su_tile *t, int j) {
  for (int i = 0; i < t->m; i++)
    for (int q = j; q < t->n; q++) {
      float sum = t->add ? t->c[i * t->c_row + q] : t->bias ? t->bias[q] : 0;
      for (int64_t s = 0; s < t->runs; s++) {
        const float *a = t->a + a_at(t, s) + i * t->a_row, *b = t->b + b_at(t, s) + q;
        for (int64_t k = 0; k < t->depth; k++) sum += a[k * t->a_k] * b[k * t->b_row];
      }
      t->c[i * t->c_row + q] = sum;
    }
}

INLINE void run8(const su_tile *t) {
  int j = 0;
  for (; j + 16 <= t->n; j += 16) switch (t->m) {
    case 1: tile8(t, 1, j); break;
    case 2: tile8(t, 2, j); break;
    case 3: tile8(t, 3, j); break;
    case 4: tile8(t, 4, j); break;
    case 5: tile8(t, 5, j); break;
    case 6: tile8(t, 6, j); break;
  }
  if (j < t->n) ragged(t, j);
}

#if defined(__x86_64__)
V3 static void run_avx2(const su_tile *t) { run8(t); }
#endif
static void run_any(const su_tile *t) { run8(t); }

/* ---- choosing ---- */

static struct { void (*run)(const su_tile *t); int rows; } kernel;

static void pick(void) {
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") &&
      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512bw")) {
    kernel.rows = 14, kernel.run = run16;
    return;
  }
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) {
    kernel.rows = 6, kernel.run = run_avx2;
    return;
  }
#endif
  kernel.rows = 4, kernel.run = run_any;
}

__attribute__((constructor)) static void pick_once(void) { pick(); }

void su_tile_run(const su_tile *t) { kernel.run(t); }
int su_tile_rows(void) { return kernel.rows; }

int su_tile_height(int64_t m) {
  int64_t tiles = (m + kernel.rows - 1) / kernel.rows;
  return tiles ? (int)((m + tiles - 1) / tiles) : 1;
}

/* ---- packing ---- */

/* dst[k*32 + j] = src[j*j_step + k] for j, k < 8: three rounds, each exchanging off-diagonal blocks of 1,
 * 2, 4. */
INLINE void turn8(float *dst, const float *src, int64_t j_step) {
  v8 r[8], t[8];
  for (int j = 0; j < 8; j++) r[j] = *(const v8 *)(src + j * j_step);
  for (int j = 0; j < 8; j += 2) {
    t[j] = __builtin_shuffle(r[j], r[j + 1], (v8i){0, 8, 2, 10, 4, 12, 6, 14});
    t[j + 1] = __builtin_shuffle(r[j], r[j + 1], (v8i){1, 9, 3, 11, 5, 13, 7, 15});
  }
  for (int j = 0; j < 8; j++) {
    if (j & 2) r[j] = __builtin_shuffle(t[j - 2], t[j], (v8i){2, 3, 10, 11, 6, 7, 14, 15});
    else r[j] = __builtin_shuffle(t[j], t[j + 2], (v8i){0, 1, 8, 9, 4, 5, 12, 13});
  }
  for (int j = 0; j < 4; j++) {
    *(v8 *)(dst + j * SU_TILE_N) = __builtin_shuffle(r[j], r[j + 4], (v8i){0, 1, 2, 3, 8, 9, 10, 11});
    *(v8 *)(dst + (j + 4) * SU_TILE_N) = __builtin_shuffle(r[j], r[j + 4], (v8i){4, 5, 6, 7, 12, 13, 14, 15});
  }
}

INLINE void pack_panel(float *dst, const float *src, int64_t depth, int n, int64_t k_step, int64_t j_step) {
  if (n < SU_TILE_N) memset(dst, 0, (size_t)depth * SU_TILE_N * sizeof *dst);
  if (k_step != 1) {
    for (int64_t k = 0; k < depth; k++) {
      float *to = dst + k * SU_TILE_N;
      const float *from = src + k * k_step;
      if (n == SU_TILE_N)
        for (int h = 0; h < SU_TILE_N; h += 8) *(v8 *)(to + h) = *(const v8 *)(from + h);
      else memcpy(to, from, (size_t)n * sizeof *to);
    }
    return;
  }
  int64_t k = 0;
  int j = 0;
  for (; k + 8 <= depth; k += 8)
    for (j = 0; j + 8 <= n; j += 8) turn8(dst + k * SU_TILE_N + j, src + j * j_step + k, j_step);
  for (int64_t q = 0; q < depth; q++)                /* what the blocks of 8 left over */
    for (j = q < k ? n / 8 * 8 : 0; j < n; j++) dst[q * SU_TILE_N + j] = src[j * j_step + q];
}

#if defined(__x86_64__)
V3 static void pack_avx2(float *d, const float *s, int64_t k, int n, int64_t ks, int64_t js) {
  pack_panel(d, s, k, n, ks, js);
}
#endif

void su_pack_panel(float *dst, const float *src, int64_t depth, int n, int64_t k_step, int64_t j_step) {
#if defined(__x86_64__)
  if (kernel.rows > 4) {
    pack_avx2(dst, src, depth, n, k_step, j_step);
    return;
  }
#endif
  pack_panel(dst, src, depth, n, k_step, j_step);
}

/* ---- whole products ---- */

/* The work is cut into tasks of ROWS rows x 32 columns, which the threads share out in order. A thread takes
 * DEPTH steps of the sums at a time: then the rows of A (used where they lie, or packed once when they are
 * transposed) stay in its L2 cache for all panels of B that it meets, and a packed panel in the L1 cache for
 * all tiles. */
enum { DEPTH = 512, ROWS = 252, WORTH_WAKING = 1 << 15, LANES = 4 };   /* LANES: shares for each thread */

static bool packs_a(const su_gemm *g) {
  return g->a_k != 1 || g->a_row % 1024 == 0;
} /* 4 KB apart: one cache set */
static int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
static int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }

static int64_t tile_rows(const su_gemm *g) { return su_tile_height(least(g->m, ROWS)); }

static int64_t a_floats(const su_gemm *g) {
  return packs_a(g) ? ceil_div(ceil_div(g->m, tile_rows(g)) * tile_rows(g) * g->k, 16) * 16 : 0;
}

static bool turns(const su_gemm *g);
static size_t turned_floats(const su_gemm *g);

size_t su_gemm_workspace(const su_gemm *g) {
  if (turns(g)) return turned_floats(g) * sizeof(float);
  return (size_t)(a_floats(g) + LANES * su_threads() * least(g->k, DEPTH) * SU_TILE_N) * sizeof(float);
}

struct gemm_job {
  const su_gemm *g;
  const float *a, *b, *bias;
  float *c, *pa, *pb;
  int64_t lanes, mr, block;
};

/* Row tiles first .. last-1 of A as [tile][k][rows]. */
static void pack_a(void *arg, int64_t first, int64_t last) {
  const struct gemm_job *j = arg;
  const su_gemm *g = j->g;
  for (int64_t t = first; t < last; t++) {
    int64_t rows = least(g->m - t * j->mr, j->mr);
    float *dst = j->pa + t * j->mr * g->k;
    const float *src = j->a + t * j->mr * g->a_row;
    for (int64_t k = 0; k < g->k; k++)
      for (int64_t i = 0; i < rows; i++) dst[k * j->mr + i] = src[i * g->a_row + k * g->a_k];
  }
}

/* Rows from `row` on (one block), columns from `col` on (one panel), DEPTH steps from k0 on. */
static void task(const struct gemm_job *j, int64_t row, int64_t col, int64_t k0, float *packed) {
  const su_gemm *g = j->g;
  int64_t end = least(row + j->block, g->m);
  su_tile t = {.runs = 1, .depth = least(g->k - k0, DEPTH), .add = k0 > 0, .c_row = g->n};
  t.n = (int)least(g->n - col, SU_TILE_N);
  t.bias = j->bias ? j->bias + col : NULL;
  t.b = j->b + k0 * g->b_row + col * g->b_k;
  t.b_row = g->b_row;
  if (g->b_k != 1 || g->m > 32) {
    su_pack_panel(packed, t.b, t.depth, t.n, g->b_row, g->b_k);
    t.b = packed, t.b_row = SU_TILE_N;
  }
  for (int64_t i = row; i < end; i += j->mr) {
    t.m = (int)least(end - i, j->mr);
    t.a = j->pa ? j->pa + i * g->k + k0 * j->mr : j->a + i * g->a_row + k0;
    t.a_row = j->pa ? 1 : g->a_row;
    t.a_k = j->pa ? j->mr : 1;
    t.c = j->c + i * g->n + col;
    su_tile_run(&t);
  }
}

static void share(void *arg, int64_t first, int64_t last) {
  const struct gemm_job *j = arg;
  const su_gemm *g = j->g;
  int64_t panels = ceil_div(g->n, SU_TILE_N), tasks = ceil_div(g->m, j->block) * panels;
  for (int64_t lane = first; lane < last; lane++) {
    float *packed = j->pb + lane * least(g->k, DEPTH) * SU_TILE_N;
    int64_t at = tasks * lane / j->lanes, end = tasks * (lane + 1) / j->lanes;
    while (at < end) {                               /* what of one row block is ours */
      int64_t block = at / panels, until = least((block + 1) * panels, end);
      for (int64_t k0 = 0; k0 < g->k; k0 += DEPTH)
        for (int64_t t = at; t < until; t++) task(j, block * j->block, t % panels * SU_TILE_N, k0, packed);
      at = until;
    }
  }
}

/* ---- turned: few rows of A, B given as weights [n][k] ---- */

/* y = x W' with a batch of few x: packing the weights would cost more than it saves. So the transposed product is computed,
 * W x': rows of W are broadcast where they lie, x (small) is packed, and each tile is turned when it is stored. */
static bool turns(const su_gemm *g) {
  return g->b_row == 1 && g->b_k != 1 && g->a_k == 1 && g->m <= 128 && g->n >= g->m && g->b_k % 1024 != 0;
}

static size_t turned_floats(const su_gemm *g) { return (size_t)(ceil_div(g->m, SU_TILE_N) * g->k * SU_TILE_N); }

/* Row tiles first .. last-1 of W. */
static void turned_rows(void *arg, int64_t first, int64_t last) {
  const struct gemm_job *j = arg;
  const su_gemm *g = j->g;
  float tile[14 * SU_TILE_N];
  for (int64_t q = first; q < last; q++) {
    int64_t row = q * j->mr;
    su_tile t = {.runs = 1, .depth = g->k, .a = j->b + row * g->b_k, .a_row = g->b_k, .a_k = 1, .b_row = SU_TILE_N,
                 .c = tile, .c_row = SU_TILE_N, .m = (int)least(g->n - row, j->mr)};
    for (int64_t col = 0; col < g->m; col += SU_TILE_N) {
      t.n = (int)least(g->m - col, SU_TILE_N);
      t.b = j->pa + col * g->k;
      su_tile_run(&t);
      for (int x = 0; x < t.n; x++) {
        float *to = j->c + (col + x) * g->n + row;
        for (int i = 0; i < t.m; i++) to[i] = tile[i * SU_TILE_N + x] + (j->bias ? j->bias[row + i] : 0.0f);
      }
    }
  }
}

static void run_turned(const su_gemm *g, const float *a, const float *b, const float *bias, float *c, float *packed) {
  struct gemm_job j = {g, a, b, bias, c, packed, NULL, 1, su_tile_height(g->n), 0};
  for (int64_t col = 0; col < g->m; col += SU_TILE_N)
    su_pack_panel(packed + col * g->k, a + col * g->a_row, g->k, (int)least(g->m - col, SU_TILE_N), 1, g->a_row);
  int64_t per_tile = j.mr * g->m * g->k, grain = per_tile < WORTH_WAKING / 2 ? WORTH_WAKING / 2 / per_tile + 1 : 1;
  su_parallel(ceil_div(g->n, j.mr), grain, turned_rows, &j);
}

void su_gemm_run(const su_gemm *g, const float *a, const float *b, const float *bias, float *c, void *ws) {
  if (turns(g)) {
    run_turned(g, a, b, bias, c, ws);
    return;
  }
  struct gemm_job j = {
    g, a, b, bias, c, packs_a(g) ? ws : NULL, (float *)ws + a_floats(g), LANES * su_threads(), tile_rows(g), 0};
  bool small = g->m * g->n * g->k < WORTH_WAKING;
  j.block = ROWS / j.mr * j.mr;
  if (small) j.lanes = 1;
  if (j.pa) su_parallel(ceil_div(g->m, j.mr), small ? g->m : 1, pack_a, &j);
  su_parallel(j.lanes, 1, share, &j);
}
