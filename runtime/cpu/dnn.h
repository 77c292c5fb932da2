/* dnn.h -- one convolution planned by oneDNN, run on the calling thread. See dnn.c. */
#ifndef SUMI_CPU_DNN_H
#define SUMI_CPU_DNN_H

#include "conv.h"

typedef struct su_dnn su_dnn;
struct su_dnn_opt {
  bool as_they_lie;                     /* images are not reordered: NULL where oneDNN has no kernel for that */
  bool bf16;                            /* operands and result in bf16 */
  bool f32_out;                         /* but the result in f32 */
  bool shared;                          /* weights in oneDNN's order are always given as `turned` where they differ */
};

/* NULL: oneDNN cannot (no message). The bias of direction y is f32. */
su_dnn *su_dnn_new(const su_conv_geo *g, enum su_conv_dir dir, struct su_dnn_opt opt);
void su_dnn_free(su_dnn *s);
size_t su_dnn_workspace(const su_dnn *s);             /* bytes that su_dnn_run wants at ws */
/* a, b: (x,w), (gy,w) or (x,gy). turned: NULL, or the weights in oneDNN's own order, which are read there (y, gx) or
 * left there (gw) instead of at b or out. One su_dnn runs on one thread at a time. */
void su_dnn_run(const su_dnn *s, const void *a, const void *b, const float *bias, void *out, void *ws, void *turned);

size_t su_dnn_weights(const su_dnn *s);               /* bytes of the weights in oneDNN's order; 0: it is ours */
bool su_dnn_same_weights(const su_dnn *s, const su_dnn *t);
void su_dnn_turn(const su_dnn *s, void *ours, void *theirs);   /* our order into theirs; of gw, back */

#endif
