/* image.h -- still images as bytes: decode, convert, resize, write PNG. Knows no tensors; random order and
 * batches are in loader.h.
 *
 * An image is u8 [h,w,c], rows from the top, c = 1 gray, 2 gray + alpha, 3 RGB, 4 RGBA; alpha is not
 * premultiplied. Pixels equal Pillow's to the byte (decoders with their defaults, convert, resize), since
 * the protocols that published numbers rest on are Pillow's. Messages of the decoders do not name the file;
 * su_image_load does. */
#ifndef SUMI_IMAGE_H
#define SUMI_IMAGE_H

#include "../base.h"

#define SU_IMAGE_MAX_SIDE 65535
#define SU_IMAGE_MAX_PIXELS (INT64_C(1) << 27) /* 134 megapixels: refused before anything is allocated */

typedef struct su_image {
  int32_t h, w, c;
  uint8_t *data;
} su_image;

/* Memory that is kept from one call to the next and only grows; start from {0}. */
typedef struct su_scratch {
  void *data;
  size_t bytes;
} su_scratch;

typedef enum su_filter { SU_BICUBIC, SU_BILINEAR } su_filter;

/* ---- owning ---- */
bool su_image_new(su_image *im, int64_t h, int64_t w, int c); /* judges the size; uninitialised pixels */
void su_image_free(su_image *im);                             /* leaves {0}, harmless twice */
bool su_scratch_want(su_scratch *s, size_t bytes);
void su_scratch_free(su_scratch *s);

/* ---- reading ---- */
/* JPEG, PNG or WebP, told by their first bytes. The EXIF orientation has been applied. */
bool su_image_decode(const void *bytes, size_t n, su_image *out);
bool su_image_load(const char *path, su_image *out);
/* The whole file into memory of su_malloc; refuses directories and empty files. */
bool su_file_bytes(const char *path, uint8_t **data, size_t *bytes);
/* SHA-256 as hex and the size of a file, read in pieces. */
bool su_file_digest(const char *path, char hex[65], int64_t *bytes);

/* ---- changing ---- */
/* To c channels as Pillow's convert: gray = (19595 R + 38470 G + 7471 B + 32768) >> 16; alpha is dropped,
 * or 255 when added. */
bool su_image_convert(su_image *im, int c);
/* EXIF orientation 1 to 8; other values do nothing. */
bool su_image_orient(su_image *im, int orientation);
/* The orientation in a TIFF block (what EXIF is), 1 if there is none. */
int su_exif_orientation(const uint8_t *tiff, size_t n);
/* Antialiased resize to out->h x out->w; out->data holds out->h * out->w * in->c bytes. Colours are
 * weighted by alpha. */
bool su_image_resize(const su_image *in, su_image *out, su_filter filter, su_scratch *scratch);

/* ---- writing ---- */
/* Gray, gray + alpha, RGB or RGBA; the same pixels give the same bytes. Replaced durably (file.h, site
 * "png"). */
bool su_png_write(const char *path, const su_image *im);
/* x: f32 [n,h,w,c], -1 black, 1 white -> rows x cols tiles with `gutter` white pixels between; c 1 or 3.
 * Missing tiles stay white. */
bool su_image_grid(const float *x, const int64_t shape[4], int64_t rows, int64_t cols, int gutter,
                   su_image *out);

/* ---- the decoders behind su_image_decode; orientation is what the file asks for ---- */
bool su_jpeg_decode(const uint8_t *bytes, size_t n, su_image *out, int *orientation);
bool su_png_decode(const uint8_t *bytes, size_t n, su_image *out, int *orientation);
bool su_webp_decode(const uint8_t *bytes, size_t n, su_image *out, int *orientation);

#endif
