/* l_thumb.c -- small copies of sample pictures for the report page, as WebP in memory. Adds to sumi.core.
 * Not here: PNG writing and everything that training reads (l_image.c). */
#define _GNU_SOURCE
#include "l.h"

#include "../runtime/io/image.h"

#include <webp/encode.h>

/* The image at path as RGB, at most `width` wide, into *out (to be freed, also after a failure). */
static bool shrink(const char *path, int64_t width, su_image *out) {
  if (!su_image_load(path, out) || !su_image_convert(out, 3)) return false;
  if (out->w <= width) return true;
  su_image big = *out;
  su_scratch scratch = {NULL, 0};
  int64_t h = (big.h * width + big.w / 2) / big.w;
  *out = (su_image){0, 0, 0, NULL};
  bool ok = su_image_new(out, h > 0 ? h : 1, width, 3) && su_image_resize(&big, out, SU_BICUBIC, &scratch);
  su_scratch_free(&scratch);
  su_image_free(&big);
  return ok;
}

/* thumbnail(path, width, quality) -> WebP bytes, width, height; or nil, message. quality is 0..100, and over 100
 * means without loss (for few colours and hard edges). */
static int l_thumbnail(lua_State *L) {
  const char *path = luaL_checkstring(L, 1);
  int64_t width = luaL_checkinteger(L, 2);
  double quality = luaL_checknumber(L, 3);
  luaL_argcheck(L, width >= 1 && width <= 16383, 2, "wants 1 to 16383 pixels");
  su_image im = {0, 0, 0, NULL};
  if (!shrink(path, width, &im)) {
    su_image_free(&im);
    lua_pushnil(L);
    lua_pushstring(L, su_error());
    return 2;
  }
  uint8_t *bytes = NULL;
  size_t n = quality > 100 ? WebPEncodeLosslessRGB(im.data, im.w, im.h, im.w * 3, &bytes)
                           : WebPEncodeRGB(im.data, im.w, im.h, im.w * 3, (float)quality, &bytes);
  lua_pushlstring(L, bytes ? (const char *)bytes : "", n);
  lua_pushinteger(L, im.w);
  lua_pushinteger(L, im.h);
  WebPFree(bytes);
  su_image_free(&im);
  if (n > 0) return 3;
  lua_pushnil(L);
  lua_pushfstring(L, "%s: libwebp cannot encode it", path);
  return 2;
}

void sul_open_thumb(lua_State *L) {
  lua_pushcfunction(L, l_thumbnail);
  lua_setfield(L, -2, "thumbnail");
}
