/* jpeg.c -- JPEG by libjpeg-turbo with its defaults (accurate integer DCT, fancy upsampling), which are
 * Pillow's. Damage that the library would paint over in gray (a short file, broken codes) is an error here.
 */
#include <setjmp.h>
#include <stdio.h> /* jpeglib.h needs FILE */
#include <string.h>

#include <jpeglib.h>

#include <jerror.h>

#include "image.h"

#define MAX_SCANS 500 /* of a progressive file; crafted ones have millions and take hours */

struct reader {
  struct jpeg_error_mgr errors; /* first: the library hands back a pointer to it */
  struct jpeg_progress_mgr progress;
  struct jpeg_decompress_struct jpeg;
  jmp_buf failed;
  char text[JMSG_LENGTH_MAX + 64];
};

static void fail_exit(j_common_ptr info) {
  struct reader *r = (struct reader *)(void *)info->err;
  char why[JMSG_LENGTH_MAX];
  info->err->format_message(info, why);
  snprintf(r->text, sizeof r->text, "damaged JPEG: %s", why);
  longjmp(r->failed, 1);
}

static void warn(j_common_ptr info, int level) {
  struct reader *r = (struct reader *)(void *)info->err;
  if (level >= 0) return;
  switch (info->err->msg_code) {
  case JWRN_JPEG_EOF:
    snprintf(r->text, sizeof r->text, "truncated JPEG: the file ends inside the picture");
    longjmp(r->failed, 1);
  case JWRN_HIT_MARKER:
  case JWRN_HUFF_BAD_CODE:
  case JWRN_ARITH_BAD_CODE:
  case JWRN_MUST_RESYNC:
  case JWRN_NOT_SEQUENTIAL: fail_exit(info); break;
  default: /* stray bytes between segments and the like: the pixels are whole */ info->err->num_warnings++;
  }
}

static void silent(j_common_ptr info) { (void)info; }

static void count_scans(j_common_ptr info) {
  struct reader *r = (struct reader *)(void *)info->err;
  if (((j_decompress_ptr)(void *)info)->input_scan_number <= MAX_SCANS) return;
  snprintf(r->text, sizeof r->text, "damaged JPEG: more than %d scans", MAX_SCANS);
  longjmp(r->failed, 1);
}

static int orientation_of(const struct jpeg_decompress_struct *jpeg) {
  for (jpeg_saved_marker_ptr m = jpeg->marker_list; m; m = m->next)
    if (m->marker == JPEG_APP0 + 1 && m->data_length >= 6 && memcmp(m->data, "Exif\0", 6) == 0)
      return su_exif_orientation(m->data, m->data_length);
  return 1;
}

/* Runs below the setjmp; whatever it owns is in r or out. */
static bool read_picture(struct reader *r, const uint8_t *bytes, size_t n, su_image *out,
                         int *orientation) {
  struct jpeg_decompress_struct *jpeg = &r->jpeg;
  jpeg_mem_src(jpeg, bytes, (unsigned long)n);
  jpeg_save_markers(jpeg, JPEG_APP0 + 1, 0xffff);
  jpeg_read_header(jpeg, TRUE);
  if (jpeg->jpeg_color_space == JCS_CMYK || jpeg->jpeg_color_space == JCS_YCCK)
    return su_fail("a CMYK JPEG (made for print), which Sumi does not read; "
                   "convert it first, e.g. `convert IN.jpg -colorspace sRGB OUT.jpg`");
  bool gray = jpeg->jpeg_color_space == JCS_GRAYSCALE;
  jpeg->out_color_space = gray ? JCS_GRAYSCALE : JCS_RGB;
  *orientation = orientation_of(jpeg);
  if (!su_image_new(out, jpeg->image_height, jpeg->image_width, gray ? 1 : 3)) return false;
  jpeg_start_decompress(jpeg);
  while (jpeg->output_scanline < jpeg->output_height) {
    JSAMPROW row = out->data + (size_t)jpeg->output_scanline * (size_t)out->w * (size_t)out->c;
    jpeg_read_scanlines(jpeg, &row, 1);
  }
  jpeg_finish_decompress(jpeg);
  return true;
}

bool su_jpeg_decode(const uint8_t *bytes, size_t n, su_image *out, int *orientation) {
  struct reader r;
  memset(&r, 0, sizeof r);
  *out = (su_image){0};
  r.jpeg.err = jpeg_std_error(&r.errors);
  r.errors.error_exit = fail_exit;
  r.errors.emit_message = warn;
  r.errors.output_message = silent;
  if (setjmp(r.failed)) {
    jpeg_destroy_decompress(&r.jpeg);
    su_image_free(out);
    return su_fail("%s", r.text);
  }
  jpeg_create_decompress(&r.jpeg);
  r.progress.progress_monitor = count_scans;
  r.jpeg.progress = &r.progress;
  bool ok = read_picture(&r, bytes, n, out, orientation);
  jpeg_destroy_decompress(&r.jpeg);
  if (!ok) su_image_free(out);
  return ok;
}
