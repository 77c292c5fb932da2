/* loader.h -- batches of images as a function of (seed, step): order, prefetch threads, a bounded ring.
 * Knows no tensors.
 *
 * Step s of an epoch of E = count / batch steps (full batches only) takes positions (s mod E) batch .. of
 * epoch s / E. Each side of the data is an endless row of shuffled passes over its own images: the longer
 * side makes one pass per epoch, the shorter one wraps around, so that every image is used equally often.
 * Order and augmentation are drawn from Philox keyed by (seed, pass, image), never from a thread, so the
 * number of threads cannot change a run. */
#ifndef SUMI_LOADER_H
#define SUMI_LOADER_H

#include "example.h"

typedef struct su_loader su_loader;

typedef struct su_loader_options {
  su_examples_options side[2]; /* side[1].n 0: there is one side. budget is filled in here */
  const float *labels;         /* [side[0].n] or NULL; copied */
  int64_t batch, start;        /* start: the step that will be asked for first */
  uint64_t seed;
  bool shuffle;
  bool bytes;          /* batches hold bytes, not numbers */
  int threads;         /* 0: batches are made when asked for */
  int64_t cache_bytes; /* RAM for decoded images; examples beyond it are read each time */
} su_loader_options;

/* One batch; the pointers stay good until the next get or close. */
typedef struct su_batch {
  int n_images;    /* 1, or 2 for pairs and two sides */
  float *image[2]; /* [batch,h,w,c] in [-1,1] */
  uint8_t *byte[2]; /* the same as bytes, if the options say so; image is NULL then */
  float *label;    /* [batch] or NULL */
} su_batch;

su_loader *su_loader_open(const su_loader_options *o); /* NULL with a message */
int64_t su_loader_count(const su_loader *l);           /* examples of an epoch: of the longer side */
int64_t su_loader_steps(const su_loader *l);           /* steps of an epoch */
void su_loader_shape(const su_loader *l, int image, int64_t nhwc[4]);
/* Fast when steps follow each other; any other step drops what was prefetched. NULL with a message. */
const su_batch *su_loader_get(su_loader *l, int64_t step);
/* Broken images that were replaced, in the order in which steps met them, each once. */
int64_t su_loader_warnings(const su_loader *l);
const char *su_loader_warning(const su_loader *l, int64_t i);
void su_loader_close(su_loader *l);

#endif
