/* l_image.c -- pictures and data for Lua: read an image, write a grid, list folders, idx files, the loader,
 * the toys' points. What the functions of sumi.core take and give stands above each; lua/sumi/data.lua is
 * what scripts use. */
#define _GNU_SOURCE
#include "l.h"

#include <math.h>
#include <string.h>

#include "../runtime/io/folder.h"
#include "../runtime/io/idx.h"
#include "../runtime/io/loader.h"
#include "../runtime/io/sha256.h"
#include "../nn/nn.h"

#define LOADER "sumi.loader"
#define TOY_STREAM 0x0da7a200u /* Philox stream of the toys' points */
#define TWO_PI 6.28318530717958647692

/* ---- fields of an option table ---- */

static int64_t int_field(lua_State *L, int t, const char *name, int64_t fallback) {
  lua_getfield(L, t, name);
  int64_t v = lua_isnil(L, -1) ? fallback : (int64_t)luaL_checkinteger(L, -1);
  lua_pop(L, 1);
  return v;
}

static double real_field(lua_State *L, int t, const char *name, double fallback) {
  lua_getfield(L, t, name);
  double v = lua_isnil(L, -1) ? fallback : luaL_checknumber(L, -1);
  lua_pop(L, 1);
  return v;
}

static bool bool_field(lua_State *L, int t, const char *name) {
  lua_getfield(L, t, name);
  bool v = lua_toboolean(L, -1);
  lua_pop(L, 1);
  return v;
}

/* The index of the string field among the words; the first when absent. */
static int word_field(lua_State *L, int t, const char *name, const char *const *words) {
  lua_getfield(L, t, name);
  int v = luaL_checkoption(L, -1, words[0], words);
  lua_pop(L, 1);
  return v;
}

static const char *const filters[] = {"bicubic", "bilinear", NULL}; /* in the order of su_filter */

/* Pushes a tensor with these floats. On error raises. */
static void push_floats(lua_State *L, const char *device, int ndim, const int64_t *shape, const float *x) {
  su_device *dev = su_device_get(device);
  if (!dev) sul_raise(L);
  int mark = su_scope_begin();
  su_spec spec = su_spec_of(dev->real, ndim, shape);
  su_tensor *t = su_new(dev, &spec);
  if (!t || !su_write_f32(t, x, t->size)) sul_raise(L);
  sul_push(L, t);
  su_scope_end(mark, NULL);
}

/* The same of bytes, which the device makes numbers of. */
static void push_bytes(lua_State *L, su_device *dev, const int64_t *shape, const uint8_t *x) {
  int mark = su_scope_begin();
  su_spec spec = su_spec_of(SU_U8, 4, shape);
  su_tensor *t = su_new(dev, &spec), *y = NULL;
  if (t && su_write_raw(t, x, (size_t)t->size)) y = su_picture(t);
  if (!y) sul_raise(L);
  sul_push(L, y);
  su_scope_end(mark, NULL);
}

/* ---- single images ---- */

/* Resizes in place when the table asks for it. */
static bool resize_as_asked(lua_State *L, int t, su_image *im) {
  int64_t h = int_field(L, t, "h", im->h), w = int_field(L, t, "w", im->w);
  int filter = word_field(L, t, "resize", filters);
  su_scratch scratch = {0};
  su_image to;
  if (h == im->h && w == im->w) return true;
  if (!su_image_new(&to, h, w, im->c)) return false;
  bool ok = su_image_resize(im, &to, (su_filter)filter, &scratch);
  su_scratch_free(&scratch);
  su_image_free(im);
  *im = to;
  return ok;
}

/* core.image_read(path[, {channels=, h=, w=, resize=, device=}]) -> tensor [1,h,w,c] in [-1,1] */
static int l_image_read(lua_State *L) {
  const char *path = luaL_checkstring(L, 1), *device = "cpu";
  su_image im;
  lua_settop(L, 2);
  if (lua_isnil(L, 2)) {
    lua_newtable(L);
    lua_replace(L, 2);
  }
  luaL_checktype(L, 2, LUA_TTABLE);
  int64_t c = int_field(L, 2, "channels", 0);
  word_field(L, 2, "resize", filters); /* argument errors before anything is owned */
  if (lua_getfield(L, 2, "device") == LUA_TSTRING) device = lua_tostring(L, -1);
  bool ok =
      su_image_load(path, &im) && (c == 0 || su_image_convert(&im, (int)c)) && resize_as_asked(L, 2, &im);
  if (!ok) {
    su_image_free(&im);
    return sul_raise(L);
  }
  int64_t shape[4] = {1, im.h, im.w, im.c}, n = shape[1] * shape[2] * shape[3];
  float *x = lua_newuserdatauv(L, (size_t)n * sizeof *x, 0);
  for (int64_t i = 0; i < n; i++) x[i] = (float)(im.data[i] / 127.5 - 1.0);
  su_image_free(&im);
  push_floats(L, device, 4, shape, x);
  return 1;
}

/* core.image_grid(path, tensor [n,h,w,c], rows, cols[, gutter]): a PNG of tiles; values in [-1,1], c 1 or 3
 */
static int l_image_grid(lua_State *L) {
  const char *path = luaL_checkstring(L, 1);
  su_tensor *t = sul_tensor(L, 2);
  lua_Integer n = t->spec.ndim == 4 ? t->spec.shape[0] : 0;
  lua_Integer cols = luaL_optinteger(L, 4, n ? (lua_Integer)ceil(sqrt((double)n)) : 1);
  lua_Integer rows = luaL_optinteger(L, 3, n ? (n + cols - 1) / cols : 1);
  lua_Integer gutter = luaL_optinteger(L, 5, 2);
  luaL_argcheck(L, gutter >= 0 && gutter < 1000, 5, "a gutter is 0 to 999 pixels");
  if (t->spec.ndim != 4)
    return sul_fail(L, SU_ESCRIPT, "image_grid: wants [n,h,w,c], not %s", su_shape_text(&t->spec));
  float *x = su_malloc((size_t)t->size * sizeof *x);
  su_image im = {0};
  bool ok = x && su_read_f32(t, x, t->size) &&
            su_image_grid(x, t->spec.shape, rows, cols, (int)gutter, &im) && su_png_write(path, &im);
  su_image_free(&im);
  su_free(x);
  return ok ? 0 : sul_raise(L);
}

/* ---- folders and files ---- */

/* core.image_files(folder[, glob]) -> list of relative paths in byte order, other files, images that the
 * glob left out */
static int l_image_files(lua_State *L) {
  su_names names;
  int64_t others, filtered;
  if (!su_folder_images(luaL_checkstring(L, 1), luaL_optstring(L, 2, NULL), &names, &others, &filtered))
    return sul_raise(L);
  lua_createtable(L, (int)names.n, 0);
  for (int64_t i = 0; i < names.n; i++) {
    lua_pushstring(L, names.at[i]);
    lua_rawseti(L, -2, i + 1);
  }
  su_names_free(&names);
  lua_pushinteger(L, others);
  lua_pushinteger(L, filtered);
  return 3;
}

/* core.file_digest(path) -> sha256 as hex, bytes */
static int l_file_digest(lua_State *L) {
  char hex[65];
  int64_t bytes;
  if (!su_file_digest(luaL_checkstring(L, 1), hex, &bytes)) return sul_raise(L);
  lua_pushstring(L, hex);
  lua_pushinteger(L, bytes);
  return 2;
}

/* core.sha256(text...) -> hex of all texts, one after another */
static int l_sha256(lua_State *L) {
  su_sha256 h;
  uint8_t digest[32];
  char text[65];
  int n = lua_gettop(L);
  for (int i = 1; i <= n; i++) luaL_checkstring(L, i);
  su_sha256_begin(&h);
  for (int i = 1; i <= n; i++) {
    size_t bytes;
    const char *s = lua_tolstring(L, i, &bytes);
    su_sha256_add(&h, s, bytes);
  }
  su_sha256_end(&h, digest);
  su_sha256_text(digest, text);
  lua_pushstring(L, text);
  return 1;
}

/* core.idx_read(path) -> bytes as a string, list of sizes */
static int l_idx_read(lua_State *L) {
  su_idx set;
  if (!su_idx_load(luaL_checkstring(L, 1), &set)) return sul_raise(L);
  int64_t bytes = 1;
  lua_createtable(L, set.ndim, 0);
  for (int i = 0; i < set.ndim; i++) {
    bytes *= set.shape[i];
    lua_pushinteger(L, set.shape[i]);
    lua_rawseti(L, -2, i + 1);
  }
  lua_pushlstring(L, (const char *)set.data, (size_t)bytes);
  lua_insert(L, -2);
  su_idx_free(&set);
  return 2;
}

/* ---- the loader ---- */

/* What a loader made from: labels and idx bytes live as long as it does. */
struct handle {
  su_loader *loader;
  char device[32];
};

static struct handle *to_loader(lua_State *L) {
  struct handle *h = luaL_checkudata(L, 1, LOADER);
  if (!h->loader) sul_fail(L, SU_ESCRIPT, "the data have been closed");
  return h;
}

static void look_of(lua_State *L, int t, su_look *k) {
  k->size_h = (int32_t)int_field(L, t, "size_h", 0);
  k->size_w = (int32_t)int_field(L, t, "size_w", k->size_h);
  k->crop_h = (int32_t)int_field(L, t, "crop_h", 0);
  k->crop_w = (int32_t)int_field(L, t, "crop_w", k->crop_h);
  k->jitter = (int32_t)int_field(L, t, "jitter", 0);
  k->channels = (int32_t)int_field(L, t, "channels", 3);
  k->short_side = bool_field(L, t, "short_side");
  k->train = bool_field(L, t, "train");
  k->flip = bool_field(L, t, "flip");
  k->filter = (su_filter)word_field(L, t, "resize", filters);
}

/* The list of strings in a field as an array owned by a userdata on the stack (kept alive by the table);
 * NULL if absent. */
static const char *const *paths_field(lua_State *L, int t, const char *name, int64_t *n) {
  if (lua_getfield(L, t, name) == LUA_TNIL) {
    lua_pop(L, 1);
    return NULL;
  }
  luaL_checktype(L, -1, LUA_TTABLE);
  *n = (int64_t)lua_rawlen(L, -1);
  const char **list = lua_newuserdatauv(L, (size_t)(*n + 1) * sizeof *list, 0);
  for (int64_t i = 0; i < *n; i++) {
    lua_rawgeti(L, -2, i + 1);
    if (lua_type(L, -1) != LUA_TSTRING) luaL_error(L, "loader: %s[%d] is not a path", name, (int)(i + 1));
    list[i] = lua_tostring(L, -1);
    lua_pop(L, 1);
  }
  return list;
}

static const float *labels_field(lua_State *L, int t) {
  if (lua_getfield(L, t, "labels") == LUA_TNIL) return NULL;
  luaL_checktype(L, -1, LUA_TTABLE);
  int64_t n = (int64_t)lua_rawlen(L, -1);
  float *list = lua_newuserdatauv(L, (size_t)(n + 1) * sizeof *list, 0);
  for (int64_t i = 0; i < n; i++) {
    lua_rawgeti(L, -2, i + 1);
    list[i] = (float)luaL_checknumber(L, -1);
    lua_pop(L, 1);
  }
  return list;
}

static void sides_of(lua_State *L, int t, su_loader_options *o) {
  static const char *const halves[] = {"", "ab", "ba", NULL}; /* in the order of su_halves */
  su_examples_options *a = &o->side[0], *b = &o->side[1];
  int64_t partners = 0;
  look_of(L, t, &a->look);
  a->skip = bool_field(L, t, "skip");
  a->halves = (enum su_halves)word_field(L, t, "halves", halves);
  *b = *a;
  a->a = paths_field(L, t, "a", &a->n);
  a->b = paths_field(L, t, "partners", &partners);
  b->a = paths_field(L, t, "b", &b->n);
  if (a->b && partners != a->n)
    luaL_error(L, "loader: %d images but %d partners", (int)a->n, (int)partners);
  if (a->a) return;
  size_t bytes;
  lua_getfield(L, t, "bytes");
  a->bytes = (const uint8_t *)luaL_checklstring(L, -1, &bytes);
  a->n = int_field(L, t, "n", 0);
  a->bytes_h = (int32_t)int_field(L, t, "bytes_h", 0);
  a->bytes_w = (int32_t)int_field(L, t, "bytes_w", 0);
  if (a->n < 0 || a->bytes_h < 1 || a->bytes_w < 1 ||
      (size_t)a->n * (size_t)a->bytes_h * (size_t)a->bytes_w > bytes)
    luaL_error(L, "loader: fewer bytes than images");
}

/* core.loader{a=paths, b=paths | partners=paths | bytes=,n=,bytes_h=,bytes_w=, labels=, halves="ab"|"ba",
 * size_h=, size_w=, short_side=, crop_h=, crop_w=, jitter=, channels=, train=, flip=, resize=, skip=,
 * batch=, seed=, start=, shuffle=, threads=, cache_bytes=, device=} -> loader */
static int l_loader(lua_State *L) {
  su_loader_options o = {0};
  luaL_checktype(L, 1, LUA_TTABLE);
  lua_settop(L, 1);
  luaL_checkstack(L, 20, NULL);
  sides_of(L, 1, &o);
  o.labels = labels_field(L, 1);
  o.batch = int_field(L, 1, "batch", 1);
  o.start = int_field(L, 1, "start", 0);
  o.seed = (uint64_t)int_field(L, 1, "seed", 0);
  o.shuffle = bool_field(L, 1, "shuffle");
  o.threads = (int)int_field(L, 1, "threads", 1);
  o.cache_bytes = int_field(L, 1, "cache_bytes", INT64_C(1) << 30);
  struct handle *h = lua_newuserdatauv(L, sizeof *h, 1);
  memset(h, 0, sizeof *h);
  lua_pushvalue(L, 1);
  lua_setiuservalue(L, -2, 1); /* keeps the idx bytes alive */
  lua_getfield(L, 1, "device");
  snprintf(h->device, sizeof h->device, "%s", luaL_optstring(L, -1, "cpu"));
  lua_pop(L, 1);
  su_device *dev = su_device_get(h->device);
  if (!dev) return sul_raise(L);
  o.bytes = dev->wants_u8;
  luaL_setmetatable(L, LOADER);
  h->loader = su_loader_open(&o);
  return h->loader ? 1 : sul_raise(L);
}

/* loader:get(step, {"x"} or {"a","b"}) -> table with the tensors under these names, and y when there are
 * labels */
static int loader_get(lua_State *L) {
  struct handle *h = to_loader(L);
  const su_batch *b = su_loader_get(h->loader, (int64_t)luaL_checkinteger(L, 2));
  if (!b) return sul_raise(L);
  luaL_checktype(L, 3, LUA_TTABLE);
  lua_createtable(L, 0, b->n_images + 1);
  for (int i = 0; i < b->n_images; i++) {
    int64_t shape[4];
    su_loader_shape(h->loader, i, shape);
    lua_rawgeti(L, 3, i + 1);
    if (b->byte[i]) push_bytes(L, su_device_get(h->device), shape, b->byte[i]);
    else push_floats(L, h->device, 4, shape, b->image[i]);
    lua_rawset(L, -3);
  }
  if (b->label) {
    int64_t shape[4];
    su_loader_shape(h->loader, 0, shape);
    push_floats(L, h->device, 1, shape, b->label);
    lua_setfield(L, -2, "y");
  }
  return 1;
}

/* loader:count() -> examples of an epoch, steps of an epoch */
static int loader_count(lua_State *L) {
  struct handle *h = to_loader(L);
  lua_pushinteger(L, su_loader_count(h->loader));
  lua_pushinteger(L, su_loader_steps(h->loader));
  return 2;
}

/* loader:shape([which]) -> h, w, c of a batch's images */
static int loader_shape(lua_State *L) {
  int64_t shape[4];
  su_loader_shape(to_loader(L)->loader, (int)luaL_optinteger(L, 2, 0), shape);
  for (int i = 1; i < 4; i++) lua_pushinteger(L, shape[i]);
  return 3;
}

/* loader:warning(i) -> the i-th message about a broken image that was replaced, from 1; nil when there are
 * no more */
static int loader_warning(lua_State *L) {
  struct handle *h = to_loader(L);
  lua_Integer i = luaL_checkinteger(L, 2);
  if (i < 1 || i > su_loader_warnings(h->loader)) return 0;
  lua_pushstring(L, su_loader_warning(h->loader, i - 1));
  return 1;
}

static int loader_close(lua_State *L) {
  struct handle *h = luaL_checkudata(L, 1, LOADER);
  su_loader_close(h->loader);
  h->loader = NULL;
  return 0;
}

/* ---- toys ---- */

/* core.points{modes=list of {x,y}, std=, n=, seed=, step=, device=} -> tensor [n,2], tensor [n] with the
 * mode of each, from 0. Point i of a step is centre + std * N(0,1), by Box and Muller from one Philox
 * block. */
static int l_points(lua_State *L) {
  luaL_checktype(L, 1, LUA_TTABLE);
  int64_t n = int_field(L, 1, "n", 1), step = int_field(L, 1, "step", 0);
  uint64_t seed = (uint64_t)int_field(L, 1, "seed", 0);
  double std = real_field(L, 1, "std", 0);
  lua_getfield(L, 1, "modes");
  luaL_checktype(L, -1, LUA_TTABLE);
  int64_t modes = (int64_t)lua_rawlen(L, -1);
  luaL_argcheck(L, n > 0 && n <= 1 << 24 && modes > 0, 1, "needs n from 1 to 2^24 and at least one mode");
  int at = lua_gettop(L);
  lua_getfield(L, 1, "device");
  const char *device = luaL_optstring(L, -1, "cpu");
  float *x = lua_newuserdatauv(L, (size_t)n * 3 * sizeof *x, 0), *y = x + 2 * n;
  for (int64_t i = 0; i < n; i++) {
    su_philox p =
        su_philox_at(seed, (uint32_t)i, (uint32_t)step, (uint32_t)((uint64_t)step >> 32), TOY_STREAM);
    int64_t mode = (int64_t)((uint64_t)p.v[0] * (uint64_t)modes >> 32);
    double r = std * sqrt(-2 * log(1.0 - su_u01(p.v[1]))), turn = TWO_PI * su_u01(p.v[2]);
    lua_rawgeti(L, at, mode + 1);
    lua_rawgeti(L, -1, 1);
    lua_rawgeti(L, -2, 2);
    x[2 * i] = (float)(lua_tonumber(L, -2) + r * cos(turn));
    x[2 * i + 1] = (float)(lua_tonumber(L, -1) + r * sin(turn));
    y[i] = (float)mode;
    lua_pop(L, 3);
  }
  push_floats(L, device, 2, (const int64_t[]){n, 2}, x);
  push_floats(L, device, 1, &n, y);
  return 2;
}

void sul_open_image(lua_State *L) {
  static const luaL_Reg functions[] = {
      {"image_read", l_image_read},   {"image_grid", l_image_grid}, {"image_files", l_image_files},
      {"file_digest", l_file_digest}, {"sha256", l_sha256},         {"idx_read", l_idx_read},
      {"loader", l_loader},           {"points", l_points},         {NULL, NULL}};
  static const luaL_Reg methods[] = {{"get", loader_get},     {"count", loader_count},
                                     {"shape", loader_shape}, {"warning", loader_warning},
                                     {"close", loader_close}, {NULL, NULL}};
  luaL_setfuncs(L, functions, 0);
  luaL_newmetatable(L, LOADER);
  lua_newtable(L);
  luaL_setfuncs(L, methods, 0);
  lua_setfield(L, -2, "__index");
  lua_pushcfunction(L, loader_close);
  lua_setfield(L, -2, "__gc");
  lua_pop(L, 1);
}
