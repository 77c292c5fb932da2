/* threads.c -- the CPU device's threads: a pool of workers that share out the chunks of su_parallel.
 *
 * How many: SUMI_THREADS, else the physical cores this process may run on, at most what the cgroup grants.
 * With SUMI_PIN=1 workers are pinned to cores; the calling thread never is, since threads it creates later
 * (loaders) would inherit its core.
 *
 * Why not OpenMP: its regions end in a barrier of the whole team, so beside any other busy process each
 * region waits until every thread has had a turn, milliseconds each (measured: a training step 10 times
 * slower beside one other run). Here a worker that comes late finds its chunks done by others, and only a
 * chunk that has been begun is waited for. oneDNN brings its own OpenMP team; it is kept to the calling
 * thread (dnn.c). */
#define _GNU_SOURCE
#include "../op.h"

#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { MOST = 256, SPINS = 4000 };      /* threads; looks at `serial` before a worker sleeps, about 50 us */

static int threads;                     /* 0: not counted yet */
static int workers;                     /* started so far, threads - 1 or more */
static atomic_flag busy = ATOMIC_FLAG_INIT;   /* one thread at a time has the workers; others do without */
static _Thread_local bool inside;       /* a chunk of su_parallel is running on this thread */

static struct {
  _Alignas(64) _Atomic uint32_t serial; /* grows with every job; what sleeping workers wait on */
  _Atomic int sleepers;
  _Alignas(64) _Atomic int present;     /* workers that look at the job */
  _Atomic bool open;
  su_range *fn;
  void *arg;
  int64_t n, grain, chunks;
  int team;
} job;

static struct { _Alignas(64) _Atomic int64_t next; int64_t end; } share[MOST];   /* chunks of each thread */

/* ---- a job ---- */

static void pause_briefly(void) {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#endif
}

/* Own chunks first, for what is in this core's cache; then what others have not begun. */
static void work(int me) {
  inside = true;
  for (int k = 0; k < job.team; k++) {
    int who = (me + k) % job.team;
    int64_t c;
    while ((c = atomic_fetch_add_explicit(&share[who].next, 1, memory_order_relaxed)) < share[who].end) {
      int64_t last = (c + 1) * job.grain;
      job.fn(job.arg, c * job.grain, last < job.n ? last : job.n);
    }
  }
  inside = false;
}

static void sleep_until_next(uint32_t seen) {
  atomic_fetch_add(&job.sleepers, 1);
  while (atomic_load(&job.serial) == seen)
    syscall(SYS_futex, &job.serial, FUTEX_WAIT_PRIVATE, seen, NULL, NULL, 0);
  atomic_fetch_sub(&job.sleepers, 1);
}

static void *worker(void *arg) {
  int me = (int)(intptr_t)arg;
  uint32_t seen = 0;
  for (;;) {
    for (int k = 0; k < SPINS && atomic_load(&job.serial) == seen; k++) pause_briefly();
    if (atomic_load(&job.serial) == seen) sleep_until_next(seen);
    atomic_fetch_add(&job.present, 1);
    seen = atomic_load(&job.serial);
    if (atomic_load(&job.open) && me < job.team) work(me);
    atomic_fetch_sub(&job.present, 1);
  }
  return NULL;
}

static void run_job(int team, int64_t chunks, int64_t n, int64_t grain, su_range *fn, void *arg) {
  job.fn = fn, job.arg = arg, job.n = n, job.grain = grain, job.chunks = chunks, job.team = team;
  for (int k = 0; k < team; k++) {
    atomic_store_explicit(&share[k].next, chunks * k / team, memory_order_relaxed);
    share[k].end = chunks * (k + 1) / team;
  }
  atomic_store(&job.open, true);
  atomic_fetch_add(&job.serial, 1);
  if (atomic_load(&job.sleepers) > 0)
    syscall(SYS_futex, &job.serial, FUTEX_WAKE_PRIVATE, MOST, NULL, NULL, 0);
  work(0);
  atomic_store(&job.open, false);       /* who comes now finds the door shut */
  for (int k = 0; atomic_load(&job.present) > 0; k++) {
    if (k < SPINS) pause_briefly();
    else sched_yield();
  }
}

void su_parallel(int64_t n, int64_t grain, su_range *fn, void *arg) {
  if (grain < 1) grain = 1;
  int64_t chunks = (n + grain - 1) / grain;
  int team = chunks > 1 && !inside ? su_threads() : 1;
  if (chunks < team) team = (int)chunks;
  if (team > workers + 1) team = workers + 1;
  if (team > 1 && !atomic_flag_test_and_set(&busy)) {
    run_job(team, chunks, n, grain, fn, arg);
    atomic_flag_clear(&busy);
    return;
  }
  for (int64_t c = 0; c < chunks; c++) fn(arg, c * grain, (c + 1) * grain < n ? (c + 1) * grain : n);
}

/* ---- how many ---- */

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

/* Worker k goes to the (k+1)-th of the cores. */
static void pin(pthread_t thread, int k, const cpu_set_t *cores) {
  int seen = -1;
  for (int cpu = 0; cpu < CPU_SETSIZE; cpu++) {
    if (!CPU_ISSET(cpu, cores) || ++seen != k + 1) continue;
    cpu_set_t one;
    CPU_ZERO(&one);
    CPU_SET(cpu, &one);
    pthread_setaffinity_np(thread, sizeof one, &one);
    return;
  }
}

/* Start workers until there are n; fewer when the system refuses, which costs speed alone. */
static void start_workers(int n) {
  const char *asked = getenv("SUMI_PIN");
  cpu_set_t cores;
  own_cores(&cores);
  sigset_t all, before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);         /* signals go to the main thread */
  for (; workers < n; workers++) {
    pthread_t t;
    if (pthread_create(&t, NULL, worker, (void *)(intptr_t)(workers + 1))) break;
    pthread_detach(t);
    if (asked && strcmp(asked, "1") == 0) pin(t, workers, &cores);
  }
  pthread_sigmask(SIG_SETMASK, &before, NULL);
}

void su_set_threads(int n) {
  threads = n < 1 ? 1 : n > MOST ? MOST : n;
  start_workers(threads - 1);
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
