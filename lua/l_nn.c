/* l_nn.c -- the neural functions that a script calls with more than tensors: dropout and the pool of old fakes draw for
 * themselves. */
#include "l.h"

#include "../nn/nn.h"
#include "../runtime/replay.h"

/* core.dropout(x, p): zero each number with probability p, scale the others by 1/(1-p); drawn from the running stream. */
static int l_dropout(lua_State *L) {
  sul_site(L);
  return sul_give(L, su_dropout(sul_tensor(L, 1), luaL_checknumber(L, 2)));
}

/* core.pool(images, x, count): x's pictures or older ones, see nn/pool.c; count may be a live number. */
static int l_pool(lua_State *L) {
  sul_site(L);
  su_live_clear();
  return sul_give(L, su_pool(sul_tensor(L, 1), sul_tensor(L, 2), sul_real(L, 3, 0)));
}

static const luaL_Reg functions[] = {{"dropout", l_dropout}, {"pool", l_pool}, {NULL, NULL}};

void sul_open_nn(lua_State *L) { luaL_setfuncs(L, functions, 0); }
