/* blas.h -- products of matrices by cuBLASLt, where it is there; else our own tiles (matmul.cu) serve. */
#ifndef SUMI_CUDA_BLAS_H
#define SUMI_CUDA_BLAS_H

#include <stddef.h>

extern "C" {
#include "../runtime/op.h"
}

/* Plans matmul(a, b, ta, tb) or linear(x, w, b?), operands f32 or bf16, result as the shape rule chose
 * (f32 or bf16). p has the exec and workspace of our own tiles already: they serve where an operand does
 * not lie on 16 bytes. False, without a message, when cuBLASLt can't: then p is as it was. */
bool cu_blas_matmul(su_plan *p);

/* "cuBLASLt 13.1.0", or why there is none. */
void cu_blas_version(char *buf, size_t n);

#endif
