/* l_replay.c -- recorded steps for lua/sumi/replay.lua: core.list_*. What a recorded step is stands in runtime/replay.h. */
#include "l.h"

#include "../runtime/replay.h"

#define LIST "sumi.list"

static su_list *to_list(lua_State *L, int idx) {
  su_list **u = luaL_checkudata(L, idx, LIST);
  if (!*u) sul_fail(L, SU_ESCRIPT, "this recorded step was freed");
  return *u;
}

/* core.list_begin(device, dry) -> list: what happens until list_end is noted; dry: nothing runs. */
static int l_begin(lua_State *L) {
  su_device *dev = su_device_get(luaL_checkstring(L, 1));
  if (!dev) return sul_raise(L);
  su_list **u = lua_newuserdatauv(L, sizeof *u, 0);
  *u = NULL;
  luaL_setmetatable(L, LIST);
  if (!(*u = su_list_new(dev))) return sul_raise(L);
  su_list_begin(*u, lua_toboolean(L, 2));
  return 1;
}

/* core.list_end() -> true, or false and why the step cannot be replayed */
static int l_end(lua_State *L) {
  su_list *l = su_list_open();
  bool ok = su_list_end();
  lua_pushboolean(L, ok);
  lua_pushstring(L, l ? su_list_reason(l) : "");
  return 2;
}

static int l_pause(lua_State *L) {
  su_list_pause(lua_toboolean(L, 1));
  return 0;
}

static int l_refuse(lua_State *L) {
  su_list_refuse("%s", luaL_checkstring(L, 1));
  return 0;
}

static int l_input(lua_State *L) {
  lua_pushinteger(L, su_list_input(sul_tensor(L, 1)));
  return 1;
}

static int l_result(lua_State *L) {
  lua_pushinteger(L, su_list_result(sul_tensor(L, 1)));
  return 1;
}

/* core.list_number(value, slot) -> a number that ops take where they take reals, given anew at each replay */
static int l_number(lua_State *L) {
  sul_live *n = lua_newuserdatauv(L, sizeof *n, 0);
  n->value = luaL_checknumber(L, 1);
  n->slot = (int)luaL_checkinteger(L, 2);
  luaL_setmetatable(L, SUL_LIVE);
  return 1;
}

double sul_real(lua_State *L, int idx, int real) {
  sul_live *n = luaL_testudata(L, idx, SUL_LIVE);
  if (!n) return luaL_checknumber(L, idx);
  su_live_mark(real, n->slot);
  return n->value;
}

/* core.list_same(a, b) -> true, or false and what differs */
static int l_same(lua_State *L) {
  bool same = su_list_same(to_list(L, 1), to_list(L, 2));
  lua_pushboolean(L, same);
  lua_pushstring(L, same ? "" : su_error());
  return 2;
}

/* core.list_ready(list) -> nil, or why it will not run as one graph on a device that has graphs */
static int l_ready(lua_State *L) {
  su_list *l = to_list(L, 1);
  if (!su_list_ready(l)) return sul_raise(L);
  if (!su_list_reason(l)[0]) return 0;
  lua_pushstring(L, su_list_reason(l));
  return 1;
}

/* core.list_rest(device): what its lists hold of memory is free until one of them runs again */
static int l_rest(lua_State *L) {
  su_device *dev = su_device_get(luaL_checkstring(L, 1));
  if (!dev) return sul_raise(L);
  su_list_rest(dev);
  return 0;
}

/* core.list_give(list, slot, tensor) -> true, or false and why it does not fit */
static int l_give(lua_State *L) {
  bool ok = su_list_give(to_list(L, 1), (int)luaL_checkinteger(L, 2), sul_tensor(L, 3));
  lua_pushboolean(L, ok);
  lua_pushstring(L, ok ? "" : su_error());
  return 2;
}

static int l_set(lua_State *L) {
  su_list_live(to_list(L, 1), (int)luaL_checkinteger(L, 2), luaL_checknumber(L, 3));
  return 0;
}

/* core.list_run(list, step, results) -> nil, or the index from 1 of the first result that is not finite */
static int l_run(lua_State *L) {
  su_list *l = to_list(L, 1);
  int n = su_list_sizes(l).results, bad;
  double *results = su_list_scratch(l);
  if (!su_list_run(l, luaL_checkinteger(L, 2), results, &bad)) return sul_raise(L);
  for (int k = 0; k < n; k++) {
    lua_pushnumber(L, results[k]);
    lua_rawseti(L, 3, k + 1);
  }
  if (bad < 0) return 0;
  lua_pushinteger(L, bad + 1);
  return 1;
}

/* core.list_sizes(list) -> {entries, inputs, results, live, bytes, workspace, graph} */
static int l_sizes(lua_State *L) {
  su_list_size s = su_list_sizes(to_list(L, 1));
  lua_createtable(L, 0, 7);
  sul_set_integer(L, "entries", s.entries);
  sul_set_integer(L, "inputs", s.inputs);
  sul_set_integer(L, "results", s.results);
  sul_set_integer(L, "live", s.live);
  sul_set_integer(L, "bytes", (lua_Integer)s.bytes);
  sul_set_integer(L, "workspace", (lua_Integer)s.workspace);
  lua_pushboolean(L, s.graph);
  lua_setfield(L, -2, "graph");
  return 1;
}

/* core.list_fits(list): an error of code 6, with the largest tensors, when the step does not fit the device's budget */
static int l_fits(lua_State *L) { return su_list_fits(to_list(L, 1)) ? 0 : sul_raise(L); }

static int l_free(lua_State *L) {
  su_list **u = luaL_checkudata(L, 1, LIST);
  su_list_free(*u);
  *u = NULL;
  return 0;
}

static const luaL_Reg functions[] = {
  {"list_begin", l_begin}, {"list_end", l_end}, {"list_pause", l_pause}, {"list_refuse", l_refuse}, {"list_input", l_input},
  {"list_result", l_result}, {"list_number", l_number}, {"list_same", l_same}, {"list_ready", l_ready}, {"list_give", l_give},
  {"list_set", l_set}, {"list_run", l_run}, {"list_sizes", l_sizes}, {"list_fits", l_fits}, {"list_free", l_free}, {"list_rest", l_rest}, {NULL, NULL}};

void sul_open_replay(lua_State *L) {
  luaL_newmetatable(L, LIST);
  lua_pushcfunction(L, l_free);
  lua_setfield(L, -2, "__gc");
  lua_pop(L, 1);
  luaL_newmetatable(L, SUL_LIVE);
  lua_pop(L, 1);
  luaL_setfuncs(L, functions, 0);
}
