/* op.c -- the registry of ops, their signatures, the plan cache, and how an op is applied. */
#include "replay.h"
#include "tape.h"
#include "ops/ops.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static su_op *ops;                     /* sorted by name */

/* ---- signatures ---- */

static const struct { const char *name; enum su_kind kind; int ints, reals; } kinds[] = {
  {"int", SU_PINT, 1, 0},     {"int2", SU_PINT2, 2, 0},  {"int4", SU_PINT4, 4, 0},
  {"bool", SU_PBOOL, 1, 0},   {"real", SU_PREAL, 0, 1},  {"axes", SU_PAXES, 1 + SU_MAX_DIM, 0},
  {"shape", SU_PSHAPE, 1 + SU_MAX_DIM, 0}, {"enum", SU_PENUM, 1, 0},
};

static const char *blanks(const char *s) {
  while (*s == ' ') s++;
  return s;
}

static const char *word(const char *s, char *buf, size_t size) {
  size_t n = strcspn(s, " ,:?=()|");
  snprintf(buf, size, "%.*s", (int)n, s);
  return s + n;
}

static void default_value(su_param *p, const char *s) {
  char w[24];
  word(s, w, sizeof w);
  p->optional = true;
  p->fallback = strcmp(w, "all") == 0 ? -1 : strtod(w, NULL);
  if (p->kind != SU_PENUM) return;
  const char *c = p->choices;
  for (int k = 0; *c && *c != ')'; k++) {
    char choice[24];
    c = word(c, choice, sizeof choice);
    if (strcmp(choice, w) == 0) p->fallback = k;
    if (*c == '|') c++;
  }
}

static const char *parameter(su_op *op, const char *s) {
  su_param *p = &op->param[op->nparam++];
  s = word(s, p->name, sizeof p->name);
  if (*s != ':') {
    p->kind = SU_PTENSOR;
    p->slot = op->nin++;
    if (*s == '?') p->optional = true;
    return strpbrk(s, ",)");
  }
  char type[8];
  s = word(s + 1, type, sizeof type);
  for (size_t k = 0; k < sizeof kinds / sizeof *kinds; k++) {
    if (strcmp(type, kinds[k].name) != 0) continue;
    p->kind = kinds[k].kind;
    p->slot = kinds[k].reals ? op->nreal : op->nint;
    op->nint += kinds[k].ints;
    op->nreal += kinds[k].reals;
  }
  if (*s == '(') {
    p->choices = s + 1;
    s = strchr(s, ')') + 1;
  }
  if (*s == '=') default_value(p, s + 1);
  return strpbrk(s, ",)");
}

static void parse(su_op *op) {
  const char *s = word(op->sig, op->name, sizeof op->name);
  for (s = blanks(s + 1); s && *s && *s != ')'; s = blanks(s + (*s == ','))) s = parameter(op, s);
  const char *arrow = strstr(op->sig, "->");
  if (!arrow) return;
  op->nout = 1;
  for (; *arrow; arrow++) op->nout += *arrow == ',';
}

void su_op_register(su_op *op) {
  parse(op);
  su_op **at = &ops;
  while (*at && strcmp((*at)->name, op->name) < 0) at = &(*at)->next;
  op->next = *at;
  *at = op;
}

su_op *su_op_first(void) { return ops; }

su_op *su_op_find(const char *name) {
  for (su_op *op = ops; op; op = op->next)
    if (strcmp(op->name, name) == 0) return op;
  return NULL;
}

/* ---- shape-rule helpers ---- */

const char *su_shape_text(const su_spec *s) {
  static _Thread_local char ring[8][96];
  static _Thread_local int at;
  char *buf = ring[at++ % 8];
  int n = snprintf(buf, sizeof ring[0], "[");
  for (int k = 0; k < s->ndim; k++)
    n += snprintf(buf + n, sizeof ring[0] - (size_t)n, "%s%" PRId64, k ? "," : "", s->shape[k]);
  snprintf(buf + n, sizeof ring[0] - (size_t)n, "]");
  return buf;
}

bool su_want_ndim(const su_call *c, int k, int ndim) {
  if (c->in[k].ndim == ndim) return true;
  return su_fail("%s: %s wants %d axes, has shape %s", c->op->name, c->op->param[k].name, ndim,
                 su_shape_text(&c->in[k]));
}

bool su_want_same(const su_call *c, int k, int m) {
  const su_spec *a = &c->in[k], *b = &c->in[m];
  if (a->ndim == b->ndim && memcmp(a->shape, b->shape, sizeof a->shape) == 0) return true;
  return su_fail("%s: %s has shape %s, %s has %s; they must be the same", c->op->name, c->op->param[k].name,
                 su_shape_text(a), c->op->param[m].name, su_shape_text(b));
}

bool su_same_out(su_call *c) {
  c->out[0] = c->in[0];
  return true;
}

/* ---- plans ---- */

static uint64_t mix(uint64_t h, uint64_t v) {
  h = (h ^ v) * 0x9E3779B97F4A7C15ull;
  return h ^ (h >> 29);
}

static uint64_t key_of(const su_op *op, su_tensor *const *in, const int64_t *ints) {
  uint64_t h = (uint64_t)(uintptr_t)op;
  for (int k = 0; k < op->nin; k++) {
    if (!in[k]) {
      h = mix(h, 77);
      continue;
    }
    const su_spec *s = &in[k]->spec;
    h = mix(h, (uint64_t)(s->dtype * 16 + s->ndim));
    for (int d = 0; d < s->ndim; d++) h = mix(h, (uint64_t)s->shape[d]);
  }
  for (int k = 0; k < op->nint; k++) h = mix(h, (uint64_t)ints[k]);
  return h ^ (h >> 32);
}

static bool plan_fits(const su_plan *p, const su_op *op, su_tensor *const *in, const int64_t *ints) {
  if (p->call.op != op) return false;
  for (int k = 0; k < op->nin; k++) {
    const su_spec *s = &p->call.in[k];
    if (!in[k]) {
      if (s->ndim >= 0) return false;
      continue;
    }
    if (memcmp(s, &in[k]->spec, sizeof *s) != 0) return false;
  }
  return memcmp(p->call.i, ints, (size_t)op->nint * sizeof *ints) == 0;
}

static bool is_activation(const su_op *op, int k) { return !(op->f32 >> k & 1); }

/* Operands are of the device's dtype; where that is f32, the activations may all be bf16. The results are as the
 * activations are, unless the shape rule says otherwise. */
static bool judge(su_call *c) {
  const su_op *op = c->op;
  int real = c->dev->real, act = real;
  for (int k = 0; k < op->nin && real == SU_F32; k++)
    if (c->in[k].ndim >= 0 && is_activation(op, k) && c->in[k].dtype == SU_BF16) act = SU_BF16;
  for (int k = 0; k < op->nin && !op->any_dtype; k++) {
    int want = is_activation(op, k) ? act : real;
    if (c->in[k].ndim >= 0 && c->in[k].dtype != want)
      return su_fail("%s: %s is %s; %s computes in %s (x:to(\"%s\") converts)", op->name, op->param[k].name,
                     su_dtype_name(c->in[k].dtype), c->dev->name, su_dtype_name(want), su_dtype_name(want));
  }
  for (int k = 0; k < op->nout; k++) c->out[k].dtype = act;
  return op->shape(c);
}

static void plan_free(su_plan *p) {
  if (p->state_free) p->state_free(p->state);
  su_free(p);
}

/* Shapes that change all the time must not fill the memory: past this many, start afresh. */
#define MAX_PLANS 20000

static void forget_plans(su_device *d) {
  if (d->pinned) return;               /* a recorded step runs them */
  for (size_t k = 0; k < sizeof d->plans / sizeof *d->plans; k++)
    for (su_plan *p = d->plans[k], *next; p; p = next) {
      next = p->next;
      plan_free(p);
    }
  memset(d->plans, 0, sizeof d->plans);
  d->nplans = 0;
}

void su_device_tf32(su_device *d, bool on) { d->tf32 = on; }

static su_plan *plan_make(su_device *dev, const su_op *op, su_tensor *const *in, const int64_t *ints, uint64_t h) {
  su_plan *p = su_calloc(sizeof *p);
  if (!p) return NULL;
  p->call.op = op;
  p->call.dev = dev;
  p->hash = h;
  p->tf32 = dev->tf32;
  for (int k = 0; k < SU_MAX_IN; k++) {
    if (k < op->nin && in[k]) p->call.in[k] = in[k]->spec;
    else p->call.in[k].ndim = -1;
  }
  memcpy(p->call.i, ints, (size_t)op->nint * sizeof *ints);
  if (!judge(&p->call) || (!op->view && !dev->plan(dev, p))) {
    plan_free(p);
    return NULL;
  }
  if (dev->nplans >= MAX_PLANS) forget_plans(dev);
  su_plan **at = &dev->plans[h % (sizeof dev->plans / sizeof *dev->plans)];
  p->next = *at;
  *at = p;
  dev->nplans++;
  return p;
}

su_plan *su_plan_get(su_device *dev, const su_op *op, su_tensor *const *in, const int64_t *ints) {
  uint64_t h = key_of(op, in, ints);
  for (su_plan *p = dev->plans[h % (sizeof dev->plans / sizeof *dev->plans)]; p; p = p->next)
    if (p->hash == h && p->tf32 == dev->tf32 && plan_fits(p, op, in, ints)) return p;
  return plan_make(dev, op, in, ints, h);
}

/* ---- applying ---- */

static void note_operands(const su_op *op, su_tensor *const *in) {
  char line[256];
  for (int k = 0; k < op->nin; k++)
    if (in[k]) su_error_note("  %-8s %s", op->param[k].name, su_describe(in[k], line, sizeof line));
}

static su_device *common_device(const su_op *op, su_tensor *const *in) {
  su_device *dev = NULL;
  for (int k = 0; k < op->nin; k++) {
    const su_tensor *t = in[k];
    if (!t && !op->param[k].optional) return NULL;     /* the first failure's message stands */
    if (!t) continue;
    if (!t->data) {
      su_fail("%s: %s belonged to a step that has ended; keep it with :keep() if it must outlive it", op->name,
              op->param[k].name);
      return NULL;
    }
    if (dev && t->dev != dev) {
      su_fail("%s: %s lives on %s, the tensors before it on %s", op->name, op->param[k].name, t->dev->name, dev->name);
      return NULL;
    }
    dev = t->dev;
  }
  return dev;
}

static bool make_outputs(const su_plan *p, su_tensor *const *in, su_tensor **out) {
  const su_op *op = p->call.op;
  for (int k = 0; k < op->nout; k++) {
    if (op->view && k == 0) {
      out[0] = su_view(in[0], p->call.out[0].ndim, p->call.out[0].shape);
      if (out[0]) out[0]->name = NULL;
    } else {
      out[k] = su_new(p->call.dev, &p->call.out[k]);
    }
    if (!out[k]) return false;
  }
  return true;
}

/* Must a bf16 operand be cast? One that is always f32, or an activation beside others in f32. */
static bool mixed(const su_op *op, su_tensor *const *in) {
  bool f32 = false, bf16 = false;
  for (int k = 0; k < op->nin; k++) {
    if (!in[k]) continue;
    bool half = in[k]->spec.dtype == SU_BF16;
    if (half && !is_activation(op, k)) return true;
    f32 = f32 || (is_activation(op, k) && in[k]->spec.dtype == SU_F32);
    bf16 = bf16 || half;
  }
  return f32 && bf16;
}

/* up[k]: in[k] in f32, cast where it is bf16. What is written in place cannot be cast. */
static bool cast_up(const su_op *op, su_tensor *const *in, su_tensor **up) {
  for (int k = 0; k < op->nin; k++) {
    up[k] = in[k];
    if (!in[k] || in[k]->spec.dtype != SU_BF16) continue;
    if (op->writes >> k & 1)
      return su_fail("%s: %s is written in place and is bf16; %s", op->name, op->param[k].name,
                     is_activation(op, k) ? "so must the others be (x:to(\"bf16\") converts)" : "it must be f32");
    if (!(up[k] = su_cast(in[k], SU_F32))) return false;
  }
  return true;
}

bool su_apply(const su_op *op, su_tensor *const *in, const int64_t *ints, const double *reals, su_tensor **out) {
  su_device *dev = common_device(op, in);
  if (!dev) return false;
  su_tensor *up[SU_MAX_IN];
  if (dev->real == SU_F32 && !op->any_dtype && mixed(op, in)) {
    if (!cast_up(op, in, up)) {
      note_operands(op, in);
      return false;
    }
    in = up;
  }
  su_plan *p = su_plan_get(dev, op, in, ints);
  if (!p || (op->check && !op->check(&p->call, reals))) {
    note_operands(op, in);
    return false;
  }
  if (!make_outputs(p, in, out)) {
    note_operands(op, in);
    return false;
  }
  if (!op->view) {
    void *pin[SU_MAX_IN], *pout[SU_MAX_OUT], *ws = NULL;
    for (int k = 0; k < op->nin; k++) pin[k] = in[k] ? in[k]->data : NULL;
    for (int k = 0; k < op->nout; k++) pout[k] = out[k]->data;
    if (!su_dry && p->workspace && !(ws = dev->workspace(dev, p->workspace))) return false;
    if (!su_dry) p->exec(p, pin, pout, reals, ws);
    if (su_noting) su_note_apply(p, in, out, reals);
    for (int k = 0; op->writes && k < op->nin; k++)
      if (in[k] && (op->writes >> k & 1)) su_touched(in[k]);
  }
  if (!op->grad || !su_recording()) return true;
  return su_record(op, dev, in, p, reals, out);
}

su_tensor *su_apply1(const su_op *op, su_tensor *const *in, const int64_t *ints, const double *reals) {
  su_tensor *out[SU_MAX_OUT];
  return su_apply(op, in, ints, reals, out) ? out[0] : NULL;
}
