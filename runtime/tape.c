/* tape.c -- recording, and walking back. The rules are in tape.h.
 *
 * Nodes lie in chunks that never move, so that a gradient function may record new nodes while it reads its own. */
#include "tape.h"

#include "ops/ops.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define CHUNK 512
#define MAX_CHUNKS 65536

static struct {
  su_node *chunk[MAX_CHUNKS];
  int32_t n;
  uint32_t serial;
  bool off;
  const char *site;
} tape = {.serial = 1};

static struct { char name[24]; double factor; } mutation = {"", 1};

static su_node *at(int32_t k) { return &tape.chunk[k / CHUNK][k % CHUNK]; }

int32_t su_tape_mark(void) { return tape.n; }
bool su_recording(void) { return !tape.off; }

bool su_set_recording(bool on) {
  bool was = !tape.off;
  tape.off = !on;
  return was;
}

void su_set_site(const char *site) { tape.site = site; }
const char *su_tape_site(void) { return tape.site; }

void su_mutate_grad(const char *name, double factor) {
  snprintf(mutation.name, sizeof mutation.name, "%s", name);
  mutation.factor = factor;
}

static bool on_tape(const su_tensor *t) { return t->tape == tape.serial && t->node >= 0; }

bool su_on_tape(const su_tensor *t) { return on_tape(t) && !at(t->node)->spent; }

static su_node *push(void) {
  int32_t c = tape.n / CHUNK;
  if (c >= MAX_CHUNKS) {
    su_fail("the tape is full (%d ops recorded); end the step, or use no_grad", tape.n);
    return NULL;
  }
  if (!tape.chunk[c] && !(tape.chunk[c] = su_calloc(CHUNK * sizeof(su_node)))) return NULL;
  su_node *n = at(tape.n++);
  n->spent = false;
  n->mark = 0;
  n->site = tape.site;
  for (int k = 0; k < SU_MAX_OUT; k++) n->g[k] = NULL;
  return n;
}

static bool leaf(su_tensor *t) {
  su_node *n = push();
  if (!n) return false;
  n->op = NULL;
  n->dev = t->dev;
  n->in[0] = su_retain(t);
  n->out_spec[0] = t->spec;
  t->node = tape.n - 1;
  t->node_out = 0;
  t->tape = tape.serial;
  return true;
}

su_tensor *su_watch(su_tensor *t) {
  su_tensor *w = su_detach(t);
  return w && leaf(w) ? w : NULL;
}

/* What the gradient will read is kept, the rest only leaves its shape. */
static void remember(su_node *n, const su_op *op, su_tensor *const *in, su_tensor **out, const su_plan *p) {
  for (int k = 0; k < op->nin; k++) {
    bool keep = in[k] && (op->keep_in >> k & 1);
    n->in[k] = keep ? su_retain(in[k]) : NULL;
    n->version_in[k] = keep ? in[k]->st->version : 0;
    n->edge[k] = in[k] && on_tape(in[k]) ? in[k]->node : -1;
    n->edge_out[k] = in[k] ? in[k]->node_out : 0;
    n->in_spec[k] = p->call.in[k];
  }
  for (int k = 0; k < op->nout; k++) {
    bool keep = (op->keep_out >> k & 1) && (!op->keeps_out || op->keeps_out(&p->call));
    n->out[k] = keep ? su_retain(out[k]) : NULL;
    n->version_out[k] = keep ? out[k]->st->version : 0;
    n->out_spec[k] = p->call.out[k];
  }
}

bool su_record(const su_op *op, su_device *dev, su_tensor *const *in, const su_plan *p, const double *reals,
               su_tensor **out) {
  bool any = false;
  for (int k = 0; k < op->nin; k++) {
    if (!in[k]) continue;
    if (in[k]->learns && !on_tape(in[k]) && !leaf(in[k])) return false;
    any = any || on_tape(in[k]);
  }
  if (!any) return true;
  su_node *n = push();
  if (!n) return false;
  n->op = op;
  n->dev = dev;
  remember(n, op, in, out, p);
  memcpy(n->i, p->call.i, (size_t)op->nint * sizeof n->i[0]);
  if (reals) memcpy(n->r, reals, (size_t)op->nreal * sizeof n->r[0]);
  for (int k = 0; k < op->nout; k++) {
    out[k]->node = tape.n - 1;
    out[k]->node_out = k;
    out[k]->tape = tape.serial;
  }
  return true;
}

static void spend(su_node *n) {
  if (n->spent) return;
  n->spent = true;
  for (int k = 0; k < (n->op ? n->op->nin : 1); k++) su_release(n->in[k]);
  for (int k = 0; n->op && k < n->op->nout; k++) su_release(n->out[k]);
}

void su_tape_clear(void) {
  for (int32_t k = tape.n - 1; k >= 0; k--) {
    su_node *n = at(k);
    spend(n);
    for (int o = 0; o < SU_MAX_OUT; o++) {
      su_release(n->g[o]);
      n->g[o] = NULL;
    }
  }
  tape.n = 0;
  tape.serial++;
}

bool su_tape_reads(int32_t upto, su_tensor *const *xs, int n) {
  for (int k = 0; k < n; k++)
    if (on_tape(xs[k]) && xs[k]->node < upto) return true;
  return false;
}

/* ---- walking back ---- */

enum { NEED = 1, TARGET = 2 };

static bool unchanged(const su_node *n) {
  for (int k = 0; k < n->op->nin + n->op->nout; k++) {
    bool input = k < n->op->nin;
    int m = input ? k : k - n->op->nin;
    const su_tensor *t = input ? n->in[m] : n->out[m];
    if (!t || t->st->version == (input ? n->version_in[m] : n->version_out[m])) continue;
    return su_fail("%s: its gradient needs the %s '%s' as it was, but it was written in place since%s%s", n->op->name,
                   input ? "input" : "output", input ? n->op->param[m].name : "y", n->site ? "; recorded at " : "",
                   n->site ? n->site : "");
  }
  return true;
}

static bool is_cast(const su_node *n) { return n->op && strcmp(n->op->name, "cast") == 0; }

/* node.g[out] += g. Exclusive gradients are added to in place, unless the pass itself is recorded. What was cast down
 * from f32, a master weight say, has its gradient summed in f32. */
static bool arrive(su_node *n, int out, su_tensor *g, bool create) {
  su_tensor *old = n->g[out];
  if (is_cast(n) && n->in_spec[0].dtype == SU_F32 && !(g = su_cast(g, SU_F32))) return false;
  if (!old) {
    n->g[out] = su_retain(g);
    return true;
  }
  bool fits = old->spec.dtype == g->spec.dtype || old->spec.dtype == SU_F32;
  if (!create && fits && old->refs == 1 && old->st->refs == 1) return su_acc(old, g);
  su_tensor *sum = su_add(old, g);
  if (!sum) return false;
  su_release(old);
  n->g[out] = su_retain(sum);
  return true;
}

/* The cotangents of a node in the dtypes of its outputs; a cast takes them as they come. */
static bool cotangents(const su_node *n, su_tensor **gy) {
  const bool as_they_come = is_cast(n);
  for (int k = 0; k < n->op->nout; k++) {
    gy[k] = n->g[k];
    if (gy[k] && !as_they_come && !(gy[k] = su_cast(gy[k], n->out_spec[k].dtype))) return false;
  }
  return true;
}

static void mark_needed(su_tensor *const *xs, int n, int32_t last) {
  for (int32_t k = 0; k <= last; k++) at(k)->mark = 0;
  int32_t first = last + 1;
  for (int k = 0; k < n; k++) {
    if (!on_tape(xs[k])) continue;
    at(xs[k]->node)->mark |= NEED | TARGET;
    if (xs[k]->node < first) first = xs[k]->node;
  }
  for (int32_t k = first; k <= last; k++) {
    su_node *nd = at(k);
    for (int j = 0; nd->op && j < nd->op->nin && !(nd->mark & NEED); j++)
      if (nd->edge[j] >= 0 && (at(nd->edge[j])->mark & NEED)) nd->mark |= NEED;
  }
}

static bool mutate(const su_node *n, su_tensor **gx) {
  if (mutation.factor == 1 || strcmp(mutation.name, n->op->name) != 0) return true;
  for (int k = 0; k < n->op->nin; k++)
    if (gx[k] && !(gx[k] = su_affine(gx[k], mutation.factor, 0))) return false;
  return true;
}

static bool back_through(su_node *n, bool create) {
  bool want[SU_MAX_IN] = {false}, any = false;
  su_tensor *gx[SU_MAX_IN] = {NULL}, *gy[SU_MAX_OUT] = {NULL};
  for (int k = 0; k < n->op->nin; k++) {
    want[k] = n->edge[k] >= 0 && (at(n->edge[k])->mark & NEED);
    any = any || want[k];
  }
  if (!any) return true;               /* a target itself, with nothing wanted below */
  if (n->spent)
    return su_fail("%s: this part of the graph was already differentiated and given back", n->op->name);
  if (!unchanged(n)) return false;
  const char *site = tape.site;
  tape.site = n->site;                 /* what is recorded now belongs to the same script line */
  bool ok = cotangents(n, gy) && n->op->grad(n, gy, want, gx) && mutate(n, gx);
  tape.site = site;
  if (!ok && n->site) su_error_note("  in the backward pass of %s, %s", n->op->name, n->site);
  for (int k = 0; ok && k < n->op->nin; k++)
    if (want[k] && gx[k]) ok = arrive(at(n->edge[k]), n->edge_out[k], gx[k], create);
  return ok;
}

static void drop_cotangents(su_node *n) {
  for (int o = 0; o < SU_MAX_OUT; o++) {
    su_release(n->g[o]);
    n->g[o] = NULL;
  }
}

static bool has_cotangent(const su_node *n) {
  for (int o = 0; o < SU_MAX_OUT; o++)
    if (n->g[o]) return true;
  return false;
}

/* The gradient of x has the dtype of x. */
static bool deliver(int32_t k, su_tensor *const *xs, int n, su_tensor **gx) {
  for (int j = 0; j < n; j++)
    if (on_tape(xs[j]) && xs[j]->node == k && at(k)->g[xs[j]->node_out]) {
      su_tensor *g = su_cast(at(k)->g[xs[j]->node_out], xs[j]->spec.dtype);
      if (!g) return false;
      gx[j] = su_retain(g);
    }
  return true;
}

static bool walk(int32_t last, su_tensor *const *xs, int n, su_tensor **gx, su_grad_opt opt) {
  bool ok = true;
  for (int32_t k = last; k >= 0; k--) {
    su_node *nd = at(k);
    if (!has_cotangent(nd)) continue;
    if (ok && (nd->mark & TARGET)) ok = deliver(k, xs, n, gx);
    if (ok && nd->op && (nd->mark & NEED)) {
      int scope = su_scope_begin();
      ok = back_through(nd, opt.create);
      su_scope_end(scope, NULL);
      if (ok && !opt.create && opt.spend_from >= 0 && k >= opt.spend_from) spend(nd);
    }
    drop_cotangents(nd);
  }
  return ok;
}

/* ---- in stages ---- */

bool su_pass_seed(su_tensor *y, double weight) {
  if (!y || !on_tape(y)) return true;  /* a constant: nothing learns from it */
  su_tensor *g = su_full(y->dev, &y->spec, weight);
  return g && arrive(at(y->node), y->node_out, g, false);
}

bool su_pass_walk(int32_t from, int32_t upto, su_tensor *const *xs, int n, bool spend_them) {
  bool was = su_set_recording(false), ok = true;
  mark_needed(xs, n, upto - 1);
  for (int32_t k = upto - 1; ok && k >= from; k--) {
    su_node *nd = at(k);
    if (!nd->op || !has_cotangent(nd)) continue;
    if (nd->mark & NEED) {
      int scope = su_scope_begin();
      ok = back_through(nd, false);
      su_scope_end(scope, NULL);
      if (ok && spend_them) spend(nd);
    }
    drop_cotangents(nd);
  }
  su_set_recording(was);
  return ok;
}

bool su_pass_take(su_tensor *const *xs, int n, su_tensor **gx) {
  bool was = su_set_recording(false), ok = true;
  for (int k = 0; k < n; k++) {
    su_tensor *g = on_tape(xs[k]) ? at(xs[k]->node)->g[xs[k]->node_out] : NULL;
    gx[k] = g && ok ? su_cast(g, xs[k]->spec.dtype) : NULL;
    ok = ok && (!g || gx[k]);
    if (gx[k] && gx[k] == g) su_own(su_retain(g));
  }
  for (int32_t k = 0; k < tape.n; k++) drop_cotangents(at(k));
  su_set_recording(was);
  return ok;
}

bool su_grad(su_tensor *y, su_tensor *gy, su_tensor *const *xs, int n, su_tensor **gx, su_grad_opt opt) {
  for (int k = 0; k < n; k++) gx[k] = NULL;
  if (!y) return false;
  bool was = su_set_recording(opt.create);
  bool ok = true;
  if (!gy) ok = (gy = su_full(y->dev, &y->spec, 1)) != NULL;
  if (ok && on_tape(y)) {
    int32_t last = y->node;
    mark_needed(xs, n, last);
    ok = arrive(at(last), y->node_out, gy, opt.create) && walk(last, xs, n, gx, opt);
  }
  for (int k = 0; k < n; k++) {
    if (gx[k]) su_own(gx[k]);
    else if (ok && !opt.missing_null) ok = (gx[k] = su_full(xs[k]->dev, &xs[k]->spec, 0)) != NULL;
  }
  su_set_recording(was);
  return ok;
}
