/* fiber.cpp -- CUDA's threads as fibers; see fiber.h for what that promises.
 *
 * A carrier is a stack that runs threads of the block one after the other for as long as they end without
 * waiting. A thread that waits keeps its carrier, and the next threads go on with another. So a kernel
 * without barriers needs one carrier, and one with barriers as many as there are threads; they stay for the
 * next launch. */
#include "fiber.h"

#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>

#if !defined(__x86_64__) || defined(SUMI_EMU_UCONTEXT)
#define UCONTEXT 1
#include <ucontext.h>
#else
#define UCONTEXT 0
#endif
#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/common_interface_defs.h>
#endif

/* Which barrier to leave out, for the tests that must notice: 0 all, n every thread's n-th, -1 none. */
#ifndef SUMI_MUTATE_SYNC
#define SUMI_MUTATE_SYNC -1
#endif

dim3 threadIdx, blockIdx, blockDim, gridDim;
uint64_t emu_block;

namespace {

const unsigned MAX_THREADS = 1024, WARP = 32;
const size_t MAX_SHARED = 48 << 10, GUARD = 64 << 10;      /* guard: a multiple of any page size */
#ifdef __SANITIZE_ADDRESS__
const size_t STACK = 256 << 10;
#else
const size_t STACK = 64 << 10;
#endif

struct context {
#if UCONTEXT
  ucontext_t at;
#else
  void *sp;
#endif
  void *fake;                           /* AddressSanitizer's, while switched away */
  const void *low;                      /* the stack's lowest address and size */
  size_t size;
};

struct carrier {
  context ctx;
  carrier *next;                        /* in `idle` */
};

enum condition : uint8_t { FRESH, READY, AT_SYNC, AT_SHUFFLE, ENDED };

struct thread {
  carrier *on;
  float shown[2];                       /* what it hands to a shuffle; the next shuffle uses the other place */
  unsigned shuffles, syncs;
  condition is;
};

struct warp {
  unsigned waiting;                     /* lanes in the shuffle that is not complete yet */
  int mask;
  bool ended;                           /* a lane has: no shuffle can be complete any more */
};

const char *kernel;
const std::function<void()> *body;
thread threads[MAX_THREADS];
warp warps[MAX_THREADS / WARP];
unsigned started, alive, at_sync, first_thread, stride;
size_t shared_bytes;
context scheduler;
carrier *idle, *running;

[[noreturn]] void die(const char *what, unsigned a, unsigned b) {
  fprintf(stderr, "emu: kernel %s, block (%u,%u,%u) of %u threads: ", kernel, blockIdx.x, blockIdx.y,
          blockIdx.z, blockDim.x);
  fprintf(stderr, what, a, b);
  fputc('\n', stderr);
  abort();
}

/* ---- switching stacks ---- */

#if UCONTEXT
void swap(context *from, context *to) { swapcontext(&from->at, &to->at); }
#else
/* Saves what a callee must keep (System V ABI), stores the stack pointer and goes on where `to` left off. */
extern "C" void sumi_emu_swap(void **from, void *to) __attribute__((visibility("hidden")));
__asm__(".text\n"
        ".p2align 4\n"
        ".globl sumi_emu_swap\n"
        ".hidden sumi_emu_swap\n"
        ".type sumi_emu_swap,@function\n"
        "sumi_emu_swap:\n"
        "  pushq %rbp\n  pushq %rbx\n  pushq %r12\n  pushq %r13\n  pushq %r14\n  pushq %r15\n"
        "  movq %rsp, (%rdi)\n"
        "  movq %rsi, %rsp\n"
        "  popq %r15\n  popq %r14\n  popq %r13\n  popq %r12\n  popq %rbx\n  popq %rbp\n"
        "  ret\n"
        ".size sumi_emu_swap,.-sumi_emu_swap\n");
void swap(context *from, context *to) { sumi_emu_swap(&from->sp, to->sp); }
#endif

void arrived(context *self) {
#ifdef __SANITIZE_ADDRESS__
  const bool by_carrier = self != &scheduler;
  __sanitizer_finish_switch_fiber(self->fake, by_carrier ? &scheduler.low : nullptr,
                                  by_carrier ? &scheduler.size : nullptr);
#else
  (void)self;
#endif
}

void go(context *from, context *to) {
#ifdef __SANITIZE_ADDRESS__
  __sanitizer_start_switch_fiber(&from->fake, to->low, to->size);
#endif
  swap(from, to);
  arrived(from);
}

void begin_thread(unsigned t) {
  threads[t].on = running;
  threadIdx.x = t;
}

void end_thread(unsigned t) {
  warp *w = &warps[t / WARP];
  if (w->waiting) die("thread %u ended while %u lanes of its warp wait in cu_shfl_xor", t, w->waiting);
  w->ended = true;
  threads[t].is = ENDED;
  alive--;
}

unsigned in_order(unsigned k) { return (first_thread + k * stride) % blockDim.x; }

void carrier_main() {
  arrived(&running->ctx);
  for (;;) {
    while (started < blockDim.x) {
      const unsigned t = in_order(started++);
      begin_thread(t);
      (*body)();
      end_thread(threadIdx.x);
    }
    carrier *self = running;
    self->next = idle;
    idle = self;
    go(&self->ctx, &scheduler);
  }
}

carrier *carrier_new() {
  carrier *c = (carrier *)calloc(1, sizeof *c);
  char *map = (char *)mmap(nullptr, GUARD + STACK, PROT_READ | PROT_WRITE,
                           MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (!c || map == MAP_FAILED || mprotect(map, GUARD, PROT_NONE) != 0)
    die("no memory for a thread's stack (%u of %u)", started, blockDim.x);
  c->ctx.low = map + GUARD;
  c->ctx.size = STACK;
#if UCONTEXT
  getcontext(&c->ctx.at);
  c->ctx.at.uc_stack.ss_sp = map + GUARD;
  c->ctx.at.uc_stack.ss_size = STACK;
  makecontext(&c->ctx.at, carrier_main, 0);
#else
  void **top = (void **)(map + GUARD + STACK);
  top[-2] = (void *)carrier_main;       /* where the first swap returns to; six zeroed registers lie below */
  c->ctx.sp = top - 8;
#endif
  return c;
}

void resume(carrier *c) {
  running = c;
  go(&scheduler, &c->ctx);
}

void resume_fresh() {
  carrier *c = idle ? idle : carrier_new();
  if (c == idle) idle = c->next;
  resume(c);
}

/* The thread that runs waits, as threads[].is says, until the scheduler resumes it. */
void wait_here(unsigned t) {
  go(&threads[t].on->ctx, &scheduler);
}

/* ---- blocks ---- */

[[noreturn]] void stuck() {
  unsigned sync = 0, shuffle = 0;
  for (unsigned t = 0; t < blockDim.x; t++) {
    if (threads[t].is == AT_SYNC) sync = t;
    if (threads[t].is == AT_SHUFFLE) shuffle = t;
  }
  if (at_sync)
    die("thread %u waits in cu_shfl_xor for lanes that never come, thread %u at cu_sync", shuffle, sync);
  die("thread %u waits in cu_shfl_xor for lanes that never come (%u threads are left)", shuffle, alive);
}

bool resume_ready() {
  bool any = false;
  for (unsigned k = 0; k < blockDim.x; k++) {
    const unsigned t = in_order(k);
    if (threads[t].is != READY) continue;
    any = true;
    threadIdx.x = t;
    resume(threads[t].on);
  }
  return any;
}

void release_sync() {
  for (unsigned t = 0; t < blockDim.x; t++)
    if (threads[t].is == AT_SYNC) threads[t].is = READY;
  at_sync = 0;
}

/* A different first thread and direction for every block, the same for the same seed. */
void choose_order(uint64_t seed) {
  const uint64_t block = blockIdx.x + ((uint64_t)blockIdx.y << 24) + ((uint64_t)blockIdx.z << 44);
  uint64_t h = (seed + block) * 0x9E3779B97F4A7C15u;
  h ^= h >> 32;
  first_thread = (unsigned)(h % blockDim.x);
  stride = h >> 20 & 1 ? blockDim.x - 1 : 1;
}

void run_block(uint64_t seed) {
  emu_block++;
  shared_bytes = 0;
  choose_order(seed);
  for (unsigned t = 0; t < blockDim.x; t++) threads[t].is = FRESH, threads[t].shuffles = threads[t].syncs = 0;
  for (unsigned w = 0; w < (blockDim.x + WARP - 1) / WARP; w++) warps[w] = warp{0, 0, false};
  started = at_sync = 0;
  alive = blockDim.x;
  while (started < blockDim.x) resume_fresh();
  while (alive) {
    const bool moved = resume_ready();
    if (alive && at_sync == alive) release_sync();
    else if (!moved) stuck();
  }
}

long from_environment(const char *name, long otherwise) {
  const char *s = getenv(name);
  return s && *s ? strtol(s, nullptr, 10) : otherwise;
}

}  // namespace

/* ---- what kernels call ---- */

void cu_sync() {
  static const long leave_out = from_environment("SUMI_EMU_MUTATE_SYNC", SUMI_MUTATE_SYNC);
  const unsigned t = threadIdx.x;
  const long nth = ++threads[t].syncs;
  if (leave_out == 0 || leave_out == nth) return;
  threads[t].is = AT_SYNC;
  at_sync++;
  wait_here(t);
}

float cu_shfl_xor(float v, int mask) {
  const unsigned t = threadIdx.x, first = t / WARP * WARP, peer = t ^ (unsigned)mask;
  const unsigned lanes = blockDim.x - first < WARP ? blockDim.x - first : WARP;
  thread *self = &threads[t];
  warp *w = &warps[t / WARP];
  if (w->ended)
    die("thread %u in cu_shfl_xor, but lanes of its warp have ended (%u threads are left)", t, alive);
  if (peer - first >= lanes) die("thread %u in cu_shfl_xor wants lane %u, which is not there", t, peer - first);
  if (w->waiting && w->mask != mask)
    die("thread %u in cu_shfl_xor with mask %u, others of its warp with another", t, (unsigned)mask);
  const unsigned place = self->shuffles++ & 1;
  self->shown[place] = v;
  w->mask = mask;
  if (++w->waiting < lanes) {
    self->is = AT_SHUFFLE;
    wait_here(t);
  } else {
    w->waiting = 0;
    for (unsigned k = first; k < first + lanes; k++) threads[k].is = READY;
  }
  return threads[peer].shown[place];
}

void emu_shared(void *storage, size_t bytes, uint64_t *block) {
  *block = emu_block;
  shared_bytes += bytes;
  if (shared_bytes > MAX_SHARED)
    die("%u bytes of shared memory; a block has %u", (unsigned)shared_bytes, (unsigned)MAX_SHARED);
  memset(storage, 0xff, bytes);
}

void emu_run(const char *name, dim3 grid, unsigned nthreads, const std::function<void()> &fn) {
  static const uint64_t seed = (uint64_t)from_environment("SUMI_EMU_SEED", 0) * 1000003u;
  kernel = name;
  body = &fn;
  gridDim = grid;
  blockDim = dim3(nthreads);
  threadIdx = blockIdx = dim3(0, 0, 0);
  if (nthreads < 1 || nthreads > MAX_THREADS) die("a block has 1 to %u threads, not %u", MAX_THREADS, nthreads);
  if (!grid.x || !grid.y || !grid.z || grid.x > 0x7fffffffu || grid.y > 65535 || grid.z > 65535)
    die("no such grid: y is %u, z %u; 1 to 65535", grid.y, grid.z);
  for (blockIdx.z = 0; blockIdx.z < grid.z; blockIdx.z++)
    for (blockIdx.y = 0; blockIdx.y < grid.y; blockIdx.y++)
      for (blockIdx.x = 0; blockIdx.x < grid.x; blockIdx.x++) run_block(seed);
}

/* For programs that have no rt_emu.cpp. */
__attribute__((weak)) void emu_launch(const char *name, dim3 grid, unsigned nthreads,
                                      std::function<void()> fn) {
  emu_run(name, grid, nthreads, fn);
}
