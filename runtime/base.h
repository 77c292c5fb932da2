/* base.h -- what everything else stands on: errors, counted memory, SHA-256-free basics. Knows no tensors.
 *
 * Errors: nothing in C prints, exits or jumps. A call that fails leaves one message (su_fail) for its
 * thread and returns false or NULL; whoever is at the edge (the Lua binding, a test) reads su_error().
 * Memory: every allocation of ours goes through su_malloc and friends, so that it can be counted
 * (su_sys_allocs) and made to fail on purpose (SUMI_FAULT=malloc:N fails the N-th). */
#ifndef SUMI_BASE_H
#define SUMI_BASE_H

#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define SUMI_VERSION "0.1.0"

#if defined(__GNUC__)
#define SU_PRINTF(f, a) __attribute__((format(printf, f, a)))
#else
#define SU_PRINTF(f, a)
#endif

/* Codes an error may carry to the command's exit status (DESIGN.md section 4). */
enum su_code { SU_OK = 0, SU_ESCRIPT = 1, SU_EUSAGE = 2, SU_ENONE = 4, SU_EDIVERGED = 5, SU_EMACHINE = 6 };

/* Set this thread's error message (code SU_ESCRIPT); returns false so that `return su_fail(...)` reads well. */
bool su_fail(const char *fmt, ...) SU_PRINTF(1, 2);
/* The same with an exit code of its own, e.g. SU_EMACHINE for a full disk. */
bool su_fail_code(int code, const char *fmt, ...) SU_PRINTF(2, 3);
/* Add a line below the message that is there. */
void su_error_note(const char *fmt, ...) SU_PRINTF(1, 2);
const char *su_error(void);      /* last message of this thread, "" if none; valid until the next failure */
int su_error_code(void);

/* Counted memory. NULL means an error message is set (code SU_EMACHINE). Sizes in bytes. */
void *su_malloc(size_t bytes);
void *su_calloc(size_t bytes);
void *su_realloc(void *p, size_t bytes);
void su_free(void *p);
char *su_strdup(const char *s);
int64_t su_sys_allocs(void);     /* calls that this thread made to the system's allocator through Sumi's code */
void su_count_sys_alloc(void);   /* for code that must call the system allocator by another way (mmap) */

/* Fault injection: SUMI_FAULT="site:n[,site:n]" makes the n-th pass of `site` report true, once. */
bool su_fault(const char *site);

double su_now(void);             /* seconds of a monotonic clock */

#endif
