/* l_store.c -- the run store's primitives for Lua: durable files, claims, the journal, checkpoints. Adds to
 * sumi.core. What a run directory means is in lua/sumi/store.lua. Failures raise, with exit code 6 where
 * the machine is to blame. */
#include "l.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "../runtime/io/ckpt.h"
#include "../runtime/io/claim.h"
#include "../runtime/io/journal.h"
#include "../runtime/io/sha256.h"
#include "l_h5.h"

#define JOURNAL "sumi.journal"
#define CLAIM "sumi.claim"
#define CKPT "sumi.ckpt"

static int done(lua_State *L, bool ok) { return ok ? 0 : sul_raise(L); }

/* ---- files ---- */

/* store_put(path, text, {site=, what=, intact=}): durable, whole */
static int l_put(lua_State *L) {
  su_part part;
  su_put put = {.path = luaL_checkstring(L, 1), .parts = &part, .n_parts = 1};
  part.data = luaL_checklstring(L, 2, &part.bytes);
  put.site = sul_option(L, 3, "site", "file");
  put.what = sul_option(L, 3, "what", NULL);
  put.intact = sul_option(L, 3, "intact", NULL);
  return done(L, su_file_put(&put));
}

/* store_rename(from, to) -> true, or nil and a message */
static int l_rename(lua_State *L) {
  const char *from = luaL_checkstring(L, 1), *to = luaL_checkstring(L, 2);
  if (rename(from, to) == 0) {
    lua_pushboolean(L, 1);
    return 1;
  }
  lua_pushnil(L);
  lua_pushfstring(L, "%s: cannot rename to %s: %s", from, to, strerror(errno));
  return 2;
}

/* store_sweep(dir) -> number of temporary files removed; the caller owns dir */
static int l_sweep(lua_State *L) {
  lua_pushinteger(L, su_tmp_sweep(luaL_checkstring(L, 1)));
  return 1;
}

/* ---- claims ---- */

static void push_owner(lua_State *L, const su_owner *o) {
  lua_createtable(L, 0, 5);
  lua_pushinteger(L, o->pid);
  lua_setfield(L, -2, "pid");
  sul_set_string(L, "host", o->host);
  sul_set_string(L, "boot", o->boot);
  sul_set_string(L, "job", o->job);
  sul_set_string(L, "since", o->since);
}

/* owner_self() -> {pid=, host=, boot=, job=, since=} */
static int l_self(lua_State *L) {
  su_owner me;
  su_owner_self(&me);
  push_owner(L, &me);
  return 1;
}

/* claim_peek(path) -> "held" | "free" | "unknown", owner */
static int l_peek(lua_State *L) {
  static const char *const names[] = {"free", "held", "unknown"};
  su_owner o;
  lua_pushstring(L, names[su_claim_peek(luaL_checkstring(L, 1), &o)]);
  push_owner(L, &o);
  return 2;
}

/* claim_take(path, seconds_since_heartbeat) -> claim */
static int l_take(lua_State *L) {
  const char *path = luaL_checkstring(L, 1);
  double beat = luaL_optnumber(L, 2, -1);
  int *fd = lua_newuserdatauv(L, sizeof *fd, 0);
  *fd = -1;
  luaL_setmetatable(L, CLAIM);
  *fd = su_claim_take(path, beat);
  return *fd >= 0 ? 1 : sul_raise(L);
}

static int l_drop(lua_State *L) {
  int *fd = luaL_checkudata(L, 1, CLAIM);
  su_claim_drop(*fd);
  *fd = -1;
  return 0;
}

/* ---- the journal ---- */

static su_journal *journal(lua_State *L) {
  su_journal **p = luaL_checkudata(L, 1, JOURNAL);
  if (!*p) sul_fail(L, 1, "this journal is closed");
  return *p;
}

/* journal_new() -> journal: rows in memory, no file yet */
static int l_journal_new(lua_State *L) {
  su_journal **p = lua_newuserdatauv(L, sizeof *p, 0);
  *p = NULL;
  luaL_setmetatable(L, JOURNAL);
  *p = su_journal_new();
  return *p ? 1 : sul_raise(L);
}

static int l_journal_close(lua_State *L) {
  su_journal **p = luaL_checkudata(L, 1, JOURNAL);
  su_journal_free(*p);
  *p = NULL;
  return 0;
}

static int l_journal_open(lua_State *L) { return done(L, su_journal_open(journal(L), luaL_checkstring(L, 2))); }
static int l_journal_empty(lua_State *L) { return done(L, su_journal_empty(journal(L))); }
static int l_journal_intact(lua_State *L) {
  return done(L, su_journal_intact(journal(L), luaL_checkstring(L, 2)));
}

/* journal:step(step, seconds, names, values) -> the monotonic clock: rows to memory and the file, one
 * write */
static int l_journal_step(lua_State *L) {
  su_journal *j = journal(L);
  lua_Integer step = luaL_checkinteger(L, 2);
  lua_Number seconds = luaL_checknumber(L, 3);
  luaL_checktype(L, 4, LUA_TTABLE);
  luaL_checktype(L, 5, LUA_TTABLE);
  lua_Integer n = (lua_Integer)lua_rawlen(L, 4);
  bool ok = su_journal_begin(j, step, seconds);
  for (lua_Integer i = 1; ok && i <= n; i++) {
    if (lua_rawgeti(L, 4, i) != LUA_TSTRING || lua_rawgeti(L, 5, i) != LUA_TNUMBER)
      return sul_fail(L, 1, "metrics: entry %d wants a name and a number", (int)i);
    ok = su_journal_add(j, lua_tostring(L, -2), lua_tonumber(L, -1));
    lua_pop(L, 2);
  }
  if (!ok || !su_journal_end(j)) return sul_raise(L);
  lua_pushnumber(L, su_now());
  return 1;
}

/* journal:note(step, seconds, key, text) */
static int l_journal_note(lua_State *L) {
  su_journal *j = journal(L);
  return done(L, su_journal_note(j, luaL_checkinteger(L, 2), luaL_checknumber(L, 3), luaL_checkstring(L, 4),
                                 luaL_checkstring(L, 5)));
}

/* Collects {step, seconds, key, text} into the array on top of the stack. */
static bool take_note(void *ctx, int64_t step, double seconds, const char *key, const char *text) {
  lua_State *L = ctx;
  lua_createtable(L, 4, 0);
  lua_pushinteger(L, step);
  lua_rawseti(L, -2, 1);
  lua_pushnumber(L, seconds);
  lua_rawseti(L, -2, 2);
  lua_pushstring(L, key);
  lua_rawseti(L, -2, 3);
  lua_pushstring(L, text);
  lua_rawseti(L, -2, 4);
  lua_rawseti(L, -2, (lua_Integer)lua_rawlen(L, -2) + 1);
  return true;
}

/* journal:replay(text) -> notes, lines taken, lines skipped */
static int l_journal_replay(lua_State *L) {
  su_journal *j = journal(L);
  size_t bytes;
  const char *text = luaL_checklstring(L, 2, &bytes);
  char *copy = lua_newuserdatauv(L, bytes + 1, 0);       /* parsing cuts it up */
  memcpy(copy, text, bytes + 1);
  int64_t skipped = 0;
  lua_newtable(L);
  int64_t taken = su_journal_replay(j, copy, take_note, L, &skipped);
  if (taken < 0) return sul_raise(L);
  lua_pushinteger(L, taken);
  lua_pushinteger(L, skipped);
  return 3;
}

/* journal:names() -> metrics in the order they were first seen, total number of rows */
static int l_journal_names(lua_State *L) {
  su_journal *j = journal(L);
  int64_t n = su_journal_count(j), rows = 0;
  lua_createtable(L, (int)n, 0);
  for (int64_t i = 0; i < n; i++) {
    su_series *s = su_journal_at(j, i);
    rows += s->n;
    lua_pushstring(L, s->name);
    lua_rawseti(L, -2, i + 1);
  }
  lua_pushinteger(L, rows);
  return 2;
}

static su_series *series(lua_State *L) {
  const char *name = luaL_checkstring(L, 2);
  su_series *s = su_journal_find(journal(L), name);
  if (!s) sul_fail(L, 4, "no metric '%s'", name);
  return s;
}

/* journal:series(name) -> {step={}, seconds={}, value={}} */
static int l_journal_series(lua_State *L) {
  const su_series *s = series(L);
  lua_createtable(L, 0, 3);
  for (int k = 0; k < 3; k++) lua_createtable(L, (int)s->n, 0);
  for (int64_t i = 0; i < s->n; i++) {
    lua_pushinteger(L, s->rows[i].step);
    lua_rawseti(L, -4, i + 1);
    lua_pushnumber(L, s->rows[i].seconds);
    lua_rawseti(L, -3, i + 1);
    lua_pushnumber(L, s->rows[i].value);
    lua_rawseti(L, -2, i + 1);
  }
  lua_setfield(L, -4, "value");
  lua_setfield(L, -3, "seconds");
  lua_setfield(L, -2, "step");
  return 1;
}

/* journal:summary(name, higher_is_better) -> rows, last, best, best_step, mean; only 0 when it has no rows */
static int l_journal_summary(lua_State *L) {
  su_series *s = series(L);
  s->higher = lua_toboolean(L, 3);
  lua_pushinteger(L, s->n);
  if (s->n == 0) return 1;
  su_summary m = su_series_summary(s);
  lua_pushnumber(L, m.last);
  lua_pushnumber(L, m.best);
  lua_pushinteger(L, m.best_step);
  lua_pushnumber(L, m.mean);
  return 5;
}

static int l_journal_last(lua_State *L) {
  lua_pushinteger(L, su_journal_last(journal(L)));
  return 1;
}

static int l_journal_drop_after(lua_State *L) {
  lua_pushinteger(L, su_journal_drop_after(journal(L), luaL_checkinteger(L, 2)));
  return 1;
}

/* journal:seal(image, name, path, squeeze) */
static int l_journal_seal(lua_State *L) {
  su_h5 *h = sul_h5_building(L, 2);
  const char *path = luaL_checkstring(L, 4);
  lua_remove(L, 2);                      /* the name where series() looks for it */
  return done(L, su_series_seal(series(L), h, path, lua_toboolean(L, 4)));
}

/* journal:load(file, name, path): a sealed table into a new series */
static int l_journal_load(lua_State *L) {
  su_h5 *h = sul_h5_reading(L, 2);
  su_series *s = su_journal_get(journal(L), luaL_checkstring(L, 3));
  return done(L, s && su_series_read(s, h, luaL_checkstring(L, 4)));
}

/* ---- checkpoints ---- */

static bool read_tensor(const void *from, void *dst, size_t bytes) { return su_read_raw(from, dst, bytes); }

/* ckpt_save(path, step, {{name, tensor}...}, meta, intact) -> bytes. Durable when it returns. */
static int l_ckpt_save(lua_State *L) {
  const char *path = luaL_checkstring(L, 1), *meta = luaL_checkstring(L, 4);
  lua_Integer step = luaL_checkinteger(L, 2), n = luaL_len(L, 3);
  su_ckpt_item *items = lua_newuserdatauv(L, (size_t)(n + 1) * sizeof *items, 0);
  for (lua_Integer i = 0; i < n; i++) {
    lua_geti(L, 3, i + 1);
    lua_geti(L, -1, 1);
    lua_geti(L, -2, 2);
    const su_tensor *t = sul_tensor(L, -1);
    items[i] = (su_ckpt_item){luaL_checkstring(L, -2), t->spec, t, read_tensor};
    lua_pop(L, 3);                       /* both anchored in the entry */
  }
  su_image image;
  if (!su_ckpt_build(items, n, step, meta, &image)) return sul_raise(L);
  bool ok = su_ckpt_write(path, step, &image, luaL_optstring(L, 5, NULL));
  su_free(image.data);
  lua_pushinteger(L, (lua_Integer)image.bytes);
  return ok ? 1 : sul_raise(L);
}

static const char *const states[] = {"good", "corrupt", "other", "unreadable"};

/* ckpt_check(path) -> "good" | "corrupt" | "other" | "unreadable", message */
static int l_ckpt_check(lua_State *L) {
  su_ckpt_state s = su_ckpt_check(luaL_checkstring(L, 1));
  lua_pushstring(L, states[s]);
  lua_pushstring(L, s == SU_CKPT_GOOD ? NULL : su_error());
  return 2;
}

/* ckpt_open(path) -> checkpoint, or nil, state, message */
static int l_ckpt_open(lua_State *L) {
  const char *path = luaL_checkstring(L, 1);
  su_ckpt_state state;
  su_ckpt **p = lua_newuserdatauv(L, sizeof *p, 0);
  *p = NULL;
  luaL_setmetatable(L, CKPT);
  *p = su_ckpt_open(path, &state);
  if (*p) return 1;
  lua_pushnil(L);
  lua_pushstring(L, states[state == SU_CKPT_GOOD ? SU_CKPT_CORRUPT : state]);
  lua_pushstring(L, su_error());
  return 3;
}

static su_ckpt *ckpt(lua_State *L) {
  su_ckpt **p = luaL_checkudata(L, 1, CKPT);
  if (!*p) sul_fail(L, 1, "this checkpoint is closed");
  return *p;
}

static int l_ckpt_close(lua_State *L) {
  su_ckpt **p = luaL_checkudata(L, 1, CKPT);
  su_ckpt_close(*p);
  *p = NULL;
  return 0;
}

/* checkpoint:head() -> step, meta, names */
static int l_ckpt_head(lua_State *L) {
  su_ckpt *c = ckpt(L);
  lua_pushinteger(L, su_ckpt_step(c));
  lua_pushstring(L, su_ckpt_meta(c));
  sul_push_names(L, su_ckpt_names(c));
  return 3;
}

static const void *stored(lua_State *L, const char *name, su_spec *spec, size_t *bytes) {
  const void *data = su_ckpt_tensor(ckpt(L), name, spec, bytes);
  if (!data) sul_raise(L);
  return data;
}

/* checkpoint:spec(name) -> dtype name, shape */
static int l_ckpt_spec(lua_State *L) {
  su_spec spec;
  size_t bytes;
  stored(L, luaL_checkstring(L, 2), &spec, &bytes);
  lua_pushstring(L, su_dtype_name(spec.dtype));
  lua_createtable(L, spec.ndim, 0);
  for (int i = 0; i < spec.ndim; i++) {
    lua_pushinteger(L, spec.shape[i]);
    lua_rawseti(L, -2, i + 1);
  }
  return 2;
}

static void describe(const su_spec *s, char *buf, size_t size) {
  size_t n = (size_t)snprintf(buf, size, "%s[", su_dtype_name(s->dtype));
  for (int i = 0; i < s->ndim && n < size; i++)
    n += (size_t)snprintf(buf + n, size - n, "%s%lld", i ? "," : "", (long long)s->shape[i]);
  if (n + 1 < size) memcpy(buf + n, "]", 2);
}

static bool same(const su_spec *a, const su_spec *b) {
  return a->dtype == b->dtype && a->ndim == b->ndim &&
         (a->ndim == 0 || memcmp(a->shape, b->shape, (size_t)a->ndim * sizeof *a->shape) == 0);
}

/* checkpoint:into(name, tensor): copies; shape and dtype must be the same */
static int l_ckpt_into(lua_State *L) {
  const char *name = luaL_checkstring(L, 2);
  su_tensor *t = sul_tensor(L, 3);
  su_spec spec;
  size_t bytes;
  const void *data = stored(L, name, &spec, &bytes);
  if (!same(&spec, &t->spec)) {
    char a[160], b[160];
    describe(&spec, a, sizeof a);
    describe(&t->spec, b, sizeof b);
    return sul_fail(L, 1, "checkpoint: '%s' is %s there and %s in this net", name, a, b);
  }
  return done(L, su_write_raw(t, data, bytes));
}

/* checkpoint:bytes(name) -> its bytes as they lie (little endian) */
static int l_ckpt_bytes(lua_State *L) {
  su_spec spec;
  size_t bytes;
  const char *data = stored(L, luaL_checkstring(L, 2), &spec, &bytes);
  lua_pushlstring(L, data, bytes);
  return 1;
}

/* checkpoint:hash(names) -> SHA-256 over name, type, shape and bytes of each, in the order given */
static int l_ckpt_hash(lua_State *L) {
  su_sha256 h;
  uint8_t digest[32];
  char text[160];
  lua_Integer n = luaL_len(L, 2);
  su_sha256_begin(&h);
  for (lua_Integer i = 1; i <= n; i++) {
    su_spec spec;
    size_t bytes;
    lua_geti(L, 2, i);
    const char *name = luaL_checkstring(L, -1);
    const void *data = stored(L, name, &spec, &bytes);
    describe(&spec, text, sizeof text);
    su_sha256_add(&h, name, strlen(name) + 1);
    su_sha256_add(&h, text, strlen(text) + 1);
    su_sha256_add(&h, data, bytes);
    lua_pop(L, 1);
  }
  su_sha256_end(&h, digest);
  su_sha256_text(digest, text);
  lua_pushstring(L, text);
  return 1;
}

/* ---- */

static void new_type(lua_State *L, const char *name, const luaL_Reg *methods, lua_CFunction gc) {
  luaL_newmetatable(L, name);
  luaL_setfuncs(L, methods, 0);
  lua_pushvalue(L, -1);
  lua_setfield(L, -2, "__index");
  lua_pushcfunction(L, gc);
  lua_setfield(L, -2, "__gc");
  lua_pushcfunction(L, gc);
  lua_setfield(L, -2, "__close");
  lua_pop(L, 1);
}

void sul_open_store(lua_State *L) {
  static const luaL_Reg claim_methods[] = {{"drop", l_drop}, {NULL, NULL}};
  static const luaL_Reg journal_methods[] = {
      {"open", l_journal_open}, {"empty", l_journal_empty}, {"intact", l_journal_intact},
      {"step", l_journal_step}, {"note", l_journal_note}, {"replay", l_journal_replay}, {"names", l_journal_names},
      {"series", l_journal_series}, {"summary", l_journal_summary}, {"last", l_journal_last},
      {"drop_after", l_journal_drop_after}, {"seal", l_journal_seal}, {"load", l_journal_load},
      {"close", l_journal_close}, {NULL, NULL}};
  static const luaL_Reg ckpt_methods[] = {
      {"head", l_ckpt_head}, {"spec", l_ckpt_spec}, {"into", l_ckpt_into}, {"bytes", l_ckpt_bytes},
      {"hash", l_ckpt_hash}, {"close", l_ckpt_close}, {NULL, NULL}};
  static const luaL_Reg functions[] = {
      {"store_put", l_put}, {"store_rename", l_rename}, {"store_sweep", l_sweep},
      {"owner_self", l_self}, {"claim_peek", l_peek}, {"claim_take", l_take}, {"journal_new", l_journal_new},
      {"ckpt_save", l_ckpt_save}, {"ckpt_check", l_ckpt_check}, {"ckpt_open", l_ckpt_open}, {NULL, NULL}};
  new_type(L, CLAIM, claim_methods, l_drop);
  new_type(L, JOURNAL, journal_methods, l_journal_close);
  new_type(L, CKPT, ckpt_methods, l_ckpt_close);
  luaL_setfuncs(L, functions, 0);
  sul_open_h5(L);
}
