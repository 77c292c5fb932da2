/* picture.c -- from bytes to numbers: y = 2 x / 255 - 1, cut out and mirrored on the way. What the loader
 * does on the CPU for the devices there (runtime/io/example.c) is done here for GPUs: a byte goes over the
 * bus where a float would. In float32 y has the bits of the loader's floats. */
#include "nn.h"

#include <inttypes.h>

enum { SIZE = 0, TO = 2 };                          /* int slots */

/* Sizes of 0 mean all of x. */
static bool picture_shape(su_call *c) {
  const su_spec *x = &c->in[0], *at = &c->in[1];
  su_spec *y = &c->out[0];
  if (x->dtype != SU_U8 || x->ndim != 4)
    return su_fail("picture: x wants u8 pictures [n,h,w,c], has %s %s", su_dtype_name(x->dtype),
                   su_shape_text(x));
  if (at->ndim >= 0 && (at->dtype != SU_I32 || at->ndim != 2 || at->shape[0] != x->shape[0] ||
                        at->shape[1] != 3))
    return su_fail("picture: at wants top, left and flip of each picture, i32 [%" PRId64 ",3]; has %s %s",
                   x->shape[0], su_dtype_name(at->dtype), su_shape_text(at));
  *y = *x;
  for (int k = 0; k < 2; k++) {
    const int64_t n = c->i[SIZE + k];
    if (n < 0 || n > x->shape[1 + k] || n > INT32_MAX)
      return su_fail("picture: size %" PRId64 " x %" PRId64 " is not within pictures of %s", c->i[SIZE],
                     c->i[SIZE + 1], su_shape_text(x));
    if (n) y->shape[1 + k] = n;
  }
  y->dtype = c->i[TO] && c->dev->real != SU_F64 ? SU_BF16 : c->dev->real;
  return true;
}

/* Where row `row` of the results comes from: its pixels, and whether they are mirrored. A cut that begins
 * too far out is moved back in. */
static const uint8_t *row_of(const su_plan *p, void *const *in, int64_t row, bool *flip) {
  const su_spec *x = &p->call.in[0], *y = &p->call.out[0];
  const int64_t oh = y->shape[1], n = row / oh, down = x->shape[1] - oh, right = x->shape[2] - y->shape[2];
  int64_t top = 0, left = 0;
  *flip = false;
  if (p->call.in[1].ndim >= 0) {
    const int32_t *at = (const int32_t *)in[1] + 3 * n;
    top = at[0] < 0 ? 0 : at[0] > down ? down : at[0];
    left = at[1] < 0 ? 0 : at[1] > right ? right : at[1];
    *flip = at[2] != 0;
  }
  return (const uint8_t *)in[0] + ((n * x->shape[1] + top + row % oh) * x->shape[2] + left) * x->shape[3];
}

static void picture_ref(const su_plan *p, void *const *in, void *const *out, const double *r, void *ws) {
  (void)r; (void)ws;
  const su_spec *y = &p->call.out[0];
  const int64_t w = y->shape[2], c = y->shape[3];
  double *to = out[0];
  for (int64_t row = 0; row < y->shape[0] * y->shape[1]; row++) {
    bool flip;
    const uint8_t *from = row_of(p, in, row, &flip);
    for (int64_t k = 0; k < w; k++)
      for (int64_t j = 0; j < c; j++) *to++ = 2.0 * from[(flip ? w - 1 - k : k) * c + j] / 255 - 1;
  }
}

typedef struct job { const su_plan *p; void *const *in; void *out; uint32_t shade[256]; } job;

static void rows_cpu(void *arg, int64_t first, int64_t last) {
  const job *j = arg;
  const su_spec *y = &j->p->call.out[0];
  const int64_t w = y->shape[2], c = y->shape[3];
  const bool narrow = y->dtype == SU_BF16;
  for (int64_t row = first; row < last; row++) {
    bool flip;
    const uint8_t *from = row_of(j->p, j->in, row, &flip);
    for (int64_t k = 0; k < w * c; k++) {
      const int64_t at = flip ? (w - 1 - k / c) * c + k % c : k;
      if (narrow) ((uint16_t *)j->out)[row * w * c + k] = (uint16_t)j->shade[from[at]];
      else ((uint32_t *)j->out)[row * w * c + k] = j->shade[from[at]];
    }
  }
}

static void picture_cpu(const su_plan *p, void *const *in, void *const *out, const double *r, void *ws) {
  (void)r; (void)ws;
  const su_spec *y = &p->call.out[0];
  job j = {.p = p, .in = in, .out = out[0]};
  for (int k = 0; k < 256; k++) {
    const float v = (float)(2 * k - 255) / 255.0f;
    su_convert(&v, SU_F32, &j.shade[k], y->dtype, 1);
  }
  su_parallel(y->shape[0] * y->shape[1], 64, rows_cpu, &j);
}

static const char *const cases[] = {"x=2,5,7,3@u8", "x=2,5,7,3@u8 at=2,3@int2 size=4,6",
                                    "x=3,6,6,1@u8 at=3,3@int9 size=2",
                                    "x=2,9,8,4@u8 at=2,3@int3 size=5,5", NULL};

SU_OP(picture) {
  .sig = "picture(x, at?, size:int2=0, to:enum(f32|bf16)=f32) -> y",
  .doc = "Bytes to numbers from -1 to 1: 2*x/255 - 1. Of each picture the part of `size` (0: all) from (top, left) on, "
         "mirrored if flip is not 0; at holds these three numbers, i32 [n,3].",
  .shape = picture_shape, .ref = picture_ref, .cpu = picture_cpu, .any_dtype = true, .cases = cases};

su_tensor *su_picture(su_tensor *x) {
  return su_apply1(&picture_op, (su_tensor *[SU_MAX_IN]){x}, (int64_t[SU_MAX_INT]){0}, NULL);
}
