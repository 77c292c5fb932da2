/* file.h -- files that survive a kill: whole-file replacement, temporary files, locks, who is alive. Knows
 * no formats.
 *
 * A durable file is written beside its place (.NAME.PID.tmp, O_EXCL), written whole, fsynced, read back if
 * asked, renamed over the old one, and the directory is fsynced; so at any instruction either the old or
 * the new file is there, complete. Of the ways tried
 * under SIGKILL it is the one that lost nothing.
 *
 * Every durable step is a named place "SITE-open", -write, -fsync, -verify, -rename, -dirsync, where SITE
 * is the caller's word ("ckpt", "seal", "status"). SUMI_FAULT=SITE-write:2 makes the second write run out
 * of space half way; SUMI_KILL_AT=SITE-write:2 kills the process there with SIGKILL. */
#ifndef SUMI_IO_FILE_H
#define SUMI_IO_FILE_H

#include "../base.h"

/* A piece of a file's content. */
typedef struct su_part { const void *data; size_t bytes; } su_part;

/* One durable replacement. `what` and `intact` go into messages: "checkpoint of step 7", "run.h5 and step 5
 * are intact". */
typedef struct su_put {
  const char *path, *site;
  const char *what, *intact;         /* NULL: the file's name; "what was there before is intact" */
  const su_part *parts;
  int n_parts;
  bool verify;                       /* read back and compare before the rename */
} su_put;

/* Error code SU_EMACHINE; the temporary file is gone and the old file untouched when it fails. */
bool su_file_put(const su_put *put);
/* The whole file, NUL-terminated past its end, to be freed with su_free; NULL with a message. */
char *su_file_read(const char *path, size_t *bytes);
/* Sets the message for a failed write-like call on `path`, from errno value err; always false. */
bool su_file_trouble(const char *path, const char *verb, const char *what, size_t bytes, const char *intact,
                     int err);

bool su_dir_make(const char *path);            /* with parents; no error if it is there */
bool su_dir_sync(const char *path);
/* Sorted names without "." and ".."; a directory that is not there has none. */
typedef struct su_names { char **at; int64_t n, cap; } su_names;
bool su_dir_list(const char *path, su_names *out);
bool su_names_add(su_names *names, const char *name);
void su_names_free(su_names *names);
/* Remove our temporary files in a directory the caller owns (its lock is held); returns how many. */
int su_tmp_sweep(const char *dir);

/* True when SUMI_FAULT asks for a failure at "SITE-STEP"; does not return when SUMI_KILL_AT asks for death
 * there. */
bool su_site(const char *site, const char *step);
/* write() until all is out; false with errno set. A fault or kill at SITE-write strikes when half is out. */
bool su_write_all(int fd, const void *data, size_t bytes, const char *site);
/* A file-size limit (RLIMIT_FSIZE) must be an error of write(), not a deadly signal. Idempotent. */
void su_files_init(void);

/* "212 MB", "0 B": buf of at least 16 bytes; returns buf. */
char *su_bytes_text(double bytes, char *buf, size_t size);

#endif
