/* main.c -- the command `sumi`: a Lua state with the library in it, and the exit code that sumi.cli returns.
 *
 * The Lua half lies in lua/ beside the binary (a checkout) or in SUMI_LUADIR (an installation). */
#define _GNU_SOURCE
#include "l.h"

#include <limits.h>
#include <lualib.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#ifndef SUMI_LUADIR
#define SUMI_LUADIR "/usr/local/share/lua/5.4"
#endif

int luaopen_sumi_core(lua_State *L);

/* ---- memory for Lua: small blocks from free lists that never shrink, so that a training step that has warmed up
 * never reaches the system's allocator ---- */

#define SMALL 512u                     /* up to here in steps of 16 */
#define CLASSES (SMALL / 16 + 9)       /* then 1 KiB ... 128 KiB in powers of two */
static struct spare { struct spare *next; } *spare[CLASSES];

static int class_of(size_t n) {
  if (n <= SMALL) return (int)((n + 15) / 16) - 1;
  int k = (int)(SMALL / 16);
  for (size_t s = 2 * SMALL; s < n; s *= 2) k++;
  return k < (int)CLASSES ? k : -1;
}

static size_t class_size(int k) {
  return k < (int)(SMALL / 16) ? (size_t)(k + 1) * 16 : (size_t)(2 * SMALL) << (k - (int)(SMALL / 16));
}

static void *take(int k) {
  if (!spare[k]) {
    size_t size = class_size(k), count = size < 8192 ? 65536 / size : 1;
    char *slab = su_malloc(size * count);
    for (size_t j = 0; slab && j < count; j++) {
      struct spare *s = (struct spare *)(void *)(slab + j * size);
      s->next = spare[k];
      spare[k] = s;
    }
  }
  struct spare *s = spare[k];
  if (s) spare[k] = s->next;
  return s;
}

static void put(void *p, int k) {
  struct spare *s = p;
  s->next = spare[k];
  spare[k] = s;
}

static void *lua_memory(void *ud, void *p, size_t old, size_t wanted) {
  (void)ud;
  int from = p ? class_of(old) : -1, to = wanted ? class_of(wanted) : -1;
  if (p && old == 0) from = -1;
  if (wanted == 0) {
    if (from >= 0) put(p, from);
    else su_free(p);
    return NULL;
  }
  if (p && from >= 0 && from == to) return p;
  if (from < 0 && to < 0) return su_realloc(p, wanted);
  void *q = to >= 0 ? take(to) : su_malloc(wanted);
  if (!q || !p) return q;
  memcpy(q, p, old < wanted ? old : wanted);
  if (from >= 0) put(p, from);
  else su_free(p);
  return q;
}

/* ---- where the Lua half is ---- */

static void library_dir(char *dir, size_t size) {
  char exe[PATH_MAX];
  ssize_t n = readlink("/proc/self/exe", exe, sizeof exe - 1);
  if (n > 0) {
    exe[n] = 0;
    char *slash = strrchr(exe, '/');
    if (slash) *slash = 0;
    snprintf(dir, size, "%s/lua", exe);
    char probe[PATH_MAX + 32];
    snprintf(probe, sizeof probe, "%s/sumi/cli.lua", dir);
    if (access(probe, R_OK) == 0) return;
  }
  snprintf(dir, size, "%s", SUMI_LUADIR);
}

static void set_paths(lua_State *L, const char *dir) {
  lua_pushfstring(L, "%s/sumi/", dir);
  lua_setfield(L, LUA_REGISTRYINDEX, "sumi.library");
  lua_getglobal(L, "package");
  lua_getfield(L, -1, "path");
  lua_pushfstring(L, "%s/?.lua;%s/?/init.lua;%s", dir, dir, lua_tostring(L, -1));
  lua_setfield(L, -3, "path");
  lua_getfield(L, -2, "preload");
  lua_pushcfunction(L, luaopen_sumi_core);
  lua_setfield(L, -2, "sumi.core");
  lua_pop(L, 3);
}

static int report_error(lua_State *L) {
  int code = SU_ESCRIPT;
  if (lua_istable(L, -1)) {
    lua_getfield(L, -1, "code");
    code = (int)luaL_optinteger(L, -1, SU_ESCRIPT);
    lua_pop(L, 1);
  }
  fprintf(stderr, "%s\n", luaL_tolstring(L, -1, NULL));
  return code;
}

static int start(lua_State *L) {
  int argc = (int)lua_tointeger(L, 1);
  char **argv = lua_touserdata(L, 2);
  char dir[PATH_MAX + 16];
  luaL_openlibs(L);
  library_dir(dir, sizeof dir);
  set_paths(L, dir);
  lua_getglobal(L, "require");
  lua_pushliteral(L, "sumi.cli");
  lua_call(L, 1, 1);
  lua_getfield(L, -1, "main");
  lua_createtable(L, argc, 0);
  for (int k = 0; k < argc; k++) {
    lua_pushstring(L, argv[k]);
    lua_rawseti(L, -2, k);
  }
  lua_call(L, 1, 1);
  return 1;
}

int main(int argc, char **argv) {
  lua_State *L = lua_newstate(lua_memory, NULL);
  if (!L) {
    fprintf(stderr, "sumi: out of memory\n");
    return SU_EMACHINE;
  }
  lua_gc(L, LUA_GCGEN, 0, 0);
  lua_pushcfunction(L, sul_explain);
  lua_pushcfunction(L, start);
  lua_pushinteger(L, argc);
  lua_pushlightuserdata(L, argv);
  int code = lua_pcall(L, 2, 1, 1) == LUA_OK ? (int)luaL_optinteger(L, -1, 0) : report_error(L);
  fflush(NULL);
  _exit(code);                         /* nothing is left to save; libraries' exit handlers only cost time */
}
