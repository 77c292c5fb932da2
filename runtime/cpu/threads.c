/* threads.c -- the CPU device's threads: OpenMP's pool, which oneDNN uses as well, so the two never compete.
 *
 * How many: SUMI_THREADS, else the physical cores this process may run on, at most what the cgroup grants.
 * Workers are pinned to cores when all cores of the machine are ours, or SUMI_PIN=1 says so (SUMI_PIN=0:
 * never). The calling thread is not pinned: threads it creates later (loaders) would inherit its single core.
 */
#define _GNU_SOURCE
#include "../op.h"

#include <omp.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static int threads;                     /* 0: not counted yet */

/* First number in a small file, or `otherwise`. */
static long number_in(const char *path, long otherwise) {
  FILE *f = fopen(path, "r");
  if (!f) return otherwise;
  long v;
  if (fscanf(f, "%ld", &v) != 1) v = otherwise;
  fclose(f);
  return v;
}

/* Is cpu the first of its core's hardware threads that we may run on? */
static bool leads_its_core(int cpu, const cpu_set_t *allowed) {
  char path[96];
  snprintf(path, sizeof path, "/sys/devices/system/cpu/cpu%d/topology/thread_siblings_list", cpu);
  long first = number_in(path, cpu);    /* "0,64" or "0-1": the lowest sibling comes first */
  return first == cpu || !CPU_ISSET((int)first, allowed);
}

/* The cores we may use, one hardware thread each; returns how many. */
static int own_cores(cpu_set_t *cores) {
  cpu_set_t allowed;
  int n = 0;
  CPU_ZERO(cores);
  if (sched_getaffinity(0, sizeof allowed, &allowed)) return 1;
  for (int cpu = 0; cpu < CPU_SETSIZE; cpu++)
    if (CPU_ISSET(cpu, &allowed) && leads_its_core(cpu, &allowed)) CPU_SET(cpu, cores), n++;
  return n > 0 ? n : 1;
}

/* CPUs the cgroup grants (v2, then v1), rounded up; a large number when it sets no limit. */
static int granted_cpus(void) {
  long long quota = 0, period = 0;
  FILE *f = fopen("/sys/fs/cgroup/cpu.max", "r");
  if (f) {
    if (fscanf(f, "%lld %lld", &quota, &period) != 2) quota = 0;      /* "max 100000" */
    fclose(f);
  } else {
    quota = number_in("/sys/fs/cgroup/cpu/cpu.cfs_quota_us", 0);
    period = number_in("/sys/fs/cgroup/cpu/cpu.cfs_period_us", 100000);
  }
  return quota > 0 && period > 0 ? (int)((quota + period - 1) / period) : 1 << 20;
}

static void pin_workers(const cpu_set_t *cores) {
#pragma omp parallel num_threads(threads)
  {
    int me = omp_get_thread_num(), k = 0;
    for (int cpu = 0; me > 0 && cpu < CPU_SETSIZE; cpu++)
      if (CPU_ISSET(cpu, cores) && k++ == me) {
        cpu_set_t mine;
        CPU_ZERO(&mine);
        CPU_SET(cpu, &mine);
        sched_setaffinity(0, sizeof mine, &mine);
        break;
      }
  }
}

void su_set_threads(int n) {
  cpu_set_t cores;
  const char *pin = getenv("SUMI_PIN");
  int have = own_cores(&cores);
  threads = n < 1 ? 1 : n > 1024 ? 1024 : n;
  omp_set_dynamic(0);
  omp_set_num_threads(threads);         /* for oneDNN, when this thread calls it */
  bool whole = threads == have && have >= (int)sysconf(_SC_NPROCESSORS_ONLN);
  if (threads > 1 && threads <= have && (pin ? strcmp(pin, "1") == 0 : whole)) pin_workers(&cores);
}

int su_threads(void) {
  if (threads) return threads;
  const char *asked = getenv("SUMI_THREADS");
  int n = asked ? atoi(asked) : 0;
  if (n < 1) {
    cpu_set_t cores;
    n = own_cores(&cores);
    int granted = granted_cpus();
    if (granted < n) n = granted;
  }
  su_set_threads(n);
  return threads;
}

/* Chunks first .. last-1 of [0,n). */
static void run_chunks(int64_t first, int64_t last, int64_t n, int64_t grain, su_range *fn, void *arg) {
  for (int64_t c = first; c < last; c++) fn(arg, c * grain, (c + 1) * grain < n ? (c + 1) * grain : n);
}

void su_parallel(int64_t n, int64_t grain, su_range *fn, void *arg) {
  if (grain < 1) grain = 1;
  int64_t chunks = (n + grain - 1) / grain;
  int team = chunks > 1 ? su_threads() : 1;
  if (chunks < team) team = (int)chunks;
  if (team == 1 || omp_in_parallel()) {
    run_chunks(0, chunks, n, grain, fn, arg);
    return;
  }
#pragma omp parallel num_threads(team)
  {
    int64_t me = omp_get_thread_num(), all = omp_get_num_threads();
    run_chunks(chunks * me / all, chunks * (me + 1) / all, n, grain, fn, arg);
  }
}
