/* claim.c -- claims on run directories. See claim.h. */
#define _GNU_SOURCE
#include "claim.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <time.h>
#include <unistd.h>

#include "file.h"

#define STALE 300.0                    /* seconds after which a silent heartbeat means dead */

static void read_line(const char *path, char *buf, size_t size) {
  buf[0] = 0;
  FILE *f = fopen(path, "r");
  if (!f) return;
  if (!fgets(buf, (int)size, f)) buf[0] = 0;
  buf[strcspn(buf, "\n")] = 0;
  fclose(f);
}

void su_owner_self(su_owner *me) {
  *me = (su_owner){.pid = (int)getpid()};
  if (gethostname(me->host, sizeof me->host - 1) != 0) me->host[0] = 0;
  read_line("/proc/sys/kernel/random/boot_id", me->boot, sizeof me->boot);
  const char *array = getenv("SLURM_ARRAY_JOB_ID"), *task = getenv("SLURM_ARRAY_TASK_ID");
  const char *job = getenv("SLURM_JOB_ID");
  if (array && task) snprintf(me->job, sizeof me->job, "%.16s_%.12s", array, task);
  else if (job) snprintf(me->job, sizeof me->job, "%.31s", job);
  time_t now = time(NULL);
  struct tm tm;
  gmtime_r(&now, &tm);
  strftime(me->since, sizeof me->since, "%Y-%m-%dT%H:%M:%SZ", &tm);
}

bool su_pid_alive(int pid) { return pid > 0 && (kill(pid, 0) == 0 || errno == EPERM); }

static void read_owner(int fd, su_owner *o) {
  char text[769];
  *o = (su_owner){0};
  ssize_t n = pread(fd, text, sizeof text - 1, 0);
  text[n > 0 ? n : 0] = 0;
  char *rest = NULL;
  for (char *l = strtok_r(text, "\n", &rest); l; l = strtok_r(NULL, "\n", &rest)) {
    if (strncmp(l, "pid ", 4) == 0) o->pid = atoi(l + 4);
    if (strncmp(l, "host ", 5) == 0) snprintf(o->host, sizeof o->host, "%s", l + 5);
    if (strncmp(l, "boot ", 5) == 0) snprintf(o->boot, sizeof o->boot, "%.39s", l + 5);
    if (strncmp(l, "job ", 4) == 0) snprintf(o->job, sizeof o->job, "%.31s", l + 4);
    if (strncmp(l, "since ", 6) == 0) snprintf(o->since, sizeof o->since, "%.31s", l + 6);
  }
}

/* One write of a fixed length: a claim that was truncated first could be found empty after a kill. */
static bool write_owner(int fd, const su_owner *o) {
  char text[768];
  memset(text, '\n', sizeof text);
  int n = snprintf(text, sizeof text, "pid %d\nhost %s\nboot %s\njob %s\nsince %s\n", o->pid, o->host,
                   o->boot, o->job, o->since);
  text[n] = '\n';
  return pwrite(fd, text, sizeof text, 0) == (ssize_t)sizeof text && fsync(fd) == 0;
}

static bool no_locks(int err) { return err == ENOLCK || err == ENOSYS || err == EOPNOTSUPP || err == EINVAL; }

su_held su_claim_peek(const char *path, su_owner *owner) {
  su_owner me;
  *owner = (su_owner){0};
  int fd = open(path, O_RDONLY | O_CLOEXEC);
  if (fd < 0) return SU_UNKNOWN;
  read_owner(fd, owner);
  su_owner_self(&me);
  bool here = owner->boot[0] && strcmp(owner->boot, me.boot) == 0;
  su_held held = here ? SU_FREE : SU_UNKNOWN;
  if (flock(fd, LOCK_SH | LOCK_NB) != 0) {
    if (errno == EWOULDBLOCK) held = SU_HELD;
    else held = !here ? SU_UNKNOWN : su_pid_alive(owner->pid) ? SU_HELD : SU_FREE;
  }
  close(fd);
  return held;
}

/* A reader's peek holds the lock for an instant, so a refusal is asked again before it is believed. */
static bool lock(int fd) {
  for (int i = 0; i < 5; i++) {
    if (flock(fd, LOCK_EX | LOCK_NB) == 0) return true;
    if (errno != EWOULDBLOCK && errno != EINTR) return false;
    nanosleep(&(struct timespec){.tv_nsec = 20000000}, NULL);
  }
  errno = EWOULDBLOCK;
  return false;
}

/* path without "/claim" */
static int run_length(const char *path) {
  const char *slash = strrchr(path, '/');
  return slash ? (int)(slash - path) : (int)strlen(path);
}

static bool taken(const char *path, const su_owner *o) {
  if (!o->pid) return su_fail("%.*s: another process has just claimed this run", run_length(path), path);
  return su_fail("%.*s: process %d on %s is writing this run, since %s; stop it first, or choose another variant "
                 "or seed", run_length(path), path, o->pid, o->host[0] ? o->host : "an unnamed host", o->since);
}

/* The lock is ours; may the claim be? */
static bool owner_is_gone(const char *path, const su_owner *o, const su_owner *me, bool locked, double beat) {
  if (!o->pid) return true;                                /* died while it wrote the claim */
  if (strcmp(o->boot, me->boot) == 0) return locked || !su_pid_alive(o->pid) || taken(path, o);
  if (strcmp(o->host, me->host) == 0) return true;         /* this machine was restarted meanwhile */
  if (o->job[0] && strcmp(o->job, me->job) == 0) return true;   /* requeued elsewhere: Slurm runs a job once */
  if (beat < 0 || beat >= STALE) return true;
  return su_fail("%.*s: process %d on %s wrote this run %.0f s ago and cannot be asked from here; wait %.0f s, "
                 "or remove %s if it is dead", run_length(path), path, o->pid, o->host, beat, STALE - beat, path);
}

int su_claim_take(const char *path, double beat) {
  su_owner me, old = {0};
  su_files_init();
  su_owner_self(&me);
  int fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
  bool made = fd >= 0;
  if (!made && errno == EEXIST) fd = open(path, O_RDWR | O_CLOEXEC);
  if (fd < 0) return su_file_trouble(path, "make", "the claim", 256, NULL, errno), -1;
  bool locked = lock(fd), ok = locked;
  int err = errno;
  if (!made) read_owner(fd, &old);
  if (!locked && err == EWOULDBLOCK) taken(path, &old);
  else if (!locked && !no_locks(err)) su_file_trouble(path, "lock", "the claim", 256, NULL, err);
  else ok = made || owner_is_gone(path, &old, &me, locked, beat);
  if (ok && (su_site("claim", "write") || !write_owner(fd, &me)))
    ok = su_file_trouble(path, "write", "the claim", 256, NULL, errno ? errno : EIO);
  if (ok) return fd;
  close(fd);
  return -1;
}

void su_claim_drop(int fd) {
  if (fd >= 0) close(fd);
}
