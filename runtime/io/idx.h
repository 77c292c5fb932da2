/* idx.h -- the idx format of MNIST (bytes only), plain or gzipped. */
#ifndef SUMI_IDX_H
#define SUMI_IDX_H

#include "../base.h"

typedef struct su_idx {
  int32_t ndim;
  int64_t shape[4];
  uint8_t *data; /* product of shape bytes, last index fastest */
} su_idx;

bool su_idx_load(const char *path, su_idx *out); /* messages name the file */
void su_idx_free(su_idx *set);

#endif
