/* base.c -- errors, counted memory, fault injection, clock. See base.h. */
#define _GNU_SOURCE
#include "base.h"

#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static _Thread_local char message[4096];
static _Thread_local int message_code;
static _Thread_local int64_t sys_allocs;

static void set_message(int code, const char *fmt, va_list ap) {
  char text[sizeof message];          /* the arguments may point into the old message */
  vsnprintf(text, sizeof text, fmt, ap);
  memcpy(message, text, sizeof message);
  message_code = code;
}

bool su_fail(const char *fmt, ...) {
  va_list ap;
  va_start(ap, fmt);
  set_message(SU_ESCRIPT, fmt, ap);
  va_end(ap);
  return false;
}

bool su_fail_code(int code, const char *fmt, ...) {
  va_list ap;
  va_start(ap, fmt);
  set_message(code, fmt, ap);
  va_end(ap);
  return false;
}

void su_error_note(const char *fmt, ...) {
  size_t n = strlen(message);
  if (n + 2 >= sizeof message) return;
  message[n++] = '\n';
  va_list ap;
  va_start(ap, fmt);
  vsnprintf(message + n, sizeof message - n, fmt, ap);
  va_end(ap);
}

const char *su_error(void) { return message; }
int su_error_code(void) { return message_code; }

/* ---- fault injection ---- */

#define MAX_FAULTS 8
static struct fault { char site[24]; long at; atomic_long passes; } faults[MAX_FAULTS];
static int n_faults = -1;            /* -1: the environment has not been read yet */

static void read_faults(void) {
  const char *s = getenv("SUMI_FAULT");
  int n = 0;
  while (s && *s && n < MAX_FAULTS) {
    struct fault *f = &faults[n];
    if (sscanf(s, "%23[^:]:%ld", f->site, &f->at) == 2) n++;
    s = strchr(s, ',');
    if (s) s++;
  }
  n_faults = n;
}

bool su_fault(const char *site) {
  if (n_faults == 0) return false;
  if (n_faults < 0) read_faults();
  for (int i = 0; i < n_faults; i++)
    if (strcmp(faults[i].site, site) == 0 && atomic_fetch_add(&faults[i].passes, 1) + 1 == faults[i].at)
      return true;
  return false;
}

/* ---- memory ---- */

void su_count_sys_alloc(void) { sys_allocs++; }
int64_t su_sys_allocs(void) { return sys_allocs; }

static void *counted(void *p, size_t bytes) {
  su_count_sys_alloc();
  if (!p) su_fail_code(SU_EMACHINE, "out of memory: %zu bytes refused by the system", bytes);
  return p;
}

void *su_malloc(size_t bytes) {
  return counted(su_fault("malloc") ? NULL : malloc(bytes ? bytes : 1), bytes);
}

void *su_calloc(size_t bytes) {
  return counted(su_fault("malloc") ? NULL : calloc(1, bytes ? bytes : 1), bytes);
}

void *su_realloc(void *p, size_t bytes) {
  return counted(su_fault("malloc") ? NULL : realloc(p, bytes ? bytes : 1), bytes);
}

void su_free(void *p) { free(p); }

char *su_strdup(const char *s) {
  size_t n = strlen(s) + 1;
  char *p = su_malloc(n);
  if (p) memcpy(p, s, n);
  return p;
}

double su_now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}
