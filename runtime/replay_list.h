/* replay_list.h -- what a recorded list is made of; for replay.c (recording) and replay_run.c (memory, running) alone. */
#ifndef SUMI_REPLAY_LIST_H
#define SUMI_REPLAY_LIST_H

#include "replay.h"

#define SU_NOWHERE INT32_MIN
#define SU_STEP_SLOT (-2)              /* the live number that is the step's own */

/* Where an operand lies: store >= 0 is part[store], store < 0 outside[-1 - store], SU_NOWHERE absent. Offset in bytes. */
typedef struct su_operand { int32_t store; size_t offset; } su_operand;

typedef struct su_entry {
  const su_plan *plan;                 /* NULL: a result is read */
  su_operand in[SU_MAX_IN], out[SU_MAX_OUT];
  double r[SU_MAX_REAL];
  int32_t result, dtype;
  uint32_t writes_outside;             /* inputs written in place that outlive the step */
  void *pin[SU_MAX_IN], *pout[SU_MAX_OUT];   /* addresses, once laid out */
} su_entry;

enum su_part { SU_PART_STEP, SU_PART_INPUT, SU_PART_CONSTANT };

/* A storage that the step made; it lives from before entry `birth` until behind its last use, before entry `death`. */
typedef struct su_part_of {
  enum su_part part;
  int32_t birth, death, freed, slot;   /* freed: when the program let go of it, -1 never */
  bool result, used;                   /* used: an op has read or written it */
  size_t bytes, offset;
  su_spec spec;
  const char *site;
  void *bits;                          /* a constant's numbers */
} su_part_of;

typedef struct su_alive { int32_t entry, real, slot; } su_alive;

struct su_list {
  su_device *dev;
  uint32_t serial;
  bool dry, pins, laid;
  su_entry *entry;
  su_part_of *part;
  su_storage **outside;
  su_alive *alive;
  int n_entry, cap_entry, n_part, cap_part, n_outside, cap_outside, n_alive, cap_alive;
  int inputs, results, lives, looks;   /* looks: how often a dry step read numbers */
  size_t workspace, bytes;
  uint32_t moved;                      /* for which place of the region its addresses are */
  size_t result_bytes;                 /* results come first in the block, */
  char *result_bits;                   /* and are read back here */
  char *base, *ws;
  void *graph;
  double *live, *found;                /* values of the live numbers, of the results */
  char reason[240];
};

#endif
