/* example.h -- a list of examples of one side of the data: which pixels example i has, and their
 * augmentation into floats. An example is one image, or two of equal size that belong together (an aligned
 * pair, or the halves of one file): both get the same crop and flip. Threads may fetch at the same time.
 * Order, batches and threads are in loader.h. */
#ifndef SUMI_EXAMPLE_H
#define SUMI_EXAMPLE_H

#include <stdatomic.h>

#include "../rng.h"
#include "image.h"

enum su_halves { SU_WHOLE, SU_HALVES_AB, SU_HALVES_BA }; /* BA: the left half is b */

/* How images become [crop_h,crop_w,channels]: resize to size, crop, flip. Zero means: as the file is, no
 * crop, no jitter. */
typedef struct su_look {
  int32_t size_h, size_w;
  bool short_side; /* size_h is for the short side, the aspect stays */
  int32_t crop_h, crop_w;
  int32_t jitter;   /* load size is size + 0..jitter, drawn per example */
  int32_t channels; /* 1 to 4 */
  bool train;       /* crop at random and flip; otherwise crop the middle */
  bool flip;
  su_filter filter;
} su_look;

typedef struct su_examples_options {
  int64_t n;
  const char *const *a, *const *b; /* paths [n]; b: the partners, or NULL */
  const uint8_t *bytes; /* instead of paths: gray images [n,bytes_h,bytes_w], which must stay alive */
  int32_t bytes_h, bytes_w;
  enum su_halves halves;
  bool skip; /* a broken image is replaced by the next good one; otherwise it is an error */
  su_look look;
  atomic_llong *budget; /* bytes of RAM left for decoded images, shared between sides */
} su_examples_options;

typedef struct su_examples su_examples;
typedef struct su_pixels su_pixels; /* decoded, resized (unless jittered), not yet cropped */

/* What one thread keeps between fetches, from {0}. */
#define SU_MAX_BAD 64
typedef struct su_fetcher {
  su_scratch resize, resized;
  su_pixels *loose; /* the last example, when it was not kept in RAM */
  int n_bad;        /* broken ones met since the caller set it to 0; beyond SU_MAX_BAD not listed */
  int64_t bad[SU_MAX_BAD];
} su_fetcher;

/* Copies the paths; looks at the first good example to know the size. NULL with a message. */
su_examples *su_examples_open(const su_examples_options *o, su_fetcher *f);
void su_examples_close(su_examples *s);
void su_fetcher_free(su_fetcher *f);
int64_t su_examples_count(const su_examples *s);
int su_examples_planes(const su_examples *s);                 /* 1 or 2 images in an example */
void su_examples_shape(const su_examples *s, int64_t hwc[3]); /* of what put writes */

/* Example *i, or the next good one, to which *i is then set; valid until this fetcher fetches again. NULL
 * with a message naming the file. */
const su_pixels *su_examples_fetch(su_examples *s, int64_t *i, su_fetcher *f);
/* Why example i is broken; NULL if it is not known to be. */
const char *su_examples_reason(su_examples *s, int64_t i);
/* Where a plane [h,w,c] goes: as numbers in [-1,1], or (number NULL) as bytes for a device that makes the
 * same numbers of them (nn/picture.c). */
typedef struct su_plane {
  float *number;
  uint8_t *byte;
} su_plane;
/* Augment with these draws and write every plane. */
bool su_examples_put(const su_examples *s, const su_pixels *p, su_philox draws, su_fetcher *f,
                     const su_plane *out);

#endif
