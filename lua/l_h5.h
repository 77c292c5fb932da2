/* l_h5.h -- what l_h5.c gives to the other files of the binding that handle HDF5. */
#ifndef SUMI_L_H5_H
#define SUMI_L_H5_H

#include <lua.h>

#include "../runtime/io/h5.h"

void sul_open_h5(lua_State *L);                        /* with the table sumi.core on top */
su_h5 *sul_h5_building(lua_State *L, int idx);         /* argument errors otherwise */
su_h5 *sul_h5_reading(lua_State *L, int idx);
void sul_push_names(lua_State *L, const su_names *names);

#endif
