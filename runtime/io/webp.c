/* webp.c -- WebP by libwebp, lossy and lossless, with or without alpha. Animations are refused: a frame
 * must be chosen first. */
#include <string.h>

#include <webp/decode.h>

#include "image.h"

static uint32_t number(const uint8_t *p) {
  return (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

/* The EXIF chunk of the RIFF container: each chunk is a name, a size and that many bytes, padded to even.
 */
static int orientation_of(const uint8_t *bytes, size_t n) {
  for (size_t at = 12; at + 8 <= n;) {
    size_t size = number(bytes + at + 4);
    if (size > n - at - 8) return 1;
    if (memcmp(bytes + at, "EXIF", 4) == 0) return su_exif_orientation(bytes + at + 8, size);
    at += 8 + size + (size & 1);
  }
  return 1;
}

static const char *why(VP8StatusCode code) {
  switch (code) {
  case VP8_STATUS_OUT_OF_MEMORY: return "out of memory";
  case VP8_STATUS_UNSUPPORTED_FEATURE: return "it uses a feature that libwebp lacks";
  case VP8_STATUS_NOT_ENOUGH_DATA: return "the file is truncated";
  default: return "the data are damaged";
  }
}

bool su_webp_decode(const uint8_t *bytes, size_t n, su_image *out, int *orientation) {
  WebPDecoderConfig config;
  *out = (su_image){0};
  if (!WebPInitDecoderConfig(&config))
    return su_fail("WebP: the library is of another version than its header");
  VP8StatusCode code = WebPGetFeatures(bytes, n, &config.input);
  if (code != VP8_STATUS_OK) return su_fail("WebP: %s", why(code));
  if (config.input.has_animation) return su_fail("an animated WebP; extract the frames first");
  int c = config.input.has_alpha ? 4 : 3;
  if (!su_image_new(out, config.input.height, config.input.width, c)) return false;
  config.output.colorspace = c == 4 ? MODE_RGBA : MODE_RGB;
  config.output.is_external_memory = 1;
  config.output.u.RGBA.rgba = out->data;
  config.output.u.RGBA.stride = out->w * c;
  config.output.u.RGBA.size = (size_t)out->h * (size_t)out->w * (size_t)c;
  code = WebPDecode(bytes, n, &config);
  WebPFreeDecBuffer(&config.output);
  if (code == VP8_STATUS_OK) {
    *orientation = orientation_of(bytes, n);
    return true;
  }
  su_image_free(out);
  return su_fail("WebP: %s", why(code));
}
