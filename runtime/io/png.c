/* png.c -- PNG by libpng: reading (1 to 16 bits, gray, palette, RGB, alpha, interlaced) to 8 bits, and
 * writing whole files at once. Of 16 bits the upper 8 are kept, as Pillow does; gamma and colour profiles
 * are left alone, as Pillow does. */
#include <setjmp.h>
#include <stdio.h>
#include <string.h>

#include <png.h>

#include "file.h"
#include "image.h"

#define MAX_CHUNK (64u << 20) /* bytes of one ancillary chunk (colour profiles, text) */

struct source {
  const uint8_t *at, *end;
  char text[256];
};

static void on_error(png_structp png, png_const_charp why) {
  struct source *s = png_get_error_ptr(png);
  if (!s->text[0]) snprintf(s->text, sizeof s->text, "damaged PNG: %s", why);
  png_longjmp(png, 1);
}

static void on_warning(png_structp png, png_const_charp why) { (void)png, (void)why; }

static void take(png_structp png, png_bytep to, size_t n) {
  struct source *s = png_get_io_ptr(png);
  if (n > (size_t)(s->end - s->at)) {
    snprintf(s->text, sizeof s->text, "truncated PNG: the file ends inside the picture");
    png_error(png, "truncated");
  }
  memcpy(to, s->at, n);
  s->at += n;
}

/* Ask libpng for 8 bits, no palette, transparency as an alpha channel. */
static void want_bytes(png_structp png, png_infop info) {
  if (png_get_bit_depth(png, info) == 16) png_set_strip_16(png);
  if (png_get_color_type(png, info) == PNG_COLOR_TYPE_PALETTE) png_set_palette_to_rgb(png);
  if (png_get_bit_depth(png, info) < 8) png_set_expand_gray_1_2_4_to_8(png);
  if (png_get_valid(png, info, PNG_INFO_tRNS)) png_set_tRNS_to_alpha(png);
}

static int orientation_of(png_structp png, png_infop info) {
  png_uint_32 n = 0;
  png_bytep exif = NULL;
  if (!png_get_eXIf_1(png, info, &n, &exif)) return 1;
  return su_exif_orientation(exif, n);
}

/* Runs below the setjmp; whatever it owns is in the png structs or out. */
static bool read_picture(png_structp png, png_infop info, su_image *out, int *orientation) {
  png_set_user_limits(png, SU_IMAGE_MAX_SIDE, SU_IMAGE_MAX_SIDE);
  png_set_chunk_malloc_max(png, MAX_CHUNK);
  png_read_info(png, info);
  want_bytes(png, info);
  int passes = png_set_interlace_handling(png);
  png_read_update_info(png, info);
  if (!su_image_new(out, png_get_image_height(png, info), png_get_image_width(png, info),
                    png_get_channels(png, info)))
    return false;
  size_t stride = (size_t)out->w * (size_t)out->c;
  if (png_get_rowbytes(png, info) != stride) return su_fail("PNG: this kind of pixel is not supported");
  for (int p = 0; p < passes; p++)
    for (int32_t y = 0; y < out->h; y++) png_read_row(png, out->data + (size_t)y * stride, NULL);
  png_read_end(png, info);
  *orientation = orientation_of(png, info);
  return true;
}

bool su_png_decode(const uint8_t *bytes, size_t n, su_image *out, int *orientation) {
  struct source s = {bytes, bytes + n, ""};
  *out = (su_image){0};
  png_structp png = png_create_read_struct(PNG_LIBPNG_VER_STRING, &s, on_error, on_warning);
  png_infop info = png ? png_create_info_struct(png) : NULL;
  if (!info) {
    png_destroy_read_struct(&png, NULL, NULL);
    return su_fail_code(SU_EMACHINE, "PNG: out of memory");
  }
  if (setjmp(png_jmpbuf(png))) {
    png_destroy_read_struct(&png, &info, NULL);
    su_image_free(out);
    return su_fail("%s", s.text);
  }
  png_set_read_fn(png, &s, take);
  bool ok = read_picture(png, info, out, orientation);
  png_destroy_read_struct(&png, &info, NULL);
  if (!ok) su_image_free(out);
  return ok;
}

/* ---- writing ---- */

struct sink {
  uint8_t *data;
  size_t bytes, room;
  char text[256];
};

static void sink_error(png_structp png, png_const_charp why) {
  struct sink *k = png_get_error_ptr(png);
  snprintf(k->text, sizeof k->text, "PNG: %s", why);
  png_longjmp(png, 1);
}

static void put(png_structp png, png_bytep from, size_t n) {
  struct sink *k = png_get_io_ptr(png);
  if (k->bytes + n > k->room) {
    size_t room = 2 * k->room + n + 4096;
    uint8_t *grown = su_realloc(k->data, room);
    if (!grown) png_error(png, "out of memory");
    k->data = grown;
    k->room = room;
  }
  memcpy(k->data + k->bytes, from, n);
  k->bytes += n;
}

static void flush_nothing(png_structp png) { (void)png; }

static bool encode(const su_image *im, struct sink *k) {
  static const int type[5] = {0, PNG_COLOR_TYPE_GRAY, PNG_COLOR_TYPE_GRAY_ALPHA, PNG_COLOR_TYPE_RGB,
                              PNG_COLOR_TYPE_RGB_ALPHA};
  if (im->c < 1 || im->c > 4) return su_fail("PNG: an image has 1 to 4 channels, this one has %d", im->c);
  png_structp png = png_create_write_struct(PNG_LIBPNG_VER_STRING, k, sink_error, on_warning);
  png_infop info = png ? png_create_info_struct(png) : NULL;
  if (!info) {
    png_destroy_write_struct(&png, NULL);
    return su_fail_code(SU_EMACHINE, "PNG: out of memory");
  }
  if (setjmp(png_jmpbuf(png))) {
    png_destroy_write_struct(&png, &info);
    return su_fail_code(SU_EMACHINE, "%s", k->text);
  }
  png_set_write_fn(png, k, put, flush_nothing);
  png_set_IHDR(png, info, (png_uint_32)im->w, (png_uint_32)im->h, 8, type[im->c], PNG_INTERLACE_NONE,
               PNG_COMPRESSION_TYPE_DEFAULT, PNG_FILTER_TYPE_DEFAULT);
  png_set_compression_level(png, 6);
  png_write_info(png, info);
  for (int32_t y = 0; y < im->h; y++)
    png_write_row(png, im->data + (size_t)y * (size_t)im->w * (size_t)im->c);
  png_write_end(png, info);
  png_destroy_write_struct(&png, &info);
  return true;
}

bool su_png_write(const char *path, const su_image *im) {
  struct sink k = {0};
  bool ok = encode(im, &k);
  if (ok) {
    su_part part = {k.data, k.bytes};
    su_put put = {.path = path, .site = "png", .parts = &part, .n_parts = 1};
    ok = su_file_put(&put);
  }
  su_free(k.data);
  return ok;
}

/* ---- grids ---- */

static uint8_t shade(float v) {
  float s = (v + 1.0f) * 127.5f + 0.5f;
  return (uint8_t)(s >= 255.0f ? 255 : s > 0.0f ? (int)s : 0); /* NaN is black */
}

bool su_image_grid(const float *x, const int64_t shape[4], int64_t rows, int64_t cols, int gutter,
                   su_image *out) {
  int64_t n = shape[0], h = shape[1], w = shape[2], c = shape[3];
  *out = (su_image){0};
  if (c != 1 && c != 3) return su_fail("a picture has 1 or 3 channels, this tensor has %lld", (long long)c);
  if (rows < 1 || cols < 1) return su_fail("a grid has at least one row and one column");
  if (h > SU_IMAGE_MAX_SIDE || w > SU_IMAGE_MAX_SIDE || rows > SU_IMAGE_MAX_SIDE ||
      cols > SU_IMAGE_MAX_SIDE)
    return su_fail("a grid of %lldx%lld tiles of %lldx%lld is too large", (long long)cols, (long long)rows,
                   (long long)w, (long long)h);
  if (!su_image_new(out, rows * h + (rows - 1) * gutter, cols * w + (cols - 1) * gutter, (int)c))
    return false;
  memset(out->data, 255, (size_t)out->h * (size_t)out->w * (size_t)c);
  for (int64_t i = 0; i < n && i < rows * cols; i++) {
    int64_t top = i / cols * (h + gutter), left = i % cols * (w + gutter);
    for (int64_t y = 0; y < h; y++) {
      const float *from = x + (i * h + y) * w * c; /* [w,c] */
      uint8_t *to = out->data + ((top + y) * out->w + left) * c;
      for (int64_t k = 0; k < w * c; k++) to[k] = shade(from[k]);
    }
  }
  return true;
}
