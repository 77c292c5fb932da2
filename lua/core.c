/* core.c -- the C half of the library as the module `sumi.core`. */
#include "l.h"

int luaopen_sumi_core(lua_State *L);

int luaopen_sumi_core(lua_State *L) {
  lua_newtable(L);
  lua_pushliteral(L, SUMI_VERSION);
  lua_setfield(L, -2, "version");
  sul_open_error(L);
  sul_open_tensor(L);
  sul_open_tape(L);
  sul_open_ops(L);
  sul_open_replay(L);
  sul_open_nn(L);
  sul_open_system(L);
  sul_open_image(L);
  sul_open_store(L);
  return 1;
}
