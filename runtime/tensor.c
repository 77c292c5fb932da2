/* tensor.c -- tensors, storages, scopes, the step. The three ownership rules stand in tensor.h. */
#include "replay.h"
#include "tape.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Records of tensors and storages come from free lists that grow by slabs and never shrink: after the first
 * step the system's allocator is not called any more. */
static su_tensor *spare_tensors;
static su_storage *spare_storages;
static int64_t live;

static struct { su_tensor **t; int n, cap; } scope;       /* what the open scopes own */
static struct { bool open; su_tensor *first; su_draw draw; } step;

static su_tensor *tensor_record(void) {
  if (!spare_tensors) {
    enum { N = 512 };
    su_tensor *t = su_calloc(N * sizeof *t);
    if (!t) return NULL;
    for (int k = 0; k < N; k++) {
      t[k].step_next = spare_tensors;
      spare_tensors = &t[k];
    }
  }
  su_tensor *t = spare_tensors;
  spare_tensors = t->step_next;
  memset(t, 0, sizeof *t);
  t->refs = 1;
  t->node = -1;
  live++;
  return t;
}

static su_storage *storage_record(void) {
  if (!spare_storages) {
    enum { N = 512 };
    su_storage *s = su_calloc(N * sizeof *s);
    if (!s) return NULL;
    for (int k = 0; k < N; k++) {
      s[k].data = spare_storages;
      spare_storages = &s[k];
    }
  }
  su_storage *s = spare_storages;
  spare_storages = s->data;
  memset(s, 0, sizeof *s);
  s->refs = 1;
  return s;
}

void su_storage_release(su_storage *s) {
  if (--s->refs > 0) return;
  if (s->list) su_note_free(s);
  if (s->block) su_arena_put(s->dev->arena, s->block);
  s->data = spare_storages;
  spare_storages = s;
}

int64_t su_live_tensors(void) { return live; }

/* ---- dtypes and specs ---- */

size_t su_dtype_size(int dtype) {
  static const size_t size[SU_DTYPES] = {4, 2, 8, 1, 4};
  return size[dtype];
}

const char *su_dtype_name(int dtype) {
  static const char *const name[SU_DTYPES] = {"f32", "bf16", "f64", "u8", "i32"};
  return dtype >= 0 && dtype < SU_DTYPES ? name[dtype] : "?";
}

su_spec su_spec_of(int dtype, int ndim, const int64_t *shape) {
  su_spec s = {.dtype = dtype, .ndim = ndim};
  for (int k = 0; k < ndim; k++) s.shape[k] = shape[k];
  return s;
}

int64_t su_spec_size(const su_spec *s) {
  int64_t n = 1;
  for (int k = 0; k < s->ndim; k++) n *= s->shape[k];
  return n;
}

const char *su_intern(const char *name) {
  static struct entry { struct entry *next; char text[]; } *table[1024];
  uint32_t h = 2166136261u;
  for (const char *c = name; *c; c++) h = (h ^ (uint8_t)*c) * 16777619u;
  for (struct entry *e = table[h % 1024]; e; e = e->next)
    if (strcmp(e->text, name) == 0) return e->text;
  size_t n = strlen(name) + 1;
  struct entry *e = su_malloc(sizeof *e + n);
  if (!e) return "";
  memcpy(e->text, name, n);
  e->next = table[h % 1024];
  table[h % 1024] = e;
  return e->text;
}

char *su_describe(const su_tensor *t, char *buf, size_t size) {
  snprintf(buf, size, "%s%s %s%s%s", su_dtype_name(t->spec.dtype), su_shape_text(&t->spec), t->dev->name, t->name ? " " : "",
           t->name ? t->name : "");
  return buf;
}

/* ---- making ---- */

static void step_link(su_tensor *t) {
  if (!step.open) return;
  t->in_step = true;
  t->step_next = step.first;
  if (step.first) step.first->step_prev = t;
  step.first = t;
}

static void step_unlink(su_tensor *t) {
  if (!t->in_step) return;
  if (t->step_prev) t->step_prev->step_next = t->step_next;
  else step.first = t->step_next;
  if (t->step_next) t->step_next->step_prev = t->step_prev;
  t->in_step = false;
  t->step_prev = t->step_next = NULL;
}

static char nowhere[1];                /* what the tensors of a dry step point at */

su_tensor *su_new(su_device *dev, const su_spec *spec) {
  int64_t size = su_spec_size(spec);
  size_t bytes = (size_t)size * su_dtype_size(spec->dtype);
  su_block *b = su_dry ? NULL : su_arena_get(dev->arena, bytes);
  if (!b && !su_dry && !(su_list_yield(dev) && (b = su_arena_get(dev->arena, bytes)))) return NULL;
  su_storage *s = storage_record();
  su_tensor *t = s ? tensor_record() : NULL;
  if (!t) {
    if (b) su_arena_put(dev->arena, b);
    return NULL;
  }
  s->dev = t->dev = dev;
  s->block = b;
  s->bytes = bytes;
  s->data = t->data = b ? (char *)dev->base + b->offset : nowhere;
  t->st = s;
  t->spec = *spec;
  t->size = size;
  if (su_noting) su_note_new(s, spec);
  step_link(t);
  return su_own(t);
}

static su_tensor *alias(su_tensor *t, const su_spec *spec, size_t offset) {
  su_tensor *v = tensor_record();
  if (!v) return NULL;
  v->st = t->st;
  v->st->refs++;
  v->dev = t->dev;
  v->data = (char *)t->data + offset;
  v->spec = *spec;
  v->size = su_spec_size(spec);
  v->name = t->name;
  step_link(v);
  return su_own(v);
}

su_tensor *su_view(su_tensor *t, int ndim, const int64_t *shape) {
  if (!t) return NULL;
  su_spec s = su_spec_of(t->spec.dtype, ndim, shape);
  if (su_spec_size(&s) != t->size) {
    su_fail("view: %s has %" PRId64 " elements, %s would have %" PRId64, su_shape_text(&t->spec), t->size,
            su_shape_text(&s), su_spec_size(&s));
    return NULL;
  }
  return alias(t, &s, 0);
}

su_tensor *su_rows(su_tensor *t, int64_t first, int64_t count) {
  if (!t) return NULL;
  if (t->spec.ndim < 1 || first < 0 || count < 0 || first + count > t->spec.shape[0]) {
    su_fail("rows %" PRId64 "..%" PRId64 " of %s", first, first + count, su_shape_text(&t->spec));
    return NULL;
  }
  su_spec s = t->spec;
  int64_t row = t->spec.shape[0] ? t->size / t->spec.shape[0] : 0;
  s.shape[0] = count;
  return alias(t, &s, (size_t)(first * row) * su_dtype_size(s.dtype));
}

su_tensor *su_detach(su_tensor *t) { return t ? alias(t, &t->spec, 0) : NULL; }

void su_touched(su_tensor *t) { t->st->version++; }

/* ---- owning ---- */

su_tensor *su_retain(su_tensor *t) {
  if (t) t->refs++;
  return t;
}

void su_release(su_tensor *t) {
  if (!t || --t->refs > 0) return;
  step_unlink(t);
  if (t->data) su_storage_release(t->st);
  t->step_next = spare_tensors;
  spare_tensors = t;
  live--;
}

int su_scope_begin(void) { return scope.n; }

su_tensor *su_own(su_tensor *t) {
  if (!t) return NULL;
  if (scope.n == scope.cap) {
    int cap = scope.cap ? 2 * scope.cap : 4096;
    su_tensor **grown = su_realloc(scope.t, (size_t)cap * sizeof *grown);
    if (!grown) {
      su_release(t);
      return NULL;
    }
    scope.t = grown;
    scope.cap = cap;
  }
  scope.t[scope.n++] = t;
  return t;
}

void su_scope_end(int mark, su_tensor *keep) {
  su_retain(keep);
  while (scope.n > mark) su_release(scope.t[--scope.n]);
  if (keep) su_own(keep);
}

/* ---- the step ---- */

bool su_in_step(void) { return step.open; }

void su_rng_set(uint64_t seed, int64_t at, int stream) {
  step.draw = (su_draw){.seed = seed, .step = (uint32_t)at, .site = 0, .stream = (uint32_t)stream};
}

su_draw su_rng_next(void) {
  su_draw d = step.draw;
  step.draw.site++;
  return d;
}

void su_step_begin(uint64_t seed, int64_t at) {
  if (step.open) su_step_end();
  su_rng_set(seed, at, 0);
  step.open = true;
}

void su_step_end(void) {
  su_tape_clear();
  while (step.first) {
    su_tensor *t = step.first;
    step_unlink(t);
    t->node = -1;
    if (t->data) su_storage_release(t->st);
    t->data = NULL;
  }
  step.open = false;
}

su_tensor *su_keep(su_tensor *t) {
  if (t && su_noting) su_note_keep(t);
  if (t && su_dry && !t->st->block) {
    su_fail("a dry step has no numbers to keep");
    return NULL;
  }
  if (t) step_unlink(t);
  return t;
}
