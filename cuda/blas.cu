/* blas.cu -- matrix products by cuBLASLt; see blas.h.
 *
 * cuBLASLt counts in columns: our row-major y [m,n] is its y' (n x m), so y = A B is asked for as y' = B'
 * A'. The choice is its heuristics' first algorithm whose partial sums meet in a fixed order; nothing is
 * timed. */
#include "blas.h"

#include <stdio.h>

/* SUMI_PLAYED: a test plays NVIDIA's libraries in the emulator (tests/cudnn). */
#if (!defined SUMI_EMU || defined SUMI_PLAYED) && __has_include(<cublasLt.h>)
#include <cublasLt.h>
#include <dlfcn.h>

#include <new>

#include "epilogue.h"
#include "library.h"
#include "rt.h"
#include "vec.h"

namespace {

#define FUNCTIONS(X)                                                                                       \
  X(cublasLtGetVersion) X(cublasLtCreate) X(cublasLtMatmul) X(cublasLtMatmulAlgoGetHeuristic)              \
  X(cublasLtMatmulDescCreate) X(cublasLtMatmulDescDestroy) X(cublasLtMatmulDescSetAttribute)               \
  X(cublasLtMatrixLayoutCreate) X(cublasLtMatrixLayoutDestroy) X(cublasLtMatmulPreferenceCreate)           \
  X(cublasLtMatmulPreferenceDestroy) X(cublasLtMatmulPreferenceSetAttribute)

#define MEMBER(name) decltype(&::name) name;
struct { FUNCTIONS(MEMBER) } lt;

enum { NOT_TRIED, LOADED, ABSENT } loaded;
char absent[400];
cublasLtHandle_t handle;

bool find_functions(void *lib) {
#define FIND(name)                                                                 \
  if (!(lt.name = (decltype(lt.name))dlsym(lib, #name))) {                         \
    snprintf(absent, sizeof absent, "cuBLASLt has no %s: too old", #name);         \
    return false;                                                                  \
  }
  FUNCTIONS(FIND)
  return true;
}

bool load() {
  if (loaded == NOT_TRIED) {
    void *lib = cu_library_open(&cu_lib_blas, absent, sizeof absent);
    loaded = lib && find_functions(lib) ? LOADED : ABSENT;
  }
  return loaded == LOADED;
}

bool ready() {
  static bool tried;
  if (!tried && load() && lt.cublasLtCreate(&handle) != CUBLAS_STATUS_SUCCESS) handle = nullptr;
  tried = true;
  return handle;
}

/* ---- one product ---- */

constexpr size_t WORKSPACE = (size_t)32 << 20, ALIGN = 256;
size_t rounded(size_t bytes) { return (bytes + ALIGN - 1) / ALIGN * ALIGN; }

struct product {
  cublasLtMatmulDesc_t how;
  cublasLtMatrixLayout_t a, b, y;
  cublasLtMatmulAlgo_t algo;
  int64_t m, n, k;
  bool ta, tb, bias, inside;            /* inside: cuBLASLt adds the bias */
  bool wide;                            /* it leaves f32 in the scratch, which the epilogue rounds */
  size_t scratch;                       /* bytes of cuBLASLt's own */
  su_exec *own;                         /* our tiles, for operands that lie at odd places */
};

void free_product(void *state) {
  product *g = (product *)state;
  if (g->how) lt.cublasLtMatmulDescDestroy(g->how);
  for (cublasLtMatrixLayout_t layout : {g->a, g->b, g->y})
    if (layout) lt.cublasLtMatrixLayoutDestroy(layout);
  delete g;
}

void take_sizes(product *g, const su_call *c) {
  const int64_t *a = c->in[0].shape, *b = c->in[1].shape;
  const bool linear = c->op->nin > 2;
  g->ta = !linear && c->i[0], g->tb = linear || c->i[1];
  g->m = a[g->ta], g->k = a[!g->ta], g->n = b[!g->tb];
  g->bias = linear && c->in[2].ndim >= 0;
}

bool set(product *g, cublasLtMatmulDescAttributes_t name, const void *v, size_t bytes) {
  return lt.cublasLtMatmulDescSetAttribute(g->how, name, v, bytes) == CUBLAS_STATUS_SUCCESS;
}

/* A row-major [rows,columns] matrix as cuBLASLt sees it. */
bool layout(cublasLtMatrixLayout_t *at, cudaDataType_t type, int64_t rows, int64_t columns) {
  return lt.cublasLtMatrixLayoutCreate(at, type, (uint64_t)columns, (uint64_t)rows, columns) ==
         CUBLAS_STATUS_SUCCESS;
}

bool describe(product *g, const su_call *c) {
  const cudaDataType_t in = c->in[0].dtype == SU_BF16 ? CUDA_R_16BF : CUDA_R_32F;
  const cudaDataType_t out = c->out[0].dtype == SU_BF16 && !g->wide ? CUDA_R_16BF : CUDA_R_32F;
  const cublasComputeType_t compute =
      in == CUDA_R_32F && c->dev->tf32 ? CUBLAS_COMPUTE_32F_FAST_TF32 : CUBLAS_COMPUTE_32F;
  const cublasOperation_t a = g->ta ? CUBLAS_OP_T : CUBLAS_OP_N, b = g->tb ? CUBLAS_OP_T : CUBLAS_OP_N;
  const cublasLtEpilogue_t add = CUBLASLT_EPILOGUE_BIAS;
  const uintptr_t aligned = 16;         /* no address yet: the heuristics read its alignment off it */
  if (lt.cublasLtMatmulDescCreate(&g->how, compute, CUDA_R_32F) != CUBLAS_STATUS_SUCCESS) return false;
  if (!set(g, CUBLASLT_MATMUL_DESC_TRANSA, &b, sizeof b) ||
      !set(g, CUBLASLT_MATMUL_DESC_TRANSB, &a, sizeof a))
    return false;
  if (g->inside && (!set(g, CUBLASLT_MATMUL_DESC_EPILOGUE, &add, sizeof add) ||
                    !set(g, CUBLASLT_MATMUL_DESC_BIAS_POINTER, &aligned, sizeof aligned)))
    return false;
  return layout(&g->a, in, g->ta ? g->k : g->m, g->ta ? g->m : g->k) &&
         layout(&g->b, in, g->tb ? g->n : g->k, g->tb ? g->k : g->n) && layout(&g->y, out, g->m, g->n);
}

bool prefer(cublasLtMatmulPreference_t p) {
  const uint32_t in_order = CUBLASLT_REDUCTION_SCHEME_NONE | CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE,
                 align = 16;
  bool ok = true;
  auto put = [&](cublasLtMatmulPreferenceAttributes_t name, const void *v, size_t bytes) {
    ok = ok && lt.cublasLtMatmulPreferenceSetAttribute(p, name, v, bytes) == CUBLAS_STATUS_SUCCESS;
  };
  put(CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &WORKSPACE, sizeof WORKSPACE);
  put(CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, &in_order, sizeof in_order);
  put(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, &align, sizeof align);
  put(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, &align, sizeof align);
  put(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, &align, sizeof align);
  put(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, &align, sizeof align);
  return ok;
}

bool choose(product *g) {
  cublasLtMatmulPreference_t p = nullptr;
  cublasLtMatmulHeuristicResult_t found[8];
  int n = 0;
  if (lt.cublasLtMatmulPreferenceCreate(&p) != CUBLAS_STATUS_SUCCESS) return false;
  const bool asked = prefer(p) && lt.cublasLtMatmulAlgoGetHeuristic(handle, g->how, g->b, g->a, g->y, g->y, p, 8,
                                                                    found, &n) == CUBLAS_STATUS_SUCCESS;
  if (!asked) n = 0;
  lt.cublasLtMatmulPreferenceDestroy(p);
  for (int k = 0; k < n; k++) {
    if (found[k].state != CUBLAS_STATUS_SUCCESS || found[k].workspaceSize > WORKSPACE) continue;
    g->algo = found[k].algo;
    g->scratch = found[k].workspaceSize;
    return true;
  }
  return false;
}

void exec(const su_plan *p, void *const *in, void *const *out, const double *r, void *ws) {
  const product *g = (const product *)p->state;
  if (!cu_wide(0, 1, in[0], in[1], g->bias ? in[2] : nullptr)) {
    g->own(p, in, out, r, ws);
    return;
  }
  char *scratch = (char *)(((uintptr_t)ws + ALIGN - 1) / ALIGN * ALIGN);
  const float one = 1, zero = 0;
  const float *bias = g->bias ? (const float *)in[2] : nullptr;
  void *y = g->wide ? scratch + rounded(g->scratch) : out[0];
  if (g->inside)
    lt.cublasLtMatmulDescSetAttribute(g->how, CUBLASLT_MATMUL_DESC_BIAS_POINTER, &bias, sizeof bias);
  cublasStatus_t status = lt.cublasLtMatmul(handle, g->how, &one, in[1], g->b, in[0], g->a, &zero, y, g->y, y,
                                            g->y, &g->algo, scratch, g->scratch, (cudaStream_t)cu_stream());
  if (status != CUBLAS_STATUS_SUCCESS)
    rt_keep(false, "%s: cuBLASLt fails with status %d", p->call.op->name, (int)status);
  if (!bias || g->inside) return;
  if (g->wide)
    cu_epilogue("linear_epilogue", g->m, g->n, (const float *)y, g->n, bias, SU_CONV_PLAIN, 0,
                (bf16 *)out[0]);
  else
    cu_epilogue("linear_epilogue", g->m, g->n, (const float *)y, g->n, bias, SU_CONV_PLAIN, 0,
                (float *)out[0]);
}

/* inside: with cuBLASLt's bias. It adds an f32 one to an f32 result; a bf16 one is made wide and rounded
 * by us. */
product *plan(const su_call *c, bool inside) {
  product *g = new (std::nothrow) product();
  if (!g) return nullptr;
  take_sizes(g, c);
  const bool narrow = c->out[0].dtype == SU_BF16;
  g->inside = inside && g->bias && !narrow;
  g->wide = g->bias && narrow;
  if (g->m > 0 && g->n > 0 && g->k > 0 && describe(g, c) && choose(g)) return g;
  free_product(g);
  return nullptr;
}

}  // namespace

bool cu_blas_matmul(su_plan *p) {
  const int dtype = p->call.in[0].dtype;
  if ((dtype != SU_F32 && dtype != SU_BF16) || !ready()) return false;
  product *g = plan(&p->call, true);
  if (!g) g = plan(&p->call, false);
  if (!g) return false;
  size_t bytes = rounded(g->scratch) + (g->wide ? (size_t)(g->m * g->n) * sizeof(float) : 0);
  if (bytes) bytes += ALIGN;            /* the scratch begins at a multiple */
  g->own = p->exec;
  if (p->workspace < bytes) p->workspace = bytes;
  p->exec = exec;
  p->state = g;
  p->state_free = free_product;
  return true;
}

void cu_blas_version(char *buf, size_t n) {
  if (!load()) {
    snprintf(buf, n, "%s", absent);
    return;
  }
  const size_t v = lt.cublasLtGetVersion();      /* 130100 for 13.1.0 */
  snprintf(buf, n, "cuBLASLt %zu.%zu.%zu", v / 10000, v / 100 % 100, v % 100);
}

#else

bool cu_blas_matmul(su_plan *) { return false; }
void cu_blas_version(char *buf, size_t n) {
  snprintf(buf, n, "no cuBLASLt: this build was made without its headers");
}

#endif
