/* fake_blas.cpp -- blas.cu over a cuBLASLt that is plain loops, for the emulator: whether Sumi's row-major
 * products are asked for rightly in columns, and what it does behind them, is held against ref by the op
 * harness. Like the real one it counts in columns, does not take operands that do not meet, adds an f32
 * bias to an f32 result alone, wants its operands on 16 bytes, and spoils its whole workspace. */
void *cu_stream();

#include "../../cuda/blas.cu"

#include <stdlib.h>
#include <string.h>

struct played_desc { cublasOperation_t ta, tb; cublasLtEpilogue_t epilogue; const float *bias; };
struct played_layout { cudaDataType_t type; uint64_t rows, columns; int64_t ld; };

enum { SCRATCH = 1000 };

/* The functions are found in this very library. */
void *cu_library_open(const cu_library *, char *, size_t) {
  Dl_info here;
  return dladdr((void *)cublasLtCreate, &here) ? dlopen(here.dli_fname, RTLD_NOW | RTLD_NOLOAD) : nullptr;
}
const cu_library cu_lib_blas = {};

size_t cublasLtGetVersion() { return 130100; }
cublasStatus_t cublasLtCreate(cublasLtHandle_t *handle) {
  static int something;
  *handle = &something;
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulDescCreate(cublasLtMatmulDesc_t *d, cublasComputeType_t, cudaDataType_t) {
  *d = new played_desc{CUBLAS_OP_N, CUBLAS_OP_N, CUBLASLT_EPILOGUE_DEFAULT, nullptr};
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulDescDestroy(cublasLtMatmulDesc_t d) {
  delete d;
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulDescSetAttribute(cublasLtMatmulDesc_t d, cublasLtMatmulDescAttributes_t name,
                                              const void *v, size_t bytes) {
  void *at[] = {&d->ta, &d->tb, &d->epilogue, &d->bias};
  memcpy(at[name], v, bytes);
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatrixLayoutCreate(cublasLtMatrixLayout_t *l, cudaDataType_t type, uint64_t rows,
                                          uint64_t columns, int64_t ld) {
  *l = new played_layout{type, rows, columns, ld};
  return ld >= (int64_t)rows ? CUBLAS_STATUS_SUCCESS : CUBLAS_STATUS_NOT_SUPPORTED;
}
cublasStatus_t cublasLtMatrixLayoutDestroy(cublasLtMatrixLayout_t l) {
  delete l;
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulPreferenceCreate(cublasLtMatmulPreference_t *p) {
  *p = new char;
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulPreferenceDestroy(cublasLtMatmulPreference_t p) {
  delete (char *)p;
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulPreferenceSetAttribute(cublasLtMatmulPreference_t,
                                                    cublasLtMatmulPreferenceAttributes_t, const void *,
                                                    size_t) {
  return CUBLAS_STATUS_SUCCESS;
}

static uint64_t rows(const played_layout *l, cublasOperation_t op) {
  return op == CUBLAS_OP_T ? l->columns : l->rows;
}
static uint64_t columns(const played_layout *l, cublasOperation_t op) {
  return op == CUBLAS_OP_T ? l->rows : l->columns;
}

/* Odd heights have no algorithm that adds a bias: then it is ours to add. */
cublasStatus_t cublasLtMatmulAlgoGetHeuristic(cublasLtHandle_t, cublasLtMatmulDesc_t d,
                                              cublasLtMatrixLayout_t a, cublasLtMatrixLayout_t b,
                                              cublasLtMatrixLayout_t, cublasLtMatrixLayout_t y,
                                              cublasLtMatmulPreference_t, int,
                                              cublasLtMatmulHeuristicResult_t *out, int *n) {
  const bool meet =
      rows(a, d->ta) == y->rows && columns(a, d->ta) == rows(b, d->tb) && columns(b, d->tb) == y->columns;
  const bool adds = d->epilogue == CUBLASLT_EPILOGUE_BIAS;
  *n = 0;
  if (!meet) {                          /* a refusal would go unseen: our own tiles would serve */
    fprintf(stderr, "cuBLASLt was asked for a product of matrices that do not meet\n");
    abort();
  }
  if (adds && (y->type != CUDA_R_32F || y->rows % 2)) return CUBLAS_STATUS_NOT_SUPPORTED;
  out[0] = {{0}, SCRATCH, CUBLAS_STATUS_SUCCESS};
  *n = 1;
  return CUBLAS_STATUS_SUCCESS;
}

static double get(const void *p, const played_layout *l, cublasOperation_t op, uint64_t row,
                  uint64_t column) {
  const size_t k = op == CUBLAS_OP_T ? row * (size_t)l->ld + column : column * (size_t)l->ld + row;
  return l->type == CUDA_R_16BF ? cu_float(((const bf16 *)p)[k]) : ((const float *)p)[k];
}

cublasStatus_t cublasLtMatmul(cublasLtHandle_t, cublasLtMatmulDesc_t d, const void *, const void *a,
                              cublasLtMatrixLayout_t la, const void *b, cublasLtMatrixLayout_t lb,
                              const void *, const void *, cublasLtMatrixLayout_t, void *y,
                              cublasLtMatrixLayout_t ly, const cublasLtMatmulAlgo_t *, void *workspace,
                              size_t bytes, cudaStream_t) {
  if (((uintptr_t)a | (uintptr_t)b | (uintptr_t)y) & 15) return CUBLAS_STATUS_NOT_SUPPORTED;
  memset(workspace, 0xff, bytes);
  for (uint64_t i = 0; i < ly->rows; i++)
    for (uint64_t j = 0; j < ly->columns; j++) {
      double sum = d->epilogue == CUBLASLT_EPILOGUE_BIAS ? d->bias[i] : 0;
      for (uint64_t k = 0; k < columns(la, d->ta); k++)
        sum += get(a, la, d->ta, i, k) * get(b, lb, d->tb, k, j);
      const size_t at = j * (size_t)ly->ld + i;
      if (ly->type == CUDA_R_16BF) cu_store((bf16 *)y + at, (float)sum);
      else ((float *)y)[at] = (float)sum;
    }
  return CUBLAS_STATUS_SUCCESS;
}
