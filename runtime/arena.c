/* arena.c -- the memory of one device: best bin first, neighbours merged, book-keeping outside the memory itself.
 *
 * One address range is reserved once; blocks are cut from it and merge with their free neighbours when they come
 * back, so that a step which repeats finds every block where the last one left it. Free blocks hang in bins of eight
 * steps per power of two, with a bitmap over them (Masmano et al., TLSF, 2004): get and put take constant time. */
#include "tensor.h"

#include <string.h>

#define ALIGN 256u
#define SUB 8                          /* bins per power of two */
#define BINS (48 * SUB)

enum { SLAB = 256 };
struct slab { struct slab *next; su_block block[SLAB]; };   /* block records are made in slabs */

struct su_arena {
  char *base;
  size_t reserve, top, used, peak;     /* top: end of the highest block ever made */
  su_block *last;                      /* the block that ends at top */
  su_block *bin[BINS];
  uint64_t map[BINS / 64];
  su_block *spare;                     /* unused block records */
  struct slab *slabs;
  bool (*on_grow)(void *arg, size_t top);
  void *on_grow_arg;
  const char *knob;                    /* the variable that sets the budget */
};

static su_block *record(su_arena *a) {
  if (!a->spare) {
    struct slab *s = su_calloc(sizeof *s);
    if (!s) return NULL;
    s->next = a->slabs;
    a->slabs = s;
    for (int k = 0; k < SLAB; k++) {
      s->block[k].next = a->spare;
      a->spare = &s->block[k];
    }
  }
  su_block *b = a->spare;
  a->spare = b->next;
  memset(b, 0, sizeof *b);
  return b;
}

static void record_back(su_arena *a, su_block *b) {
  b->next = a->spare;
  a->spare = b;
}

/* The bin whose blocks are all >= the lower edge of size's class. */
static int bin_of(size_t size) {
  size_t units = size / ALIGN;
  int log = 63 - __builtin_clzll(units | 1);
  int sub = log < 3 ? 0 : (int)((units >> (log - 3)) & 7);
  int b = log * SUB + sub;
  return b < BINS ? b : BINS - 1;
}

static void bin_put(su_arena *a, su_block *b) {
  int k = bin_of(b->size);
  b->used = false;
  b->bin_prev = NULL;
  b->bin_next = a->bin[k];
  if (b->bin_next) b->bin_next->bin_prev = b;
  a->bin[k] = b;
  a->map[k / 64] |= 1ull << (k % 64);
}

static void bin_take(su_arena *a, su_block *b) {
  int k = bin_of(b->size);
  if (b->bin_prev) b->bin_prev->bin_next = b->bin_next;
  else a->bin[k] = b->bin_next;
  if (b->bin_next) b->bin_next->bin_prev = b->bin_prev;
  if (!a->bin[k]) a->map[k / 64] &= ~(1ull << (k % 64));
}

static su_block *bin_find(su_arena *a, size_t size) {
  int k = bin_of(size);
  su_block *best = NULL;               /* the own bin may hold blocks that are too small: look through it */
  for (su_block *b = a->bin[k]; b; b = b->bin_next)
    if (b->size >= size && (!best || b->size < best->size)) best = b;
  if (best) return best;
  uint64_t word = k % 64 == 63 ? 0 : a->map[k / 64] & (~0ull << (k % 64 + 1));
  for (int w = k / 64;;) {
    if (word) return a->bin[w * 64 + __builtin_ctzll(word)];
    if (++w >= BINS / 64) return NULL;
    word = a->map[w];
  }
}

static su_block *grow(su_arena *a, size_t size) {
  su_block *last = a->last;
  bool extend = last && !last->used;   /* a free block at the top grows instead */
  size_t need = extend ? size - last->size : size;
  if (a->top + need > a->reserve || su_fault("arena")) {
    su_fail_code(SU_EMACHINE, "out of memory: a tensor of %.1f MB on top of %.1f MB in use; the budget is %.1f MB "
                 "(%s sets it, in MiB)", 1e-6 * (double)size, 1e-6 * (double)a->used, 1e-6 * (double)a->reserve, a->knob);
    return NULL;
  }
  su_block *b = extend ? last : record(a);
  if (!b) return NULL;
  if (a->on_grow && !a->on_grow(a->on_grow_arg, a->top + need)) {
    if (!extend) record_back(a, b);
    return NULL;
  }
  su_count_sys_alloc();
  if (extend) {
    bin_take(a, last);
    last->size = size;
    a->top += need;
    return last;
  }
  b->offset = a->top;
  b->size = size;
  b->prev = last;
  if (last) last->next = b;
  a->last = b;
  a->top += size;
  return b;
}

/* Cut what is too much off a block that is in no bin. */
static void split(su_arena *a, su_block *b, size_t size) {
  if (b->size - size < ALIGN) return;
  su_block *rest = record(a);
  if (!rest) return;                   /* then the block stays larger than asked for */
  rest->offset = b->offset + size;
  rest->size = b->size - size;
  rest->prev = b;
  rest->next = b->next;
  if (b->next) b->next->prev = rest;
  else a->last = rest;
  b->next = rest;
  b->size = size;
  bin_put(a, rest);
}

su_block *su_arena_get(su_arena *a, size_t bytes) {
  size_t size = (bytes + ALIGN - 1) / ALIGN * ALIGN;
  if (size == 0) size = ALIGN;
  su_block *b = bin_find(a, size);
  if (b) {
    bin_take(a, b);
    split(a, b, size);
  } else if (!(b = grow(a, size))) {
    return NULL;
  }
  b->used = true;
  a->used += b->size;
  if (a->used > a->peak) a->peak = a->used;
  return b;
}

/* Append the free block b (in no bin) behind a free neighbour; b's record is spare afterwards. */
static void merge(su_arena *a, su_block *left, su_block *b) {
  left->size += b->size;
  left->next = b->next;
  if (b->next) b->next->prev = left;
  else a->last = left;
  record_back(a, b);
}

void su_arena_put(su_arena *a, su_block *b) {
  a->used -= b->size;
  su_block *left = b->prev, *right = b->next;
  if (right && !right->used) {
    bin_take(a, right);
    merge(a, b, right);
  }
  if (left && !left->used) {
    bin_take(a, left);
    merge(a, left, b);
    b = left;
  }
  bin_put(a, b);
}

su_arena *su_arena_new(void *base, size_t reserve) {
  su_arena *a = su_calloc(sizeof *a);
  if (!a) return NULL;
  a->base = base;
  a->reserve = reserve;
  a->knob = "SUMI_MEMORY";
  return a;
}

void su_arena_on_grow(su_arena *a, bool (*fn)(void *arg, size_t top), void *arg, const char *knob) {
  a->on_grow = fn;
  a->on_grow_arg = arg;
  a->knob = knob;
}

size_t su_arena_used(const su_arena *a) { return a->used; }
size_t su_arena_peak(const su_arena *a) { return a->peak; }
const char *su_arena_knob(const su_arena *a) { return a->knob; }
size_t su_arena_reserve(const su_arena *a) { return a->reserve; }
size_t su_arena_top(const su_arena *a) { return a->top; }

void su_arena_free(su_arena *a) {
  for (struct slab *s = a->slabs, *next; s; s = next) {
    next = s->next;
    su_free(s);
  }
  su_free(a);
}
