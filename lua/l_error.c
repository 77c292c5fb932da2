/* l_error.c -- errors with the script's line: how C and Lua code of the library raises them, and what is made of
 * the errors that plain Lua raises. An error of ours is a table {code=, msg=}; code is the exit code.
 *
 * Lua forgets a function that ends in `return f(x)` when f is a Lua function, and with it the line of a mistake in
 * that call. C functions leave the caller where it is: so scripts get the library's functions behind core.entry. */
#include "l.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- where the script is ---- */

/* The folder of the library's Lua half, with its last slash; the registry keeps it. */
static const char *library(lua_State *L) {
  lua_getfield(L, LUA_REGISTRYINDEX, "sumi.library");
  const char *lib = lua_tostring(L, -1);
  lua_pop(L, 1);
  return lib && *lib ? lib : "\n";
}

static bool is_library(const char *lib, const char *source) { return strncmp(source + 1, lib, strlen(lib)) == 0; }

bool sul_script_line(lua_State *L, lua_Debug *ar) {
  const char *lib = library(L);
  for (int level = 0; lua_getstack(L, level, ar); level++) {
    lua_getinfo(L, "Sl", ar);
    if (ar->currentline > 0 && ar->source[0] == '@' && !is_library(lib, ar->source)) return true;
  }
  return false;
}

void sul_where(lua_State *L) {
  lua_Debug ar;
  if (sul_script_line(L, &ar)) lua_pushfstring(L, "%s:%d: ", ar.source + 1, ar.currentline);
  else if (lua_getfield(L, LUA_REGISTRYINDEX, "sumi.blame") != LUA_TSTRING) {
    lua_pop(L, 1);
    lua_pushliteral(L, "");
  }
}

/* core.where([f]) -> "file:line: " of the script, or "". Of a function f: where it is written. */
static int l_where(lua_State *L) {
  lua_Debug ar;
  if (lua_isfunction(L, 1) && !lua_iscfunction(L, 1)) {
    lua_settop(L, 1);
    lua_getinfo(L, ">S", &ar);
    if (ar.source[0] == '@') lua_pushfstring(L, "%s:%d: ", ar.source + 1, ar.linedefined);
    else lua_pushliteral(L, "");
    return 1;
  }
  sul_where(L);
  return 1;
}

/* core.blame(where or nil): the line to name when something fails while no function of the script runs. */
static int l_blame(lua_State *L) {
  lua_settop(L, 1);
  lua_setfield(L, LUA_REGISTRYINDEX, "sumi.blame");
  return 0;
}

/* ---- raising ---- */

/* Throw {code=, msg=}; the message is on top of the stack. */
static int throw_message(lua_State *L, int code) {
  su_scope_end(0, NULL);               /* at the Lua edge no C scope is open: drop what the failed call made */
  lua_createtable(L, 0, 2);
  lua_insert(L, -2);
  lua_setfield(L, -2, "msg");
  lua_pushinteger(L, code);
  lua_setfield(L, -2, "code");
  luaL_setmetatable(L, "sumi.error");
  return lua_error(L);
}

int sul_raise(lua_State *L) {
  int code = su_error_code();
  sul_where(L);
  lua_pushstring(L, su_error());
  lua_concat(L, 2);
  return throw_message(L, code ? code : SU_ESCRIPT);
}

int sul_fail(lua_State *L, int code, const char *fmt, ...) {
  char text[2048];
  va_list ap;
  va_start(ap, fmt);
  vsnprintf(text, sizeof text, fmt, ap);
  va_end(ap);
  sul_where(L);
  lua_pushstring(L, text);
  lua_concat(L, 2);
  return throw_message(L, code);
}

/* core.fail([code,] msg): raise with the script's line. */
static int l_fail(lua_State *L) {
  int code = SU_ESCRIPT, at = 1;
  if (lua_type(L, 1) == LUA_TNUMBER && lua_gettop(L) > 1) code = (int)lua_tointeger(L, at++);
  luaL_checkstring(L, at);
  sul_where(L);
  lua_pushvalue(L, at);
  lua_concat(L, 2);
  return throw_message(L, code);
}

/* core.fail_at(where, [code,] msg): raise with a line noted earlier by core.where. */
static int l_fail_at(lua_State *L) {
  int code = SU_ESCRIPT, at = 2;
  if (lua_type(L, 2) == LUA_TNUMBER && lua_gettop(L) > 2) code = (int)lua_tointeger(L, at++);
  lua_pushstring(L, luaL_checkstring(L, 1));
  lua_pushstring(L, luaL_checkstring(L, at));
  lua_concat(L, 2);
  return throw_message(L, code);
}

static int error_tostring(lua_State *L) {
  lua_getfield(L, 1, "msg");
  return 1;
}

/* ---- what plain Lua raises ---- */

/* Does the first line begin "file:12: "? */
static bool has_line(const char *msg) {
  for (const char *p = msg; *p && *p != '\n'; p++) {
    size_t n = *p == ':' ? strspn(p + 1, "0123456789") : 0;
    if (n && p > msg && p[n + 1] == ':') return true;
  }
  return false;
}

/* The innermost Lua function, ours or the script's. */
static bool raiser(lua_State *L, lua_Debug *ar) {
  for (int level = 1; lua_getstack(L, level, ar); level++) {
    lua_getinfo(L, "Sl", ar);
    if (ar->currentline > 0 && ar->source[0] == '@') return true;
  }
  return false;
}

/* core.explain(e) -> e as people should read it; a message handler. An error of ours stays as it is. */
int sul_explain(lua_State *L) {
  lua_Debug ar;
  if (lua_istable(L, 1) && lua_getfield(L, 1, "msg") == LUA_TSTRING) {
    lua_settop(L, 1);
    return 1;
  }
  lua_settop(L, 1);
  if (lua_type(L, 1) != LUA_TSTRING) {
    if (luaL_getmetafield(L, 1, "__tostring") != LUA_TNIL) luaL_tolstring(L, 1, NULL);
    else lua_pushfstring(L, "a %s was raised as an error", luaL_typename(L, 1));
    lua_replace(L, 1);
    lua_settop(L, 1);
  }
  const char *msg = lua_tostring(L, 1);
  if (getenv("SUMI_TRACE") && *getenv("SUMI_TRACE")) {
    luaL_traceback(L, L, msg, 1);
    return 1;
  }
  if (!raiser(L, &ar)) return 1;
  const char *own = strstr(msg, ar.short_src) == msg ? msg + strlen(ar.short_src) : NULL;
  /* one of ours that tells another line passed on what the script raised */
  if (is_library(library(L), ar.source) && (own || !has_line(msg))) {
    sul_where(L);
    lua_pushfstring(L, "%s\n  inside the library (%s:%d); SUMI_TRACE=1 shows the way there",
                    own && has_line(msg) ? strchr(own + 1, ':') + 2 : msg, ar.source + 1, ar.currentline);
  } else if (own) {
    lua_pushstring(L, ar.source + 1);  /* Lua shortens long names */
    lua_pushstring(L, own);
  } else {
    if (has_line(msg)) lua_pushliteral(L, "");
    else sul_where(L);
    lua_pushvalue(L, 1);
  }
  lua_concat(L, 2);
  return 1;
}

/* ---- functions for scripts ---- */

static int returned(lua_State *L, int status, lua_KContext ctx) {
  (void)status;
  (void)ctx;
  return lua_gettop(L);
}

static int through(lua_State *L) {
  lua_pushvalue(L, lua_upvalueindex(1));
  lua_insert(L, 1);
  lua_callk(L, lua_gettop(L) - 1, LUA_MULTRET, 0, returned);
  return returned(L, LUA_OK, 0);
}

/* core.entry(f) -> a C function that calls f; f itself when it is one. */
static int l_entry(lua_State *L) {
  luaL_checktype(L, 1, LUA_TFUNCTION);
  lua_settop(L, 1);
  if (!lua_iscfunction(L, 1)) lua_pushcclosure(L, through, 1);
  return 1;
}

/* core.library(path): files that begin so are the library's; errors name the script's line above them. */
static int l_library(lua_State *L) {
  luaL_checkstring(L, 1);
  lua_settop(L, 1);
  lua_setfield(L, LUA_REGISTRYINDEX, "sumi.library");
  return 0;
}

void sul_open_error(lua_State *L) {
  static const luaL_Reg functions[] = {{"where", l_where}, {"library", l_library}, {"blame", l_blame}, {"fail", l_fail},
    {"fail_at", l_fail_at}, {"explain", sul_explain}, {"entry", l_entry}, {NULL, NULL}};
  luaL_setfuncs(L, functions, 0);
  if (luaL_newmetatable(L, "sumi.error")) {
    lua_pushcfunction(L, error_tostring);
    lua_setfield(L, -2, "__tostring");
  }
  lua_pop(L, 1);
}
