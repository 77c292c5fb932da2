/* tape.h -- reverse-mode differentiation over a linear tape, gradients of gradients included.
 *
 * An op is recorded when one of its inputs learns (a parameter or a watched tensor) or came from a recorded op. su_grad walks
 * the tape backwards from y, only through nodes that lie between the wanted xs and y, calling each op's gradient, which is
 * itself written in ops. With `create` these are recorded too. The step's end clears the tape. */
#ifndef SUMI_TAPE_H
#define SUMI_TAPE_H

#include "op.h"

struct su_node {
  const su_op *op;                      /* NULL: a leaf */
  su_tensor *in[SU_MAX_IN];             /* kept where op->keep_in says so (leaf: in[0] is the leaf), else NULL */
  su_tensor *out[SU_MAX_OUT];           /* kept where op->keep_out says so, else NULL */
  int32_t version_in[SU_MAX_IN], version_out[SU_MAX_OUT];
  int32_t edge[SU_MAX_IN];              /* node that made in[k], or -1 */
  int32_t edge_out[SU_MAX_IN];          /* and which of its outputs it was */
  su_spec in_spec[SU_MAX_IN], out_spec[SU_MAX_OUT];
  su_device *dev;
  int64_t i[SU_MAX_INT];
  double r[SU_MAX_REAL];
  su_tensor *g[SU_MAX_OUT];             /* cotangents that arrived, during su_grad */
  const char *site;                     /* interned "file:line" that recorded it, or NULL */
  bool spent;                           /* its kept tensors were given back */
  uint8_t mark;
};

typedef struct su_grad_opt {
  bool create;                          /* record the backward pass: gradients of gradients */
  bool missing_null;                    /* gx[k] is NULL, not zeros, where y does not depend on xs[k] */
  int32_t spend_from;                   /* nodes recorded at or after this mark give back what they kept; <0: none */
} su_grad_opt;

/* gx[k] = d(sum(y * gy))/d(xs[k]), k < n; gy NULL means ones. gx[k] is zeros where y does not depend on xs[k].
 * y and xs belong to the current tape. The results belong to the innermost scope. */
bool su_grad(su_tensor *y, su_tensor *gy, su_tensor *const *xs, int n, su_tensor **gx, su_grad_opt opt);

/* The same in stages, for a player with several losses: each loss is walked back to where it left the common part of the
 * graph (a tape mark), which gives back its memory before the next one is computed; the common part is walked once. */
bool su_pass_seed(su_tensor *y, double weight);              /* cotangent `weight` arrives at the scalar y */
bool su_pass_walk(int32_t from, int32_t upto, su_tensor *const *xs, int n, bool spend);   /* nodes upto-1 down to from */
bool su_pass_take(su_tensor *const *xs, int n, su_tensor **gx);   /* NULL where nothing arrived; forgets all cotangents */

su_tensor *su_watch(su_tensor *t);      /* an alias from which gradients are wanted (a leaf of the tape) */
int32_t su_tape_mark(void);             /* number of nodes so far */
/* Does any node before `upto` (a mark) read one of xs? */
bool su_tape_reads(int32_t upto, su_tensor *const *xs, int n);
bool su_on_tape(const su_tensor *t);     /* made by a node that can still be walked back through */
void su_tape_clear(void);
bool su_recording(void);
bool su_set_recording(bool on);         /* returns what it was */
const char *su_tape_site(void);         /* what su_set_site set, or the site of the node that is walked back through */
void su_set_site(const char *site);     /* "file:line" for the nodes recorded from now on; interned by caller */
/* For the harness's test of itself: gradients of op `name` are multiplied by factor (1: off). */
void su_mutate_grad(const char *name, double factor);
/* internal: called by su_apply after exec */
bool su_record(const su_op *op, su_device *dev, su_tensor *const *in, const su_plan *p, const double *reals, su_tensor **out);

#endif
