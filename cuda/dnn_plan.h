/* dnn_plan.h -- a plan of cuDNN's and how it is run, in words that need none of NVIDIA's headers (the
 * emulator's test plays these functions). Plans are made in dnn_conv.cpp. */
#ifndef SUMI_CUDA_DNN_PLAN_H
#define SUMI_CUDA_DNN_PLAN_H

#include <stddef.h>
#include <stdint.h>

#include <memory>

/* A backend descriptor; empty when it could not be made. */
typedef std::shared_ptr<void> cu_desc;

struct cu_dnn_choice {
  cu_desc plan;
  int64_t workspace = 0, engine = 0;
  uint32_t notes = 0;                   /* bit CUDNN_NUMERICAL_NOTE_... */
  bool compiled = false;                /* by cuDNN, when the plan was made */
};

/* The tensors of a plan by cuDNN's ids, and where they lie. */
struct cu_dnn_pack {
  int n = 0;
  int64_t id[4] = {0};
  void *at[4] = {nullptr};
  void *workspace = nullptr;
  cu_desc desc;                         /* made by cu_dnn_run, kept while the pointers stay the same */
};

bool cu_dnn_open_handle();              /* cuDNN for the current device; su_fail */
bool cu_dnn_ready();                    /* there is a handle, or a described device */
/* Run on a stream of the handle's device: at[k] is the tensor pack->id[k]. False: cu_dnn_refusal(). */
bool cu_dnn_run(const cu_dnn_choice *c, cu_dnn_pack *pack, const void *const *at, void *workspace,
                void *stream);
const char *cu_dnn_refusal();           /* cuDNN's reason for what failed last */

#endif
