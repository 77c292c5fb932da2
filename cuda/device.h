/* device.h -- what the parts of the device share: device.cpp (memory, ops), graph.cpp (a step as
 * one unit) and merge.cpp (executions that become one launch). */
#ifndef SUMI_CUDA_DEVICE_H
#define SUMI_CUDA_DEVICE_H

#include "rt.h"

#include <vector>

/* An execution that may become part of a larger launch. */
struct cu_waiting {
  const su_plan *plan;
  int32_t entry;
  void *in[SU_MAX_IN], *out[SU_MAX_OUT], *ws;
  double real[SU_MAX_REAL];
};

enum { CU_WORDS = 8, CU_SLOTS = 32768, CU_MERGE_ITEMS = 4096, CU_MERGE_BLOCKS = 1 << 18 };

struct cu_graph {
  void *rt;
  su_block *block;                      /* device memory for the three that follow */
  uint32_t *at;                         /* the step block: CU_WORDS words for each slot */
  cu_item *table;                       /* of merged launches */
  void *scratch;                        /* of merged launches: 4 bytes per block */
  std::vector<uint32_t> words;          /* what the step block should hold */
  std::vector<int32_t> slot;            /* of an entry; -1: it has no reals */
  int n, low, high;                     /* slots in use; those in [low, high) changed since the last launch */
  std::vector<cu_item> items;           /* what the table should hold */
  std::vector<cu_waiting> waiting;
};

struct cu_state {
  su_device d;
  rt_gpu gpu;
  int index;
  su_block *ws;                         /* scratch */
  cu_graph *recording;
  int32_t entry;                        /* of the recording's list, which exec runs next; -1: none */
};
extern cu_state cu_the;

cu_op *cu_op_of(const su_op *op);       /* cu_op_find, remembered */
void cu_graph_fill(su_device *d);
void cu_merge_exec(const su_plan *p, void *const *in, void *const *out, const double *r, void *ws);
void cu_merge_flush();

/* su_fail_code with what rt_keep kept; returns false. */
bool cu_report();

#endif
