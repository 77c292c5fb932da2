/* dnn_conv.h -- a convolution as a cuDNN plan: which operations, which engine. Host code without CUDA's
 * own language, so that a test judges it with any C++ compiler and no GPU. How the plan is run is in
 * dnn.cpp. */
#ifndef SUMI_CUDA_DNN_CONV_H
#define SUMI_CUDA_DNN_CONV_H

#include "dnn_plan.h"

extern "C" {
#include "../runtime/cpu/conv.h"
}

#define CU_DNN_WORKSPACE ((int64_t)256 << 20)   /* bytes that a plan may want: one workspace serves all */

/* What is wanted, without a mirrored edge (dnn.cpp makes one around it). */
struct cu_dnn_wish {
  su_conv_geo g;
  enum su_conv_dir dir;
  bool bf16;                            /* operands; else f32 */
  bool tf32;                            /* f32 operands may be rounded */
  bool bias;                            /* f32 [channels of the result] is added; then comes g.act */
};

struct cu_dnn_conv_plan {
  cu_dnn_choice choice;
  bool fused;                           /* bias and activation are inside */
  bool wide;                            /* bf16 operands, but the result is f32 */
  int64_t channels;                     /* wide: of the result, and in direction gx of w; the op's or more */
};

/* Directions y and gx try bias and activation inside. Where no engine has that, somebody else has to apply
 * them: to an f32 result, so that bf16 is rounded once. Otherwise the result has the dtype of the
 * operands; gw's, too. */
bool cu_dnn_plan_conv(const cu_dnn_wish *wish, cu_dnn_conv_plan *out);
/* The plan's tensors for a cu_dnn_pack: first operand, second, bias where it is fused, result. Their
 * number. */
int cu_dnn_ids(const cu_dnn_wish *wish, const cu_dnn_conv_plan *plan, int64_t *id);

#endif
