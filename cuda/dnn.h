/* dnn.h -- convolutions by cuDNN, where it is there; else our own kernels (conv.cu) serve.
 *
 * cuDNN is opened at run time (library.h), but compiling against it needs its headers: the build defines
 * SUMI_HAVE_CUDNN where <cudnn.h> is found. Without it, and in the emulator, these functions are there and
 * decline. */
#ifndef SUMI_CUDA_DNN_H
#define SUMI_CUDA_DNN_H

#include <stddef.h>

extern "C" {
#include "../runtime/cpu/conv.h"
}

/* Plans one direction of a convolution: in = {x,w,b?} | {gy,w,b?} | {x,gy}, f32 or bf16 (then out[0] of gw
 * is f32). p has an exec and a workspace already, those of our own kernels: they serve where an operand does not
 * lie on 16 bytes, as cuDNN's plans want it (a row of a larger tensor may). Sets exec, workspace and state.
 * False, without a message, when cuDNN can't: then p is as it was. */
bool cu_dnn_conv(su_plan *p, const su_conv_geo *g, enum su_conv_dir dir);

/* Plan for a GPU that is described instead of one that is there (cuDNN's own JSON); NULL: as before.
 * su_fail. */
bool cu_dnn_describe_device(const char *json);

/* "cuDNN 9.19.0", or why there is none. */
void cu_dnn_version(char *buf, size_t n);

#endif
