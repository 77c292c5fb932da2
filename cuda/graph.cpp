/* graph.cpp -- a step as one graph, and the reals of its entries.
 *
 * A graph's launches are fixed when it is recorded, but rates, bias corrections and random keys
 * change with every step. So a kernel finds them in the graph's step block: eight words of device
 * memory per entry of the list, at an address that is fixed. The host keeps a copy; before a launch
 * the part that changed goes up, in the stream's order. */
#include "device.h"

#include <string.h>

static void digest(const su_plan *p, const double *r, uint32_t *w) {
  const cu_op *op = cu_op_of(p->call.op);
  memset(w, 0, CU_WORDS * sizeof *w);
  if (op && op->digest) op->digest(p, r, w);
  else
    for (int k = 0; k < p->call.op->nreal && k < CU_WORDS; k++) cu_word_f(&w[k], (float)r[k]);
}

static void changed(cu_graph *g, int slot) {
  if (g->low == g->high) g->low = slot, g->high = slot + 1;
  if (slot < g->low) g->low = slot;
  if (slot >= g->high) g->high = slot + 1;
}

/* A new slot for the entry that runs now, or -1. */
static int slot_new(cu_graph *g) {
  if (cu_the.entry < 0 || g->n == CU_SLOTS) {
    rt_keep(false, cu_the.entry < 0 ? "reals of an op that is no entry of the step"
                                    : "more than 32768 ops with reals in one step");
    return -1;
  }
  const size_t e = (size_t)cu_the.entry;
  if (g->slot.size() <= e) g->slot.resize(e + 1, -1);
  if (g->slot[e] >= 0) return g->slot[e];
  g->words.resize((size_t)(g->n + 1) * CU_WORDS);
  return g->slot[e] = g->n++;
}

cu_words cu_reals(const su_plan *p, const double *r) {
  cu_words w = {};
  cu_graph *g = cu_the.recording;
  digest(p, r, w.v);
  if (!g) return w;
  const int slot = slot_new(g);
  if (slot < 0) return w;
  memcpy(&g->words[(size_t)slot * CU_WORDS], w.v, sizeof w.v);
  changed(g, slot);
  w.at = g->at + (size_t)slot * CU_WORDS;
  return w;
}

static void graph_free(su_device *d, void *graph) {
  cu_graph *g = (cu_graph *)graph;
  if (!g) return;
  if (g->rt) rt_graph_free(g->rt);
  su_arena_put(d->arena, g->block);
  delete g;
}

static bool graph_begin(su_device *d) {
  /* Not told here: whoever reads next hears of it. */
  if (rt_failed()) return su_fail("%s: a launch before the step has failed", d->name);
  const size_t words = (size_t)CU_SLOTS * CU_WORDS * sizeof(uint32_t);
  const size_t table = CU_MERGE_ITEMS * sizeof(cu_item);
  su_block *b = su_arena_get(d->arena, words + table + 4 * (size_t)CU_MERGE_BLOCKS);
  if (!b) return false;
  cu_graph *g = new cu_graph();
  g->block = b;
  char *at = (char *)d->base + b->offset;
  g->at = (uint32_t *)at;
  g->table = (cu_item *)(at + words);
  g->scratch = at + words + table;
  cu_the.entry = -1;
  if (!rt_capture_begin()) {
    graph_free(d, g);
    return cu_report();
  }
  cu_the.recording = g;
  return true;
}

static void graph_at(su_device *, int32_t entry) { cu_the.entry = entry; }

static void *graph_end(su_device *d) {
  cu_graph *g = cu_the.recording;
  if (!g) return nullptr;
  cu_merge_flush();
  g->rt = rt_capture_end();
  cu_the.recording = nullptr;
  const size_t table = g->items.size() * sizeof(cu_item);
  if (g->rt && !rt_failed() && (!table || rt_upload(g->table, g->items.data(), table))) return g;
  graph_free(d, g);
  cu_report();
  return nullptr;
}

static void graph_reals(su_device *, void *graph, int32_t entry, const su_plan *p, const double *r) {
  cu_graph *g = (cu_graph *)graph;
  if (entry < 0 || (size_t)entry >= g->slot.size() || g->slot[(size_t)entry] < 0) return;
  uint32_t w[CU_WORDS], *old = &g->words[(size_t)g->slot[(size_t)entry] * CU_WORDS];
  digest(p, r, w);
  if (memcmp(w, old, sizeof w) == 0) return;
  memcpy(old, w, sizeof w);
  changed(g, g->slot[(size_t)entry]);
}

static bool graph_launch(su_device *, void *graph) {
  cu_graph *g = (cu_graph *)graph;
  if (rt_failed()) return cu_report();
  const size_t from = (size_t)g->low * CU_WORDS, count = (size_t)(g->high - g->low) * CU_WORDS;
  if (count && !rt_upload(g->at + from, &g->words[from], count * sizeof(uint32_t))) return cu_report();
  g->low = g->high = 0;
  return rt_graph_launch(g->rt) ? true : cu_report();
}

void cu_graph_fill(su_device *d) {
  d->graph_begin = graph_begin;
  d->graph_at = graph_at;
  d->graph_end = graph_end;
  d->graph_reals = graph_reals;
  d->graph_launch = graph_launch;
  d->graph_free = graph_free;
}
