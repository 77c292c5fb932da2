/* l_fields.c -- named fields of Lua tables, for all files of the binding. */
#include "l.h"

void sul_set_integer(lua_State *L, const char *key, lua_Integer v) {
  lua_pushinteger(L, v);
  lua_setfield(L, -2, key);
}

void sul_set_string(lua_State *L, const char *key, const char *v) {
  lua_pushstring(L, v);
  lua_setfield(L, -2, key);
}

const char *sul_option(lua_State *L, int idx, const char *name, const char *otherwise) {
  if (!lua_istable(L, idx)) return otherwise;
  lua_getfield(L, idx, name);
  const char *s = luaL_optstring(L, -1, otherwise);
  lua_pop(L, 1);                         /* anchored in the table */
  return s;
}
