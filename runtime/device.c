/* device.c -- the devices of this process: `ref` (float64, one thread, the specification) and `cpu`. A plug-in
 * (plugin.c) fills the same table (op.h) and is registered here when it is first asked for. */
#define _GNU_SOURCE
#include "plugin.h"

#include "cpu/bf16.h"

#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define MAX_DEVICES 8
static su_device *devices[MAX_DEVICES];
static int n_devices;

void su_device_register(su_device *d) {
  if (n_devices < MAX_DEVICES) devices[n_devices++] = d;
}

static su_device *find(const char *name) {
  for (int k = 0; k < n_devices; k++)
    if (strcmp(devices[k]->name, name) == 0) return devices[k];
  return NULL;
}

/* "cuda:0" is "cuda". */
static const char *plain_name(const char *name, char *buf, size_t size) {
  snprintf(buf, size, "%s", name);
  char *colon = strchr(buf, ':');
  if (colon && strcmp(colon, ":0") == 0) *colon = 0;
  return buf;
}

static su_device *from_plugin(const char *name) {
  char path[PATH_MAX], why[1024], known[160] = "";
  su_device *d = su_plugin_load(name, path, why, sizeof why);
  if (d && find(d->name)) return d;
  if (d && n_devices < MAX_DEVICES) {
    su_device_register(d);
    return d;
  }
  for (int k = 0; k < n_devices; k++) {
    size_t n = strlen(known);
    snprintf(known + n, sizeof known - n, "%s%s", n ? ", " : "", devices[k]->name);
  }
  if (*path && *why) su_fail_code(SU_EMACHINE, "no device '%s': %s; device=cpu computes here", name, why);
  else su_fail_code(SU_EMACHINE, "no device '%s': %s%sthere is: %s", name, why, *why ? "; " : "", known);
  return NULL;
}

static bool make_ready(su_device *d) {
  if (!d->ready) d->ready = d->open(d);
  return d->ready;
}

su_device *su_device_get(const char *name) {
  char plain[64];
  name = plain_name(name, plain, sizeof plain);
  su_device *d = find(name);
  if (!d) d = from_plugin(name);
  return d && make_ready(d) ? d : NULL;
}

void su_plugin_look(const char *name, su_plugin_state *s) {
  char plain[64];
  name = plain_name(name, plain, sizeof plain);
  s->ready = false;
  s->path[0] = 0;
  su_device *d = find(name);
  if (!d) d = su_plugin_load(name, s->path, s->text, sizeof s->text);
  if (!d) return;
  if (!find(d->name)) su_device_register(d);
  s->ready = make_ready(d);
  if (s->ready) d->describe(d, s->text, sizeof s->text);
  else snprintf(s->text, sizeof s->text, "%s", su_error());
}

/* ---- memory on the host ---- */

/* The budget: SUMI_MEMORY in MiB, else four fifths of what the machine has. */
static size_t budget(void) {
  const char *env = getenv("SUMI_MEMORY");
  if (env && atoll(env) > 0) return (size_t)atoll(env) << 20;
  long pages = sysconf(_SC_PHYS_PAGES), page = sysconf(_SC_PAGE_SIZE);
  return (size_t)pages / 5 * 4 * (size_t)page;
}

/* Address space costs nothing until it is touched; huge pages make the first touch cheap. */
static bool host_open(su_device *d) {
  size_t bytes = budget();
  su_count_sys_alloc();
  void *base = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (base == MAP_FAILED) return su_fail_code(SU_EMACHINE, "%s: %zu bytes of address space refused", d->name, bytes);
  madvise(base, bytes, MADV_HUGEPAGE);
  d->base = base;
  d->arena = su_arena_new(base, bytes);
  return d->arena != NULL;
}

static void *host_workspace(su_device *d, size_t bytes) {
  static struct { su_device *dev; su_block *b; } ws[MAX_DEVICES];
  int k = 0;
  while (ws[k].dev && ws[k].dev != d) k++;
  ws[k].dev = d;
  if (ws[k].b && ws[k].b->size >= bytes) return (char *)d->base + ws[k].b->offset;
  su_block *b = su_arena_get(d->arena, bytes);
  if (!b) return NULL;
  if (ws[k].b) su_arena_put(d->arena, ws[k].b);
  ws[k].b = b;
  return (char *)d->base + b->offset;
}

static bool host_write(su_device *d, void *dst, const void *src, size_t bytes) {
  (void)d;
  memcpy(dst, src, bytes);
  return true;
}

static bool host_read(su_device *d, void *dst, const void *src, size_t bytes) {
  (void)d;
  memcpy(dst, src, bytes);
  return true;
}

static bool host_sync(su_device *d) {
  (void)d;
  return true;
}

/* ---- ref ---- */

static bool ref_supports(su_device *d, const su_op *op) {
  (void)d;
  return op->ref != NULL;
}

static bool no_kernel(const su_plan *p) {
  const su_op *op = p->call.op;
  return su_fail("%s: no kernel on %s; the devices that have one: %s%s", op->name, p->call.dev->name,
                 op->ref ? "ref " : "", op->cpu || op->cpu_plan ? "cpu" : "");
}

static bool ref_plan(su_device *d, su_plan *p) {
  (void)d;
  p->exec = p->call.op->ref;
  p->workspace = 0;                    /* reference kernels keep what they need on the stack or do without */
  return p->exec ? true : no_kernel(p);
}

static void ref_describe(su_device *d, char *buf, size_t size) {
  (void)d;
  snprintf(buf, size, "float64, one thread, plain loops: the specification");
}

/* ---- cpu ---- */

static bool cpu_supports(su_device *d, const su_op *op) {
  (void)d;
  return op->cpu || op->cpu_plan;
}

static bool cpu_plan(su_device *d, su_plan *p) {
  (void)d;
  const su_op *op = p->call.op;
  if (!op->bf16 && !op->any_dtype && su_has_bf16(&p->call)) return su_bf16_wrap(p);
  p->exec = op->cpu;
  if (op->cpu_plan) return op->cpu_plan(p);
  return p->exec ? true : no_kernel(p);
}

static void cpu_describe(su_device *d, char *buf, size_t size) {
  (void)d;
  const char *isa = "sse2";
#if defined(__x86_64__)
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx512f")) isa = "avx512";
  else if (__builtin_cpu_supports("avx2")) isa = "avx2";
#endif
  snprintf(buf, size, "float32, %d thread%s, %s", su_threads(), su_threads() == 1 ? "" : "s", isa);
}

static su_device ref = {.abi = SU_DEVICE_ABI, .name = "ref", .real = SU_F64, .open = host_open,
  .supports = ref_supports, .plan = ref_plan, .workspace = host_workspace, .write = host_write, .read = host_read,
  .sync = host_sync, .describe = ref_describe};

static su_device cpu = {.abi = SU_DEVICE_ABI, .name = "cpu", .real = SU_F32, .open = host_open,
  .supports = cpu_supports, .plan = cpu_plan, .workspace = host_workspace, .write = host_write, .read = host_read,
  .sync = host_sync, .describe = cpu_describe};

__attribute__((constructor)) static void register_devices(void) {
  su_device_register(&ref);
  su_device_register(&cpu);
}
