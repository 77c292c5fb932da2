/* l_tape.c -- the step, random streams and differentiation as Lua functions. Tensors themselves are in l_tensor.c. */
#include "l.h"

#include "../runtime/tape.h"
#include "../runtime/replay.h"

#include <stdio.h>
#include <string.h>

/* ---- where a node was recorded ---- */

static int held;                       /* > 0: inside a net call, whose line was taken already */

void sul_site(lua_State *L) {
  if (held || !su_recording()) return;
  static char text[300];               /* the last one, as it is often the next */
  static size_t name;                  /* bytes of its file name */
  static int line;
  static const char *interned;
  lua_Debug ar;
  if (!sul_script_line(L, &ar)) {
    su_set_site(NULL);
    return;
  }
  if (!interned || line != ar.currentline || strncmp(text, ar.source + 1, name) != 0 || ar.source[1 + name]) {
    snprintf(text, sizeof text, "%s:%d", ar.source + 1, ar.currentline);
    name = strlen(ar.source + 1), line = ar.currentline;
    interned = su_intern(text);
  }
  su_set_site(interned);
}

/* core.enter() takes the script's line for all that is recorded until the matching core.leave(). */
static int l_enter(lua_State *L) {
  sul_site(L);
  held++;
  return 0;
}

static int l_leave(lua_State *L) {
  (void)L;
  if (held > 0) held--;
  return 0;
}

/* ---- step and tape ---- */

static int l_step_begin(lua_State *L) {
  held = 0;
  su_scope_end(0, NULL);
  su_step_begin((uint64_t)luaL_checkinteger(L, 1), luaL_checkinteger(L, 2));
  return 0;
}

static int l_step_end(lua_State *L) {
  (void)L;
  held = 0;
  su_scope_end(0, NULL);
  su_step_end();
  return 0;
}

static int l_rng(lua_State *L) {
  su_rng_set((uint64_t)luaL_checkinteger(L, 1), luaL_checkinteger(L, 2), (int)luaL_optinteger(L, 3, 0));
  return 0;
}

static int l_recording(lua_State *L) {
  lua_pushboolean(L, lua_isnone(L, 1) ? su_recording() : su_set_recording(lua_toboolean(L, 1)));
  return 1;
}

static int l_tape_mark(lua_State *L) {
  lua_pushinteger(L, su_tape_mark());
  return 1;
}

static int l_tape_clear(lua_State *L) {
  (void)L;
  su_tape_clear();
  return 0;
}

static int l_watch(lua_State *L) { return sul_give(L, su_watch(sul_tensor(L, 1))); }

/* A Lua list of tensors as a C array, in userdata that the stack holds. */
static su_tensor **tensor_list(lua_State *L, int idx, int *n) {
  luaL_checktype(L, idx, LUA_TTABLE);
  *n = (int)lua_rawlen(L, idx);
  su_tensor **xs = lua_newuserdatauv(L, (size_t)(*n + 1) * sizeof *xs, 0);
  for (int k = 0; k < *n; k++) {
    lua_rawgeti(L, idx, k + 1);
    xs[k] = sul_tensor(L, -1);
    lua_pop(L, 1);
  }
  return xs;
}

static int give_list(lua_State *L, su_tensor **gx, int n) {
  lua_createtable(L, n, 0);
  for (int k = 0; k < n; k++) {
    if (gx[k]) sul_push(L, gx[k]);
    else lua_pushboolean(L, 0);
    lua_rawseti(L, -2, k + 1);
  }
  su_scope_end(0, NULL);
  return 1;
}

/* core.grad(y, {x...}, gy or nil, create) -> {gx...} */
static int l_grad(lua_State *L) {
  int n;
  su_tensor *y = sul_tensor(L, 1), *gy = lua_isnoneornil(L, 3) ? NULL : sul_tensor(L, 3);
  bool create = lua_toboolean(L, 4);
  su_tensor **xs = tensor_list(L, 2, &n);
  su_tensor **gx = lua_newuserdatauv(L, (size_t)(n + 1) * sizeof *gx, 0);
  if (!su_grad(y, gy, xs, n, gx, (su_grad_opt){.create = create, .spend_from = -1})) return sul_raise(L);
  return give_list(L, gx, n);
}

/* core.pass_seed(y, weight); core.pass_walk(from, upto, xs, spend); core.pass_take(xs) -> list, false where nothing arrived */
static int l_pass_seed(lua_State *L) {
  double weight = sul_real(L, 2, 0);     /* the first op is the fill that makes the cotangent */
  if (!su_pass_seed(sul_tensor(L, 1), weight)) return sul_raise(L);
  su_live_clear();
  su_scope_end(0, NULL);
  return 0;
}

static int l_pass_walk(lua_State *L) {
  int n;
  su_tensor **xs = tensor_list(L, 3, &n);
  if (!su_pass_walk((int32_t)luaL_checkinteger(L, 1), (int32_t)luaL_checkinteger(L, 2), xs, n, lua_toboolean(L, 4)))
    return sul_raise(L);
  su_scope_end(0, NULL);
  return 0;
}

static int l_pass_take(lua_State *L) {
  int n;
  su_tensor **xs = tensor_list(L, 1, &n);
  su_tensor **gx = lua_newuserdatauv(L, (size_t)(n + 1) * sizeof *gx, 0);
  if (!su_pass_take(xs, n, gx)) return sul_raise(L);
  return give_list(L, gx, n);
}

static int l_tape_reads(lua_State *L) {
  int n;
  su_tensor **xs = tensor_list(L, 2, &n);
  lua_pushboolean(L, su_tape_reads((int32_t)luaL_checkinteger(L, 1), xs, n));
  return 1;
}

static int l_mutate(lua_State *L) {
  su_mutate_grad(luaL_checkstring(L, 1), luaL_checknumber(L, 2));
  return 0;
}

static const luaL_Reg functions[] = {
  {"enter", l_enter}, {"leave", l_leave}, {"step_begin", l_step_begin}, {"step_end", l_step_end}, {"rng", l_rng},
  {"recording", l_recording}, {"tape_mark", l_tape_mark}, {"tape_clear", l_tape_clear}, {"tape_reads", l_tape_reads},
  {"watch", l_watch}, {"grad", l_grad}, {"pass_seed", l_pass_seed}, {"pass_walk", l_pass_walk}, {"pass_take", l_pass_take}, {"mutate", l_mutate},
  {NULL, NULL}};

void sul_open_tape(lua_State *L) { luaL_setfuncs(L, functions, 0); }
