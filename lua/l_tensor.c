/* l_tensor.c -- tensors as Lua userdata: making, reading, arithmetic, the step, differentiation. Ops are in l_ops.c. */
#include "l.h"

#include "../runtime/ops/ops.h"
#include "../runtime/plugin.h"

#include <stdio.h>
#include <string.h>

#define TYPE "sumi.tensor"

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
int sul_give(lua_State *L, su_tensor *t) {
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
      snprintf(buf, sizeof buf, "%s%.5g", k ? " " : " {", v[k]);
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
    int whole;
    s->shape[k] = (int64_t)lua_tointegerx(L, -1, &whole);
    if (!whole) sul_fail(L, SU_ESCRIPT, "axis %d of a shape must be a whole number, not %s", k + 1, luaL_tolstring(L, -1, NULL));
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
    if (!lua_isnumber(L, -1)) sul_fail(L, SU_ESCRIPT, "tensor: entry %d must be a number, not %s", k, luaL_typename(L, -1));
    double v = lua_tonumber(L, -1);
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
  if (lua_type(L, 1) != LUA_TSTRING) return sul_fail(L, SU_ESCRIPT, "tensor: wants a list of numbers, got %s", luaL_typename(L, 1));
  const char *raw = lua_tolstring(L, 1, &bytes);
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
  return sul_give(L, t);
}

/* core.full(value, shape[, device[, dtype]]) */
static int l_full(lua_State *L) {
  su_device *dev = device_arg(L, 3);
  su_spec s;
  shape_arg(L, 2, &s, dtype_arg(L, 4, dev->real));
  sul_site(L);
  return sul_give(L, su_full(dev, &s, luaL_checknumber(L, 1)));
}

/* randn(d1, d2, ...) or core.randn(shape[, mean, std[, device]]) */
static int random_tensor(lua_State *L, su_tensor *(*make)(su_device *, const su_spec *, double, double), double a, double b) {
  su_spec s;
  bool table = lua_istable(L, 1);
  for (int k = 1; !table && k <= lua_gettop(L); k++)
    if (lua_type(L, k) != LUA_TNUMBER)
      return sul_fail(L, SU_ESCRIPT, "axis %d of a shape must be a whole number, not %s", k, luaL_typename(L, k));
  su_device *dev = device_arg(L, table ? 4 : lua_gettop(L) + 1);
  shape_arg(L, 1, &s, dev->real);
  sul_site(L);
  return sul_give(L, make(dev, &s, table ? luaL_optnumber(L, 2, a) : a, table ? luaL_optnumber(L, 3, b) : b));
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
    if (strcmp(what, su_dtype_name(k)) == 0) return sul_give(L, su_cast(t, k));
  size_t letters = strspn(what, "bfiu");
  if (letters && what[letters] && strspn(what + letters, "0123456789") == strlen(what + letters)) dtype_arg(L, 2, SU_F32);
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
  return ok ? sul_give(L, y) : sul_raise(L);
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
  if (!su_keep(sul_tensor(L, 1))) return sul_raise(L);
  lua_settop(L, 1);
  return 1;
}

static int t_detach(lua_State *L) { return sul_give(L, su_detach(sul_tensor(L, 1))); }

/* t:rows(first, count): a view of entries of the leading axis, counted from 1 */
static int t_rows(lua_State *L) {
  return sul_give(L, su_rows(sul_tensor(L, 1), luaL_checkinteger(L, 2) - 1, luaL_optinteger(L, 3, 1)));
}

static int t_learn(lua_State *L) {
  su_tensor *t = sul_tensor(L, 1);
  t->learns = lua_isnone(L, 2) || lua_toboolean(L, 2);
  lua_settop(L, 1);
  return 1;
}

/* ---- arithmetic ---- */

/* One side of an operator, of which the other is a tensor. */
static su_tensor *side(lua_State *L, int idx, const char *sign) {
  if (!luaL_testudata(L, idx, TYPE))
    sul_fail(L, SU_ESCRIPT, "%s: wants tensors%s, its %s side is %s", sign, strcmp(sign, "..") == 0 ? "" : " or numbers",
             idx == 1 ? "left" : "right", luaL_typename(L, idx));
  return sul_tensor(L, idx);
}

static int arith(lua_State *L, const char *sign, su_tensor *(*op)(su_tensor *, su_tensor *)) {
  su_tensor *a = side(L, 1, sign), *b = side(L, 2, sign);
  return sul_give(L, op(a, b));
}

static int t_add(lua_State *L) {
  sul_site(L);
  if (lua_type(L, 2) == LUA_TNUMBER) return sul_give(L, su_affine(sul_tensor(L, 1), 1, lua_tonumber(L, 2)));
  if (lua_type(L, 1) == LUA_TNUMBER) return sul_give(L, su_affine(sul_tensor(L, 2), 1, lua_tonumber(L, 1)));
  return arith(L, "+", su_add);
}

static int t_sub(lua_State *L) {
  sul_site(L);
  if (lua_type(L, 2) == LUA_TNUMBER) return sul_give(L, su_affine(sul_tensor(L, 1), 1, -lua_tonumber(L, 2)));
  if (lua_type(L, 1) == LUA_TNUMBER) return sul_give(L, su_affine(sul_tensor(L, 2), -1, lua_tonumber(L, 1)));
  return arith(L, "-", su_sub);
}

static int t_mul(lua_State *L) {
  sul_site(L);
  if (lua_type(L, 2) == LUA_TNUMBER) return sul_give(L, su_affine(sul_tensor(L, 1), lua_tonumber(L, 2), 0));
  if (lua_type(L, 1) == LUA_TNUMBER) return sul_give(L, su_affine(sul_tensor(L, 2), lua_tonumber(L, 1), 0));
  return arith(L, "*", su_mul);
}

static int t_div(lua_State *L) {
  sul_site(L);
  if (lua_type(L, 2) == LUA_TNUMBER) return sul_give(L, su_affine(sul_tensor(L, 1), 1 / lua_tonumber(L, 2), 0));
  if (lua_type(L, 1) == LUA_TNUMBER) return sul_give(L, su_affine(su_recip(sul_tensor(L, 2)), lua_tonumber(L, 1), 0));
  return arith(L, "/", su_div);
}

static int t_pow(lua_State *L) {
  sul_site(L);
  if (lua_type(L, 2) != LUA_TNUMBER)
    return sul_fail(L, SU_ESCRIPT, "^: the exponent is a number, got %s", luaL_typename(L, 2));
  return sul_give(L, su_pow(side(L, 1, "^"), lua_tonumber(L, 2)));
}

static int t_unm(lua_State *L) {
  sul_site(L);
  return sul_give(L, su_neg(sul_tensor(L, 1)));
}

/* a .. b joins channels, the last axis */
static int t_concat(lua_State *L) {
  sul_site(L);
  su_tensor *a = side(L, 1, ".."), *b = side(L, 2, "..");
  return sul_give(L, su_concat(a, b, a->spec.ndim - 1));
}

static int t_len(lua_State *L) {
  su_tensor *t = sul_tensor(L, 1);
  lua_pushinteger(L, t->spec.ndim ? t->spec.shape[0] : 1);
  return 1;
}

/* ---- devices and memory ---- */

static int l_set_device(lua_State *L) {
  if (!su_device_get(luaL_checkstring(L, 1))) return sul_raise(L);
  lua_settop(L, 1);
  lua_setfield(L, LUA_REGISTRYINDEX, "sumi.device");
  return 0;
}

/* core.set_tf32(on): for the device that set_device chose */
static int l_set_tf32(lua_State *L) {
  su_device_tf32(device_arg(L, 2), lua_toboolean(L, 1));
  return 0;
}

static int l_describe_device(lua_State *L) {
  char buf[512];
  su_device *d = device_arg(L, 1);
  d->describe(d, buf, sizeof buf);
  lua_pushstring(L, buf);
  return 1;
}

/* core.device_info([device]) -> {name=, pads=}; pads: wants a mirrored border made by the norm before it, see nn/norm.c */
static int l_device_info(lua_State *L) {
  su_device *d = device_arg(L, 1);
  lua_createtable(L, 0, 2);
  lua_pushstring(L, d->name);
  lua_setfield(L, -2, "name");
  lua_pushboolean(L, d->pads);
  lua_setfield(L, -2, "pads");
  return 1;
}

/* core.plugin(name) -> {ready=, text=, path=}: what there is to say of a device that a plug-in may give; path: nil without one.
 * text: the device, or the reason, a semicolon and the remedy. Raises nothing. */
static int l_plugin(lua_State *L) {
  su_plugin_state s = {.text = ""};
  su_plugin_look(luaL_checkstring(L, 1), &s);
  lua_createtable(L, 0, 3);
  lua_pushboolean(L, s.ready);
  lua_setfield(L, -2, "ready");
  lua_pushstring(L, s.text);
  lua_setfield(L, -2, "text");
  if (*s.path) lua_pushstring(L, s.path);
  else lua_pushnil(L);
  lua_setfield(L, -2, "path");
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

/* core.cast_once(w, dtype, old or nil, version) -> w in dtype, w's version. It is `old`, made of that version of w, if that
 * can be used again: where gradients are wanted its node must be on the tape and not yet given back. */
static int l_cast_once(lua_State *L) {
  su_tensor *w = sul_tensor(L, 1), **old = luaL_testudata(L, 3, TYPE);
  bool learns = su_recording() && (w->learns || su_on_tape(w));
  bool same = old && *old && (*old)->data && lua_tointeger(L, 4) == w->st->version;
  lua_pushinteger(L, w->st->version);
  if (same && (!learns || su_on_tape(*old))) {
    lua_pushvalue(L, 3);
  } else {
    sul_site(L);
    sul_push(L, su_cast(w, dtype_arg(L, 2, SU_F32)));
    su_scope_end(0, NULL);
  }
  lua_insert(L, -2);
  return 2;
}

static const luaL_Reg functions[] = {
  {"drop", l_drop}, {"tensor", l_tensor}, {"full", l_full}, {"randn", l_randn},
  {"rand", l_rand}, {"cast_once", l_cast_once}, {"set_device", l_set_device}, {"set_tf32", l_set_tf32}, {"describe_device", l_describe_device},
  {"device_info", l_device_info}, {"plugin", l_plugin},
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
  luaL_newmetatable(L, TYPE);
  luaL_setfuncs(L, metamethods, 0);
  lua_newtable(L);
  luaL_setfuncs(L, methods, 0);
  lua_pushvalue(L, -1);
  lua_setfield(L, -4, "methods");      /* core.methods: the library adds ops and its own */
  lua_setfield(L, -2, "__index");
  lua_pop(L, 1);
}
