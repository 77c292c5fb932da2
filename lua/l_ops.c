/* l_ops.c -- every op of the registry as a Lua function, from its signature alone: op(x, w, b, {stride = 2}).
 *
 * Tensors and options come in the signature's order; a last table with names gives options by name. Axes count from 1. */
#include "l.h"

#include "../runtime/replay.h"

#include <stdio.h>
#include <string.h>


typedef struct args {
  su_tensor *in[SU_MAX_IN];
  int64_t i[SU_MAX_INT];
  double r[SU_MAX_REAL];
} args;

static bool is_axis(const su_param *p) { return strcmp(p->name, "axis") == 0; }

static int ints_of(enum su_kind kind) { return kind == SU_PINT4 ? 4 : kind == SU_PINT2 ? 2 : 1; }

static int64_t integer(lua_State *L, const su_op *op, const su_param *p, int idx) {
  int ok;
  lua_Integer v = lua_tointegerx(L, idx, &ok);
  if (!ok) sul_fail(L, SU_ESCRIPT, "%s: %s wants a whole number, got %s", op->name, p->name, luaL_tolstring(L, idx, NULL));
  return v;
}

static void list(lua_State *L, const su_op *op, const su_param *p, int idx, args *a) {
  int64_t off = p->kind == SU_PAXES ? 1 : 0;
  if (lua_type(L, idx) == LUA_TNUMBER) {
    a->i[p->slot] = 1;
    a->i[p->slot + 1] = integer(L, op, p, idx) - off;
    return;
  }
  if (!lua_istable(L, idx)) sul_fail(L, SU_ESCRIPT, "%s: %s wants a list of numbers", op->name, p->name);
  int n = (int)lua_rawlen(L, idx);
  if (n > SU_MAX_DIM) sul_fail(L, SU_ESCRIPT, "%s: %s has %d entries, at most %d", op->name, p->name, n, SU_MAX_DIM);
  a->i[p->slot] = n;
  for (int k = 0; k < n; k++) {
    lua_rawgeti(L, idx, k + 1);
    a->i[p->slot + 1 + k] = integer(L, op, p, lua_gettop(L)) - off;
    lua_pop(L, 1);
  }
}

static void tuple(lua_State *L, const su_op *op, const su_param *p, int idx, args *a) {
  int n = ints_of(p->kind);
  for (int k = 0; k < n; k++) {
    if (lua_type(L, idx) == LUA_TNUMBER) {
      a->i[p->slot + k] = integer(L, op, p, idx) - is_axis(p);
      continue;
    }
    if (!lua_istable(L, idx) || (int)lua_rawlen(L, idx) != n)
      sul_fail(L, SU_ESCRIPT, "%s: %s wants one number or a list of %d", op->name, p->name, n);
    lua_rawgeti(L, idx, k + 1);
    a->i[p->slot + k] = integer(L, op, p, lua_gettop(L));
    lua_pop(L, 1);
  }
}

static void choice(lua_State *L, const su_op *op, const su_param *p, int idx, args *a) {
  const char *want = lua_tostring(L, idx), *c = p->choices;
  for (int k = 0; want; k++) {
    size_t n = strcspn(c, "|)");
    if (strlen(want) == n && strncmp(c, want, n) == 0) {
      a->i[p->slot] = k;
      return;
    }
    if (c[n] == ')') break;
    c += n + 1;
  }
  sul_fail(L, SU_ESCRIPT, "%s: %s is one of %.*s, got '%s'", op->name, p->name, (int)strcspn(p->choices, ")"), p->choices,
           want ? want : luaL_typename(L, idx));
}

static void value(lua_State *L, const su_op *op, const su_param *p, int idx, args *a) {
  switch (p->kind) {
    case SU_PTENSOR:
      if (!sul_test_tensor(L, idx) && !luaL_testudata(L, idx, "sumi.tensor"))
        sul_fail(L, SU_ESCRIPT, "%s: %s wants a tensor, got %s", op->name, p->name, luaL_typename(L, idx));
      a->in[p->slot] = sul_tensor(L, idx);
      break;
    case SU_PREAL:
      if (!lua_isnumber(L, idx) && !luaL_testudata(L, idx, SUL_LIVE))
        sul_fail(L, SU_ESCRIPT, "%s: %s wants a number, got %s", op->name, p->name, luaL_typename(L, idx));
      a->r[p->slot] = sul_real(L, idx, p->slot);
      break;
    case SU_PBOOL:
      a->i[p->slot] = lua_isnumber(L, idx) ? lua_tonumber(L, idx) != 0 : lua_toboolean(L, idx);
      break;
    case SU_PAXES: case SU_PSHAPE: list(L, op, p, idx, a); break;
    case SU_PENUM: choice(L, op, p, idx, a); break;
    default: tuple(L, op, p, idx, a); break;
  }
}

static void fallback(lua_State *L, const su_op *op, const su_param *p, args *a) {
  if (!p->optional) sul_fail(L, SU_ESCRIPT, "%s: %s is missing; the call is %s", op->name, p->name, op->sig);
  if (p->kind == SU_PTENSOR) return;
  if (p->kind == SU_PREAL) a->r[p->slot] = p->fallback;
  else
    for (int k = 0; k < ints_of(p->kind); k++) a->i[p->slot + k] = (int64_t)p->fallback;
}

/* An options table has no list part. */
static bool is_options(lua_State *L, int idx) { return lua_istable(L, idx) && lua_rawlen(L, idx) == 0; }

static void check_names(lua_State *L, const su_op *op, int idx) {
  for (lua_pushnil(L); lua_next(L, idx); lua_pop(L, 1)) {
    const char *name = lua_type(L, -2) == LUA_TSTRING ? lua_tostring(L, -2) : "?";
    bool known = false;
    for (int k = 0; k < op->nparam; k++) known = known || strcmp(op->param[k].name, name) == 0;
    if (!known) sul_fail(L, SU_ESCRIPT, "%s: unknown option '%s'; the call is %s", op->name, name, op->sig);
  }
}

static int call(lua_State *L) {
  const su_op *op = lua_touserdata(L, lua_upvalueindex(1));
  args a = {{NULL}, {0}, {0}};
  int top = lua_gettop(L), options = 0;
  su_live_clear();
  if (top > 0 && is_options(L, top)) {
    options = top--;
    check_names(L, op, options);
  }
  if (top > op->nparam) return sul_fail(L, SU_ESCRIPT, "%s: too many arguments; the call is %s", op->name, op->sig);
  for (int k = 0; k < op->nparam; k++) {
    const su_param *p = &op->param[k];
    if (k < top && !lua_isnil(L, k + 1)) {
      value(L, op, p, k + 1, &a);
      continue;
    }
    if (options && lua_getfield(L, options, p->name) != LUA_TNIL) value(L, op, p, lua_gettop(L), &a);
    else fallback(L, op, p, &a);
    if (options) lua_settop(L, options);
  }
  su_tensor *out[SU_MAX_OUT];
  sul_site(L);
  if (!su_apply(op, a.in, a.i, a.r, out)) return sul_raise(L);
  for (int k = 0; k < op->nout; k++) sul_push(L, out[k]);
  su_scope_end(0, NULL);
  return op->nout;
}

/* core.op_table() -> list of {name, sig, doc, cases, differentiable, writes, f32, any_dtype, cpu} in order of name */
static int op_table(lua_State *L) {
  int n = 0;
  lua_newtable(L);
  for (su_op *op = su_op_first(); op; op = op->next) {
    lua_createtable(L, 0, 8);
    sul_set_string(L, "name", op->name);
    sul_set_string(L, "sig", op->sig);
    sul_set_string(L, "doc", op->doc);
    lua_pushboolean(L, op->grad != NULL);
    lua_setfield(L, -2, "differentiable");
    lua_pushinteger(L, (lua_Integer)op->writes);
    lua_setfield(L, -2, "writes");
    lua_pushinteger(L, (lua_Integer)op->f32);
    lua_setfield(L, -2, "f32");
    lua_pushboolean(L, op->any_dtype);
    lua_setfield(L, -2, "any_dtype");
    lua_pushboolean(L, op->cpu || op->cpu_plan || op->view);
    lua_setfield(L, -2, "cpu");
    lua_newtable(L);
    for (int k = 0; op->cases && op->cases[k]; k++) {
      lua_pushstring(L, op->cases[k]);
      lua_rawseti(L, -2, k + 1);
    }
    lua_setfield(L, -2, "cases");
    lua_rawseti(L, -2, ++n);
  }
  return 1;
}

void sul_open_ops(lua_State *L) {
  lua_newtable(L);
  for (su_op *op = su_op_first(); op; op = op->next) {
    lua_pushlightuserdata(L, op);
    lua_pushcclosure(L, call, 1);
    lua_setfield(L, -2, op->name);
  }
  lua_setfield(L, -2, "ops");
  lua_pushcfunction(L, op_table);
  lua_setfield(L, -2, "op_table");
}
