/* gemm.h -- matrix products in tiles: the one inner loop under matmul, linear, Winograd and the direct
 * convolutions. float32 in, float32 sums, each sum in a fixed order whatever the number of threads. */
#ifndef SUMI_CPU_GEMM_H
#define SUMI_CPU_GEMM_H

#include "../op.h"

#define SU_TILE_N 32                    /* columns of a tile: one packed panel of B is [k][32] */

/* c[i][j] (+)= sum over runs s < runs and k < depth of A_s[i][k] * B_s[k][j], for i < m <= su_tile_rows(), j
 * < n <= 32, where A_s[i][k] = a[a_run[s] + i*a_row + k*a_k] and B_s[k][j] = b[b_run[s] + k*b_row + j]. A row
 * of a run is broadcast, a row of B is loaded: nothing needs packing as long as B's rows are contiguous. */
typedef struct su_tile {
  const float *a, *b;
  float *c;
  const float *bias;                    /* [n], the sums' start; NULL: zero */
  int64_t a_row, a_k, b_row, c_row;     /* in floats */
  int64_t depth, runs;
  const int64_t *a_run, *b_run;         /* [runs]; NULL: s * a_step, s * b_step */
  int64_t a_step, b_step;
  int m, n;
  bool add;                             /* onto what c holds (bias is ignored then) */
} su_tile;

void su_tile_run(const su_tile *t);
int su_tile_rows(void); /* most rows a tile may have on this CPU: 14 with AVX-512, 6 with AVX2, else 4 */
/* Cut m rows into equal tiles: rows of each (the last may have fewer). */
int su_tile_height(int64_t m);

/* B panel [depth][32] of columns j < n (zeros behind n) from src[k*k_step + j*j_step]; one of the steps is 1.
 */
void su_pack_panel(float *dst, const float *src, int64_t depth, int n, int64_t k_step, int64_t j_step);

/* c [m,n] = A B (+ bias [n]) with A[i][k] = a[i*a_row + k*a_k], B[k][j] = b[k*b_row + j*b_k]; c contiguous.
 * ws: su_gemm_workspace floats. */
typedef struct su_gemm {
  int64_t m, n, k, a_row, a_k, b_row, b_k;
} su_gemm;
size_t su_gemm_workspace(const su_gemm *g);             /* bytes */
void su_gemm_run(const su_gemm *g, const float *a, const float *b, const float *bias, float *c, void *ws);

#endif
