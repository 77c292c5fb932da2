/* l_host.c -- what this machine is: CPU and its features, memory, versions of the libraries that run. Adds to
 * sumi.core. Read from /proc, so the answer is what the kernel lets us use. Sizes are bytes. */
#define _GNU_SOURCE
#include "l.h"

#include "../runtime/cpu/bf16.h"

#include <stdio.h>              /* before jpeglib.h, which uses FILE */

#include <dnnl.h>
#include <fcntl.h>
#include <hdf5.h>
#include <jpeglib.h>
#include <png.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/utsname.h>
#include <unistd.h>
#include <webp/decode.h>
#include <zlib.h>

/* The value after "key...: " in text, up to the line's end, into buf; "" if it is not there. */
static const char *field(const char *all, const char *key, char *buf, size_t size) {
  buf[0] = '\0';
  const char *p = strstr(all, key);
  if (p) p = strchr(p, ':');
  if (!p) return buf;
  p += 1 + strspn(p + 1, " \t");
  size_t n = strcspn(p, "\n");
  if (n >= size) n = size - 1;
  memcpy(buf, p, n);
  buf[n] = '\0';
  return buf;
}

static bool has_word(const char *line, const char *word) {
  size_t n = strlen(word);
  for (const char *p = line; (p = strstr(p, word)); p += n)
    if ((p == line || p[-1] == ' ') && (p[n] == ' ' || p[n] == '\0')) return true;
  return false;
}

/* The first `size` bytes of a file of /proc; "" if it cannot be read. */
static const char *proc_head(const char *path, char *buf, size_t size) {
  int fd = open(path, O_RDONLY | O_CLOEXEC);
  ssize_t n = fd < 0 ? 0 : read(fd, buf, size - 1);
  buf[n > 0 ? n : 0] = '\0';
  if (fd >= 0) close(fd);
  return buf;
}

/* cpu() -> {name, threads, avx2, avx512, avx512_bf16, amx}: what the kernel lets us use of the CPU; and bf16: by what we
 * multiply it, "amx", "avx512" or nil (SUMI_CPU_WITHOUT=bf16 or amx denies it) */
static int l_cpu(lua_State *L) {
  static const char *const flags[][2] = {{"avx2", "avx2"}, {"avx512", "avx512f"}, {"avx512_bf16", "avx512_bf16"},
                                         {"amx", "amx_bf16"}};
  char text[8192], buf[4096];
  proc_head("/proc/cpuinfo", text, sizeof text);
  lua_createtable(L, 0, 6);
  field(text, "model name", buf, sizeof buf);
  struct utsname u;
  sul_set_string(L, "name", buf[0] || uname(&u) != 0 ? buf : u.machine);
  sul_set_integer(L, "threads", sysconf(_SC_NPROCESSORS_ONLN));
  field(text, "flags", buf, sizeof buf);
  for (size_t i = 0; i < sizeof flags / sizeof flags[0]; i++) {
    lua_pushboolean(L, has_word(buf, flags[i][1]));
    lua_setfield(L, -2, flags[i][0]);
  }
  if (su_bf16_unit() != SU_BF16_NONE) sul_set_string(L, "bf16", su_bf16_unit() == SU_BF16_AMX ? "amx" : "avx512");
  return 1;
}

/* memory() -> {total, available} of the machine */
static int l_memory(lua_State *L) {
  char text[4096], buf[64];
  proc_head("/proc/meminfo", text, sizeof text);
  lua_createtable(L, 0, 2);
  sul_set_integer(L, "total", 1024 * (lua_Integer)strtoll(field(text, "MemTotal", buf, sizeof buf), NULL, 10));
  sul_set_integer(L, "available", 1024 * (lua_Integer)strtoll(field(text, "MemAvailable", buf, sizeof buf), NULL, 10));
  return 1;
}

/* peak_rss() -> most memory this process had resident, ever */
static int l_peak_rss(lua_State *L) {
  struct rusage r;
  getrusage(RUSAGE_SELF, &r);
  lua_pushinteger(L, 1024 * (lua_Integer)r.ru_maxrss);
  return 1;
}

/* cpu_seconds() -> user + system time of this process */
static int l_cpu_seconds(lua_State *L) {
  struct rusage r;
  getrusage(RUSAGE_SELF, &r);
  lua_pushnumber(L, (double)(r.ru_utime.tv_sec + r.ru_stime.tv_sec) +
                        1e-6 * (double)(r.ru_utime.tv_usec + r.ru_stime.tv_usec));
  return 1;
}

static int l_hostname(lua_State *L) {
  char buf[256] = "";
  gethostname(buf, sizeof buf - 1);
  lua_pushstring(L, buf);
  return 1;
}

static int l_pid(lua_State *L) {
  lua_pushinteger(L, getpid());
  return 1;
}

#define QUOTE2(x) #x
#define QUOTE(x) QUOTE2(x)

/* versions() -> {sumi, lua, hdf5, onednn, jpeg, png, webp, zlib, compiler}: what is running, not what was built
 * against, wherever the library tells (libjpeg-turbo does not). */
static int l_versions(lua_State *L) {
  unsigned major = 0, minor = 0, patch = 0;
  lua_createtable(L, 0, 9);
  sul_set_string(L, "sumi", SUMI_VERSION);
  sul_set_string(L, "lua", LUA_VERSION_MAJOR "." LUA_VERSION_MINOR "." LUA_VERSION_RELEASE);
  H5get_libversion(&major, &minor, &patch);
  lua_pushfstring(L, "%d.%d.%d", (int)major, (int)minor, (int)patch);
  lua_setfield(L, -2, "hdf5");
  const dnnl_version_t *d = dnnl_version();
  lua_pushfstring(L, "%d.%d.%d", d->major, d->minor, d->patch);
  lua_setfield(L, -2, "onednn");
#ifdef LIBJPEG_TURBO_VERSION
  sul_set_string(L, "jpeg", "libjpeg-turbo " QUOTE(LIBJPEG_TURBO_VERSION));
#else
  sul_set_string(L, "jpeg", "libjpeg " QUOTE(JPEG_LIB_VERSION));
#endif
  sul_set_string(L, "png", png_get_libpng_ver(NULL));
  int w = WebPGetDecoderVersion();
  lua_pushfstring(L, "%d.%d.%d", w >> 16 & 255, w >> 8 & 255, w & 255);
  lua_setfield(L, -2, "webp");
  sul_set_string(L, "zlib", zlibVersion());
  sul_set_string(L, "compiler", "gcc-compatible " __VERSION__);
  return 1;
}

void sul_open_host(lua_State *L) {
  static const luaL_Reg functions[] = {
      {"cpu", l_cpu}, {"memory", l_memory}, {"peak_rss", l_peak_rss}, {"cpu_seconds", l_cpu_seconds},
      {"hostname", l_hostname}, {"pid", l_pid}, {"versions", l_versions}, {NULL, NULL}};
  luaL_setfuncs(L, functions, 0);
}
