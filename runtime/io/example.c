/* example.c -- reads, resizes, keeps and augments examples. See example.h. */
#define _GNU_SOURCE
#include "example.h"

#include <pthread.h>
#include <string.h>

struct su_pixels {
  int32_t h, w;
  uint8_t data[]; /* [planes,h,w,c] */
};

struct su_examples {
  su_examples_options o;
  int planes;
  int32_t h, w;               /* of what put writes; 0 while the first example is looked at */
  char **a, **b;              /* own copies of the paths */
  _Atomic(su_pixels *) *kept; /* [n] */
  _Atomic(char *) *reason;    /* [n] why it is broken */
  float shade[256];           /* byte -> [-1,1] */
};

/* ---- sizes ---- */

static void load_size(const su_look *k, int32_t extra, int32_t h, int32_t w, int32_t *to_h, int32_t *to_w) {
  *to_h = h;
  *to_w = w;
  if (k->size_h == 0) return;
  int64_t s = k->size_h + extra;
  if (!k->short_side) {
    *to_h = (int32_t)s;
    *to_w = (int32_t)(k->size_w * s / k->size_h);
  } else if (h <= w) {
    *to_h = (int32_t)s;
    *to_w = (int32_t)(s * w / h);
  } else {
    *to_w = (int32_t)s;
    *to_h = (int32_t)(s * h / w);
  }
}

static const char *name_of(const su_examples *s, int64_t i) { return s->a ? s->a[i] : "the idx file"; }

/* h x w after resizing: is it what crop and the other images want? */
static bool judge_size(const su_examples *s, int64_t i, int32_t h, int32_t w) {
  const su_look *k = &s->o.look;
  if (k->crop_h && (h < k->crop_h || w < k->crop_w))
    return su_fail(
        "%s: %dx%d%s is smaller than the crop of %dx%d; give a size of at least %d, or a smaller crop",
        name_of(s, i), w, h, k->size_h ? " (after resizing)" : "", k->crop_w, k->crop_h,
        k->crop_h > k->crop_w ? k->crop_h : k->crop_w);
  if (!k->crop_h && !k->size_h && s->h && (h != s->h || w != s->w))
    return su_fail("%s: is %dx%d, but the first image is %dx%d; give size = N so that all become equal",
                   name_of(s, i), w, h, s->w, s->h);
  return true;
}

/* ---- reading ---- */

static bool split(const su_examples *s, int64_t i, su_image p[2]) {
  su_image whole = p[0], left = {0}, right = {0};
  size_t row = (size_t)whole.w / 2 * (size_t)whole.c;
  if (whole.w % 2)
    return su_fail("%s: is %d pixels wide; a side-by-side pair is two halves of equal width", name_of(s, i),
                   whole.w);
  if (!su_image_new(&left, whole.h, whole.w / 2, whole.c)) return false;
  if (!su_image_new(&right, whole.h, whole.w / 2, whole.c)) {
    su_image_free(&left);
    return false;
  }
  for (int32_t y = 0; y < whole.h; y++) {
    memcpy(left.data + (size_t)y * row, whole.data + (size_t)y * 2 * row, row);
    memcpy(right.data + (size_t)y * row, whole.data + (size_t)y * 2 * row + row, row);
  }
  bool swap = s->o.halves == SU_HALVES_BA;
  p[0] = swap ? right : left;
  p[1] = swap ? left : right;
  su_image_free(&whole);
  return true;
}

/* The planes of example i as in the file, with the wanted channels. The caller frees them, also on failure.
 */
static bool read_planes(const su_examples *s, int64_t i, su_image p[2]) {
  int c = s->o.look.channels;
  if (!s->a) {
    size_t bytes = (size_t)s->o.bytes_h * (size_t)s->o.bytes_w;
    if (!su_image_new(&p[0], s->o.bytes_h, s->o.bytes_w, 1)) return false;
    memcpy(p[0].data, s->o.bytes + (size_t)i * bytes, bytes);
    return su_image_convert(&p[0], c);
  }
  if (!su_image_load(s->a[i], &p[0]) || !su_image_convert(&p[0], c)) return false;
  if (s->o.halves != SU_WHOLE) return split(s, i, p);
  if (!s->b) return true;
  if (!su_image_load(s->b[i], &p[1]) || !su_image_convert(&p[1], c)) return false;
  if (s->o.look.size_h && !s->o.look.short_side && !s->o.look.jitter) return true;
  if (p[0].h != p[1].h || p[0].w != p[1].w)
    return su_fail("%s: is %dx%d, but its partner %s is %dx%d; give size = N so that both become equal",
                   s->a[i], p[0].w, p[0].h, s->b[i], p[1].w, p[1].h);
  return true;
}

static size_t plane_bytes(const su_examples *s, int32_t h, int32_t w) {
  return (size_t)h * (size_t)w * (size_t)s->o.look.channels;
}

/* Resized to the load size, or as they are when every use resizes anew. */
static su_pixels *assemble(const su_examples *s, const su_image p[2], int32_t h, int32_t w, su_fetcher *f) {
  size_t bytes = plane_bytes(s, h, w);
  su_pixels *e = su_malloc(sizeof *e + (size_t)s->planes * bytes);
  if (!e) return NULL;
  e->h = h;
  e->w = w;
  for (int k = 0; k < s->planes; k++) {
    su_image to = {h, w, s->o.look.channels, e->data + (size_t)k * bytes};
    if (su_image_resize(&p[k], &to, s->o.look.filter, &f->resize)) continue;
    su_free(e);
    return NULL;
  }
  return e;
}

/* Keep it in RAM if the budget allows; two threads may have read the same example: the first one's copy
 * stays. */
static const su_pixels *keep(su_examples *s, int64_t i, su_pixels *e, su_fetcher *f) {
  long long bytes = (long long)(sizeof *e + (size_t)s->planes * plane_bytes(s, e->h, e->w));
  if (atomic_fetch_sub(s->o.budget, bytes) >= bytes) {
    su_pixels *other = NULL;
    if (atomic_compare_exchange_strong(&s->kept[i], &other, e)) return e;
    su_free(e);
    e = other;
  } else {
    f->loose = e;
  }
  atomic_fetch_add(s->o.budget, bytes);
  return e;
}

static const su_pixels *load(su_examples *s, int64_t i, su_fetcher *f) {
  su_image p[2] = {{0}, {0}};
  su_pixels *e = NULL;
  int32_t h, w;
  if (read_planes(s, i, p)) {
    load_size(&s->o.look, 0, p[0].h, p[0].w, &h, &w);
    bool fits = judge_size(s, i, h, w);
    if (s->o.look.jitter) h = p[0].h, w = p[0].w;
    if (fits) e = assemble(s, p, h, w, f);
  }
  su_image_free(&p[0]);
  su_image_free(&p[1]);
  return e ? keep(s, i, e, f) : NULL;
}

static void remember(su_examples *s, int64_t i) {
  char *text = su_strdup(su_error()), *none = NULL;
  if (text && !atomic_compare_exchange_strong(&s->reason[i], &none, text)) su_free(text);
}

const su_pixels *su_examples_fetch(su_examples *s, int64_t *at, su_fetcher *f) {
  su_free(f->loose);
  f->loose = NULL;
  for (int64_t k = 0; k < s->o.n; k++, *at = (*at + 1) % s->o.n) {
    const su_pixels *e = atomic_load_explicit(&s->kept[*at], memory_order_acquire);
    if (e) return e;
    if (!atomic_load(&s->reason[*at])) {
      if ((e = load(s, *at, f))) return e;
      if (!s->o.skip || su_error_code() == SU_EMACHINE) return NULL;
      remember(s, *at);
    }
    if (f->n_bad < SU_MAX_BAD) f->bad[f->n_bad++] = *at;
  }
  const char *why = atomic_load(&s->reason[*at]);
  su_fail("all %lld images are broken; one of them: %s", (long long)s->o.n, why ? why : "out of memory");
  return NULL;
}

const char *su_examples_reason(su_examples *s, int64_t i) { return atomic_load(&s->reason[i]); }

/* ---- augmenting ---- */

/* v -> 0 .. n-1, each equally likely to within 2^-32 n. */
static int32_t below(uint32_t v, int64_t n) { return (int32_t)((uint64_t)v * (uint64_t)n >> 32); }

static void write_numbers(const su_examples *s, const uint8_t *p, int32_t c, bool mirror, float *out) {
  if (!mirror) {
    for (int32_t k = 0; k < s->w * c; k++) *out++ = s->shade[p[k]];
    return;
  }
  for (int32_t x = s->w - 1; x >= 0; x--)
    for (int32_t k = 0; k < c; k++) *out++ = s->shade[p[x * c + k]];
}

static void write_bytes(const su_examples *s, const uint8_t *p, int32_t c, bool mirror, uint8_t *out) {
  if (!mirror) {
    memcpy(out, p, (size_t)s->w * (size_t)c);
    return;
  }
  for (int32_t x = s->w - 1; x >= 0; x--)
    for (int32_t k = 0; k < c; k++) *out++ = p[x * c + k];
}

static void write_plane(const su_examples *s, const su_image *from, int32_t top, int32_t left, bool mirror,
                        su_plane out) {
  const int32_t c = from->c;
  for (int32_t y = 0; y < s->h; y++) {
    const uint8_t *p = from->data + ((int64_t)(top + y) * from->w + left) * c;
    if (out.number) write_numbers(s, p, c, mirror, out.number + (int64_t)y * s->w * c);
    else write_bytes(s, p, c, mirror, out.byte + (int64_t)y * s->w * c);
  }
}

bool su_examples_put(const su_examples *s, const su_pixels *e, su_philox draws, su_fetcher *f,
                     const su_plane *out) {
  const su_look *k = &s->o.look;
  int32_t extra = k->jitter && k->train ? below(draws.v[3], k->jitter + 1) : 0, h = e->h, w = e->w;
  if (k->jitter) load_size(k, extra, e->h, e->w, &h, &w);
  int32_t top = (h - s->h) / 2, left = (w - s->w) / 2;
  if (k->train) top = below(draws.v[0], h - s->h + 1), left = below(draws.v[1], w - s->w + 1);
  bool mirror = k->train && k->flip && draws.v[2] >> 31;
  for (int p = 0; p < s->planes; p++) {
    su_image from = {e->h, e->w, k->channels, (uint8_t *)e->data + (size_t)p * plane_bytes(s, e->h, e->w)},
             to = from;
    if (h != e->h || w != e->w) {
      if (!su_scratch_want(&f->resized, plane_bytes(s, h, w))) return false;
      to = (su_image){h, w, k->channels, f->resized.data};
      if (!su_image_resize(&from, &to, k->filter, &f->resize)) return false;
    }
    write_plane(s, &to, top, left, mirror, out[p]);
  }
  return true;
}

/* ---- opening ---- */

static char **copy_paths(const char *const *from, int64_t n) {
  char **to = su_calloc((size_t)n * sizeof *to);
  for (int64_t i = 0; to && i < n; i++)
    if (!(to[i] = su_strdup(from[i]))) {
      while (i > 0) su_free(to[--i]);
      su_free(to);
      return NULL;
    }
  return to;
}

static bool judge_options(const su_examples_options *o) {
  const su_look *k = &o->look;
  if (o->n < 1) return su_fail("there are no images");
  if (k->channels < 1 || k->channels > 4)
    return su_fail("channels must be 1 (gray), 2 (gray, alpha), 3 (RGB) or 4 (RGBA), not %d", k->channels);
  if (k->size_h && k->crop_h && !k->short_side && (k->crop_h > k->size_h || k->crop_w > k->size_w))
    return su_fail("the crop of %dx%d is larger than the size of %dx%d that images are resized to",
                   k->crop_w, k->crop_h, k->size_w, k->size_h);
  if (k->jitter && !k->size_h) return su_fail("jitter changes the load size: give size = N as well");
  return true;
}

static bool look_at_first(su_examples *s, su_fetcher *f) {
  const su_look *k = &s->o.look;
  int64_t first = 0;
  const su_pixels *e = su_examples_fetch(s, &first, f);
  if (!e) return false;
  bool sized = k->size_h != 0;
  s->h = k->crop_h ? k->crop_h : sized ? k->size_h : e->h;
  s->w = k->crop_h ? k->crop_w : sized ? (k->short_side ? k->size_h : k->size_w) : e->w;
  return true;
}

su_examples *su_examples_open(const su_examples_options *o, su_fetcher *f) {
  if (!judge_options(o)) return NULL;
  su_examples *s = su_calloc(sizeof *s);
  if (!s) return NULL;
  s->o = *o;
  s->planes = o->b || o->halves != SU_WHOLE ? 2 : 1;
  for (int i = 0; i < 256; i++) s->shade[i] = (float)(i / 127.5 - 1.0);
  s->kept = su_calloc((size_t)o->n * sizeof *s->kept);
  s->reason = su_calloc((size_t)o->n * sizeof *s->reason);
  bool ok = s->kept && s->reason && (!o->a || (s->a = copy_paths(o->a, o->n))) &&
            (!o->b || (s->b = copy_paths(o->b, o->n))) && look_at_first(s, f);
  if (ok) return s;
  su_examples_close(s);
  return NULL;
}

void su_examples_close(su_examples *s) {
  if (!s) return;
  for (int64_t i = 0; i < s->o.n; i++) {
    if (s->kept) su_free(atomic_load(&s->kept[i]));
    if (s->reason) su_free(atomic_load(&s->reason[i]));
    if (s->a) su_free(s->a[i]);
    if (s->b) su_free(s->b[i]);
  }
  su_free((void *)s->kept), su_free((void *)s->reason);
  su_free(s->a), su_free(s->b);
  su_free(s);
}

void su_fetcher_free(su_fetcher *f) {
  su_scratch_free(&f->resize);
  su_scratch_free(&f->resized);
  su_free(f->loose);
  *f = (su_fetcher){0};
}

int64_t su_examples_count(const su_examples *s) { return s->o.n; }
int su_examples_planes(const su_examples *s) { return s->planes; }

void su_examples_shape(const su_examples *s, int64_t hwc[3]) {
  hwc[0] = s->h;
  hwc[1] = s->w;
  hwc[2] = s->o.look.channels;
}
