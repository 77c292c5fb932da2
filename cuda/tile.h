/* tile.h -- products y[m,n] = bias[n] + sum over k of A(m,k) B(k,n) in tiles, whatever A and B are: matrices
 * (matmul.cu) or images read through a convolution's taps (conv.cu, an implicit GEMM). Sums in f32; the order
 * depends on the sizes alone.
 *
 * A block of 128 threads makes 64 x 64 numbers, 16 of k at a time from shared memory, 8 x 4 in each thread's
 * registers; the next 16 are on their way from global memory meanwhile. Where that makes too few blocks for a GPU,
 * k is cut into `split` parts, whose sums go to the workspace and are added in order by a second kernel.
 *
 * An operand is a type with
 *   static constexpr bool ALONG_K;                      neighbours in memory follow k (true) or m, n (false)
 *   struct cursor;                                      where a thread is
 *   void rows(tile_row *r, int at);                     once a block, before begin: notes for row `at`, where it wants any
 *   cursor begin(const tile_row *r, int row0, int k0, int k1);   row0: the tile's first row; its part of k
 *   void load(cursor &c, const tile_row *r, float (&v)[8]);   the thread's 8 numbers of the next 16 k, 0 beyond k1
 * Which 8: ALONG_K: k = t % 16, rows t/16 + 8 i; otherwise: row t % 64, k = t/64 + 2 i. */
#ifndef SUMI_CUDA_TILE_H
#define SUMI_CUDA_TILE_H

#include "epilogue.h"
#include "vec.h"

constexpr int TILE = 64, TILE_K = 16, TILE_THREADS = 128, TILE_PITCH = TILE + 4;

/* An operand's notes for one of its tile's 64 rows; at < 0: no such row. */
struct alignas(16) tile_row { int at, h, w; };

/* A matrix of rows m or n against k; neighbours in memory are `pitch`-wide lines along k, or across it. */
template <class T, bool LINES_OF_K> struct tile_matrix {
  static constexpr bool ALONG_K = LINES_OF_K;
  const T *p;
  int64_t pitch;
  int rows_;                            /* rows there are */
  struct cursor { const T *p; int k, k1, left; };   /* left: rows from the thread's first on */

  CU_DEVICE void rows(tile_row *, int) const {}
  CU_DEVICE cursor begin(const tile_row *, int row0, int k0, int k1) const {
    const int t = (int)threadIdx.x, row = row0 + (ALONG_K ? t / TILE_K : t % TILE);
    const int k = k0 + (ALONG_K ? t % TILE_K : t / TILE);
    return cursor{ALONG_K ? p + row * pitch + k : p + k * pitch + row, k, k1, rows_ - row};
  }
  CU_DEVICE void load(cursor &c, const tile_row *, float (&v)[8]) const {
    CU_UNROLL
    for (int i = 0; i < 8; i++) {
      const bool there = ALONG_K ? c.k < c.k1 && 8 * i < c.left : c.k + 2 * i < c.k1 && c.left > 0;
      v[i] = there ? cu_float(c.p[ALONG_K ? 8 * i * pitch : 2 * i * pitch]) : 0;
    }
    c.k += TILE_K;
    c.p += ALONG_K ? TILE_K : TILE_K * pitch;
  }
};

/* Where sums go. part: f32 sums [split,m,n], to be added; else y, whose rows may be pixels of an image that lie apart. */
struct tile_out {
  float *part, *f;
  bf16 *h;                              /* y is one of f, h */
  const float *bias;
  int m, n;
  int rw, rh, w, sw, sh;                /* rw 0: row m is row m of y; else see row() */
  int64_t first, image;
  int act;                              /* enum su_conv_act, behind the bias */
  float slope;

  CU_DEVICE int64_t row(int k) const {  /* k counts [image, rh, rw]; in y they are sh and sw pixels apart */
    if (rw == 0) return k;
    const int b = k % rw, a = k / rw % rh;
    return first + (int64_t)(k / rw / rh) * image + (int64_t)a * sh * w + (int64_t)b * sw;
  }
  CU_DEVICE void put(int64_t at, int column, float v) const {
    if (bias) v += bias[column];
    v = cu_conv_act(act, slope, v);
    if (h) cu_store(h + at, v);
    else f[at] = v;
  }
};

template <class A, class B> struct tile_job {
  A a;
  B b;
  tile_out out;
  int k, per;                           /* per: k of one part, a multiple of 16 */
  unsigned across;                      /* tiles along n */
};

/* The thread's 8 numbers into the shared slice [16][64]. */
template <bool ALONG_K> CU_DEVICE void tile_keep(float *s, const float (&v)[8]) {
  const unsigned t = threadIdx.x;
  float *at = ALONG_K ? s + t % 16 * TILE_PITCH + t / 16 : s + t / 64 * TILE_PITCH + t % 64;
  CU_UNROLL
  for (int i = 0; i < 8; i++) at[i * (ALONG_K ? 8 : 2 * TILE_PITCH)] = v[i];
}

CU_DEVICE void tile_multiply(const float *sa, const float *sb, float (&sum)[8][4]) {
  const float *pa = sa + threadIdx.x / 16 * 8, *pb = sb + threadIdx.x % 16 * 4;
  CU_UNROLL
  for (int k = 0; k < TILE_K; k++) {
    float a[8], b[4];
    cu_get<4>(pa + k * TILE_PITCH, *(float(*)[4])a);
    cu_get<4>(pa + k * TILE_PITCH + 4, *(float(*)[4])(a + 4));
    cu_get<4>(pb + k * TILE_PITCH, b);
    CU_UNROLL
    for (int i = 0; i < 8; i++)
      CU_UNROLL
      for (int j = 0; j < 4; j++) sum[i][j] += a[i] * b[j];
  }
}

CU_DEVICE void tile_write(const tile_out &o, int m0, int n0, const float (&sum)[8][4]) {
  const int m = m0 + (int)(threadIdx.x / 16) * 8, n = n0 + (int)(threadIdx.x % 16) * 4;
  CU_UNROLL
  for (int i = 0; i < 8; i++) {
    if (m + i >= o.m) return;
    const int64_t at = o.part ? ((int64_t)blockIdx.y * o.m + m + i) * o.n : o.row(m + i) * o.n;
    CU_UNROLL
    for (int j = 0; j < 4; j++) {
      if (n + j >= o.n) break;
      if (o.part) o.part[at + n + j] = sum[i][j];
      else o.put(at + n + j, n + j, sum[i][j]);
    }
  }
}

template <class A, class B> CU_KERNEL(TILE_THREADS) tile_product(const tile_job<A, B> job) {
  CU_SHARED(float4, store, 4 * TILE_K * TILE_PITCH / 4);
  CU_SHARED(tile_row, rows_a, TILE);
  CU_SHARED(tile_row, rows_b, TILE);
  float *const sa = (float *)store, *const sb = sa + 2 * TILE_K * TILE_PITCH;
  const int m0 = (int)(blockIdx.x / job.across) * TILE, n0 = (int)(blockIdx.x % job.across) * TILE;
  const int first = (int)blockIdx.y * job.per, last = min(job.k, first + job.per);
  if (threadIdx.x < TILE) job.a.rows(&rows_a[threadIdx.x], m0 + (int)threadIdx.x);
  else job.b.rows(&rows_b[threadIdx.x - TILE], n0 + (int)threadIdx.x - TILE);
  cu_sync();
  typename A::cursor ca = job.a.begin(rows_a, m0, first, last);
  typename B::cursor cb = job.b.begin(rows_b, n0, first, last);
  float sum[8][4] = {}, va[8], vb[8];
  int now = 0;
  for (int k = first - TILE_K; k < last; k += TILE_K, now ^= TILE_K * TILE_PITCH) {   /* loads one turn ahead */
    const bool more = k + TILE_K < last;
    if (more) {
      job.a.load(ca, rows_a, va);
      job.b.load(cb, rows_b, vb);
    }
    if (k >= first) tile_multiply(sa + now, sb + now, sum);
    if (more) {
      tile_keep<A::ALONG_K>(sa + (now ^ TILE_K * TILE_PITCH), va);
      tile_keep<B::ALONG_K>(sb + (now ^ TILE_K * TILE_PITCH), vb);
    }
    cu_sync();
  }
  tile_write(job.out, m0, n0, sum);
}

static CU_KERNEL(256) tile_add_parts(const tile_out o, int split) {
  const int64_t size = (int64_t)o.m * o.n, step = (int64_t)gridDim.x * 256;
  for (int64_t k = (int64_t)blockIdx.x * 256 + threadIdx.x; k < size; k += step) {
    float sum = 0;
    for (int s = 0; s < split; s++) sum += o.part[s * size + k];
    const int column = (int)(k % o.n);
    o.put(o.row((int)(k / o.n)) * o.n + column, column, sum);
  }
}

/* ---- host ---- */

/* Parts of k: enough for about 512 blocks, each of at least 128 k. Of the sizes alone: results do not depend on the GPU. */
static inline int tile_split(int64_t m, int64_t n, int64_t k) {
  const int64_t tiles = ((m + TILE - 1) / TILE) * ((n + TILE - 1) / TILE);
  int64_t split = tiles >= 256 || tiles == 0 ? 1 : 512 / tiles;
  if (split > k / 128) split = k / 128;
  return split < 1 ? 1 : (int)split;
}

/* Bytes of workspace: f32 sums of the parts. */
static inline size_t tile_workspace(int64_t m, int64_t n, int64_t k) {
  const int split = tile_split(m, n, k);
  return split == 1 ? 0 : (size_t)split * (size_t)m * (size_t)n * sizeof(float);
}

static inline tile_out tile_to(void *y, int dtype, int64_t m, int64_t n, const void *bias) {
  tile_out o = {};
  if (dtype == SU_BF16) o.h = (bf16 *)y;
  else o.f = (float *)y;
  o.bias = (const float *)bias, o.m = (int)m, o.n = (int)n;
  return o;
}

/* Runs one product; ws: tile_workspace bytes. */
template <class A, class B> void tile_run(const char *name, const A &a, const B &b, tile_out out, int64_t k, void *ws) {
  if (out.m == 0 || out.n == 0) return;
  const int split = tile_split(out.m, out.n, k);
  tile_job<A, B> job = {a, b, out, (int)k, 0, (unsigned)((out.n + TILE - 1) / TILE)};
  job.per = (int)((k + split - 1) / split + TILE_K - 1) / TILE_K * TILE_K;
  job.out.part = split > 1 ? (float *)ws : nullptr;
  const unsigned tiles = (unsigned)((out.m + TILE - 1) / TILE) * job.across;
  cu_launch(name, tile_product<A, B>, dim3(tiles, (unsigned)split), TILE_THREADS, job);
  if (split > 1) cu_launch(name, tile_add_parts, dim3(cu_blocks((int64_t)out.m * out.n, 256)), 256, job.out, split);
}

#endif
