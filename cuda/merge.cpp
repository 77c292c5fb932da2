/* merge.cpp -- while a step is recorded, consecutive executions of one op become one launch
 * (cu_op.many in cu.h): a network's hundreds of parameters are updated by one kernel, not by
 * hundreds.
 *
 * An execution that may be merged waits until one comes that may not join it. Every other
 * execution, copy and the end of the recording let the waiting ones go first, so that the order of
 * effects is the script's. */
#include "device.h"

#include <string.h>

/* Is this input the counter of non-finite updates, which the items of a launch may share? */
static bool shared_counter(const su_op *op, int k) { return strcmp(op->param[k].name, "bad") == 0; }

static size_t bytes_of(const su_spec *s) { return (size_t)su_spec_size(s) * su_dtype_size(s->dtype); }

static bool overlap(const cu_waiting *a, int j, const cu_waiting *b, int k) {
  const char *x = (const char *)a->in[j], *y = (const char *)b->in[k];
  if (!x || !y) return false;
  return x < y + bytes_of(&b->plan->call.in[k]) && y < x + bytes_of(&a->plan->call.in[j]);
}

/* Does one of the two write what the other one reads or writes? */
static bool conflict(const cu_waiting *a, const cu_waiting *b) {
  const su_op *op = a->plan->call.op;
  for (int j = 0; j < op->nin; j++)
    for (int k = 0; k < op->nin; k++) {
      const bool written = op->writes >> j & 1 || op->writes >> k & 1;
      if (written && overlap(a, j, b, k) && !(j == k && shared_counter(op, j))) return true;
    }
  return false;
}

static bool alike(const su_plan *a, const su_plan *b) {
  if (a->call.op != b->call.op || memcmp(a->call.i, b->call.i, sizeof a->call.i) != 0) return false;
  for (int k = 0; k < a->call.op->nin; k++) {
    if ((a->call.in[k].ndim < 0) != (b->call.in[k].ndim < 0)) return false;
    if (a->call.in[k].ndim >= 0 && a->call.in[k].dtype != b->call.in[k].dtype) return false;
  }
  return true;
}

static unsigned blocks_of(const su_plan *p) { return cu_blocks(su_spec_size(&p->call.in[0]), CU_SPAN); }

static bool may_join(const cu_graph *g, const cu_waiting *w) {
  if (g->waiting.empty()) return true;
  if (!alike(g->waiting[0].plan, w->plan)) return false;
  size_t blocks = blocks_of(w->plan);
  for (const cu_waiting &other : g->waiting) {
    if (conflict(&other, w)) return false;
    blocks += blocks_of(other.plan);
  }
  return blocks <= CU_MERGE_BLOCKS;
}

static void run_alone(const cu_waiting *w) {
  const int32_t entry = cu_the.entry;
  cu_the.entry = w->entry;
  w->plan->exec(w->plan, w->in, w->out, w->real, w->ws);
  cu_the.entry = entry;
}

static cu_item item_of(const cu_waiting *w, unsigned first) {
  const int32_t entry = cu_the.entry;
  cu_item item = {};
  for (int k = 0; k < w->plan->call.op->nin; k++)
    item.in[k] = w->plan->call.in[k].ndim < 0 ? nullptr : w->in[k];
  item.n = su_spec_size(&w->plan->call.in[0]);
  item.first = first;
  cu_the.entry = w->entry;
  if (w->plan->call.op->nreal) item.at = cu_reals(w->plan, w->real).at;
  cu_the.entry = entry;
  return item;
}

/* Let the waiting executions go. */
void cu_merge_flush() {
  cu_graph *g = cu_the.recording;
  const size_t n = g->waiting.size(), from = g->items.size();
  if (n == 0) return;
  std::vector<cu_waiting> waiting;
  waiting.swap(g->waiting);
  if (n == 1 || from + n > CU_MERGE_ITEMS) {
    for (const cu_waiting &w : waiting) run_alone(&w);
    return;
  }
  unsigned blocks = 0;
  for (const cu_waiting &w : waiting) {
    g->items.push_back(item_of(&w, blocks));
    blocks += blocks_of(w.plan);
  }
  cu_op_of(waiting[0].plan->call.op)->many(waiting[0].plan, g->table + from, (int)n, blocks, g->scratch);
}

/* An execution while a step is recorded. */
void cu_merge_exec(const su_plan *p, void *const *in, void *const *out, const double *r, void *ws) {
  cu_graph *g = cu_the.recording;
  const su_op *op = p->call.op;
  const cu_op *mine = cu_op_of(op);
  if (!mine->many || op->nout || blocks_of(p) > CU_MERGE_BLOCKS) {
    cu_merge_flush();
    p->exec(p, in, out, r, ws);
    return;
  }
  cu_waiting w = {};
  w.plan = p;
  w.entry = cu_the.entry;
  w.ws = ws;
  memcpy(w.in, in, (size_t)op->nin * sizeof *in);
  memcpy(w.real, r, (size_t)op->nreal * sizeof *r);
  if (!may_join(g, &w)) cu_merge_flush();
  g->waiting.push_back(w);
}
