/* dnn.h -- convolution by oneDNN. dnn.c is the only file that knows its API. */
#ifndef SUMI_CPU_DNN_H
#define SUMI_CPU_DNN_H

#include "conv.h"

/* PLAIN: tensors as they lie. BLOCKED: tensors reordered into the layout oneDNN likes best. WINOGRAD: its own
 * Winograd. */
enum su_dnn_how { SU_DNN_PLAIN, SU_DNN_BLOCKED, SU_DNN_WINOGRAD, SU_DNN_HOWS };
bool su_conv_by_dnn_how(su_conv_by *by, const su_conv_geo *g, enum su_conv_dir dir, enum su_dnn_how how);
const char *su_dnn_version(void);                    /* "oneDNN 2.6.3" */

#endif
