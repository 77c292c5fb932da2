/* l_h5.c -- HDF5 for Lua: build an image and write it durably, read any file. Adds h5_begin and h5_open to
 * sumi.core. Both give a handle of the same kind; which methods work depends on how it was made. Misuse and
 * failures raise. */
#include "l.h"

#include <string.h>

#include "../runtime/io/h5.h"
#include "l_h5.h"

#define HANDLE "sumi.h5"

typedef struct handle { su_h5 *h; bool building; } handle;

static handle *new_handle(lua_State *L, bool building) {
  handle *p = lua_newuserdatauv(L, sizeof *p, 0);
  *p = (handle){NULL, building};
  luaL_setmetatable(L, HANDLE);
  return p;
}

static su_h5 *checked(lua_State *L, bool building) {
  handle *p = luaL_checkudata(L, 1, HANDLE);
  if (!p->h) sul_fail(L, 1, "this HDF5 handle is closed");
  if (p->building != building)
    sul_fail(L, 1, "this HDF5 %s", building ? "file is open for reading only" : "image is not finished yet");
  return p->h;
}

su_h5 *sul_h5_building(lua_State *L, int idx) {
  handle *p = luaL_checkudata(L, idx, HANDLE);
  luaL_argcheck(L, p->h && p->building, idx, "an HDF5 image being built");
  return p->h;
}

su_h5 *sul_h5_reading(lua_State *L, int idx) {
  handle *p = luaL_checkudata(L, idx, HANDLE);
  luaL_argcheck(L, p->h && !p->building, idx, "an HDF5 file open for reading");
  return p->h;
}

static int done(lua_State *L, bool ok) { return ok ? 0 : sul_raise(L); }

/* h5_begin([expect_bytes]) -> image */
static int l_begin(lua_State *L) {
  lua_Integer expect = luaL_optinteger(L, 1, 0);
  handle *p = new_handle(L, true);
  p->h = su_h5_begin(0, expect > 0 ? (size_t)expect : 0);
  return p->h ? 1 : sul_raise(L);
}

/* h5_open(path) -> file, for reading */
static int l_open(lua_State *L) {
  const char *path = luaL_checkstring(L, 1);
  handle *p = new_handle(L, false);
  p->h = su_h5_open(path);
  return p->h ? 1 : sul_raise(L);
}

static int l_close(lua_State *L) {
  handle *p = luaL_checkudata(L, 1, HANDLE);
  su_h5 *h = p->h;
  p->h = NULL;
  su_h5_close(h);
  return 0;
}

/* ---- building ---- */

/* image:group(path) */
static int l_group(lua_State *L) { return done(L, su_h5_group(checked(L, true), luaL_checkstring(L, 2))); }

/* image:text(path, text): a scalar dataset */
static int l_text(lua_State *L) {
  return done(L, su_h5_text(checked(L, true), luaL_checkstring(L, 2), luaL_checkstring(L, 3)));
}

/* An array of strings, or of numbers, as an attribute of one dimension. */
static int set_array(lua_State *L, su_h5 *h, const char *path, const char *name) {
  lua_Integer n = luaL_len(L, 4);
  lua_geti(L, 4, 1);
  bool texts = lua_type(L, -1) == LUA_TSTRING;
  lua_pop(L, 1);
  void *values = lua_newuserdatauv(L, (size_t)(n + 1) * 8, 0);
  for (lua_Integer i = 1; i <= n; i++) {
    int type = lua_geti(L, 4, i);
    if (type != (texts ? LUA_TSTRING : LUA_TNUMBER))
      return sul_fail(L, 1, "attribute '%s': an array of strings or of numbers, not mixed", name);
    if (texts) ((const char **)values)[i - 1] = lua_tostring(L, -1);     /* anchored in the table */
    else ((double *)values)[i - 1] = lua_tonumber(L, -1);
    lua_pop(L, 1);
  }
  return done(L, texts ? su_h5_set_texts(h, path, name, values, n) : su_h5_set_reals(h, path, name, values, n));
}

/* image:set(path, name, value): an attribute of the value's own type */
static int l_set(lua_State *L) {
  su_h5 *h = checked(L, true);
  const char *path = luaL_checkstring(L, 2), *name = luaL_checkstring(L, 3);
  switch (lua_type(L, 4)) {
    case LUA_TSTRING: return done(L, su_h5_set_text(h, path, name, lua_tostring(L, 4)));
    case LUA_TBOOLEAN: return done(L, su_h5_set_bool(h, path, name, lua_toboolean(L, 4)));
    case LUA_TTABLE: return set_array(L, h, path, name);
    case LUA_TNUMBER:
      if (lua_isinteger(L, 4)) return done(L, su_h5_set_int(h, path, name, lua_tointeger(L, 4)));
      return done(L, su_h5_set_real(h, path, name, lua_tonumber(L, 4)));
    default: return sul_fail(L, 1, "attribute '%s': a %s cannot be stored", name, luaL_typename(L, 4));
  }
}

#define MAX_COLUMNS 16

/* Column descriptions {name, kind} at index 4 -> c; returns how many. Names stay anchored in that table. */
static int get_columns(lua_State *L, su_column *c) {
  lua_Integer n = luaL_len(L, 4);
  if (n < 1 || n > MAX_COLUMNS) return sul_fail(L, 1, "a table has 1 to %d columns", MAX_COLUMNS);
  for (int i = 0; i < n; i++) {
    lua_geti(L, 4, i + 1);
    lua_geti(L, -1, 1);
    lua_geti(L, -2, 2);
    c[i] = (su_column){luaL_checkstring(L, -2), luaL_checkstring(L, -1)[0], (size_t)i * 8};
    if (!strchr("irt", c[i].kind)) return sul_fail(L, 1, "column '%s': kind is i, r or t", c[i].name);
    lua_pop(L, 3);
  }
  return (int)n;
}

static void put_cell(lua_State *L, const su_column *c, lua_Integer row, char *to) {
  bool text = c->kind == 't';
  if (lua_type(L, -1) != (text ? LUA_TSTRING : LUA_TNUMBER) || (c->kind == 'i' && !lua_isinteger(L, -1)))
    sul_fail(L, 1, "table row %d: column '%s' cannot hold a %s", (int)row, c->name, luaL_typename(L, -1));
  if (text) *(const char **)(void *)to = lua_tostring(L, -1);
  else if (c->kind == 'i') *(int64_t *)(void *)to = lua_tointeger(L, -1);
  else *(double *)(void *)to = lua_tonumber(L, -1);
}

/* image:table(path, title, {{name, "i"|"r"|"t"}...}, rows): rows = {{cell...}...},
 * or rows keyed by column names */
static int l_table(lua_State *L) {
  su_column c[MAX_COLUMNS];
  su_h5 *h = checked(L, true);
  const char *path = luaL_checkstring(L, 2), *title = luaL_checkstring(L, 3);
  int n_columns = get_columns(L, c);
  lua_Integer n = luaL_len(L, 5);
  size_t row_bytes = (size_t)n_columns * 8;
  char *rows = lua_newuserdatauv(L, (size_t)n * row_bytes + 1, 0);
  for (lua_Integer i = 0; i < n; i++) {
    lua_geti(L, 5, i + 1);
    for (int k = 0; k < n_columns; k++) {
      if (lua_getfield(L, -1, c[k].name) == LUA_TNIL) lua_pop(L, 1), lua_geti(L, -1, k + 1);
      put_cell(L, &c[k], i + 1, rows + (size_t)i * row_bytes + c[k].offset);
      lua_pop(L, 1);
    }
    lua_pop(L, 1);
  }
  su_table t = {.title = title, .columns = c, .n_columns = n_columns, .rows = rows, .row_bytes = row_bytes,
                .n_rows = n};
  return done(L, su_h5_table(h, path, &t));
}

/* image:put(path, {site=, what=, intact=}) -> bytes: ends the image and writes it durably, read back */
static int l_put(lua_State *L) {
  su_h5 *h = checked(L, true);
  su_image image;
  su_part part;
  su_put put = {.path = luaL_checkstring(L, 2), .parts = &part, .n_parts = 1, .verify = true};
  put.site = sul_option(L, 3, "site", "h5");
  put.what = sul_option(L, 3, "what", NULL);
  put.intact = sul_option(L, 3, "intact", NULL);
  ((handle *)lua_touserdata(L, 1))->h = NULL;
  if (!su_h5_end(h, &image)) return sul_raise(L);
  part = (su_part){image.data, image.bytes};
  bool ok = su_file_put(&put);
  su_free(image.data);
  lua_pushinteger(L, (lua_Integer)image.bytes);
  return ok ? 1 : sul_raise(L);
}

/* ---- reading ---- */

void sul_push_names(lua_State *L, const su_names *names) {
  lua_createtable(L, (int)names->n, 0);
  for (int64_t i = 0; i < names->n; i++) {
    lua_pushstring(L, names->at[i]);
    lua_rawseti(L, -2, i + 1);
  }
}

/* file:kind(path) -> "group", "dataset", "other" or nil */
static int l_kind(lua_State *L) {
  switch (su_h5_kind(checked(L, false), luaL_checkstring(L, 2))) {
    case 0: lua_pushnil(L); break;
    case 'g': lua_pushliteral(L, "group"); break;
    case 'd': lua_pushliteral(L, "dataset"); break;
    default: lua_pushliteral(L, "other");
  }
  return 1;
}

static int push_and_free(lua_State *L, bool ok, su_names *names) {
  if (!ok) return sul_raise(L);
  sul_push_names(L, names);
  su_names_free(names);
  return 1;
}

/* file:list(path) -> names of the children, sorted */
static int l_list(lua_State *L) {
  su_names names;
  bool ok = su_h5_list(checked(L, false), luaL_optstring(L, 2, "/"), &names);
  return push_and_free(L, ok, &names);
}

/* file:attrs(path) -> names of the attributes, sorted */
static int l_attrs(lua_State *L) {
  su_names names;
  bool ok = su_h5_attrs(checked(L, false), luaL_optstring(L, 2, "/"), &names);
  return push_and_free(L, ok, &names);
}

static void push_element(lua_State *L, const su_value *v, int64_t i) {
  if (v->kind == 't') lua_pushstring(L, v->texts.at[i]);
  else if (v->kind == 'r') lua_pushnumber(L, v->reals[i]);
  else if (v->kind == 'b') lua_pushboolean(L, v->ints[i] != 0);
  else lua_pushinteger(L, v->ints[i]);
}

static void push_shape(lua_State *L, int ndim, const int64_t *shape) {
  lua_createtable(L, ndim, 0);
  for (int i = 0; i < ndim; i++) {
    lua_pushinteger(L, shape[i]);
    lua_rawseti(L, -2, i + 1);
  }
}

/* A scalar as itself, anything else as a flat array. */
static void push_value(lua_State *L, const su_value *v) {
  if (v->ndim == 0 && v->n == 1) {
    push_element(L, v, 0);
    return;
  }
  lua_createtable(L, (int)v->n, 0);
  for (int64_t i = 0; i < v->n; i++) {
    push_element(L, v, i);
    lua_rawseti(L, -2, i + 1);
  }
}

/* file:attr(path, name) -> value; nil when the object or the attribute is not there */
static int l_attr(lua_State *L) {
  su_value v;
  if (!su_h5_attr(checked(L, false), luaL_checkstring(L, 2), luaL_checkstring(L, 3), &v)) {
    lua_pushnil(L);
    lua_pushstring(L, su_error());
    return 2;
  }
  push_value(L, &v);
  su_value_free(&v);
  return 1;
}

/* file:read(path) -> value or flat array, shape */
static int l_read(lua_State *L) {
  su_value v;
  if (!su_h5_read(checked(L, false), luaL_checkstring(L, 2), &v)) return sul_raise(L);
  push_value(L, &v);
  push_shape(L, v.ndim, v.shape);
  su_value_free(&v);
  return 2;
}

/* file:shape(path) -> shape, dtype name or nil: of a dataset of numbers, without reading them */
static int l_shape(lua_State *L) {
  su_spec spec;
  if (!su_h5_shape(checked(L, false), luaL_checkstring(L, 2), &spec)) return sul_raise(L);
  push_shape(L, spec.ndim, spec.shape);
  lua_pushstring(L, spec.dtype < 0 ? NULL : su_dtype_name(spec.dtype));
  return 2;
}

/* file:into(path, tensor): the dataset's numbers, converted; as many as the tensor has */
static int l_into(lua_State *L) {
  su_spec spec;
  su_h5 *h = checked(L, false);
  const char *path = luaL_checkstring(L, 2);
  su_tensor *t = sul_tensor(L, 3);
  double *numbers = su_h5_doubles(h, path, &spec);
  bool ok = numbers != NULL;
  if (ok && su_spec_size(&spec) != t->size)
    ok = su_fail("'%s' holds %lld numbers, the tensor %lld", path, (long long)su_spec_size(&spec),
                 (long long)t->size);
  ok = ok && su_write_f64(t, numbers, t->size);
  su_free(numbers);
  return done(L, ok);
}

/* file:columns(path) -> {column = array...}, names in order, number of rows */
static int l_columns(lua_State *L) {
  su_columns c;
  if (!su_h5_columns(checked(L, false), luaL_checkstring(L, 2), &c)) return sul_raise(L);
  lua_createtable(L, 0, c.n);
  for (int i = 0; i < c.n; i++) {
    push_value(L, &c.at[i]);
    lua_setfield(L, -2, c.names.at[i]);
  }
  sul_push_names(L, &c.names);
  lua_pushinteger(L, c.n ? c.at[0].n : 0);
  su_columns_free(&c);
  return 3;
}

void sul_open_h5(lua_State *L) {
  static const luaL_Reg methods[] = {
      {"group", l_group}, {"text", l_text}, {"set", l_set}, {"table", l_table}, {"put", l_put},
      {"kind", l_kind}, {"list", l_list}, {"attrs", l_attrs}, {"attr", l_attr}, {"read", l_read},
      {"shape", l_shape}, {"into", l_into}, {"columns", l_columns}, {"close", l_close},
      {"__gc", l_close}, {"__close", l_close}, {NULL, NULL}};
  luaL_newmetatable(L, HANDLE);
  luaL_setfuncs(L, methods, 0);
  lua_pushvalue(L, -1);
  lua_setfield(L, -2, "__index");
  lua_pop(L, 1);
  static const luaL_Reg functions[] = {{"h5_begin", l_begin}, {"h5_open", l_open}, {NULL, NULL}};
  luaL_setfuncs(L, functions, 0);
}
