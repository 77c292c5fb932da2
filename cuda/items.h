/* items.h -- kernels that work through one execution of an op or through a table of them (cu_op.many in
 * cu.h): a block finds its item, and from there on both are the same. */
#ifndef SUMI_CUDA_ITEMS_H
#define SUMI_CUDA_ITEMS_H

#include "elem.h"

struct cu_batch {
  const cu_item *items;                 /* NULL: there is one */
  int count;
  cu_item one;
  cu_words w;                           /* of the one */

  /* The item whose blocks hold this one. */
  CU_DEVICE cu_item mine() const {
    if (!items) return one;
    int low = 0, high = count - 1;
    while (low < high) {
      const int middle = (low + high + 1) / 2;
      if (items[middle].first <= blockIdx.x) low = middle;
      else high = middle - 1;
    }
    return items[low];
  }
  CU_DEVICE int64_t base(const cu_item &it) const { return (int64_t)(blockIdx.x - it.first) * CU_SPAN; }
  CU_DEVICE cu_words words(const cu_item &it) const {
    cu_words own = w;
    if (items) own.at = it.at;
    return own;
  }
};

static inline cu_batch cu_batch_of(const cu_item *items, int count) {
  cu_batch b = {};
  b.items = items;
  b.count = count;
  return b;
}

static inline cu_batch cu_batch_of_one(const su_plan *p, void *const *in, cu_words w) {
  cu_batch b = {};
  b.count = 1;
  for (int k = 0; k < p->call.op->nin; k++) b.one.in[k] = p->call.in[k].ndim < 0 ? nullptr : in[k];
  b.one.n = su_spec_size(&p->call.in[0]);
  b.w = w;
  return b;
}

/* Do the first n inputs (absent ones fit) lie on 16 bytes? */
CU_DEVICE bool cu_item_wide(const cu_item &it, int n) {
  uintptr_t all = 0;
  for (int k = 0; k < n; k++) all |= (uintptr_t)it.in[k];
  return (all & 15) == 0;
}

#endif
