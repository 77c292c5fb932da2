/* image.c -- which decoder, files, channel conversion and EXIF orientation. Decoders: jpeg.c png.c webp.c;
 * see image.h. */
#define _GNU_SOURCE
#include "image.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "sha256.h"

/* ---- owning ---- */

bool su_image_new(su_image *im, int64_t h, int64_t w, int c) {
  *im = (su_image){0};
  if (h < 1 || w < 1) return su_fail("the image has no pixels (%lldx%lld)", (long long)w, (long long)h);
  if (h > SU_IMAGE_MAX_SIDE || w > SU_IMAGE_MAX_SIDE || h * w > SU_IMAGE_MAX_PIXELS)
    return su_fail("the image is %lldx%lld; at most %d pixels a side and %lld in all are read",
                   (long long)w, (long long)h, SU_IMAGE_MAX_SIDE, (long long)SU_IMAGE_MAX_PIXELS);
  im->data = su_malloc((size_t)(h * w * c));
  if (!im->data) return false;
  im->h = (int32_t)h;
  im->w = (int32_t)w;
  im->c = c;
  return true;
}

void su_image_free(su_image *im) {
  su_free(im->data);
  *im = (su_image){0};
}

bool su_scratch_want(su_scratch *s, size_t bytes) {
  if (bytes <= s->bytes) return true;
  su_scratch_free(s);
  s->data = su_malloc(bytes);
  s->bytes = s->data ? bytes : 0;
  return s->data != NULL;
}

void su_scratch_free(su_scratch *s) {
  su_free(s->data);
  *s = (su_scratch){0};
}

/* ---- files ---- */

static FILE *open_file(const char *path, int64_t *bytes) {
  struct stat st;
  if (stat(path, &st) != 0) {
    su_fail("%s: %s", path, strerror(errno));
    return NULL;
  }
  if (!S_ISREG(st.st_mode)) {
    su_fail("%s: is %s, not a file", path, S_ISDIR(st.st_mode) ? "a folder" : "special");
    return NULL;
  }
  FILE *f = fopen(path, "rbe");
  if (!f) su_fail("%s: %s", path, strerror(errno));
  *bytes = (int64_t)st.st_size;
  return f;
}

bool su_file_bytes(const char *path, uint8_t **data, size_t *bytes) {
  int64_t size;
  *data = NULL;
  FILE *f = open_file(path, &size);
  if (!f) return false;
  *bytes = (size_t)size;
  bool ok = size > 0 ? true : su_fail("%s: the file is empty", path);
  ok = ok && (*data = su_malloc(*bytes)) != NULL;
  if (ok && fread(*data, 1, *bytes, f) != *bytes)
    ok = su_fail("%s: %s", path, ferror(f) ? strerror(errno) : "the file became shorter while it was read");
  fclose(f);
  if (!ok) {
    su_free(*data);
    *data = NULL;
  }
  return ok;
}

bool su_file_digest(const char *path, char hex[65], int64_t *bytes) {
  unsigned char piece[65536];
  su_sha256 ctx;
  uint8_t digest[32];
  size_t got;
  FILE *f = open_file(path, bytes);
  if (!f) return false;
  su_sha256_begin(&ctx);
  *bytes = 0;
  while ((got = fread(piece, 1, sizeof piece, f)) > 0) {
    su_sha256_add(&ctx, piece, got);
    *bytes += (int64_t)got;
  }
  bool ok = ferror(f) ? su_fail("%s: %s", path, strerror(errno)) : true;
  fclose(f);
  su_sha256_end(&ctx, digest);
  su_sha256_text(digest, hex);
  return ok;
}

/* ---- decoding ---- */

bool su_image_decode(const void *bytes, size_t n, su_image *out) {
  const uint8_t *p = bytes;
  int orientation = 1;
  bool ok;
  *out = (su_image){0};
  if (n == 0) return su_fail("the file is empty");
  if (n >= 3 && memcmp(p, "\xff\xd8\xff", 3) == 0) ok = su_jpeg_decode(p, n, out, &orientation);
  else if (n >= 8 && memcmp(p, "\x89PNG\r\n\x1a\n", 8) == 0) ok = su_png_decode(p, n, out, &orientation);
  else if (n >= 12 && memcmp(p, "RIFF", 4) == 0 && memcmp(p + 8, "WEBP", 4) == 0)
    ok = su_webp_decode(p, n, out, &orientation);
  else return su_fail("not an image that Sumi reads (JPEG, PNG or WebP)");
  if (ok && !su_image_orient(out, orientation)) ok = false;
  if (!ok) su_image_free(out);
  return ok;
}

bool su_image_load(const char *path, su_image *out) {
  uint8_t *bytes;
  size_t n;
  *out = (su_image){0};
  if (!su_file_bytes(path, &bytes, &n)) return false;
  bool ok = su_image_decode(bytes, n, out);
  if (!ok) su_fail_code(su_error_code(), "%s: %s", path, su_error());
  su_free(bytes);
  return ok;
}

/* ---- channels ---- */

static uint8_t luma(const uint8_t *p) {
  return (uint8_t)((p[0] * 19595u + p[1] * 38470u + p[2] * 7471u + 0x8000u) >> 16);
}

static void convert_row(const uint8_t *s, int from, uint8_t *d, int to, int64_t n) {
  bool had_alpha = from == 2 || from == 4;
  int colours = to <= 2 ? 1 : 3;
  for (int64_t i = 0; i < n; i++, s += from, d += to) {
    uint8_t alpha = had_alpha ? s[from - 1] : 255;
    if (colours == 1) {
      d[0] = from <= 2 ? s[0] : luma(s);
    } else {
      d[0] = s[0];
      d[1] = from <= 2 ? s[0] : s[1];
      d[2] = from <= 2 ? s[0] : s[2];
    }
    if (to > colours) d[colours] = alpha;
  }
}

bool su_image_convert(su_image *im, int c) {
  su_image to;
  if (c == im->c) return true;
  if (c < 1 || c > 4)
    return su_fail("channels must be 1 (gray), 2 (gray, alpha), 3 (RGB) or 4 (RGBA), not %d", c);
  if (!su_image_new(&to, im->h, im->w, c)) return false;
  convert_row(im->data, im->c, to.data, c, (int64_t)im->h * im->w);
  su_image_free(im);
  *im = to;
  return true;
}

/* ---- EXIF orientation (Exif 2.3, tag 0x0112): where row 0 and column 0 of the stored picture belong ----
 */

static uint32_t tiff_number(const uint8_t *p, int bytes, bool big) {
  uint32_t v = 0;
  for (int i = 0; i < bytes; i++) v |= (uint32_t)p[i] << 8 * (big ? bytes - 1 - i : i);
  return v;
}

int su_exif_orientation(const uint8_t *t, size_t n) {
  if (n >= 6 && memcmp(t, "Exif\0", 6) == 0) t += 6, n -= 6;
  if (n < 8 || (memcmp(t, "II*\0", 4) != 0 && memcmp(t, "MM\0*", 4) != 0)) return 1;
  bool big = t[0] == 'M';
  size_t at = tiff_number(t + 4, 4, big);
  if (at > n - 2) return 1;
  size_t count = tiff_number(t + at, 2, big);
  for (size_t i = 0; i < count && at + 2 + 12 * i + 12 <= n; i++) {
    const uint8_t *entry = t + at + 2 + 12 * i; /* tag, type, count, value */
    if (tiff_number(entry, 2, big) != 0x0112) continue;
    uint32_t v = tiff_number(entry + 8, 2, big);
    return tiff_number(entry + 2, 2, big) == 3 && v >= 1 && v <= 8 ? (int)v : 1;
  }
  return 1;
}

bool su_image_orient(su_image *im, int orientation) {
  if (orientation < 2 || orientation > 8) return true;
  bool turned = orientation >= 5; /* rows become columns */
  bool flip_y = orientation == 3 || orientation == 4 || orientation == 7 || orientation == 8;
  bool flip_x = orientation == 2 || orientation == 3 || orientation == 6 || orientation == 7;
  su_image to;
  if (!su_image_new(&to, turned ? im->w : im->h, turned ? im->h : im->w, im->c)) return false;
  for (int32_t y = 0; y < to.h; y++)
    for (int32_t x = 0; x < to.w; x++) {
      int32_t ty = flip_y ? to.h - 1 - y : y, tx = flip_x ? to.w - 1 - x : x;
      int64_t from = turned ? (int64_t)tx * im->w + ty : (int64_t)ty * im->w + tx;
      memcpy(to.data + ((int64_t)y * to.w + x) * im->c, im->data + from * im->c, (size_t)im->c);
    }
  su_image_free(im);
  *im = to;
  return true;
}
