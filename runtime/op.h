/* op.h -- an op is one entry, in one file: signature, doc, shape rule, reference kernel, CPU kernel, gradient, cases.
 *
 * Ints shape the plan, reals are read when it runs. An op on a device is two steps: `plan` (judges, chooses, allocates,
 * compiles; may fail; cached by op, device, input specs and ints) and `exec` (does none of these, cannot fail).
 *
 * Signature grammar (it makes the Lua binding, the checks, `sumi doc` and the editor stub):
 *   name(x, w, b?, stride:int2=1, slope:real=0.2, axes:axes=all, to:shape, mode:enum(zero|reflect)=zero) -> y [, z]
 * A bare name is a tensor, `?` an optional one; the others are options, required when they have no default. int, int2, int4 and bool
 * fill 1, 2, 4, 1 int slots (a single number fills all); axes and shape fill 1 + SU_MAX_DIM (count, values); reals fill real slots. */
#ifndef SUMI_OP_H
#define SUMI_OP_H

#include "tensor.h"

#define SU_MAX_IN 6
#define SU_MAX_OUT 4
#define SU_MAX_INT 18
#define SU_MAX_REAL 6
#define SU_MAX_PARAM 14

typedef struct su_op su_op;
typedef struct su_plan su_plan;
typedef struct su_node su_node;

/* One application of an op: what the shape rule judges. Input specs are read as c->in[k]; absent ones have ndim -1. */
typedef struct su_call {
  const su_op *op;
  su_device *dev;
  su_spec in[SU_MAX_IN], out[SU_MAX_OUT];
  int64_t i[SU_MAX_INT];
} su_call;

/* in/out: data pointers (NULL where absent); r: reals; ws: p->workspace bytes, 64-byte aligned. */
typedef void su_exec(const su_plan *p, void *const *in, void *const *out, const double *r, void *ws);

struct su_plan {
  su_call call;
  su_exec *exec;
  size_t workspace;
  void *state;                          /* the plan's own, e.g. a oneDNN primitive */
  void (*state_free)(void *state);
  uint64_t hash;
  bool tf32;                            /* what the device allowed when it was made */
  su_plan *next;
};

enum su_kind { SU_PTENSOR, SU_PINT, SU_PINT2, SU_PINT4, SU_PBOOL, SU_PREAL, SU_PAXES, SU_PSHAPE, SU_PENUM };

typedef struct su_param {
  char name[20];
  enum su_kind kind;
  bool optional;                        /* tensors: may be absent; options: have a default */
  int slot;                             /* first tensor, int or real slot */
  double fallback;                      /* default (enum: index; axes: -1 = all) */
  const char *choices;                  /* enum: points into the signature behind '(' */
} su_param;

struct su_op {
  const char *sig, *doc;
  bool (*shape)(su_call *c);            /* fills c->out from c->in and c->i, or su_fail with what would be right */
  bool (*check)(const su_call *c, const double *r);   /* optional: judges the reals, each time */
  su_exec *ref;                         /* float64, plain loops: the specification */
  su_exec *cpu;                         /* float32, vectorised, threaded; NULL: no kernel (or see cpu_plan) */
  bool (*cpu_plan)(su_plan *p);         /* optional: sets exec, workspace, state */
  /* gx[k] for each want[k]; gy[k] may be NULL (no gradient arrived). Written in ops. NULL: not differentiable. */
  bool (*grad)(const su_node *n, su_tensor *const *gy, const bool *want, su_tensor **gx);
  uint32_t keep_in, keep_out;           /* bit k: the gradient reads in[k] / out[k] */
  bool (*keeps_out)(const su_call *c);  /* optional: keep_out holds for the calls of which it says so */
  uint32_t writes;                      /* bit k: in[k] is written in place (such an op is never recorded) */
  bool any_dtype;                       /* inputs need not be dev->real: the shape rule judges the dtypes */
  uint32_t f32;                         /* bit k: in[k] stays f32 in bf16 training (statistics, gains, biases, scalars) */
  bool bf16;                            /* cpu and cpu_plan serve bf16 themselves; else the CPU widens around them (bf16.h) */
  bool view;                            /* out[0] shares the storage of in[0]; no kernel runs */
  const char *const *cases;             /* test cases, NULL terminated: "x=2,5,5,3 w=4,3,3,3 stride=2" */
  /* filled by su_op_register */
  char name[24];
  int nin, nout, nint, nreal, nparam;
  su_param param[SU_MAX_PARAM];
  su_op *next;
};

/* Registers at program start: SU_OP(relu) { .sig = "relu(x) -> y", ... }; */
#define SU_OP(id)                                                              \
  static su_op id##_op;                                                        \
  __attribute__((constructor)) static void id##_register(void) { su_op_register(&id##_op); } \
  static su_op id##_op =
void su_op_register(su_op *op);
su_op *su_op_find(const char *name);
su_op *su_op_first(void);               /* then op->next, in order of name */

/* Apply: ints and reals in slot order. Fills out[0..nout); outputs belong to the innermost scope. */
bool su_apply(const su_op *op, su_tensor *const *in, const int64_t *ints, const double *reals, su_tensor **out);
/* The same for ops with one output; NULL on failure or when a required input is NULL. */
su_tensor *su_apply1(const su_op *op, su_tensor *const *in, const int64_t *ints, const double *reals);

/* A device: what a plug-in fills. Sizes in bytes. plan may fail (message set); exec may not. */
struct su_device {
  uint32_t abi;                         /* SU_DEVICE_ABI */
  const char *name;
  int real;                             /* dtype of a number here: SU_F64 on ref, SU_F32 on cpu */
  bool (*open)(su_device *d);           /* makes d->arena; called once, before anything else */
  bool (*supports)(su_device *d, const su_op *op);
  bool (*plan)(su_device *d, su_plan *p);   /* p->call is judged; sets exec, workspace, state */
  void *(*workspace)(su_device *d, size_t bytes);  /* scratch, valid until the next call */
  bool (*write)(su_device *d, void *dst, const void *src, size_t bytes);   /* host to device */
  bool (*read)(su_device *d, void *dst, const void *src, size_t bytes);    /* device to host */
  bool (*sync)(su_device *d);           /* wait, and report what failed meanwhile */
  void (*describe)(su_device *d, char *buf, size_t size);  /* one line for `sumi doctor` */
  /* Below: optional, NULL where a device does without. */
  bool (*copy)(su_device *d, void *dst, const void *src, size_t bytes);    /* within the device, in order; NULL: memcpy */
  /* A step as one unit (a CUDA graph). Between graph_begin and graph_end exec records instead of running; graph_at says
   * which entry of the step's list the next exec is; graph_reals gives an entry its reals for the next launch. */
  bool (*graph_begin)(su_device *d);
  void (*graph_at)(su_device *d, int32_t entry);
  void *(*graph_end)(su_device *d);     /* NULL: failed (message set), nothing of it stays */
  void (*graph_reals)(su_device *d, void *graph, int32_t entry, const su_plan *p, const double *r);
  bool (*graph_launch)(su_device *d, void *graph);
  void (*graph_free)(su_device *d, void *graph);
  bool pads;                            /* prefers norm with its pad fused (see nn/norm.c) to conv with edge=reflect */
  bool wants_u8;                        /* data come as bytes, which op picture makes numbers of */
  bool tf32;                            /* f32 convolutions and products may round their operands to tf32 */
  su_arena *arena;
  void *base;                           /* arena offsets count from here */
  su_plan *plans[4096];                 /* the cache */
  int nplans;
  int pinned;                           /* recorded steps that hold plans */
  bool ready;
  void *state;
};
/* The version and, since both sides share these structures, their sizes. */
#define SU_DEVICE_ABI (2u << 24 ^ (uint32_t)(sizeof(su_op) << 12 ^ sizeof(su_plan) << 4 ^ sizeof(su_device)))
su_device *su_device_get(const char *name);   /* "ref", "cpu"; opens it; NULL with a message that lists what there is */
void su_device_register(su_device *d);
void su_device_tf32(su_device *d, bool on);   /* sets d->tf32; each has plans of its own */
su_plan *su_plan_get(su_device *dev, const su_op *op, su_tensor *const *in, const int64_t *ints);

/* Shape-rule helpers: each returns false with a message that says what would be right. */
bool su_want_ndim(const su_call *c, int k, int ndim);
bool su_want_same(const su_call *c, int k, int m);      /* in[k] and in[m] have one shape */
bool su_same_out(su_call *c);                           /* out[0] = spec of in[0] */
const char *su_shape_text(const su_spec *s);            /* "[2,3]"; a few rotating buffers */

/* Run fn(arg, first, last) over [0,n) in chunks of `grain`, on the CPU device's threads. Chunk borders depend
 * on grain alone, never on the number of threads, so that results do not either. */
typedef void su_range(void *arg, int64_t first, int64_t last);
void su_parallel(int64_t n, int64_t grain, su_range *fn, void *arg);
int su_threads(void);
void su_set_threads(int n);

/* Function multiversioning: one binary, the best loop of each CPU. */
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__) || !defined(__x86_64__) || defined(SUMI_NO_CLONES)
#define SU_CLONES
#else
#define SU_CLONES __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#endif

#endif
