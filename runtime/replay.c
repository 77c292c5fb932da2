/* replay.c -- recording a step's ops and running them again. What it promises is in replay.h; memory and graphs are in replay_run.c. */
#include "replay_list.h"

#include "tape.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

bool su_noting, su_dry;
static struct { su_list *l; uint32_t serial; int32_t live[SU_MAX_REAL]; bool marked; } rec;

su_list *su_list_open(void) { return rec.l; }
const char *su_list_reason(const su_list *l) { return l->reason; }

void su_list_refuse(const char *fmt, ...) {
  if (!su_noting || rec.l->reason[0]) return;
  va_list args;
  va_start(args, fmt);
  vsnprintf(rec.l->reason, sizeof rec.l->reason, fmt, args);
  va_end(args);
}

/* Room for one more of `size` bytes in *list, which holds n of *cap. */
static void *more(void **list, int n, int *cap, size_t size) {
  if (n == *cap) {
    int grown = *cap ? 2 * *cap : 256;
    void *p = su_realloc(*list, (size_t)grown * size);
    if (!p) {
      su_list_refuse("no memory to note it");
      return NULL;
    }
    *list = p;
    *cap = grown;
  }
  return (char *)*list + (size_t)n * size;
}
#define MORE(l, what) more((void **)&(l)->what, (l)->n_##what, &(l)->cap_##what, sizeof *(l)->what)

/* ---- storages ---- */

static bool noted(const su_storage *s) { return rec.l && s->list == rec.serial; }

static void note_storage(su_storage *s, const su_spec *spec, enum su_part part) {
  su_list *l = rec.l;
  su_part_of *p = MORE(l, part);
  if (!p) return;
  *p = (su_part_of){.part = part, .bytes = s->bytes, .spec = *spec, .birth = l->n_entry, .freed = -1, .site = su_tape_site(),
                    .slot = -1};
  s->list = rec.serial;
  s->note = l->n_part++;
}

void su_note_new(su_storage *s, const su_spec *spec) {
  if (s->dev == rec.l->dev) note_storage(s, spec, SU_PART_STEP);
  else su_list_refuse("it computes on %s as well", s->dev->name);
}

void su_note_free(su_storage *s) {
  if (noted(s) && s->note >= 0) rec.l->part[s->note].freed = rec.l->n_entry;
}

/* Data that the step takes are made outside of what is noted. */
void su_list_pause(bool on) {
  if (!rec.l) return;
  su_noting = !on;
  su_dry = !on && rec.l->dry;
}

/* A tensor that was there before the step: the list holds on to it. */
static void note_outside(su_storage *s) {
  su_list *l = rec.l;
  su_storage **at = MORE(l, outside);
  if (!at) return;
  *at = s;
  s->refs++;
  s->list = rec.serial;
  s->note = -1 - l->n_outside++;
}

static su_operand operand(const su_tensor *t) {
  if (!t) return (su_operand){.store = SU_NOWHERE};
  if (!noted(t->st)) note_outside(t->st);
  if (t->st->note >= 0) rec.l->part[t->st->note].used = true;
  return (su_operand){.store = t->st->note, .offset = (size_t)((char *)t->data - (char *)t->st->data)};
}

/* ---- ops ---- */

void su_live_mark(int real, int slot) {
  rec.live[real] = slot + 1;
  rec.marked = true;
}

void su_live_clear(void) {
  if (!rec.marked) return;
  memset(rec.live, 0, sizeof rec.live);
  rec.marked = false;
}

/* Random ops draw from the step whose number is the real called step; they are the ones that also have a site. */
static int drawn_step(const su_op *op) {
  int step = -1;
  bool site = false;
  for (int k = 0; k < op->nparam; k++) {
    if (op->param[k].kind != SU_PREAL) continue;
    if (strcmp(op->param[k].name, "step") == 0) step = op->param[k].slot;
    site = site || strcmp(op->param[k].name, "site") == 0;
  }
  return site ? step : -1;
}

static void note_lives(su_list *l, const su_op *op) {
  int step = drawn_step(op);
  for (int k = 0; k < op->nreal; k++) {
    int slot = k == step ? SU_STEP_SLOT : rec.marked && rec.live[k] ? rec.live[k] - 1 : -1;
    if (slot == -1) continue;
    su_alive *a = MORE(l, alive);
    if (!a) return;
    *a = (su_alive){.entry = l->n_entry, .real = k, .slot = slot};
    l->n_alive++;
    if (slot >= l->lives) l->lives = slot + 1;
  }
  su_live_clear();
}

void su_note_apply(const su_plan *p, su_tensor *const *in, su_tensor *const *out, const double *reals) {
  su_list *l = rec.l;
  const su_op *op = p->call.op;
  if (p->call.dev != l->dev) {
    su_list_refuse("op %s runs on %s: numbers are drawn or computed on the host", op->name, p->call.dev->name);
    return;
  }
  su_entry *e = MORE(l, entry);
  if (!e) return;
  memset(e, 0, sizeof *e);
  e->plan = p;
  e->result = -1;
  for (int k = 0; k < SU_MAX_IN; k++) e->in[k] = operand(k < op->nin ? in[k] : NULL);
  for (int k = 0; k < SU_MAX_OUT; k++) e->out[k] = operand(k < op->nout ? out[k] : NULL);
  for (int k = 0; k < op->nreal; k++) e->r[k] = reals[k];
  for (int k = 0; k < op->nin; k++) {
    if (!(op->writes >> k & 1) || !in[k]) continue;
    const int32_t note = in[k]->st->note;
    if (note < 0) e->writes_outside |= 1u << k;
    else if (l->part[note].part != SU_PART_STEP) su_list_refuse("op %s writes into numbers that the host gave", op->name);
  }
  if (p->workspace > l->workspace) l->workspace = p->workspace;
  note_lives(l, op);
  l->n_entry++;
}

/* ---- what crosses the border ---- */

void su_note_write(su_tensor *t, const void *src, size_t bytes) {
  su_list *l = rec.l;
  if (t->dev != l->dev) return;
  if (!noted(t->st) || t->st->note < 0) {
    su_list_refuse("a tensor that outlives the step is written by the host");
    return;
  }
  su_part_of *p = &l->part[t->st->note];
  if (p->part != SU_PART_STEP || p->used || bytes != t->st->bytes) {
    su_list_refuse("a tensor is written by the host twice, in parts, or after an op");
    return;
  }
  p->part = SU_PART_CONSTANT;
  if (!(p->bits = su_malloc(bytes ? bytes : 1))) su_list_refuse("no memory to note it");
  else memcpy(p->bits, src, bytes);
}

/* A program that waits for a number would wait for ever in a dry step, which has none. */
bool su_note_read(const su_tensor *t) {
  enum { LOOKS = 1000 };
  if (rec.l->dry && ++rec.l->looks > LOOKS) return su_fail("a dry step read numbers %d times", LOOKS);
  if (t->dev != rec.l->dev) return true;
  const char *site = su_tape_site();
  su_list_refuse("it looks at a tensor's numbers%s%s", site ? ", near " : "", site ? site : "");
  return true;
}

void su_note_keep(const su_tensor *t) {
  if (noted(t->st) && t->st->note >= 0) su_list_refuse("it keeps a tensor that it made");
}

int su_list_input(su_tensor *t) {
  su_list *l = rec.l;
  if (!l) return -1;
  if (t->data != t->st->data || t->st->bytes != (size_t)t->size * su_dtype_size(t->spec.dtype)) {
    su_list_refuse("the batch holds a part of a larger tensor");
    return -1;
  }
  if (t->dev != l->dev || noted(t->st)) {
    su_list_refuse(noted(t->st) ? "the batch holds a tensor twice, or one that the step has used" : "the batch lies on another device");
    return -1;
  }
  note_storage(t->st, &t->spec, SU_PART_INPUT);
  if (!noted(t->st)) return -1;
  return l->part[t->st->note].slot = l->inputs++;
}

int su_list_result(su_tensor *t) {
  su_list *l = rec.l;
  if (!l || !t) return -1;
  su_entry *e = MORE(l, entry);
  if (!e) return -1;
  memset(e, 0, sizeof *e);
  e->in[0] = operand(t);
  for (int k = 1; k < SU_MAX_IN; k++) e->in[k].store = SU_NOWHERE;
  for (int k = 0; k < SU_MAX_OUT; k++) e->out[k].store = SU_NOWHERE;
  e->dtype = t->spec.dtype;
  e->result = l->results++;
  if (e->in[0].store >= 0) l->part[e->in[0].store].result = true;
  l->n_entry++;
  return e->result;
}

/* ---- begin and end ---- */

su_list *su_list_new(su_device *dev) {
  su_list *l = su_calloc(sizeof *l);
  if (l) l->dev = dev;
  return l;
}

void su_list_begin(su_list *l, bool dry) {
  if (rec.l) su_list_end();
  rec.l = l;
  rec.serial++;
  l->serial = rec.serial;
  su_live_clear();
  su_noting = true;
  su_dry = l->dry = dry;
  l->dev->pinned++;                    /* plans must stay while a list holds them */
  l->pins = true;
}

bool su_list_end(void) {
  su_list *l = rec.l;
  if (!l) return true;
  rec.l = NULL;
  su_noting = su_dry = false;
  su_live_clear();
  return !l->reason[0];
}

/* ---- are two recordings the same? ---- */

static bool differ(int k, const su_entry *e, const char *what) {
  return su_fail("op %d (%s) %s", k + 1, e->plan ? e->plan->call.op->name : "a result", what);
}

static bool same_place(const su_list *a, const su_list *b, su_operand x, su_operand y) {
  if (x.offset != y.offset) return false;
  if (x.store >= 0 || y.store >= 0 || x.store == SU_NOWHERE || y.store == SU_NOWHERE) return x.store == y.store;
  return a->outside[-1 - x.store] == b->outside[-1 - y.store];
}

static bool is_alive(const su_list *l, int entry, int real) {
  int lo = 0, hi = l->n_alive;         /* they are noted in the order of entries */
  while (lo < hi) {
    int mid = (lo + hi) / 2;
    if (l->alive[mid].entry < entry) lo = mid + 1;
    else hi = mid;
  }
  for (; lo < l->n_alive && l->alive[lo].entry == entry; lo++)
    if (l->alive[lo].real == real) return true;
  return false;
}

static bool same_entry(const su_list *a, const su_list *b, int k) {
  const su_entry *x = &a->entry[k], *y = &b->entry[k];
  if (x->plan != y->plan || x->result != y->result) return differ(k, x, "is another op, or has another shape");
  for (int j = 0; j < SU_MAX_IN; j++)
    if (!same_place(a, b, x->in[j], y->in[j])) return differ(k, x, "reads another tensor");
  for (int j = 0; j < SU_MAX_OUT; j++)
    if (!same_place(a, b, x->out[j], y->out[j])) return differ(k, x, "writes another tensor");
  for (int j = 0; x->plan && j < x->plan->call.op->nreal; j++)
    if (memcmp(&x->r[j], &y->r[j], sizeof x->r[j]) != 0 && !is_alive(a, k, j))
      return su_fail("op %d (%s) has another number: %.9g, then %.9g", k + 1, x->plan->call.op->name, x->r[j], y->r[j]);
  return true;
}

bool su_list_same(const su_list *a, const su_list *b) {
  if (a->n_entry != b->n_entry) return su_fail("there are %d ops in one and %d in the other", a->n_entry, b->n_entry);
  if (a->n_part != b->n_part || a->n_alive != b->n_alive || a->inputs != b->inputs)
    return su_fail("it makes other tensors, or has other data, schedules or counters");
  for (int k = 0; k < a->n_entry; k++)
    if (!same_entry(a, b, k)) return false;
  if (a->n_alive && memcmp(a->alive, b->alive, (size_t)a->n_alive * sizeof *a->alive) != 0)
    return su_fail("its schedules and counters come in another order");
  for (int k = 0; k < a->n_part; k++) {
    const su_part_of *x = &a->part[k], *y = &b->part[k];
    if (x->part != y->part || x->bytes != y->bytes || x->slot != y->slot || (x->bits && memcmp(x->bits, y->bits, x->bytes) != 0))
      return su_fail("a tensor that the host writes has other numbers");
  }
  return true;
}
