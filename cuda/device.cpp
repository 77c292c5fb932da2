/* device.cpp -- the device that this plug-in gives: memory, plans, order, and a step as one graph.
 * The machine is behind rt.h, kernels register themselves by cu.h; an op without one has no plan
 * here.
 *
 * Errors of launches cannot be told where they happen (exec does not fail): the first is kept and
 * told by the next read, write, sync or graph. What was computed in between is worthless then, and
 * the script gets an error with code SU_EMACHINE. */
#include "device.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "guard.h"
#include "library.h"

#ifdef SUMI_EMU
#define BASE_NAME "emu"
#else
#define BASE_NAME "cuda"
#endif
#define MIB ((size_t)1 << 20)

cu_state cu_the;

/* ---- errors ---- */

static struct { char text[512]; bool any, lost; } kept;

void rt_keep(bool lost, const char *fmt, ...) {
  if (kept.any && (kept.lost || !lost)) return;
  va_list ap;
  va_start(ap, fmt);
  vsnprintf(kept.text, sizeof kept.text, fmt, ap);
  va_end(ap);
  kept.any = true;
  kept.lost = lost;
}

bool rt_failed() { return kept.any; }
bool rt_lost() { return kept.lost; }

bool rt_injected(const char *site, const char *what) {
  if (rt_lost()) return true;
  if (su_fault("cuda_lost")) rt_keep(true, "%s: the device was lost", what);
  else if (su_fault(site)) rt_keep(false, "%s: failed on purpose (SUMI_FAULT)", what);
  else return false;
  return true;
}

bool cu_report() {
  const char *name = cu_the.d.name;
  if (kept.lost)
    su_fail_code(SU_EMACHINE, "%s: %s; this process cannot use it any more, a new one can (sumi resume RUN)",
                 name, kept.text);
  else
    su_fail_code(SU_EMACHINE, "%s: %s", name, kept.any ? kept.text : "failed without saying why");
  kept.any = kept.lost;
  return false;
}

/* ok, and nothing went wrong earlier either. */
static bool settled(bool ok) { return ok && !kept.any ? true : cu_report(); }

/* ---- memory ---- */

static bool grow(void *, size_t top) {
  if (rt_commit(top)) return true;
  if (rt_lost()) return cu_report();
  su_fail_code(SU_EMACHINE, "out of memory on %s: %s; %.1f MB are in use (a smaller batch or image needs less)",
               cu_the.d.name, kept.text, 1e-6 * (double)su_arena_used(cu_the.d.arena));
  kept.any = false;
  return false;
}

/* SUMI_GPU_MEMORY in MiB, else what nobody uses but for a reserve: libraries and their kernels want
 * some. */
static size_t budget() {
  const char *env = getenv("SUMI_GPU_MEMORY");
  const size_t reserve = cu_the.gpu.free / 16 + 256 * MIB, free = cu_the.gpu.free;
  if (env && atoll(env) > 0) return (size_t)atoll(env) * MIB;
  return free > 2 * reserve ? free - reserve : free / 2;
}

static bool device_open(su_device *d) {
  const size_t bytes = budget();
  su_count_sys_alloc();
  void *base = rt_open(bytes);
  if (!base) return cu_report();
  d->base = base;
  d->arena = su_arena_new(base, bytes);
  if (!d->arena) return false;
  su_arena_on_grow(d->arena, grow, nullptr, "SUMI_GPU_MEMORY");
  return true;
}

/* A recorded step brings its own scratch, which lives as long as its graph. */
static void *device_workspace(su_device *d, size_t bytes) {
  cu_state *s = &cu_the;
  if (s->ws && s->ws->size >= bytes) return (char *)d->base + s->ws->offset;
  if (s->recording) {
    su_fail("%s: scratch of %zu bytes while a step is recorded", d->name, bytes);
    return nullptr;
  }
  su_block *b = su_arena_get(d->arena, bytes);
  if (!b) return nullptr;
  if (s->ws) su_arena_put(d->arena, s->ws);
  s->ws = b;
  return (char *)d->base + b->offset;
}

static bool outside_recording(const char *what) {
  if (!cu_the.recording) return true;
  rt_keep(false, "%s while a step is recorded", what);
  return false;
}

static bool device_write(su_device *, void *dst, const void *src, size_t bytes) {
  return settled(outside_recording("written") && rt_upload(dst, src, bytes));
}

static bool device_read(su_device *, void *dst, const void *src, size_t bytes) {
  return settled(outside_recording("read") && rt_download(dst, src, bytes));
}

static bool device_copy(su_device *, void *dst, const void *src, size_t bytes) {
  if (cu_the.recording) cu_merge_flush();
  return rt_copy(dst, src, bytes) ? true : cu_report();
}

static bool device_sync(su_device *) { return settled(outside_recording("waited for") && rt_sync()); }

/* ---- ops ---- */

static cu_op *ops;

void cu_op_register(cu_op *op) {
  op->next = ops;
  ops = op;
}

cu_op *cu_op_find(const char *name) {
  for (cu_op *op = ops; op; op = op->next)
    if (strcmp(op->name, name) == 0) return op;
  return nullptr;
}

cu_op *cu_op_of(const su_op *op) {
  static struct { const su_op *key; cu_op *is; } cache[256];
  auto *at = &cache[((uintptr_t)op >> 5) % 256];
  if (at->key != op) {
    at->key = op;
    at->is = cu_op_find(op->name);
  }
  return at->is;
}

static bool device_supports(su_device *, const su_op *op) { return cu_op_find(op->name) != nullptr; }

/* Every plan's exec: the op's own one lies in `inner`. */
struct wrapped { su_plan inner; };

static void device_exec(const su_plan *p, void *const *in, void *const *out, const double *r, void *ws) {
  const su_plan *inner = &((const wrapped *)p->state)->inner;
  if (rt_lost()) return;
  if (cu_the.recording) {
    cu_merge_exec(inner, in, out, r, ws);
    return;
  }
  cu_guard_begin(inner, in, out, ws);
  inner->exec(inner, in, out, r, ws);
  cu_guard_end();
}

static void wrapped_free(void *state) {
  wrapped *w = (wrapped *)state;
  if (w->inner.state_free) {
    rt_sync();                          /* a library's plan may hold kernels that still run */
    w->inner.state_free(w->inner.state);
  }
  su_free(w);
}

static bool wrap(su_plan *p) {
  wrapped *w = (wrapped *)su_malloc(sizeof *w);
  if (!w) {
    if (p->state_free) p->state_free(p->state);
    p->state = nullptr;
    p->state_free = nullptr;
    return false;
  }
  w->inner = *p;
  p->state = w;
  p->state_free = wrapped_free;
  p->exec = device_exec;
  return true;
}

static bool device_plan(su_device *d, su_plan *p) {
  const su_op *op = p->call.op;
  cu_op *mine = cu_op_of(op);
  if (!mine)
    return su_fail("%s: no kernel on %s; the devices that have one: %s%s", op->name, d->name,
                   op->ref ? "ref " : "", op->cpu || op->cpu_plan ? "cpu" : "");
  return mine->plan(p) && wrap(p);
}

const cu_props *cu_device_props() { return &cu_the.gpu.props; }

/* ---- identity ---- */

static void device_describe(su_device *, char *buf, size_t size) {
#ifdef SUMI_EMU
  snprintf(buf, size, "CUDA kernels emulated on this CPU: for tests");
#else
  const rt_gpu *g = &cu_the.gpu;
  char libraries[256];
  cu_libraries(libraries, sizeof libraries);
  snprintf(buf, size, "%s, %.0f GB, sm_%d, driver for CUDA %d.%d; %s", g->props.name,
           1e-9 * (double)g->props.memory, g->props.sm, g->driver / 1000, g->driver % 1000 / 10, libraries);
#endif
}

static void fill(su_device *d) {
  d->abi = SU_DEVICE_ABI;
  d->real = SU_F32;
  d->pads = true;
  d->open = device_open;
  d->supports = device_supports;
  d->plan = device_plan;
  d->workspace = device_workspace;
  d->write = device_write;
  d->read = device_read;
  d->sync = device_sync;
  d->describe = device_describe;
  d->copy = device_copy;
  d->wants_u8 = true;
  cu_graph_fill(d);
}

/* "cuda", "cuda:1": the number. */
static int index_of(const char *name) {
  const char *colon = strchr(name, ':');
  return colon ? atoi(colon + 1) : 0;
}

extern "C" __attribute__((visibility("default")))
su_device *sumi_plugin(uint32_t abi, const char *name, char *why, size_t n) {
  static char own_name[24];
  if (abi != SU_DEVICE_ABI) {
    snprintf(why, n, "libsumi_%s.so was built for interface %u, this program has %u; build both anew with make",
             BASE_NAME, SU_DEVICE_ABI, abi);
    return nullptr;
  }
  const int index = index_of(name);
  if (cu_the.d.abi) {
    if (index == cu_the.index) return &cu_the.d;
    snprintf(why, n, "this process computes on %s, and one process uses one GPU; start another for %s",
             cu_the.d.name, name);
    return nullptr;
  }
  if (!rt_find(index, &cu_the.gpu, why, n)) return nullptr;
  if (index) snprintf(own_name, sizeof own_name, BASE_NAME ":%d", index);
  else snprintf(own_name, sizeof own_name, BASE_NAME);
  cu_the.index = index;
  cu_the.d.name = own_name;
  fill(&cu_the.d);
  return &cu_the.d;
}
