/* resize.c -- antialiased resampling of bytes, equal to Pillow's Image.resize to the byte.
 *
 * Output pixel i reads the inputs under a filter centred at (i + 1/2) s, s = in / out, stretched by max(s,
 * 1). The weights, normalised to sum 1, are rounded to 22 binary places, the sum of products to 8 bits;
 * columns first, then rows, with bytes between the two. Gray + alpha and RGBA are premultiplied before and
 * divided after, as Pillow does.
 *
 * Pillow 13 begins with the rows when a tall image shrinks; every version before it, and so every published
 * protocol, begins with the columns, and so do we. */
#include "image.h"

#include <math.h>
#include <string.h>

#include "../op.h" /* SU_CLONES */

#define PLACES 22 /* 32 bits less 8 of the pixel and 2 for sign and overshoot */

/* The inputs of one output pixel: weight[0..count) on pixels first.. */
struct taps {
  int32_t *first, *count; /* [out] */
  int32_t *weight;        /* [out,room] */
  int32_t room;
};

static double triangle(double x) { return fabs(x) < 1 ? 1 - fabs(x) : 0; }

/* Keys' cubic with a = -1/2. */
static double cubic(double x) {
  const double a = -0.5;
  x = fabs(x);
  if (x < 1) return ((a + 2) * x - (a + 3)) * x * x + 1;
  if (x < 2) return (((x - 5) * x + 8) * x - 4) * a;
  return 0;
}

static int32_t taps_room(int32_t in, int32_t out, su_filter filter) {
  double s = (double)in / out, reach = (filter == SU_BICUBIC ? 2.0 : 1.0) * (s < 1 ? 1 : s);
  return (int32_t)ceil(reach) * 2 + 1;
}

static void taps_fill(struct taps *t, int32_t in, int32_t out, su_filter filter, double *w) {
  double (*at)(double) = filter == SU_BICUBIC ? cubic : triangle;
  double s = (double)in / out, stretch = s < 1 ? 1 : s;
  double reach = (filter == SU_BICUBIC ? 2.0 : 1.0) * stretch, shrink = 1.0 / stretch;
  for (int32_t i = 0; i < out; i++) {
    double centre = (i + 0.5) * s, sum = 0;
    int32_t first = (int32_t)(centre - reach + 0.5), end = (int32_t)(centre + reach + 0.5);
    if (first < 0) first = 0;
    if (end > in) end = in;
    for (int32_t k = 0; k < end - first; k++) sum += w[k] = at((k + first - centre + 0.5) * shrink);
    t->first[i] = first;
    t->count[i] = end - first;
    for (int32_t k = 0; k < end - first; k++) {
      double v = (sum != 0 ? w[k] / sum : w[k]) * (1 << PLACES);
      t->weight[(int64_t)i * t->room + k] = (int32_t)(v < 0 ? v - 0.5 : v + 0.5);
    }
  }
}

static uint8_t round8(int32_t sum) {
  int32_t v = sum >> PLACES;
  return (uint8_t)(v < 0 ? 0 : v > 255 ? 255 : v);
}

/* [h,w,c] -> [h,ow,c] */
SU_CLONES
static void columns(const su_image *in, su_image *out, const struct taps *t) {
  const int c = in->c;
  for (int32_t y = 0; y < out->h; y++) {
    const uint8_t *row = in->data + (int64_t)y * in->w * c;
    uint8_t *to = out->data + (int64_t)y * out->w * c;
    for (int32_t x = 0; x < out->w; x++, to += c) {
      const int32_t *k = t->weight + (int64_t)x * t->room, n = t->count[x];
      const uint8_t *from = row + (int64_t)t->first[x] * c;
      int32_t sum[4] = {1 << (PLACES - 1), 1 << (PLACES - 1), 1 << (PLACES - 1), 1 << (PLACES - 1)};
      if (c == 3)
        for (int32_t i = 0; i < n; i++)
          for (int j = 0; j < 3; j++) sum[j] += from[3 * i + j] * k[i];
      else
        for (int32_t i = 0; i < n; i++)
          for (int j = 0; j < c; j++) sum[j] += from[c * i + j] * k[i];
      for (int j = 0; j < c; j++) to[j] = round8(sum[j]);
    }
  }
}

/* [h,w,c] -> [oh,w,c]; sums holds w*c numbers. */
SU_CLONES
static void rows(const su_image *in, su_image *out, const struct taps *t, int32_t *restrict sums) {
  const int64_t n = (int64_t)in->w * in->c;
  for (int32_t y = 0; y < out->h; y++) {
    const int32_t *k = t->weight + (int64_t)y * t->room;
    for (int64_t x = 0; x < n; x++) sums[x] = 1 << (PLACES - 1);
    for (int32_t i = 0; i < t->count[y]; i++) {
      const uint8_t *restrict from = in->data + (t->first[y] + i) * n;
      const int32_t weight = k[i];
      for (int64_t x = 0; x < n; x++) sums[x] += from[x] * weight;
    }
    uint8_t *restrict to = out->data + y * n;
    for (int64_t x = 0; x < n; x++) to[x] = round8(sums[x]);
  }
}

static void premultiply(uint8_t *p, int c, int64_t n) {
  for (; n > 0; n--, p += c)
    for (int j = 0; j < c - 1; j++) {
      uint32_t v = (uint32_t)p[j] * p[c - 1] + 128;
      p[j] = (uint8_t)(((v >> 8) + v) >> 8);
    }
}

static void unpremultiply(uint8_t *p, int c, int64_t n) {
  for (; n > 0; n--, p += c) {
    uint32_t a = p[c - 1];
    if (a == 0 || a == 255) continue;
    for (int j = 0; j < c - 1; j++) {
      uint32_t v = 255u * p[j] / a;
      p[j] = (uint8_t)(v > 255 ? 255 : v);
    }
  }
}

/* Cuts the scratch into pieces of 64-byte alignment; called with base NULL it only measures. */
static void *piece(uint8_t *base, size_t *used, size_t bytes) {
  void *p = base ? base + *used : NULL;
  *used += (bytes + 63) / 64 * 64;
  return p;
}

struct work {
  struct taps x, y;
  double *w;
  int32_t *sums;
  uint8_t *source, *middle; /* a premultiplied copy; [h,ow,c] */
};

static size_t lay_out(struct work *k, const su_image *in, const su_image *out, su_filter filter,
                      uint8_t *base) {
  size_t used = 0, c = (size_t)in->c, ow = (size_t)out->w, oh = (size_t)out->h;
  k->x.room = taps_room(in->w, out->w, filter);
  k->y.room = taps_room(in->h, out->h, filter);
  size_t widest = (size_t)(k->x.room > k->y.room ? k->x.room : k->y.room);
  k->w = piece(base, &used, widest * sizeof *k->w);
  k->x.first = piece(base, &used, ow * 4);
  k->x.count = piece(base, &used, ow * 4);
  k->x.weight = piece(base, &used, ow * 4 * (size_t)k->x.room);
  k->y.first = piece(base, &used, oh * 4);
  k->y.count = piece(base, &used, oh * 4);
  k->y.weight = piece(base, &used, oh * 4 * (size_t)k->y.room);
  k->sums = piece(base, &used, ow * c * 4);
  k->middle = piece(base, &used, (size_t)in->h * ow * c);
  k->source = piece(base, &used, c % 2 == 0 ? (size_t)in->h * (size_t)in->w * c : 0);
  return used;
}

bool su_image_resize(const su_image *in, su_image *out, su_filter filter, su_scratch *scratch) {
  struct work k;
  if (out->h < 1 || out->w < 1)
    return su_fail("resize: the new size must be at least 1x1, not %dx%d", out->w, out->h);
  out->c = in->c;
  size_t bytes = (size_t)out->h * (size_t)out->w * (size_t)in->c;
  bool across = in->w != out->w, down = in->h != out->h, alpha = in->c % 2 == 0;
  if (!across && !down) {
    memcpy(out->data, in->data, bytes);
    return true;
  }
  if (!su_scratch_want(scratch, lay_out(&k, in, out, filter, NULL))) return false;
  lay_out(&k, in, out, filter, scratch->data);
  su_image from = *in, middle = {in->h, out->w, in->c, down ? k.middle : out->data};
  if (alpha) {
    from.data = memcpy(k.source, in->data, (size_t)in->h * (size_t)in->w * (size_t)in->c);
    premultiply(from.data, in->c, (int64_t)in->h * in->w);
  }
  taps_fill(&k.x, in->w, out->w, filter, k.w);
  taps_fill(&k.y, in->h, out->h, filter, k.w);
  if (across) columns(&from, &middle, &k.x);
  else middle = from;
  if (down) rows(&middle, out, &k.y, k.sums);
  if (alpha) unpremultiply(out->data, out->c, (int64_t)out->h * out->w);
  return true;
}
