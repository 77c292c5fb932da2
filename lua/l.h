/* l.h -- what the files of the Lua binding share. Each lua/l_*.c adds its functions to the table `sumi.core`. */
#ifndef SUMI_L_H
#define SUMI_L_H

#include <lauxlib.h>
#include <lua.h>

#include "../runtime/tape.h"

/* Raise su_error() as an error value {code=, msg=} whose message starts with the script's file and line (the innermost
 * Lua function that is not part of the library). Never returns. */
int sul_raise(lua_State *L);
/* The same with a message of its own; code 1 is "the script failed". */
int sul_fail(lua_State *L, int code, const char *fmt, ...) SU_PRINTF(3, 4);
/* Push "file.lua:12: " of the innermost script line ("" when there is none). */
void sul_where(lua_State *L);
/* The innermost Lua function that is neither C nor part of the library; false when none runs. */
bool sul_script_line(lua_State *L, lua_Debug *ar);
/* A message handler: what plain Lua raised, with the script's line. */
int sul_explain(lua_State *L);
/* Take the script line for what is recorded next (not inside a net call, which took its own). */
void sul_site(lua_State *L);

/* The line itself; false when no script runs. */
bool sul_script_line(lua_State *L, lua_Debug *ar);

/* Tensors as userdata. push retains (userdata owns one reference); NULL raises su_error(). */
void sul_push(lua_State *L, su_tensor *t);
su_tensor *sul_tensor(lua_State *L, int idx);       /* argument error unless a living tensor */
su_tensor *sul_test_tensor(lua_State *L, int idx);  /* NULL if it is none */

/* Push what C returned and close the scope of this call; returns 1. */
int sul_give(lua_State *L, su_tensor *t);

/* A real that is given anew at each replay of a recorded step (l_replay.c). */
#define SUL_LIVE "sumi.live"
typedef struct sul_live { double value; int slot; } sul_live;
double sul_real(lua_State *L, int idx, int real);   /* argument idx, a number or such; the next op's real number `real` */

/* Fields of the table on top of the stack. */
void sul_set_integer(lua_State *L, const char *key, lua_Integer v);
void sul_set_string(lua_State *L, const char *key, const char *v);
/* A string option of the table at idx; `otherwise` where there is no such table or field. */
const char *sul_option(lua_State *L, int idx, const char *name, const char *otherwise);

/* Called once each by luaopen_sumi_core with the table on top of the stack. */
void sul_open_error(lua_State *L);
void sul_open_tensor(lua_State *L);
void sul_open_tape(lua_State *L);
void sul_open_ops(lua_State *L);
void sul_open_replay(lua_State *L);
void sul_open_nn(lua_State *L);
void sul_open_system(lua_State *L);   /* files, processes, terminal, signals, clock; calls the two below */
void sul_open_host(lua_State *L);     /* cpu, memory, versions of libraries */
void sul_open_thumb(lua_State *L);    /* small WebP copies of pictures, for reports */
void sul_open_image(lua_State *L);    /* decode, resize, PNG, idx, loader */
void sul_open_store(lua_State *L);    /* HDF5, durable files, checkpoints */

#endif
