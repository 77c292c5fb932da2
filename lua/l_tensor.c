/* l_tensor.c -- tensors as Lua userdata: making, reading, arithmetic, the step, differentiation. Ops are in l_ops.c. */
#include "l.h"

#include "../runtime/ops/ops.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#define TYPE "sumi.tensor"

/* ---- errors with the script's line ---- */

/* The innermost Lua function that is neither C nor part of the library (core.library is its path's prefix). */
static bool script_line(lua_State *L, lua_Debug *ar) {
  lua_getfield(L, LUA_REGISTRYINDEX, "sumi.library");
  const char *lib = lua_tostring(L, -1);
  size_t n = lib ? strlen(lib) : 0;
  bool found = false;
  for (int level = 0; !found && lua_getstack(L, level, ar); level++) {
    lua_getinfo(L, "Sl", ar);
    found = ar->currentline > 0 && ar->source[0] == '@' && !(n && strncmp(ar->source + 1, lib, n) == 0);
  }
  lua_pop(L, 1);
  return found;
}

void sul_where(lua_State *L) {
  lua_Debug ar;
  if (script_line(L, &ar)) lua_pushfstring(L, "%s:%d: ", ar.source + 1, ar.currentline);
  else lua_pushliteral(L, "");
}

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
  return sul_fail(L, code, "%s", luaL_checkstring(L, at));
}

/* core.where() -> "file:line: " of the script, or "". */
static int l_where(lua_State *L) {
  sul_where(L);
  return 1;
}

static int error_tostring(lua_State *L) {
  lua_getfield(L, 1, "msg");
  return 1;
}

/* ---- userdata ---- */

void sul_push(lua_State *L, su_tensor *t) {
  if (!t) sul_raise(L);
  su_tensor **u = lua_newuserdatauv(L, sizeof *u, 0);
  *u = su_retain(t);
  luaL_setmetatable(L, TYPE);
  if (su_in_step()) return;
  /* the collector cannot see a tensor's size: outside a step, tell it */
  static int64_t debt;
  debt += (int64_t)t->size * (int64_t)su_dtype_size(t->spec.dtype);
  if (debt < (8 << 20)) return;
  lua_gc(L, LUA_GCSTEP, (int)(debt >> 10));
  debt = 0;
}

su_tensor *sul_test_tensor(lua_State *L, int idx) {
  su_tensor **u = luaL_testudata(L, idx, TYPE);
  return u ? *u : NULL;
}

su_tensor *sul_tensor(lua_State *L, int idx) {
  su_tensor **u = luaL_testudata(L, idx, TYPE);
  if (!u) {
    const char *got = luaL_typename(L, idx);
    sul_fail(L, SU_ESCRIPT, "argument %d: a tensor is wanted, got %s", idx, got);
    return NULL;
  }
  if (!*u || !(*u)->data)
    sul_fail(L, SU_ESCRIPT, "this tensor belonged to a step that has ended; keep it with :keep() if it must outlive it");
  return *u;
}

/* What C returned goes to Lua; the scope of this call is closed. */
static int give(lua_State *L, su_tensor *t) {
  sul_push(L, t);
  su_scope_end(0, NULL);
  return 1;
}

static int t_gc(lua_State *L) {
  su_tensor **u = luaL_checkudata(L, 1, TYPE);
  su_release(*u);
  *u = NULL;
  return 0;
}

/* core.drop(t): give the numbers back now; the handle is empty afterwards. */
static int l_drop(lua_State *L) {
  su_tensor **u = luaL_testudata(L, 1, TYPE);
  if (!u) return 0;
  su_release(*u);
  *u = NULL;
  return 0;
}

/* ---- reading and writing ---- */

static int t_item(lua_State *L) {
  su_tensor *t = sul_tensor(L, 1);
  double v;
  if (t->size != 1)
    return sul_fail(L, SU_ESCRIPT, "item: wants a tensor of one number, has shape %s", su_shape_text(&t->spec));
  if (!su_read_f64(t, &v, 1)) return sul_raise(L);
  lua_pushnumber(L, v);
  return 1;
}

static int t_shape(lua_State *L) {
  su_tensor *t = sul_tensor(L, 1);
  lua_createtable(L, t->spec.ndim, 0);
  for (int k = 0; k < t->spec.ndim; k++) {
    lua_pushinteger(L, t->spec.shape[k]);
    lua_rawseti(L, -2, k + 1);
  }
  return 1;
}

static int t_totable(lua_State *L) {
  su_tensor *t = sul_tensor(L, 1);
  double *v = lua_newuserdatauv(L, (size_t)t->size * sizeof *v + 1, 0);
  if (!su_read_f64(t, v, t->size)) return sul_raise(L);
  lua_createtable(L, (int)t->size, 0);
  for (int64_t k = 0; k < t->size; k++) {
    lua_pushnumber(L, v[k]);
    lua_rawseti(L, -2, (lua_Integer)k + 1);
  }
  return 1;
}

static int t_tostring(lua_State *L) {
  su_tensor **u = luaL_checkudata(L, 1, TYPE);
  char buf[256];
  if (!*u || !(*u)->data) {
    lua_pushliteral(L, "tensor of a step that has ended");
    return 1;
  }
  su_tensor *t = *u;
  luaL_Buffer b;
  luaL_buffinit(L, &b);
  luaL_addstring(&b, su_describe(t, buf, sizeof buf));
  double v[16];
  if (t->size <= 16 && su_read_f64(t, v, t->size))
    for (int64_t k = 0; k < t->size; k++) {
      snprintf(buf, sizeof buf, "%s%.5g", k ? " " : "{", v[k]);
      luaL_addstring(&b, buf);
    }
  if (t->size <= 16) luaL_addstring(&b, "}");
  luaL_pushresult(&b);
  return 1;
}

static su_device *device_arg(lua_State *L, int idx) {
  const char *name = luaL_optstring(L, idx, NULL);
  if (!name) {
    lua_getfield(L, LUA_REGISTRYINDEX, "sumi.device");
    name = lua_isstring(L, -1) ? lua_tostring(L, -1) : "cpu";
    lua_pop(L, 1);
  }
  su_device *d = su_device_get(name);
  if (!d) sul_raise(L);
  return d;
}

/* Shape from a table or from the numbers at first, first+1, ...; returns the index behind it. */
static int shape_arg(lua_State *L, int first, su_spec *s, int dtype) {
  *s = (su_spec){.dtype = dtype};
  bool table = lua_istable(L, first);
  int n = table ? (int)lua_rawlen(L, first) : 0, end = first + 1;
  if (!table) {
    for (end = first; lua_type(L, end) == LUA_TNUMBER; end++) n++;
  }
  if (n > SU_MAX_DIM) sul_fail(L, SU_ESCRIPT, "a tensor has at most %d axes, %d given", SU_MAX_DIM, n);
  s->ndim = n;
  for (int k = 0; k < n; k++) {
    if (table) lua_rawgeti(L, first, k + 1);
    else lua_pushvalue(L, first + k);
    s->shape[k] = (int64_t)luaL_checknumber(L, -1);
    lua_pop(L, 1);
    if (s->shape[k] < 0) sul_fail(L, SU_ESCRIPT, "axis %d has the size %d", k + 1, (int)s->shape[k]);
  }
  return end;
}

static int dtype_arg(lua_State *L, int idx, int fallback) {
  const char *name = luaL_optstring(L, idx, NULL);
  for (int k = 0; name && k < SU_DTYPES; k++)
    if (strcmp(name, su_dtype_name(k)) == 0) return k;
  if (name) sul_fail(L, SU_ESCRIPT, "unknown dtype '%s'; there is f32, bf16, f64, u8, i32", name);
  return fallback;
}

static void flatten_numbers(lua_State *L, int idx, luaL_Buffer *b) {
  int n = (int)lua_rawlen(L, idx);
  for (int k = 1; k <= n; k++) {
    lua_rawgeti(L, idx, k);
    if (lua_istable(L, -1)) {
      sul_fail(L, SU_ESCRIPT, "tensor: give the numbers in one flat list and the shape beside it");
    }
    double v = luaL_checknumber(L, -1);
    lua_pop(L, 1);
    luaL_addlstring(b, (const char *)&v, sizeof v);
  }
}

/* core.tensor({numbers}[, shape[, device[, dtype]]]) -> tensor; a flat list, or a string of float64s. */
static int l_tensor(lua_State *L) {
  su_device *dev = device_arg(L, 3);
  int dtype = dtype_arg(L, 4, dev->real);
  lua_settop(L, 2);
  if (lua_type(L, 1) == LUA_TTABLE) {
    luaL_Buffer b;
    luaL_buffinit(L, &b);
    flatten_numbers(L, 1, &b);
    luaL_pushresult(&b);
    lua_replace(L, 1);
  }
  size_t bytes;
  const char *raw = luaL_checklstring(L, 1, &bytes);
  su_spec s = {.dtype = dtype, .ndim = 1, .shape = {(int64_t)(bytes / sizeof(double))}};
  if (lua_istable(L, 2)) shape_arg(L, 2, &s, dtype);
  if (su_spec_size(&s) * (int64_t)sizeof(double) != (int64_t)bytes)
    return sul_fail(L, SU_ESCRIPT, "tensor: %d numbers given, shape %s has %d", (int)(bytes / sizeof(double)),
                    su_shape_text(&s), (int)su_spec_size(&s));
  su_tensor *t = su_new(dev, &s);
  if (!t) return sul_raise(L);
  double *copy = lua_newuserdatauv(L, bytes + 1, 0);  /* a Lua string need not be aligned */
  memcpy(copy, raw, bytes);
  if (!su_write_f64(t, copy, t->size)) return sul_raise(L);
  return give(L, t);
}

/* core.full(value, shape[, device]) */
static int l_full(lua_State *L) {
  su_device *dev = device_arg(L, 3);
  su_spec s;
  shape_arg(L, 2, &s, dev->real);
  return give(L, su_full(dev, &s, luaL_checknumber(L, 1)));
}

/* randn(d1, d2, ...) or core.randn(shape[, mean, std[, device]]) */
static int random_tensor(lua_State *L, su_tensor *(*make)(su_device *, const su_spec *, double, double), double a, double b) {
  su_spec s;
  bool table = lua_istable(L, 1);
  su_device *dev = device_arg(L, table ? 4 : lua_gettop(L) + 1);
  shape_arg(L, 1, &s, dev->real);
  return give(L, make(dev, &s, table ? luaL_optnumber(L, 2, a) : a, table ? luaL_optnumber(L, 3, b) : b));
}

static int l_randn(lua_State *L) { return random_tensor(L, su_randn, 0, 1); }
static int l_rand(lua_State *L) { return random_tensor(L, su_rand, 0, 1); }

/* t:raw() -> the bytes; t:set_raw(bytes) */
static int t_raw(lua_State *L) {
  su_tensor *t = sul_tensor(L, 1);
  size_t n = (size_t)t->size * su_dtype_size(t->spec.dtype);
  luaL_Buffer b;
  char *p = luaL_buffinitsize(L, &b, n);
  if (!su_read_raw(t, p, n)) return sul_raise(L);
  luaL_pushresultsize(&b, n);
  return 1;
}

static int t_set_raw(lua_State *L) {
  size_t n;
  const char *p = luaL_checklstring(L, 2, &n);
  if (!su_write_raw(sul_tensor(L, 1), p, n)) return sul_raise(L);
  lua_settop(L, 1);
  return 1;
}

static int t_to(lua_State *L) {
  su_tensor *t = sul_tensor(L, 1);
  const char *what = luaL_checkstring(L, 2);
  for (int k = 0; k < SU_DTYPES; k++)
    if (strcmp(what, su_dtype_name(k)) == 0) return give(L, su_cast(t, k));
  su_device *dev = device_arg(L, 2);
  if (dev == t->dev) {
    lua_settop(L, 1);
    return 1;
  }
  su_spec s = t->spec;
  if (s.dtype == t->dev->real) s.dtype = dev->real;
  su_tensor *y = su_new(dev, &s);
  double *buf = su_malloc((size_t)t->size * sizeof *buf + 1);
  bool ok = y && buf && su_read_f64(t, buf, t->size) && su_write_f64(y, buf, t->size);
  su_free(buf);
  return ok ? give(L, y) : sul_raise(L);
}

static int t_device(lua_State *L) {
  lua_pushstring(L, sul_tensor(L, 1)->dev->name);
  return 1;
}

static int t_dtype(lua_State *L) {
  lua_pushstring(L, su_dtype_name(sul_tensor(L, 1)->spec.dtype));
  return 1;
}

static int t_size(lua_State *L) {
  lua_pushinteger(L, sul_tensor(L, 1)->size);
  return 1;
}

/* t:name() -> name or nil; t:name(s) -> t, now called s */
static int t_name(lua_State *L) {
  su_tensor *t = sul_tensor(L, 1);
  if (lua_isnoneornil(L, 2)) {
    lua_pushstring(L, t->name);
    return 1;
  }
  t->name = su_intern(luaL_checkstring(L, 2));
  lua_settop(L, 1);
  return 1;
}

static int t_keep(lua_State *L) {
  su_keep(sul_tensor(L, 1));
  lua_settop(L, 1);
  return 1;
}

static int t_detach(lua_State *L) { return give(L, su_detach(sul_tensor(L, 1))); }

/* t:rows(first, count): a view of entries of the leading axis, counted from 1 */
static int t_rows(lua_State *L) {
  return give(L, su_rows(sul_tensor(L, 1), luaL_checkinteger(L, 2) - 1, luaL_optinteger(L, 3, 1)));
}

static int t_learn(lua_State *L) {
  su_tensor *t = sul_tensor(L, 1);
  t->learns = lua_isnone(L, 2) || lua_toboolean(L, 2);
  lua_settop(L, 1);
  return 1;
}

/* ---- arithmetic ---- */

static int arith(lua_State *L, su_tensor *(*op)(su_tensor *, su_tensor *)) {
  return give(L, op(sul_tensor(L, 1), sul_tensor(L, 2)));
}

static void site(lua_State *L);

static int t_add(lua_State *L) {
  site(L);
  if (lua_type(L, 2) == LUA_TNUMBER) return give(L, su_affine(sul_tensor(L, 1), 1, lua_tonumber(L, 2)));
  if (lua_type(L, 1) == LUA_TNUMBER) return give(L, su_affine(sul_tensor(L, 2), 1, lua_tonumber(L, 1)));
  return arith(L, su_add);
}

static int t_sub(lua_State *L) {
  site(L);
  if (lua_type(L, 2) == LUA_TNUMBER) return give(L, su_affine(sul_tensor(L, 1), 1, -lua_tonumber(L, 2)));
  if (lua_type(L, 1) == LUA_TNUMBER) return give(L, su_affine(sul_tensor(L, 2), -1, lua_tonumber(L, 1)));
  return arith(L, su_sub);
}

static int t_mul(lua_State *L) {
  site(L);
  if (lua_type(L, 2) == LUA_TNUMBER) return give(L, su_affine(sul_tensor(L, 1), lua_tonumber(L, 2), 0));
  if (lua_type(L, 1) == LUA_TNUMBER) return give(L, su_affine(sul_tensor(L, 2), lua_tonumber(L, 1), 0));
  return arith(L, su_mul);
}

static int t_div(lua_State *L) {
  site(L);
  if (lua_type(L, 2) == LUA_TNUMBER) return give(L, su_affine(sul_tensor(L, 1), 1 / lua_tonumber(L, 2), 0));
  if (lua_type(L, 1) == LUA_TNUMBER) return give(L, su_affine(su_recip(sul_tensor(L, 2)), lua_tonumber(L, 1), 0));
  return arith(L, su_div);
}

static int t_pow(lua_State *L) {
  site(L);
  return give(L, su_pow(sul_tensor(L, 1), luaL_checknumber(L, 2)));
}

static int t_unm(lua_State *L) {
  site(L);
  return give(L, su_neg(sul_tensor(L, 1)));
}

/* a .. b joins channels, the last axis */
static int t_concat(lua_State *L) {
  site(L);
  su_tensor *a = sul_tensor(L, 1), *b = sul_tensor(L, 2);
  return give(L, su_concat(a, b, a->spec.ndim - 1));
}

static int t_len(lua_State *L) {
  su_tensor *t = sul_tensor(L, 1);
  lua_pushinteger(L, t->spec.ndim ? t->spec.shape[0] : 1);
  return 1;
}

/* ---- where a node was recorded ---- */

static int held;                       /* > 0: inside a net call, whose line was taken already */

static void site(lua_State *L) {
  if (held || !su_recording()) return;
  lua_Debug ar;
  char text[300];
  if (!script_line(L, &ar)) {
    su_set_site(NULL);
    return;
  }
  snprintf(text, sizeof text, "%s:%d", ar.source + 1, ar.currentline);
  su_set_site(su_intern(text));
}

void sul_site(lua_State *L) { site(L); }

/* core.enter() takes the script's line for all that is recorded until the matching core.leave(). */
static int l_enter(lua_State *L) {
  site(L);
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

/* core.draw() -> one uniform in [0,1) from the running stream */
static int l_draw(lua_State *L) {
  su_device *ref = su_device_get("ref");
  su_spec s = {.dtype = SU_F64, .ndim = 1, .shape = {1}};
  su_tensor *t = ref ? su_rand(ref, &s, 0, 1) : NULL;
  double v;
  if (!t || !su_read_f64(t, &v, 1)) return sul_raise(L);
  su_scope_end(0, NULL);
  lua_pushnumber(L, v);
  return 1;
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

static int l_watch(lua_State *L) { return give(L, su_watch(sul_tensor(L, 1))); }

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
  if (!su_pass_seed(sul_tensor(L, 1), luaL_checknumber(L, 2))) return sul_raise(L);
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
  su_pass_take(xs, n, gx);
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

/* ---- devices and memory ---- */

static int l_set_device(lua_State *L) {
  if (!su_device_get(luaL_checkstring(L, 1))) return sul_raise(L);
  lua_settop(L, 1);
  lua_setfield(L, LUA_REGISTRYINDEX, "sumi.device");
  return 0;
}

static int l_describe_device(lua_State *L) {
  char buf[512];
  su_device *d = device_arg(L, 1);
  d->describe(d, buf, sizeof buf);
  lua_pushstring(L, buf);
  return 1;
}

/* core.arena([device]) -> {used=, peak=, top=, sys_allocs=, tensors=} (bytes, calls, tensors) */
static int l_arena(lua_State *L) {
  su_device *d = device_arg(L, 1);
  lua_createtable(L, 0, 5);
  lua_pushinteger(L, (lua_Integer)su_arena_used(d->arena));
  lua_setfield(L, -2, "used");
  lua_pushinteger(L, (lua_Integer)su_arena_peak(d->arena));
  lua_setfield(L, -2, "peak");
  lua_pushinteger(L, (lua_Integer)su_arena_top(d->arena));
  lua_setfield(L, -2, "top");
  lua_pushinteger(L, su_sys_allocs());
  lua_setfield(L, -2, "sys_allocs");
  lua_pushinteger(L, su_live_tensors());
  lua_setfield(L, -2, "tensors");
  return 1;
}

static int l_sys_allocs(lua_State *L) {
  lua_pushinteger(L, su_sys_allocs());
  return 1;
}

static int l_threads(lua_State *L) {
  if (lua_isnumber(L, 1)) su_set_threads((int)lua_tointeger(L, 1));
  lua_pushinteger(L, su_threads());
  return 1;
}

static int l_is_tensor(lua_State *L) {
  lua_pushboolean(L, luaL_testudata(L, 1, TYPE) != NULL);
  return 1;
}

static const luaL_Reg functions[] = {
  {"fail", l_fail}, {"where", l_where}, {"drop", l_drop}, {"tensor", l_tensor}, {"full", l_full}, {"randn", l_randn},
  {"rand", l_rand}, {"enter", l_enter}, {"leave", l_leave}, {"step_begin", l_step_begin}, {"step_end", l_step_end},
  {"rng", l_rng}, {"draw", l_draw}, {"recording", l_recording}, {"tape_mark", l_tape_mark}, {"tape_clear", l_tape_clear},
  {"tape_reads", l_tape_reads}, {"watch", l_watch}, {"grad", l_grad}, {"pass_seed", l_pass_seed}, {"pass_walk", l_pass_walk},
  {"pass_take", l_pass_take}, {"mutate", l_mutate}, {"set_device", l_set_device}, {"describe_device", l_describe_device},
  {"arena", l_arena}, {"sys_allocs", l_sys_allocs}, {"threads", l_threads}, {"is_tensor", l_is_tensor}, {NULL, NULL}};

static const luaL_Reg methods[] = {
  {"item", t_item}, {"shape", t_shape}, {"totable", t_totable}, {"raw", t_raw}, {"set_raw", t_set_raw}, {"to", t_to},
  {"device", t_device}, {"dtype", t_dtype}, {"size", t_size}, {"name", t_name}, {"keep", t_keep}, {"detach", t_detach},
  {"rows", t_rows}, {"learn", t_learn}, {NULL, NULL}};

static const luaL_Reg metamethods[] = {
  {"__gc", t_gc}, {"__close", t_gc}, {"__tostring", t_tostring}, {"__add", t_add}, {"__sub", t_sub}, {"__mul", t_mul},
  {"__div", t_div}, {"__pow", t_pow}, {"__unm", t_unm}, {"__concat", t_concat}, {"__len", t_len}, {NULL, NULL}};

void sul_open_tensor(lua_State *L) {
  luaL_setfuncs(L, functions, 0);
  if (luaL_newmetatable(L, "sumi.error")) {
    lua_pushcfunction(L, error_tostring);
    lua_setfield(L, -2, "__tostring");
  }
  lua_pop(L, 1);
  luaL_newmetatable(L, TYPE);
  luaL_setfuncs(L, metamethods, 0);
  lua_newtable(L);
  luaL_setfuncs(L, methods, 0);
  lua_pushvalue(L, -1);
  lua_setfield(L, -4, "methods");      /* core.methods: the library adds ops and its own */
  lua_setfield(L, -2, "__index");
  lua_pop(L, 1);
}
