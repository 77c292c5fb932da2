/* replay.h -- a training step as a recorded list of ops that runs again without the program that made it.
 *
 * While a recording is open, everything that ops run, allocate and free is noted: plans, operands, reals. Afterwards the numbers
 * made inside it are laid out once in one block, in the order of their lives, and su_list_run executes the list: the
 * same plans on the same operands in the same order, so the same bits as the program itself. On a device with graphs the
 * list becomes one graph.
 *
 * What may differ between runs is told: inputs (tensors written by the host, su_list_input), live numbers (reals that a
 * schedule or a counter gives, su_live_mark) and the step that random ops draw from. What is read back is a result
 * (su_list_result). A program that looks at any other number, or keeps a tensor, cannot be replayed: su_list_end says why.
 *
 * A dry recording runs nothing and allocates nothing: it finds out what a step needs before it runs. */
#ifndef SUMI_REPLAY_H
#define SUMI_REPLAY_H

#include "op.h"

typedef struct su_list su_list;

su_list *su_list_new(su_device *dev);
void su_list_free(su_list *l);

/* ---- recording: one at a time ---- */
void su_list_begin(su_list *l, bool dry);
bool su_list_end(void);                            /* false: cannot be replayed, see su_list_reason */
void su_list_pause(bool on);                        /* true: what happens now is no part of the step (its data are made) */
su_list *su_list_open(void);                       /* the one that is being recorded, or NULL */
const char *su_list_reason(const su_list *l);      /* why not, "" if it can */
void su_list_refuse(const char *fmt, ...) SU_PRINTF(1, 2);   /* what happens now cannot be replayed; the first reason stays */
int su_list_input(su_tensor *t);                   /* t, all of a storage of its own, is given anew each time: its slot from 0 */
int su_list_result(su_tensor *t);                  /* the one number of t is read here each time: its index from 0 */
void su_live_mark(int real, int slot);             /* real number `real` of the next op is live number `slot` */
void su_live_clear(void);

/* Do two recordings say the same, but for inputs, live numbers and steps? If not, su_error() says what differs. */
bool su_list_same(const su_list *a, const su_list *b);

/* ---- running ---- */
bool su_list_ready(su_list *l);                    /* lays out the memory; false: it does not fit */
void su_list_rest(su_device *dev);                 /* the memory of its lists goes back until one of them runs again */
bool su_list_yield(su_device *dev);                /* the same, where something else needs it; false: there is none to give */
bool su_list_give(su_list *l, int slot, su_tensor *t);       /* the input's numbers for the next run; same shape and dtype */
void su_list_live(su_list *l, int slot, double value);
/* Runs step `at`. results gets the results; *bad is the first of them that is not finite (the list stops there on devices that run
 * entry by entry), or -1. */
bool su_list_run(su_list *l, int64_t at, double *results, int *bad);

typedef struct su_list_size {
  int entries, inputs, results, live;
  bool graph;
  size_t bytes, workspace;                         /* of the step's own numbers, laid out; the largest scratch of a plan */
} su_list_size;
double *su_list_scratch(su_list *l);               /* room for its results */
su_list_size su_list_sizes(su_list *l);
/* Fails, with what is needed and the largest tensors by script line, when a dry recording does not fit the device's budget. */
bool su_list_fits(su_list *l);

/* ---- what tensor.c, op.c and host.c report ---- */
extern bool su_noting, su_dry;
void su_note_new(su_storage *s, const su_spec *spec);
void su_note_free(su_storage *s);
void su_note_apply(const su_plan *p, su_tensor *const *in, su_tensor *const *out, const double *reals);
void su_note_write(su_tensor *t, const void *src, size_t bytes);
bool su_note_read(const su_tensor *t);             /* false: a dry step reads without end */
void su_note_keep(const su_tensor *t);

#endif
