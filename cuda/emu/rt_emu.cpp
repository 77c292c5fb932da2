/* rt_emu.cpp -- rt.h on the CPU: device memory is host memory, a launch runs the kernel's fibers at
 * once, a graph is a list of closures. Fails where SUMI_FAULT says so; see rt.h for the sites. */
#include "../rt.h"

#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <vector>

namespace {

struct launch {
  const char *name;
  dim3 grid;
  unsigned threads;
  std::function<void()> body;
};

typedef std::vector<launch> graph;

const size_t CHUNK = 1 << 20;           /* small, so that growing is tried often */

char *base;
size_t reserved, backed;
graph *recording;

}  // namespace

bool rt_find(int index, rt_gpu *gpu, char *why, size_t n) {
  memset(gpu, 0, sizeof *gpu);
  if (index != 0) {
    snprintf(why, n, "one device is emulated, emu:%d is not there; use emu", index);
    return false;
  }
  snprintf(gpu->props.name, sizeof gpu->props.name, "emulated");
  gpu->props.sm = 80;
  gpu->props.processors = 4;
  gpu->props.memory = gpu->free = (size_t)sysconf(_SC_PHYS_PAGES) / 2 * (size_t)sysconf(_SC_PAGE_SIZE);
  return true;
}

void *rt_open(size_t budget) {
  reserved = (budget + CHUNK - 1) / CHUNK * CHUNK;
  void *p = mmap(nullptr, reserved, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (p == MAP_FAILED) {
    rt_keep(false, "%zu bytes of address space refused", reserved);
    return nullptr;
  }
  backed = 0;
  return base = (char *)p;
}

bool rt_commit(size_t top) {
  const size_t want = (top + CHUNK - 1) / CHUNK * CHUNK;
  if (want <= backed) return true;
  if (rt_lost()) return false;
  if (want > reserved || su_fault("cuda_malloc") ||
      mprotect(base + backed, want - backed, PROT_READ | PROT_WRITE) != 0) {
    rt_keep(false, "%.1f MB more of device memory refused", 1e-6 * (double)(want - backed));
    return false;
  }
  memset(base + backed, 0xff, want - backed);     /* NaNs: what is read before it is written shows */
  backed = want;
  return true;
}

bool rt_upload(void *dst, const void *src, size_t bytes) {
  if (rt_injected("cuda_copy", "copy to the device")) return false;
  memcpy(dst, src, bytes);
  return true;
}

bool rt_download(void *dst, const void *src, size_t bytes) {
  if (rt_injected("cuda_copy", "copy from the device")) return false;
  memcpy(dst, src, bytes);
  return true;
}

bool rt_copy(void *dst, const void *src, size_t bytes) {
  if (rt_injected("cuda_copy", "copy within the device")) return false;
  if (recording) recording->push_back(launch{"copy", dim3(1), 0, [=] { memmove(dst, src, bytes); }});
  else memmove(dst, src, bytes);
  return true;
}

bool rt_sync() { return !rt_failed(); }

/* ---- launches and graphs ---- */

static void run(const launch &l) {
  if (l.threads) emu_run(l.name, l.grid, l.threads, l.body);
  else l.body();
}

void emu_launch(const char *name, dim3 grid, unsigned threads, std::function<void()> body) {
  if (rt_injected("cuda_launch", name)) return;
  launch l = {name, grid, threads, std::move(body)};
  if (recording) recording->push_back(std::move(l));
  else run(l);
}

bool rt_capture_begin() {
  recording = new graph;
  return true;
}

void *rt_capture_end() {
  graph *g = recording;
  recording = nullptr;
  if (!rt_failed()) return g;
  delete g;
  return nullptr;
}

bool rt_graph_launch(void *p) {
  if (rt_injected("cuda_launch", "graph")) return false;
  for (const launch &l : *(const graph *)p) run(l);
  return true;
}

void rt_graph_free(void *p) { delete (graph *)p; }
