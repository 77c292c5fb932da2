/* tensor.h -- tensors, storages, scopes and the step. What ops are is in op.h; differentiation in tape.h.
 *
 * A tensor is contiguous and channels last: images are [n,h,w,c] in shape and in memory. There are no strides:
 * su_view (another shape of the same numbers) and su_rows (a slice of the leading axis) share storage,
 * everything else is an op that makes new numbers.
 *
 * Three ownership rules:
 *  1. What a function returns belongs to the innermost open scope (su_scope_begin/end) and lives until that scope
 *     ends. Expressions may therefore be nested without leaks: su_mul(gy, su_sub(one, su_mul(y, y))).
 *  2. Whoever wants it longer retains it (su_retain) and later releases it (su_release).
 *  3. A training step is a region (su_step_begin/end): when it ends, the numbers of every tensor made inside it
 *     return to the arena, whoever still holds the tensor, unless it was kept (su_keep). A dead tensor has data NULL.
 *
 * NULL in, NULL out: an op given a NULL tensor returns NULL and leaves the first message as it is. */
#ifndef SUMI_TENSOR_H
#define SUMI_TENSOR_H

#include "base.h"

#define SU_MAX_DIM 6

typedef enum su_dtype { SU_F32, SU_BF16, SU_F64, SU_U8, SU_I32, SU_DTYPES } su_dtype;

typedef struct su_device su_device;
typedef struct su_block su_block;

/* Shape and type of a tensor that may not exist yet. */
typedef struct su_spec {
  int32_t dtype, ndim;                 /* ndim -1: absent */
  int64_t shape[SU_MAX_DIM];
} su_spec;

typedef struct su_storage {
  int32_t refs, version;               /* version: how often it was written in place */
  uint32_t list;                       /* replay.c: the recording that noted it, */
  int32_t note;                        /* and as what */
  su_device *dev;
  su_block *block;
  void *data;
  size_t bytes;
} su_storage;

typedef struct su_tensor {
  int32_t refs;
  su_spec spec;
  int64_t size;                        /* number of elements */
  void *data;                          /* NULL once its step has ended */
  su_storage *st;
  su_device *dev;
  int32_t node, node_out;              /* who made it, on the tape with this serial */
  uint32_t tape;
  bool learns;                         /* a parameter: ops on it are recorded */
  const char *name;                    /* interned; NULL if it has none */
  struct su_tensor *step_prev, *step_next;
  bool in_step;
} su_tensor;

/* ---- making ---- */
size_t su_dtype_size(int dtype);
const char *su_dtype_name(int dtype);
su_spec su_spec_of(int dtype, int ndim, const int64_t *shape);
int64_t su_spec_size(const su_spec *s);                      /* elements */
/* Uninitialised tensor. The dtype of "a number" on a device is dev->real (f64 on ref, f32 on cpu). */
su_tensor *su_new(su_device *dev, const su_spec *spec);
su_tensor *su_view(su_tensor *t, int ndim, const int64_t *shape);   /* not recorded: see op reshape */
su_tensor *su_rows(su_tensor *t, int64_t first, int64_t count);     /* leading axis; not recorded */
/* Copy from and to doubles or floats on the host; n must equal t->size. Converts to the tensor's dtype. */
bool su_write_f64(su_tensor *t, const double *src, int64_t n);
bool su_read_f64(const su_tensor *t, double *dst, int64_t n);
bool su_write_f32(su_tensor *t, const float *src, int64_t n);
bool su_read_f32(const su_tensor *t, float *dst, int64_t n);
/* n numbers on the host from one dtype to another (bf16: nearest even; u8: rounded and held to 0..255). */
void su_convert(const void *src, int from, void *dst, int to, int64_t n);
/* The bytes as they lie (sizes in bytes must match); what checkpoints use. */
bool su_write_raw(su_tensor *t, const void *src, size_t bytes);
bool su_read_raw(const su_tensor *t, void *dst, size_t bytes);
su_tensor *su_detach(su_tensor *t);      /* same numbers, unknown to the tape */
void su_touched(su_tensor *t);           /* its numbers were written in place: bumps the version */
const char *su_intern(const char *name);
/* "f32[2,3] cpu G/3/conv.weight" into buf; returns buf. */
char *su_describe(const su_tensor *t, char *buf, size_t size);

/* ---- owning ---- */
su_tensor *su_retain(su_tensor *t);
void su_storage_release(su_storage *s);
void su_release(su_tensor *t);
int su_scope_begin(void);                    /* returns a mark for su_scope_end */
void su_scope_end(int mark, su_tensor *keep); /* keep (may be NULL) moves to the enclosing scope */
su_tensor *su_own(su_tensor *t);             /* hand a reference to the innermost scope; returns t */

/* ---- the step ---- */
void su_step_begin(uint64_t seed, int64_t step);   /* also sets where random ops draw from */
void su_step_end(void);                            /* clears the tape, frees the step's numbers */
bool su_in_step(void);
su_tensor *su_keep(su_tensor *t);                  /* survives the step's end; forgets its history then. NULL in a dry step */
/* Where the next random op draws: key, step, site (counts up with every draw of a step) and stream. */
void su_rng_set(uint64_t seed, int64_t step, int stream);
typedef struct su_draw { uint64_t seed; uint32_t step, site, stream; } su_draw;
su_draw su_rng_next(void);

/* ---- memory of a device ---- */
typedef struct su_arena su_arena;
struct su_block { size_t offset, size; su_block *prev, *next, *bin_prev, *bin_next; bool used; };
su_arena *su_arena_new(void *base, size_t reserve);   /* metadata live outside; base may be device memory */
su_block *su_arena_get(su_arena *a, size_t bytes);    /* NULL: does not fit (error set) */
void su_arena_put(su_arena *a, su_block *b);
/* Before the arena first reaches beyond a top, fn(arg, top) makes the memory below it usable. If it fails (message set), so does
 * su_arena_get, and nothing has changed. `knob` names the variable that sets this memory's budget. */
void su_arena_on_grow(su_arena *a, bool (*fn)(void *arg, size_t top), void *arg, const char *knob);
size_t su_arena_used(const su_arena *a);              /* bytes in use */
size_t su_arena_peak(const su_arena *a);              /* most bytes in use so far */
const char *su_arena_knob(const su_arena *a);          /* the environment variable that sets it */
size_t su_arena_reserve(const su_arena *a);           /* the most it may hold */
size_t su_arena_top(const su_arena *a);               /* bytes ever touched */
void su_arena_free(su_arena *a);
int64_t su_live_tensors(void);

#endif
