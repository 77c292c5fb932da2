/* l_nn.c -- the neural functions that a script calls with more than tensors: dropout draws its own mask. */
#include "l.h"

#include "../nn/nn.h"

/* core.dropout(x, p): zero each number with probability p, scale the others by 1/(1-p); drawn from the running stream. */
static int l_dropout(lua_State *L) {
  sul_site(L);
  return sul_give(L, su_dropout(sul_tensor(L, 1), luaL_checknumber(L, 2)));
}

void sul_open_nn(lua_State *L) {
  lua_pushcfunction(L, l_dropout);
  lua_setfield(L, -2, "dropout");
}
