/* file.c -- durable files. See file.h; who owns a run directory is in claim.c. */
#define _GNU_SOURCE
#include "file.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#define PATH_ROOM 4096
#define CHUNK ((size_t)8 << 20)      /* bytes written before the disk is asked to start on them */

/* ---- faults ---- */

/* SUMI_KILL_AT=site:n, counted as su_fault counts. */
static bool kill_due(const char *name) {
  static char site[32];
  static long at = -1, passes;
  if (at < 0) {
    const char *s = getenv("SUMI_KILL_AT");
    at = 0;
    if (s && sscanf(s, "%31[^:]:%ld", site, &at) != 2) at = 0;
  }
  return at > 0 && strcmp(site, name) == 0 && ++passes == at;
}

bool su_site(const char *site, const char *step) {
  char name[32];
  snprintf(name, sizeof name, "%s-%s", site, step);
  if (kill_due(name)) raise(SIGKILL);
  return su_fault(name);
}

void su_files_init(void) {
  struct sigaction old;
  if (sigaction(SIGXFSZ, NULL, &old) == 0 && old.sa_handler == SIG_DFL) signal(SIGXFSZ, SIG_IGN);
}

/* ---- messages ---- */

char *su_bytes_text(double bytes, char *buf, size_t size) {
  static const char *const unit[] = {"B", "KB", "MB", "GB", "TB"};
  int u = 0;
  while (bytes >= 1000 && u < 4) bytes /= 1000, u++;
  snprintf(buf, size, u && bytes < 10 ? "%.1f %s" : "%.0f %s", bytes, unit[u]);
  return buf;
}

/* Directory part of a path ("." if it has none) into buf. */
static char *dir_of(const char *path, char *buf, size_t size) {
  const char *slash = strrchr(path, '/');
  if (!slash) snprintf(buf, size, ".");
  else snprintf(buf, size, "%.*s", slash == path ? 1 : (int)(slash - path), path);
  return buf;
}

static const char *fs_name(long type) {
  switch ((unsigned long)type) {
    case 0xEF53: return "ext4";
    case 0x58465342: return "xfs";
    case 0x9123683E: return "btrfs";
    case 0x01021994: return "tmpfs";
    case 0x6969: return "nfs";
    case 0x794c7630: return "overlay";
    case 0x0BD00BD0: return "lustre";
    case 0x2FC12FC1: return "zfs";
    default: return "its disk";
  }
}

bool su_file_trouble(const char *path, const char *verb, const char *what, size_t bytes, const char *intact,
                     int err) {
  char dir[PATH_ROOM], need[16], left[16] = "? B";
  dir_of(path, dir, sizeof dir);
  if (!what) what = path;
  if (!intact) intact = "what was there before is intact";
  su_bytes_text((double)bytes, need, sizeof need);
  if (err == EFBIG)
    return su_fail_code(SU_EMACHINE, "%s: %s needs %s, more than a file may have here (ulimit -f); %s", dir, what,
                        need, intact);
  if (err == ENOSPC || err == EDQUOT) {
    struct statfs fs;
    bool known = statfs(dir, &fs) == 0;
    if (known) su_bytes_text((double)fs.f_bavail * (double)fs.f_bsize, left, sizeof left);
    return su_fail_code(SU_EMACHINE, "%s on %s is full (%s free, %s needs %s)%s; %s", dir,
                        known ? fs_name(fs.f_type) : "its disk", left, what, need,
                        err == EDQUOT ? ": your quota is used up" : "", intact);
  }
  return su_fail_code(SU_EMACHINE, "%s: cannot %s %s: %s; %s", dir, verb, what, strerror(err), intact);
}

/* ---- directories ---- */

/* A new name is durable when its parent is synced; failing to is no reason not to go on. */
static void sync_parent(const char *path) {
  char dir[PATH_ROOM];
  su_dir_sync(dir_of(path, dir, sizeof dir));
}

bool su_dir_make(const char *path) {
  char buf[PATH_ROOM];
  size_t n = strlen(path);
  if (n == 0 || n >= sizeof buf) return su_fail("directory name of %zu bytes", n);
  memcpy(buf, path, n + 1);
  for (char *p = buf + 1; ; p++) {
    if (*p != '/' && *p) continue;
    char c = *p;
    *p = 0;
    if (mkdir(buf, 0777) == 0) sync_parent(buf);
    else if (errno != EEXIST)
      return su_file_trouble(buf, "make directory", buf, 4096, "nothing was changed", errno);
    *p = c;
    if (!c) break;
  }
  struct stat st;
  if (stat(path, &st) != 0 || !S_ISDIR(st.st_mode))
    return su_fail("%s is a file, a directory is wanted there", path);
  return true;
}

bool su_dir_sync(const char *path) {
  int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (fd < 0) return false;
  int rc = fsync(fd), err = errno;
  close(fd);
  errno = err;
  return rc == 0 || err == EINVAL;       /* some network file systems cannot sync a directory */
}

bool su_names_add(su_names *names, const char *name) {
  if (names->n == names->cap) {
    int64_t cap = names->cap ? names->cap * 2 : 16;
    char **at = su_realloc(names->at, (size_t)cap * sizeof *at);
    if (!at) return false;
    names->at = at;
    names->cap = cap;
  }
  names->at[names->n] = su_strdup(name);
  return names->at[names->n] && ++names->n;
}

void su_names_free(su_names *names) {
  for (int64_t i = 0; i < names->n; i++) su_free(names->at[i]);
  su_free(names->at);
  *names = (su_names){0};
}

static int by_name(const void *a, const void *b) { return strcmp(*(char *const *)a, *(char *const *)b); }

bool su_dir_list(const char *path, su_names *out) {
  *out = (su_names){0};
  DIR *d = opendir(path);
  if (!d && (errno == ENOENT || errno == ENOTDIR)) return true;
  if (!d) return su_fail("%s: cannot list: %s", path, strerror(errno));
  bool ok = true;
  for (struct dirent *e; ok && (e = readdir(d));)
    if (strcmp(e->d_name, ".") != 0 && strcmp(e->d_name, "..") != 0) ok = su_names_add(out, e->d_name);
  closedir(d);
  if (ok && out->n) qsort(out->at, (size_t)out->n, sizeof *out->at, by_name);
  if (!ok) su_names_free(out);
  return ok;
}

/* .NAME.PID.tmp, as temporary() makes them; nothing else is ever swept. */
static bool is_temporary(const char *name) {
  size_t n = strlen(name);
  if (name[0] != '.' || n < 8 || strcmp(name + n - 4, ".tmp") != 0) return false;
  const char *p = name + n - 4;
  while (p > name && p[-1] >= '0' && p[-1] <= '9') p--;
  return p < name + n - 4 && p - 1 > name && p[-1] == '.';
}

int su_tmp_sweep(const char *dir) {
  su_names names;
  int removed = 0;
  if (!su_dir_list(dir, &names)) return 0;
  for (int64_t i = 0; i < names.n; i++) {
    char path[PATH_ROOM];
    if (!is_temporary(names.at[i])) continue;
    snprintf(path, sizeof path, "%s/%s", dir, names.at[i]);
    removed += unlink(path) == 0;
  }
  su_names_free(&names);
  return removed;
}

/* ---- reading and writing ---- */

char *su_file_read(const char *path, size_t *bytes) {
  struct stat st;
  size_t got = 0;
  char *buf = NULL;
  int fd = open(path, O_RDONLY | O_CLOEXEC);
  if (fd < 0 || fstat(fd, &st) != 0) goto fail;
  buf = su_malloc((size_t)st.st_size + 1);
  if (!buf) { close(fd); return NULL; }
  while (got < (size_t)st.st_size) {
    ssize_t n = read(fd, buf + got, (size_t)st.st_size - got);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) goto fail;
    if (n == 0) break;                   /* it was truncated meanwhile: what there is */
    got += (size_t)n;
  }
  close(fd);
  buf[got] = 0;
  if (bytes) *bytes = got;
  return buf;
fail:
  su_fail("%s: cannot read: %s", path, strerror(errno));
  if (fd >= 0) close(fd);
  su_free(buf);
  return NULL;
}

static bool write_plain(int fd, const char *p, size_t bytes) {
  while (bytes) {
    ssize_t n = write(fd, p, bytes < CHUNK ? bytes : CHUNK);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return false;
    p += n;
    bytes -= (size_t)n;
    /* Large files: let the disk begin now, so that the fsync at the end has little left to wait for. */
    if (bytes >= CHUNK) sync_file_range(fd, 0, 0, SYNC_FILE_RANGE_WRITE);
  }
  return true;
}

bool su_write_all(int fd, const void *data, size_t bytes, const char *site) {
  char name[32];
  snprintf(name, sizeof name, "%s-write", site);
  bool die = kill_due(name);
  if (!su_fault(name) && !die) return write_plain(fd, data, bytes);
  bool half = write_plain(fd, data, bytes / 2);
  if (die) raise(SIGKILL);
  if (half) errno = ENOSPC;
  return false;
}

static size_t parts_size(const su_put *put) {
  size_t n = 0;
  for (int i = 0; i < put->n_parts; i++) n += put->parts[i].bytes;
  return n;
}

/* Does the file hold exactly the parts? errno says why not (EIO: other bytes than were written). */
static bool reads_back(const char *path, const su_put *put) {
  static const size_t room = 1 << 18;
  char *buf = su_malloc(room);
  int fd = buf ? open(path, O_RDONLY | O_CLOEXEC) : -1;
  bool same = fd >= 0;
  for (int i = 0; same && i < put->n_parts; i++) {
    const char *p = put->parts[i].data;
    for (size_t left = put->parts[i].bytes; same && left;) {
      ssize_t n = read(fd, buf, left < room ? left : room);
      if (n < 0 && errno == EINTR) continue;
      if (n >= 0) errno = EIO;
      same = n > 0 && memcmp(buf, p, (size_t)n) == 0;
      p += n > 0 ? n : 0;
      left -= n > 0 ? (size_t)n : 0;
    }
  }
  int err = errno;
  if (fd >= 0) close(fd);
  su_free(buf);
  errno = err;
  return same;
}

/* Opens .NAME.PID.tmp beside the file. One of our own pid was left by a dead namesake: containers reuse
 * pids. */
static int temporary(const char *path, const char *dir, char *tmp, size_t size) {
  const char *slash = strrchr(path, '/');
  snprintf(tmp, size, "%s/.%s.%d.tmp", dir, slash ? slash + 1 : path, (int)getpid());
  int fd = open(tmp, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
  if (fd >= 0 || errno != EEXIST) return fd;
  unlink(tmp);
  return open(tmp, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
}

/* Everything up to the rename; names the step that failed, NULL if none, errno set. */
static const char *put_temporary(const su_put *put, const char *dir, char *tmp, size_t size) {
  if (su_site(put->site, "open")) return errno = EIO, "create";
  int fd = temporary(put->path, dir, tmp, size);
  if (fd < 0) return "create";
  const char *failed = NULL;
  for (int i = 0; !failed && i < put->n_parts; i++)
    if (!su_write_all(fd, put->parts[i].data, put->parts[i].bytes, put->site)) failed = "write";
  if (!failed && su_site(put->site, "fsync")) errno = EIO, failed = "sync";
  if (!failed && fsync(fd) != 0) failed = "sync";
  int err = errno;
  if (close(fd) != 0 && !failed) err = errno, failed = "close";
  errno = err;
  if (failed || !put->verify) return failed;
  if (su_site(put->site, "verify")) return errno = EIO, "read back";
  return reads_back(tmp, put) ? NULL : "read back";
}

bool su_file_put(const su_put *put) {
  char dir[PATH_ROOM], tmp[PATH_ROOM + 64] = "";
  su_files_init();
  dir_of(put->path, dir, sizeof dir);
  const char *failed = put_temporary(put, dir, tmp, sizeof tmp);
  if (!failed && su_site(put->site, "rename")) errno = EIO, failed = "rename";
  if (!failed && rename(tmp, put->path) != 0) failed = "rename";
  if (failed) {
    int err = errno;
    if (tmp[0]) unlink(tmp);
    return su_file_trouble(put->path, failed, put->what, parts_size(put), put->intact, err);
  }
  if (su_site(put->site, "dirsync")) errno = EIO, failed = "sync the directory of";
  if (!failed && !su_dir_sync(dir)) failed = "sync the directory of";
  if (!failed) return true;
  return su_file_trouble(put->path, failed, put->what, parts_size(put), put->intact, errno);
}
