/* rt.h -- what the device (device.cpp) wants of the machine: memory, copies, order, capture.
 * rt_cuda.cu has it from CUDA's runtime, emu/rt_emu.cpp plays it on the CPU and fails on purpose
 * where SUMI_FAULT says so.
 *
 * One GPU, one stream, one thread. What fails leaves a text with rt_keep and returns false (or
 * NULL); rt_error hands it out. Fault sites: cuda_malloc (more memory), cuda_launch (a kernel or a
 * graph), cuda_copy (any way), cuda_lost (at launches and copies). A lost device stays lost in this
 * process, as with CUDA, whose context is beyond repair after a fault in a kernel: every later call
 * fails with the same text, and the next process finds the device well. */
#ifndef SUMI_CUDA_RT_H
#define SUMI_CUDA_RT_H

#include "cu.h"

struct rt_gpu {
  cu_props props;
  int driver, runtime;                  /* CUDA versions: 13000 is 13.0 */
  size_t free;                          /* bytes of device memory that nobody uses */
};

/* GPU number `index`, without starting to use it. False: why has the reason, "; ", the remedy. */
bool rt_find(int index, rt_gpu *gpu, char *why, size_t n);
/* Use it: `budget` bytes of its address space, none of it backed by memory yet. NULL: failed. */
void *rt_open(size_t budget);
/* Back the first `top` bytes with memory. */
bool rt_commit(size_t top);

/* In the stream's order. */
bool rt_upload(void *dst, const void *src, size_t bytes);      /* from the host; src may change afterwards */
bool rt_download(void *dst, const void *src, size_t bytes);    /* to the host; waits */
bool rt_copy(void *dst, const void *src, size_t bytes);        /* within the device */
bool rt_sync();

/* What is launched between begin and end is recorded and runs with every rt_graph_launch. */
bool rt_capture_begin();
void *rt_capture_end();                 /* NULL: failed; nothing of it stays */
bool rt_graph_launch(void *graph);
void rt_graph_free(void *graph);

/* Errors, in device.cpp. Kept is the first since rt_error last handed one out; a lost device's
 * stays. */
void rt_keep(bool lost, const char *fmt, ...) SU_PRINTF(2, 3);
bool rt_failed();                       /* something is kept */
bool rt_lost();
/* Must this fail, because SUMI_FAULT says so or the device is lost? Then that is kept. */
bool rt_injected(const char *site, const char *what);

#endif
