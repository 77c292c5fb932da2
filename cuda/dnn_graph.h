/* dnn_graph.h -- cuDNN's backend graph API in few words: make descriptors, let cuDNN list engines for a
 * graph of operations, and take the first that obeys our rules. Nothing here knows a convolution
 * (dnn_conv.h) or an su_plan (dnn.h).
 *
 * cuDNN is found at run time (library.h). Plans are made either with a handle, for the GPU that is there,
 * or for a GPU that is only described (JSON, cuDNN 9.11 and later), which needs no GPU; such plans can be
 * judged but not executed. */
#ifndef SUMI_CUDA_DNN_GRAPH_H
#define SUMI_CUDA_DNN_GRAPH_H

#include <cudnn.h>

#include <vector>

#include "dnn_plan.h"

/* Loads cuDNN; false: `why` says what is missing. The answer is remembered. */
bool cu_dnn_load(char *why, size_t n);

cu_desc cu_dnn_make(cudnnBackendDescriptorType_t type);
bool cu_dnn_set(const cu_desc &d, cudnnBackendAttributeName_t name, cudnnBackendAttributeType_t type,
                int64_t count, const void *v);
bool cu_dnn_set_desc(const cu_desc &d, cudnnBackendAttributeName_t name, const cu_desc &v);
/* Ends the making of a descriptor: d, or empty when cuDNN refuses it. */
cu_desc cu_dnn_done(const cu_desc &d);

/* What we demand of an engine. */
struct cu_dnn_rule {
  bool exact;                           /* f32 as such: no tensor cores, narrower operands or large tiles of Winograd's */
  int64_t workspace;                    /* bytes at most */
  int tries;                            /* configurations that may fail before we give up */
};

/* The first deterministic engine in the order of cuDNN's heuristics that obeys; nothing is timed. */
bool cu_dnn_choose(const std::vector<cu_desc> &operations, const cu_dnn_rule &rule, cu_dnn_choice *out);

#endif
