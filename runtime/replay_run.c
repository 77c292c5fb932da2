/* replay_run.c -- a recorded list's memory, and running it. Recording is in replay.c, the contract in replay.h. */
#include "replay_list.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- memory ---- */

/* Results, inputs and constants keep their place for the whole list; results first, so that one copy reads them all. */
static bool resident(const su_part_of *p) { return p->result || p->part != SU_PART_STEP; }

static bool place(su_arena *a, su_part_of *p, su_block **b) {
  *b = su_arena_get(a, p->bytes);
  if (*b) p->offset = (*b)->offset;
  return *b != NULL;
}

/* Parts in the order of their deaths, so that the arena can be played through once. */
static int by_death(const void *x, const void *y) {
  const su_part_of *a = *(su_part_of *const *)x, *b = *(su_part_of *const *)y;
  if (a->death != b->death) return a->death < b->death ? -1 : 1;
  return a < b ? -1 : a > b;
}

/* In a replay a part is needed until its last use; in a step that is played, until the program lets go of it. */
static void find_deaths(su_list *l) {
  for (int k = 0; l->dry && k < l->n_part; k++) l->part[k].death = l->part[k].freed < 0 ? l->n_entry : l->part[k].freed;
  if (l->dry) return;
  for (int k = 0; k < l->n_entry; k++) {
    const su_entry *e = &l->entry[k];
    for (int j = 0; j < SU_MAX_IN; j++)
      if (e->in[j].store >= 0) l->part[e->in[j].store].death = k + 1;
    for (int j = 0; j < SU_MAX_OUT; j++)
      if (e->out[j].store >= 0) l->part[e->out[j].store].death = k + 1;
  }
}

/* Plays the step's allocations through an arena that has no memory: the offsets are the layout, its top the bytes. */
static bool lay_out(su_list *l) {
  su_arena *a = su_arena_new(NULL, (size_t)1 << 60);
  su_block **block = su_calloc((size_t)(l->n_part + 1) * sizeof *block);
  su_part_of **dying = su_calloc((size_t)(l->n_part + 1) * sizeof *dying);
  bool ok = a && block && dying;
  find_deaths(l);
  for (int pass = 0; ok && pass < 2; pass++)
    for (int k = 0; ok && k < l->n_part; k++)
      if (resident(&l->part[k]) && l->part[k].result == (pass == 0)) {
        ok = place(a, &l->part[k], &block[k]);
        if (pass == 0) l->result_bytes = su_arena_top(a);
      }
  for (int k = 0; ok && k < l->n_part; k++) dying[k] = &l->part[k];
  if (ok && l->n_part) qsort(dying, (size_t)l->n_part, sizeof *dying, by_death);
  for (int k = 0, d = 0; ok && k < l->n_part; k++) {
    su_part_of *p = &l->part[k];
    for (; d < l->n_part && dying[d]->death <= p->birth; d++)
      if (!resident(dying[d]) && block[dying[d] - l->part]) su_arena_put(a, block[dying[d] - l->part]);
    if (!resident(p)) ok = place(a, p, &block[k]);
  }
  if (ok) l->bytes = su_arena_top(a);
  l->laid = ok;
  su_free(dying);
  su_free(block);
  if (a) su_arena_free(a);
  return ok;
}

static void *address(const su_list *l, su_operand o) {
  if (o.store == SU_NOWHERE) return NULL;
  char *data = o.store >= 0 ? l->base + l->part[o.store].offset : (char *)l->outside[-1 - o.store]->data;
  return data + o.offset;
}

static bool write_constants(su_list *l) {
  for (int k = 0; k < l->n_part; k++) {
    su_part_of *p = &l->part[k];
    if (p->part == SU_PART_CONSTANT && !l->dev->write(l->dev, l->base + p->offset, p->bits, p->bytes)) return false;
  }
  return true;
}

/* A graph is captured from the list itself; where that fails the list is run entry by entry, and says why. */
static void capture(su_list *l) {
  su_device *d = l->dev;
  if (!d->graph_begin) return;
  if (!d->graph_begin(d)) {
    snprintf(l->reason, sizeof l->reason, "%s", su_error());
    return;
  }
  for (int k = 0; k < l->n_entry; k++) {
    const su_entry *e = &l->entry[k];
    if (!e->plan) continue;
    d->graph_at(d, k);
    e->plan->exec(e->plan, e->pin, e->pout, e->r, l->ws);
  }
  if (!(l->graph = d->graph_end(d))) snprintf(l->reason, sizeof l->reason, "%s", su_error());
}

/* The lists of a device share one region, as large as the largest needs: between steps nothing in it is alive. */
static struct region {
  su_device *dev;
  su_block *block;
  size_t bytes;
  uint32_t moved;
  const su_list *holder;
  bool given;                          /* it holds data for the next run */
} regions[8];

static struct region *region_of(su_device *dev) {
  for (int k = 0; k < 8; k++) {
    if (!regions[k].dev) regions[k].dev = dev;
    if (regions[k].dev == dev) return &regions[k];
  }
  return NULL;
}

void su_list_rest(su_device *dev) {
  struct region *r = region_of(dev);
  if (!r || !r->block) return;
  su_arena_put(dev->arena, r->block);
  *r = (struct region){.dev = dev, .moved = r->moved + 1};
}

bool su_list_yield(su_device *dev) {
  struct region *r = region_of(dev);
  if (!r || !r->block || r->given) return false;
  su_list_rest(dev);
  return true;
}

static bool region_holds(struct region *r, size_t bytes) {
  if (r->block && r->bytes >= bytes) return true;
  su_list_rest(r->dev);
  if (!(r->block = su_arena_get(r->dev->arena, bytes))) return false;
  r->bytes = bytes;
  r->moved++;
  return true;
}

static bool resolve(su_list *l, struct region *r) {
  l->base = (char *)l->dev->base + r->block->offset;
  l->ws = l->base + l->bytes;
  for (int k = 0; k < l->n_entry; k++) {
    su_entry *e = &l->entry[k];
    for (int j = 0; j < SU_MAX_IN; j++) e->pin[j] = address(l, e->in[j]);
    for (int j = 0; j < SU_MAX_OUT; j++) e->pout[j] = address(l, e->out[j]);
  }
  if (l->graph) l->dev->graph_free(l->dev, l->graph);
  l->graph = NULL;
  capture(l);
  l->moved = r->moved;
  return true;
}

static bool make_room(su_list *l) {
  if (!l->live && !(l->live = su_calloc((size_t)(l->lives + 1) * sizeof *l->live))) return false;
  if (!l->found && !(l->found = su_calloc((size_t)(l->results + 1) * sizeof *l->found))) return false;
  return !l->result_bytes || l->result_bits || (l->result_bits = su_malloc(l->result_bytes));
}

/* A graph needs its scratch at one address for good; entries that run one by one take the device's. */
bool su_list_ready(su_list *l) {
  struct region *r = region_of(l->dev);
  if (!l->laid && !lay_out(l)) return false;
  size_t ws = l->dev->graph_begin ? (l->workspace + 255) / 256 * 256 : 0;
  if (!r || !make_room(l) || !region_holds(r, l->bytes + ws + 256)) return false;
  if (l->moved != r->moved && !resolve(l, r)) return false;
  if (r->holder == l) return true;
  r->holder = l;
  return write_constants(l);
}

void su_list_free(su_list *l) {
  if (!l) return;
  if (su_list_open() == l) su_list_end();
  if (l->graph) l->dev->graph_free(l->dev, l->graph);
  struct region *r = region_of(l->dev);
  if (r && r->holder == l) r->holder = NULL;
  for (int k = 0; k < l->n_part; k++) su_free(l->part[k].bits);
  for (int k = 0; k < l->n_outside; k++) su_storage_release(l->outside[k]);
  if (l->pins) l->dev->pinned--;
  su_free(l->live);
  su_free(l->found);
  su_free(l->result_bits);
  su_free(l->alive);
  su_free(l->outside);
  su_free(l->part);
  su_free(l->entry);
  su_free(l);
}

/* ---- running ---- */

bool su_list_give(su_list *l, int slot, su_tensor *t) {
  if (!su_list_ready(l)) return false;
  for (int k = 0; k < l->n_part; k++) {
    su_part_of *p = &l->part[k];
    if (p->slot != slot) continue;
    if (memcmp(&p->spec, &t->spec, sizeof p->spec) != 0)
      return su_fail("the batch changed its shape from %s to %s", su_shape_text(&p->spec), su_shape_text(&t->spec));
    su_device *d = l->dev;
    region_of(d)->given = true;
    if (d->copy) return d->copy(d, l->base + p->offset, t->data, p->bytes);
    memcpy(l->base + p->offset, t->data, p->bytes);
    return true;
  }
  return su_fail("the list has no input %d", slot);
}

void su_list_live(su_list *l, int slot, double value) {
  if (slot >= 0 && slot < l->lives) l->live[slot] = value;
}

/* The numbers of this step go to where the ops read them. */
static void refresh(su_list *l, int64_t at) {
  int last = -1;
  for (int k = 0; k < l->n_alive; k++) {
    const su_alive *a = &l->alive[k];
    l->entry[a->entry].r[a->real] = a->slot == SU_STEP_SLOT ? (double)(uint32_t)at : l->live[a->slot];
    bool more = k + 1 < l->n_alive && l->alive[k + 1].entry == a->entry;
    if (l->graph && !more && a->entry != last) {
      const su_entry *e = &l->entry[a->entry];
      l->dev->graph_reals(l->dev, l->graph, a->entry, e->plan, e->r);
      last = a->entry;
    }
  }
}

static bool read_result(su_list *l, const su_entry *e, double *value) {
  char bits[8];
  if (!l->dev->read(l->dev, bits, e->pin[0], su_dtype_size(e->dtype))) return false;
  su_convert(bits, e->dtype, value, SU_F64, 1);
  return true;
}

/* Results lie side by side: one copy brings them all. */
static bool read_results(su_list *l, double *results) {
  if (l->result_bytes && !l->dev->read(l->dev, l->result_bits, l->base, l->result_bytes)) return false;
  for (int k = 0; k < l->n_entry; k++) {
    const su_entry *e = &l->entry[k];
    if (e->plan) continue;
    int store = e->in[0].store;
    if (store >= 0) su_convert(l->result_bits + l->part[store].offset + e->in[0].offset, e->dtype, &results[e->result], SU_F64, 1);
    else if (!read_result(l, e, &results[e->result])) return false;
  }
  return true;
}

/* What outlives the step was written: whoever remembers versions must see it. */
static void touch(su_list *l) {
  for (int k = 0; k < l->n_entry; k++) {
    const su_entry *e = &l->entry[k];
    for (uint32_t w = e->writes_outside; w; w &= w - 1) l->outside[-1 - e->in[__builtin_ctz(w)].store]->version++;
  }
}

static bool run_entries(su_list *l, double *results, int *bad) {
  void *ws = l->workspace ? l->dev->workspace(l->dev, l->workspace) : NULL;
  if (l->workspace && !ws) return false;
  for (int k = 0; k < l->n_entry; k++) {
    const su_entry *e = &l->entry[k];
    if (e->plan) {
      e->plan->exec(e->plan, e->pin, e->pout, e->r, ws);
      continue;
    }
    if (!read_result(l, e, &results[e->result])) return false;
    if (!isfinite(results[e->result])) {
      *bad = e->result;
      return true;
    }
  }
  return true;
}

static bool run_graph(su_list *l, double *results, int *bad) {
  if (!l->dev->graph_launch(l->dev, l->graph) || !read_results(l, results)) return false;
  for (int k = l->results - 1; k >= 0; k--)
    if (!isfinite(results[k])) *bad = k;
  return true;
}

bool su_list_run(su_list *l, int64_t at, double *results, int *bad) {
  *bad = -1;
  if (!su_list_ready(l)) return false;
  refresh(l, at);
  bool ok = l->graph ? run_graph(l, results, bad) : run_entries(l, results, bad);
  touch(l);
  region_of(l->dev)->given = false;
  return ok;
}

su_list_size su_list_sizes(su_list *l) {
  if (!l->laid) lay_out(l);
  return (su_list_size){.entries = l->n_entry, .inputs = l->inputs, .results = l->results, .live = l->lives, .bytes = l->bytes,
                        .graph = l->graph != NULL, .workspace = l->workspace};
}

double *su_list_scratch(su_list *l) { return l->found; }

/* ---- does it fit? ---- */

/* The entry before which most bytes are alive. */
static int fullest(const su_list *l, size_t *most) {
  int at = 0;
  *most = 0;
  for (int k = 0; k < l->n_part; k++) {              /* the peak is reached where something is born */
    size_t sum = 0;
    for (int j = 0; j < l->n_part; j++)
      if (l->part[j].birth <= l->part[k].birth && l->part[j].death > l->part[k].birth) sum += l->part[j].bytes;
    if (sum > *most) *most = sum, at = l->part[k].birth;
  }
  return at;
}

static const char *maker(const su_list *l, int part) {
  for (int k = 0; k < l->n_entry; k++)
    for (int j = 0; j < SU_MAX_OUT && l->entry[k].plan; j++)
      if (l->entry[k].out[j].store == part) return l->entry[k].plan->call.op->name;
  return "";
}

static void list_largest(su_list *l) {
  enum { SHOWN = 5 };
  size_t most;
  int at = fullest(l, &most), shown[SHOWN], n = 0;
  for (; n < SHOWN; n++) {
    int best = -1;
    for (int k = 0; k < l->n_part; k++) {
      bool taken = l->part[k].birth > at || l->part[k].death <= at;
      for (int j = 0; j < n; j++) taken = taken || shown[j] == k;
      if (!taken && (best < 0 || l->part[k].bytes > l->part[best].bytes)) best = k;
    }
    if (best < 0) break;
    const su_part_of *p = &l->part[best];
    if (100 * p->bytes < most) break;
    su_error_note("  %8.1f MB  %s%s %s%s%s", 1e-6 * (double)p->bytes, su_dtype_name(p->spec.dtype), su_shape_text(&p->spec),
                  maker(l, best), p->site ? "  " : "", p->site ? p->site : "");
    shown[n] = best;
  }
}

bool su_list_fits(su_list *l) {
  if (!l->laid && !lay_out(l)) return false;
  su_arena *a = l->dev->arena;
  size_t held = su_arena_used(a), all = held + l->bytes + l->workspace, budget = su_arena_reserve(a);
  if (all <= budget) return su_dry || !l->workspace || l->dev->workspace(l->dev, l->workspace);   /* scratch first: it then lies low */
  su_fail_code(SU_EMACHINE, "a step needs %.1f MB on %s; the budget is %.1f MB (%s sets it, in MiB)", 1e-6 * (double)all,
               l->dev->name, 1e-6 * (double)budget, su_arena_knob(a));
  su_error_note("  %.1f MB for weights, optimisers and data, %.1f MB for the step, %.1f MB of scratch", 1e-6 * (double)held,
                1e-6 * (double)l->bytes, 1e-6 * (double)l->workspace);
  su_error_note("  a smaller batch, smaller pictures or precision = \"bf16\" need less; at its fullest moment it holds");
  list_largest(l);
  return false;
}
