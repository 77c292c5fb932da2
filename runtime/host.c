/* host.c -- numbers between a tensor and the host, with conversion. */
#include "replay.h"

#include "cpu/bf16.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

static double number(const void *p, int dtype, int64_t k) {
  switch (dtype) {
    case SU_F32: return ((const float *)p)[k];
    case SU_F64: return ((const double *)p)[k];
    case SU_BF16: return su_from_bf16(((const uint16_t *)p)[k]);
    case SU_U8: return ((const uint8_t *)p)[k];
    default: return ((const int32_t *)p)[k];
  }
}

static void put_number(void *p, int dtype, int64_t k, double v) {
  switch (dtype) {
    case SU_F32: ((float *)p)[k] = (float)v; break;
    case SU_F64: ((double *)p)[k] = v; break;
    case SU_BF16: ((uint16_t *)p)[k] = su_to_bf16((float)v); break;
    case SU_U8: ((uint8_t *)p)[k] = (uint8_t)(v < 0 ? 0 : v > 255 ? 255 : v + 0.5); break;
    default: ((int32_t *)p)[k] = (int32_t)v; break;
  }
}

void su_convert(const void *src, int from, void *dst, int to, int64_t n) {
  if (from == SU_BF16 && to == SU_F32) su_widen(dst, src, n);
  else if (from == SU_F32 && to == SU_BF16) su_narrow(dst, src, n);
  else for (int64_t k = 0; k < n; k++) put_number(dst, to, k, number(src, from, k));
}

static size_t bytes_of(const su_tensor *t) { return (size_t)t->size * su_dtype_size(t->spec.dtype); }

static bool alive(const su_tensor *t, int64_t n) {
  if (!t->data)
    return su_fail("this tensor belonged to a step that has ended; keep it with :keep() if it must outlive it");
  if (t->size != n) return su_fail("%s has %" PRId64 " elements, not %" PRId64, su_shape_text(&t->spec), t->size, n);
  return true;
}

bool su_write_raw(su_tensor *t, const void *src, size_t bytes) {
  if (!alive(t, t->size)) return false;
  if (bytes != bytes_of(t)) return su_fail("%zu bytes given, the tensor has %zu", bytes, bytes_of(t));
  if (su_noting) su_note_write(t, src, bytes);
  if (su_dry) return true;
  su_touched(t);
  return t->dev->write(t->dev, t->data, src, bytes);
}

bool su_read_raw(const su_tensor *t, void *dst, size_t bytes) {
  if (!alive(t, t->size)) return false;
  if (bytes != bytes_of(t)) return su_fail("%zu bytes asked for, the tensor has %zu", bytes, bytes_of(t));
  if (su_noting && !su_note_read(t)) return false;
  if (su_dry && !t->st->block) return memset(dst, 0, bytes) != NULL;   /* never computed */
  return t->dev->read(t->dev, dst, t->data, bytes);
}

/* Both directions go through a host buffer in the tensor's dtype, so that they serve every device. */
static bool convert_in(su_tensor *t, const void *src, int dtype, int64_t n) {
  if (!alive(t, n)) return false;
  if (t->spec.dtype == dtype) return su_write_raw(t, src, bytes_of(t));
  void *buf = su_malloc(bytes_of(t));
  if (!buf) return false;
  su_convert(src, dtype, buf, t->spec.dtype, n);
  bool ok = su_write_raw(t, buf, bytes_of(t));
  su_free(buf);
  return ok;
}

static bool convert_out(const su_tensor *t, void *dst, int dtype, int64_t n) {
  if (!alive(t, n)) return false;
  if (t->spec.dtype == dtype) return su_read_raw(t, dst, bytes_of(t));
  char small[64];                      /* scalars, read every step, need no allocation */
  void *buf = bytes_of(t) <= sizeof small ? small : su_malloc(bytes_of(t));
  if (!buf) return false;
  bool ok = su_read_raw(t, buf, bytes_of(t));
  if (ok) su_convert(buf, t->spec.dtype, dst, dtype, n);
  if (buf != small) su_free(buf);
  return ok;
}

bool su_write_f64(su_tensor *t, const double *src, int64_t n) { return convert_in(t, src, SU_F64, n); }
bool su_read_f64(const su_tensor *t, double *dst, int64_t n) { return convert_out(t, dst, SU_F64, n); }
bool su_write_f32(su_tensor *t, const float *src, int64_t n) { return convert_in(t, src, SU_F32, n); }
bool su_read_f32(const su_tensor *t, float *dst, int64_t n) { return convert_out(t, dst, SU_F32, n); }
