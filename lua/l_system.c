/* l_system.c -- what the Lua library needs of the machine: terminal, signals, clock, processes, files. Adds to
 * sumi.core. Not here: CPU, memory and versions (l_host.c); durable writes of checkpoints (runtime/io/file.h).
 *
 * Functions that can fail for reasons a script may want to look at (a file that is not there) return nil and a
 * message; only misuse raises. Sizes are bytes, times are seconds. */
#define _GNU_SOURCE
#include "l.h"

#include "../runtime/io/file.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

extern char **environ;

static int errno_result(lua_State *L, const char *what) {
  int e = errno;
  lua_pushnil(L);
  lua_pushfstring(L, "%s: %s", what, strerror(e));
  lua_pushinteger(L, e);
  return 3;
}

/* ---- terminal ---- */

static int l_isatty(lua_State *L) {
  lua_pushboolean(L, isatty((int)luaL_optinteger(L, 1, 2)));
  return 1;
}

/* tty_width(fd) -> columns, or nil when fd is no terminal */
static int l_tty_width(lua_State *L) {
  struct winsize w;
  if (ioctl((int)luaL_optinteger(L, 1, 2), TIOCGWINSZ, &w) != 0 || w.ws_col == 0) return 0;
  lua_pushinteger(L, w.ws_col);
  return 1;
}

/* ---- signals ---- */

/* The handler only stores a number. A second INT or TERM means that nobody came to look at the first (or that the
 * user insists): leave at once, without a checkpoint; _exit is safe in a handler. */
static volatile sig_atomic_t pending;

static void on_signal(int sig) {
  if ((sig == SIGINT && pending == SIGINT) || (sig == SIGTERM && pending == SIGTERM)) _exit(128 + sig);
  pending = sig;
}

/* catch_signals(): from now on INT, TERM and USR1 set a flag. */
static int l_catch_signals(lua_State *L) {
  struct sigaction sa;
  memset(&sa, 0, sizeof sa);
  sa.sa_handler = on_signal;
  sa.sa_flags = SA_RESTART;
  sigemptyset(&sa.sa_mask);
  const int which[] = {SIGINT, SIGTERM, SIGUSR1};
  for (int i = 0; i < 3; i++)
    if (sigaction(which[i], &sa, NULL) != 0) return sul_fail(L, SU_EMACHINE, "sigaction: %s", strerror(errno));
  return 0;
}

/* signal_pending() -> "INT", "TERM", "USR1" or nil. The flag stays: the second INT is then known as the second. */
static int l_signal_pending(lua_State *L) {
  switch (pending) {
    case SIGINT: lua_pushliteral(L, "INT"); return 1;
    case SIGTERM: lua_pushliteral(L, "TERM"); return 1;
    case SIGUSR1: lua_pushliteral(L, "USR1"); return 1;
    default: return 0;
  }
}

static int l_signal_clear(lua_State *L) {
  (void)L;
  pending = 0;
  return 0;
}

/* raise_signal(name): to this process; what the tests of the above use. */
static int l_raise_signal(lua_State *L) {
  static const char *const names[] = {"INT", "TERM", "USR1", NULL};
  static const int signals[] = {SIGINT, SIGTERM, SIGUSR1};
  raise(signals[luaL_checkoption(L, 1, NULL, names)]);
  return 0;
}

/* ---- clock ---- */

static int l_now(lua_State *L) {
  lua_pushnumber(L, su_now());
  return 1;
}

/* time() -> seconds since 1970, with fractions */
static int l_time(lua_State *L) {
  struct timespec t;
  clock_gettime(CLOCK_REALTIME, &t);
  lua_pushnumber(L, (double)t.tv_sec + 1e-9 * (double)t.tv_nsec);
  return 1;
}

/* sleep(seconds): ends early when a signal comes */
static int l_sleep(lua_State *L) {
  double s = luaL_checknumber(L, 1);
  if (!(s > 0)) return 0;
  struct timespec t = {(time_t)s, (long)((s - (double)(time_t)s) * 1e9)};
  nanosleep(&t, NULL);
  return 0;
}

/* ---- processes ---- */

typedef struct pile { char *data; size_t len, room; } pile;

static bool pile_read(pile *t, int fd, bool *open) {
  if (t->room - t->len < 4096) {
    size_t room = t->room ? 2 * t->room : 16384;
    char *data = su_realloc(t->data, room);
    if (!data) return false;
    t->data = data;
    t->room = room;
  }
  ssize_t n = read(fd, t->data + t->len, t->room - t->len);
  if (n > 0) t->len += (size_t)n;
  if (n == 0 || (n < 0 && errno != EINTR && errno != EAGAIN)) *open = false;
  return true;
}

/* Read both pipes until the child has closed them. */
static bool drain(int out, int err, pile t[2]) {
  const int fds[2] = {out, err};
  bool open[2] = {true, true};
  while (open[0] || open[1]) {
    struct pollfd p[2] = {{open[0] ? out : -1, POLLIN, 0}, {open[1] ? err : -1, POLLIN, 0}};
    if (poll(p, 2, -1) < 0 && errno != EINTR) return su_fail("poll: %s", strerror(errno));
    for (int k = 0; k < 2; k++)
      if (open[k] && (p[k].revents & (POLLIN | POLLHUP | POLLERR)) && !pile_read(&t[k], fds[k], &open[k]))
        return false;
  }
  return true;
}

/* Start argv with its output going to the two pipes; returns an errno value. */
static int start(char *const argv[], const char *cwd, int out[2], int err[2], pid_t *pid) {
  posix_spawn_file_actions_t fa;
  int e = posix_spawn_file_actions_init(&fa);
  if (e) return e;
  posix_spawn_file_actions_addopen(&fa, 0, "/dev/null", O_RDONLY, 0);
  posix_spawn_file_actions_adddup2(&fa, out[1], 1);
  posix_spawn_file_actions_adddup2(&fa, err[1], 2);
  if (cwd) e = posix_spawn_file_actions_addchdir_np(&fa, cwd);
  if (!e) e = posix_spawnp(pid, argv[0], &fa, NULL, argv, environ);
  posix_spawn_file_actions_destroy(&fa);
  return e;
}

static int wait_for(pid_t pid) {
  int status = 0;
  while (waitpid(pid, &status, 0) < 0)
    if (errno != EINTR) return 255;
  return WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
}

/* Run argv and collect what it prints; returns an errno value, or -1 with su_error set. */
static int run_process(char *const argv[], const char *cwd, pile t[2], int *code) {
  int out[2] = {-1, -1}, err[2] = {-1, -1}, e = 0;
  pid_t pid;
  if (pipe2(out, O_CLOEXEC) != 0 || pipe2(err, O_CLOEXEC) != 0) {
    e = errno;
    goto done;
  }
  e = start(argv, cwd, out, err, &pid);
  close(out[1]);
  close(err[1]);
  out[1] = err[1] = -1;
  if (e) goto done;
  if (!drain(out[0], err[0], t)) {
    kill(pid, SIGKILL);
    e = -1;
  }
  *code = wait_for(pid);
done:
  for (int k = 0; k < 2; k++) {
    if (out[k] >= 0) close(out[k]);
    if (err[k] >= 0) close(err[k]);
  }
  return e;
}

/* spawn({program, arg, ...}, {cwd=}) -> exit code, stdout, stderr; or nil, message when it cannot be started.
 * No shell: arguments arrive as they are. A process ended by signal s has the code 128 + s. */
static int l_spawn(lua_State *L) {
  luaL_checktype(L, 1, LUA_TTABLE);
  lua_settop(L, 2);
  if (!lua_isnil(L, 2)) {
    luaL_checktype(L, 2, LUA_TTABLE);
    lua_getfield(L, 2, "cwd");
  } else {
    lua_pushnil(L);
  }
  const char *cwd = luaL_optstring(L, 3, NULL);
  lua_Integer n = luaL_len(L, 1);
  luaL_argcheck(L, n >= 1 && n < 100000, 1, "the program's name is missing");
  char **argv = lua_newuserdatauv(L, ((size_t)n + 1) * sizeof *argv, 0);
  lua_createtable(L, (int)n, 0);           /* keeps the strings that argv points at */
  for (lua_Integer i = 1; i <= n; i++) {
    lua_geti(L, 1, i);
    argv[i - 1] = (char *)luaL_checkstring(L, -1);
    lua_seti(L, 5, i);
  }
  argv[n] = NULL;
  pile t[2] = {{NULL, 0, 0}, {NULL, 0, 0}};
  int code = 0, e = run_process(argv, cwd, t, &code);
  if (e == 0) {
    lua_pushinteger(L, code);
    for (int k = 0; k < 2; k++) lua_pushlstring(L, t[k].data ? t[k].data : "", t[k].len);
  }
  su_free(t[0].data);
  su_free(t[1].data);
  if (e < 0) return sul_raise(L);
  if (e == 0) return 3;
  errno = e;
  return errno_result(L, argv[0]);
}

/* environ() -> sorted list of "NAME=value" whose names start with one of the given prefixes */
static int l_environ(lua_State *L) {
  int n = lua_gettop(L), count = 0;
  for (int i = 1; i <= n; i++) luaL_checkstring(L, i);
  lua_newtable(L);
  for (char **e = environ; e && *e; e++)
    for (int i = 1; i <= n; i++) {
      const char *prefix = lua_tostring(L, i);
      if (strncmp(*e, prefix, strlen(prefix)) != 0) continue;
      lua_pushstring(L, *e);
      lua_seti(L, n + 1, ++count);
      break;
    }
  lua_getglobal(L, "table");
  lua_getfield(L, -1, "sort");
  lua_pushvalue(L, n + 1);
  lua_call(L, 1, 0);
  lua_settop(L, n + 1);
  return 1;
}

/* ---- files ---- */

static int error_result(lua_State *L) {
  lua_pushnil(L);
  lua_pushstring(L, su_error());
  return 2;
}

/* mkdir_p(path) -> true */
static int l_mkdir_p(lua_State *L) {
  if (!su_dir_make(luaL_checkstring(L, 1))) return error_result(L);
  lua_pushboolean(L, 1);
  return 1;
}

/* listdir(path) -> names in byte order, without . and .. */
static int l_listdir(lua_State *L) {
  const char *path = luaL_checkstring(L, 1);
  struct dirent **names;
  int n = scandir(path, &names, NULL, NULL);
  if (n < 0) return errno_result(L, path);
  lua_createtable(L, n, 0);
  int count = 0;
  for (int i = 0; i < n; i++) {
    const char *name = names[i]->d_name;
    if (strcmp(name, ".") != 0 && strcmp(name, "..") != 0) {
      lua_pushstring(L, name);
      lua_seti(L, -2, ++count);
    }
    free(names[i]);
  }
  free(names);
  lua_getglobal(L, "table");
  lua_getfield(L, -1, "sort");
  lua_pushvalue(L, -3);
  lua_call(L, 1, 0);
  lua_pop(L, 1);
  return 1;
}

/* stat(path) -> {type = "file" | "dir" | "other", size, mtime, mode} */
static int l_stat(lua_State *L) {
  const char *path = luaL_checkstring(L, 1);
  struct stat st;
  if (stat(path, &st) != 0) return errno_result(L, path);
  lua_createtable(L, 0, 4);
  sul_set_string(L, "type", S_ISREG(st.st_mode) ? "file" : S_ISDIR(st.st_mode) ? "dir" : "other");
  sul_set_integer(L, "size", (lua_Integer)st.st_size);
  sul_set_integer(L, "mode", (lua_Integer)(st.st_mode & 07777));
  lua_pushnumber(L, (double)st.st_mtim.tv_sec + 1e-9 * (double)st.st_mtim.tv_nsec);
  lua_setfield(L, -2, "mtime");
  return 1;
}

static int l_realpath(lua_State *L) {
  const char *path = luaL_checkstring(L, 1);
  char *real = realpath(path, NULL);
  if (!real) return errno_result(L, path);
  lua_pushstring(L, real);
  free(real);
  return 1;
}

static int l_getcwd(lua_State *L) {
  char buf[PATH_MAX];
  if (!getcwd(buf, sizeof buf)) return errno_result(L, ".");
  lua_pushstring(L, buf);
  return 1;
}

/* writable(path) -> whether this user may write there */
static int l_writable(lua_State *L) {
  const char *path = luaL_checkstring(L, 1);
  if (access(path, W_OK) != 0) return errno_result(L, path);
  lua_pushboolean(L, 1);
  return 1;
}

/* remove(path) -> true; a file or an empty folder */
static int l_remove(lua_State *L) {
  const char *path = luaL_checkstring(L, 1);
  if (remove(path) != 0) return errno_result(L, path);
  lua_pushboolean(L, 1);
  return 1;
}

/* disk_free(path) -> bytes a plain user may still write */
static int l_disk_free(lua_State *L) {
  const char *path = luaL_checkstring(L, 1);
  struct statvfs v;
  if (statvfs(path, &v) != 0) return errno_result(L, path);
  lua_pushinteger(L, (lua_Integer)v.f_bavail * (lua_Integer)v.f_frsize);
  return 1;
}

/* read_file(path [, limit]) -> its bytes (at most limit) */
static int l_read_file(lua_State *L) {
  const char *path = luaL_checkstring(L, 1);
  lua_Integer limit = luaL_optinteger(L, 2, LUA_MAXINTEGER);
  FILE *f = fopen(path, "rb");
  if (!f) return errno_result(L, path);
  luaL_Buffer b;
  luaL_buffinit(L, &b);
  while (limit > 0) {
    size_t want = limit < LUAL_BUFFERSIZE ? (size_t)limit : LUAL_BUFFERSIZE;
    size_t n = fread(luaL_prepbuffer(&b), 1, want, f);
    luaL_addsize(&b, n);
    limit -= (lua_Integer)n;
    if (n < want) break;
  }
  int e = ferror(f) ? errno : 0;
  fclose(f);
  luaL_pushresult(&b);
  errno = e;
  return e ? errno_result(L, path) : 1;
}

/* write_file_atomic(path, bytes) -> true: a reader sees the old file or the new one, whole. */
static int l_write_file_atomic(lua_State *L) {
  su_part part;
  const char *path = luaL_checkstring(L, 1);
  part.data = luaL_checklstring(L, 2, &part.bytes);
  su_put put = {.path = path, .site = "file", .parts = &part, .n_parts = 1};
  if (!su_file_put(&put)) return error_result(L);
  lua_pushboolean(L, 1);
  return 1;
}

/* base64(bytes) -> text, for data URIs (RFC 4648, padded) */
static int l_base64(lua_State *L) {
  static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  size_t n;
  const unsigned char *s = (const unsigned char *)luaL_checklstring(L, 1, &n);
  luaL_Buffer b;
  char *out = luaL_buffinitsize(L, &b, (n + 2) / 3 * 4);
  size_t o = 0;
  for (size_t i = 0; i < n; i += 3) {
    size_t have = n - i;
    unsigned v = (unsigned)s[i] << 16 | (have > 1 ? (unsigned)s[i + 1] << 8 : 0) | (have > 2 ? s[i + 2] : 0);
    out[o++] = digits[v >> 18];
    out[o++] = digits[v >> 12 & 63];
    out[o++] = have > 1 ? digits[v >> 6 & 63] : '=';
    out[o++] = have > 2 ? digits[v & 63] : '=';
  }
  luaL_pushresultsize(&b, o);
  return 1;
}

void sul_open_system(lua_State *L) {
  static const luaL_Reg functions[] = {
      {"isatty", l_isatty}, {"tty_width", l_tty_width},
      {"catch_signals", l_catch_signals}, {"signal_pending", l_signal_pending},
      {"signal_clear", l_signal_clear}, {"raise_signal", l_raise_signal},
      {"now", l_now}, {"time", l_time}, {"sleep", l_sleep},
      {"spawn", l_spawn}, {"environ", l_environ},
      {"mkdir_p", l_mkdir_p}, {"listdir", l_listdir}, {"stat", l_stat}, {"realpath", l_realpath},
      {"getcwd", l_getcwd}, {"writable", l_writable}, {"remove", l_remove}, {"disk_free", l_disk_free},
      {"read_file", l_read_file}, {"write_file_atomic", l_write_file_atomic}, {"base64", l_base64},
      {NULL, NULL}};
  luaL_setfuncs(L, functions, 0);
  sul_open_host(L);
  sul_open_thumb(L);
}
