/* loader.c -- order of examples, the ring of batches and the threads that fill it. See loader.h. */
#define _GNU_SOURCE
#include "loader.h"

#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>

#define MAX_THREADS 64
#define ERROR_ROOM 1024
#define STREAM_ORDER 0x0da7a000u  /* + side; Philox streams of their own, far from those of ops */
#define STREAM_CHANGE 0x0da7a100u /* + side */

enum state { FREE, FILLING, READY, FAILED };

struct slot {
  enum state state;
  int64_t step;
  void *memory; /* what batch points into */
  su_batch batch;
  int n_bad;
  int64_t bad[2 * SU_MAX_BAD]; /* 2 * example + side */
  int code;
  char error[ERROR_ROOM];
};

/* A shuffled pass over one side, and what fetching needs; one per thread. */
struct worker {
  su_loader *l;
  su_fetcher fetch[2];
  int32_t *order[2]; /* [n] */
  int64_t pass[2];   /* which pass order[] is; -1 none */
  pthread_t thread;
};

struct su_loader {
  su_loader_options o;
  su_examples *side[2];
  int sides;
  int64_t count, steps;
  float *labels;
  atomic_llong budget;
  struct slot *slots;
  int n_slots, n_workers, running; /* workers allocated; threads started */
  struct worker *workers;          /* [n_workers]; the first also serves get when there are no threads */
  pthread_mutex_t lock;
  pthread_cond_t room, ready; /* room: a worker may start; ready: a batch is done, or a worker is idle */
  int64_t base, next;         /* the step that get wants or holds; the next that a worker takes */
  int busy;                   /* workers that fill a slot now */
  bool stop, paused;
  char **warnings;
  int64_t n_warnings;
};

/* ---- order ---- */

/* Fisher and Yates, draws keyed by (seed, pass, side). */
static void shuffle(const su_loader *l, int side, int64_t pass, int32_t *order, int64_t n) {
  su_philox p = {{0}};
  for (int64_t i = 0; i < n; i++) order[i] = (int32_t)i;
  if (!l->o.shuffle) return;
  for (int64_t i = n - 1, k = 0; i > 0; i--, k++) {
    if (k % 4 == 0)
      p = su_philox_at(l->o.seed, (uint32_t)(k / 4), (uint32_t)pass, 0, STREAM_ORDER + (uint32_t)side);
    int64_t j = (int64_t)((uint64_t)p.v[k % 4] * (uint64_t)(i + 1) >> 32);
    int32_t t = order[i];
    order[i] = order[j];
    order[j] = t;
  }
}

/* Which example of a side stands at position i of a step's batch, and in which pass over the side. */
static int64_t example_at(struct worker *w, int side, int64_t step, int64_t i, int64_t *pass) {
  const su_loader *l = w->l;
  int64_t n = su_examples_count(l->side[side]), epoch = step / l->steps,
          at = step % l->steps * l->o.batch + i;
  if (n < l->count) { /* the shorter side: an endless row of its own */
    at += epoch * l->steps * l->o.batch;
    epoch = at / n;
    at %= n;
  }
  if (w->pass[side] != epoch) {
    shuffle(l, side, epoch, w->order[side], n);
    w->pass[side] = epoch;
  }
  *pass = epoch;
  return w->order[side][at];
}

/* ---- filling a batch ---- */

static int64_t image_size(const su_loader *l, int side) {
  int64_t hwc[3];
  su_examples_shape(l->side[side], hwc);
  return hwc[0] * hwc[1] * hwc[2];
}

static su_plane plane_of(const su_batch *b, int image, int64_t at) {
  return (su_plane){b->image[image] ? b->image[image] + at : NULL, b->byte[image] ? b->byte[image] + at : NULL};
}

static bool fill_side(struct worker *w, int side, struct slot *slot) {
  su_loader *l = w->l;
  su_examples *s = l->side[side];
  su_fetcher *f = &w->fetch[side];
  const int64_t size = image_size(l, side);
  f->n_bad = 0;
  for (int64_t i = 0; i < l->o.batch; i++) {
    int64_t pass, at = example_at(w, side, slot->step, i, &pass);
    su_philox draws =
        su_philox_at(l->o.seed, 0, (uint32_t)pass, (uint32_t)at, STREAM_CHANGE + (uint32_t)side);
    const su_pixels *e = su_examples_fetch(s, &at, f);
    if (!e) return false;
    const su_plane out[2] = {plane_of(&slot->batch, side, i * size), plane_of(&slot->batch, 1, i * size)};
    if (!su_examples_put(s, e, draws, f, out)) return false;
    if (side == 0 && l->labels) slot->batch.label[i] = l->labels[at];
  }
  for (int k = 0; k < f->n_bad; k++) slot->bad[slot->n_bad++] = 2 * f->bad[k] + side;
  return true;
}

static enum state fill(struct worker *w, struct slot *slot) {
  slot->n_bad = 0;
  bool ok = true;
  for (int side = 0; ok && side < w->l->sides; side++) ok = fill_side(w, side, slot);
  if (ok) return READY;
  slot->code = su_error_code();
  snprintf(slot->error, sizeof slot->error, "%s", su_error());
  return FAILED;
}

/* ---- threads ---- */

static bool may_start(const su_loader *l) { return !l->paused && l->next < l->base + l->n_slots; }

static void *work(void *arg) {
  struct worker *w = arg;
  su_loader *l = w->l;
  pthread_mutex_lock(&l->lock);
  for (;;) {
    while (!l->stop && !may_start(l)) pthread_cond_wait(&l->room, &l->lock);
    if (l->stop) break;
    struct slot *slot = &l->slots[l->next % l->n_slots];
    slot->step = l->next++;
    slot->state = FILLING;
    l->busy++;
    pthread_mutex_unlock(&l->lock);
    enum state state = fill(w, slot);
    pthread_mutex_lock(&l->lock);
    slot->state = state;
    l->busy--;
    pthread_cond_broadcast(&l->ready);
  }
  pthread_mutex_unlock(&l->lock);
  return NULL;
}

/* Signals are for the main thread. Fewer threads than asked for are enough; none means that get does the
 * work. */
static void start_threads(su_loader *l) {
  sigset_t all, before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  while (l->running < l->o.threads &&
         pthread_create(&l->workers[l->running].thread, NULL, work, &l->workers[l->running]) == 0)
    l->running++;
  pthread_sigmask(SIG_SETMASK, &before, NULL);
}

/* Another step than the next one: let the workers finish, then begin there. Called with the lock. */
static void jump(su_loader *l, int64_t step) {
  l->paused = true;
  while (l->busy > 0) pthread_cond_wait(&l->ready, &l->lock);
  for (int i = 0; i < l->n_slots; i++) l->slots[i].state = FREE;
  l->base = l->next = step;
  l->paused = false;
}

static struct slot *wait_for(su_loader *l, int64_t step) {
  struct slot *slot = &l->slots[step % l->n_slots];
  pthread_mutex_lock(&l->lock);
  if (step == l->base + 1) l->base = step;
  else if (step != l->base) jump(l, step);
  pthread_cond_broadcast(&l->room);
  while (slot->step != step || slot->state < READY) pthread_cond_wait(&l->ready, &l->lock);
  pthread_mutex_unlock(&l->lock);
  return slot;
}

/* ---- using ---- */

static void warn_once(su_loader *l, int64_t bad) {
  const char *why = su_examples_reason(l->side[bad % 2], bad / 2);
  for (int64_t i = 0; i < l->n_warnings; i++)
    if (strcmp(l->warnings[i], why) == 0) return;
  char **grown = su_realloc(l->warnings, (size_t)(l->n_warnings + 1) * sizeof *grown);
  if (!grown) return;
  l->warnings = grown;
  if ((grown[l->n_warnings] = su_strdup(why))) l->n_warnings++;
}

const su_batch *su_loader_get(su_loader *l, int64_t step) {
  if (step < 0) {
    su_fail("data: there is no step %lld", (long long)step);
    return NULL;
  }
  struct slot *slot = &l->slots[0];
  if (l->running > 0) {
    slot = wait_for(l, step);
  } else {
    slot->step = step;
    slot->state = fill(&l->workers[0], slot);
  }
  for (int i = 0; i < slot->n_bad; i++) warn_once(l, slot->bad[i]);
  if (slot->state == READY) return &slot->batch;
  su_fail_code(slot->code, "%s", slot->error);
  return NULL;
}

int64_t su_loader_count(const su_loader *l) { return l->count; }
int64_t su_loader_steps(const su_loader *l) { return l->steps; }
int64_t su_loader_warnings(const su_loader *l) { return l->n_warnings; }
const char *su_loader_warning(const su_loader *l, int64_t i) { return l->warnings[i]; }

void su_loader_shape(const su_loader *l, int image, int64_t nhwc[4]) {
  nhwc[0] = l->o.batch;
  su_examples_shape(l->side[l->sides == 2 ? image : 0], nhwc + 1);
}

/* ---- opening ---- */

static bool open_sides(su_loader *l) {
  atomic_store(&l->budget, l->o.cache_bytes);
  for (int i = 0; i < 2 && l->o.side[i].n > 0; i++) {
    l->o.side[i].budget = &l->budget;
    if (!(l->side[i] = su_examples_open(&l->o.side[i], &l->workers[0].fetch[i]))) return false;
    l->sides = i + 1;
    int64_t n = su_examples_count(l->side[i]);
    if (n > l->count) l->count = n;
  }
  if (l->sides == 0) return su_fail("there are no images");
  if (l->o.batch < 1) return su_fail("batch must be at least 1, not %lld", (long long)l->o.batch);
  l->steps = l->count / l->o.batch;
  if (l->steps == 0)
    return su_fail(
        "a batch of %lld needs at least as many images; there are %lld: give batch = %lld or less",
        (long long)l->o.batch, (long long)l->count, (long long)l->count);
  if (!l->o.labels) return true;
  size_t bytes = (size_t)l->o.side[0].n * sizeof *l->labels;
  if (!(l->labels = su_malloc(bytes))) return false;
  memcpy(l->labels, l->o.labels, bytes);
  return true;
}

static bool make_slot(su_loader *l, struct slot *slot) {
  int64_t size[2] = {l->o.batch * image_size(l, 0), 0};
  slot->batch.n_images = l->sides == 2 ? 2 : su_examples_planes(l->side[0]);
  if (slot->batch.n_images == 2) size[1] = l->o.batch * image_size(l, l->sides - 1);
  const size_t each = l->o.bytes ? 1 : sizeof(float);
  slot->memory = su_malloc((size_t)(size[0] + size[1]) * each + (size_t)l->o.batch * sizeof(float));
  if (!slot->memory) return false;
  float *label = slot->memory;
  if (l->labels) slot->batch.label = label;
  for (int k = 0; k < slot->batch.n_images; k++) {
    char *at = (char *)(label + l->o.batch) + (size_t)(k ? size[0] : 0) * each;
    if (l->o.bytes) slot->batch.byte[k] = (uint8_t *)at;
    else slot->batch.image[k] = (float *)(void *)at;
  }
  slot->step = -1;
  return true;
}

static bool make_worker(su_loader *l, struct worker *w) {
  for (int i = 0; i < l->sides; i++) {
    w->pass[i] = -1;
    w->order[i] = su_malloc((size_t)su_examples_count(l->side[i]) * sizeof **w->order);
    if (!w->order[i]) return false;
  }
  return true;
}

static bool open_loader(su_loader *l) {
  if (l->o.threads < 0 || l->o.threads > MAX_THREADS)
    return su_fail("threads must be 0 to %d, not %d", MAX_THREADS, l->o.threads);
  l->n_workers = l->o.threads > 0 ? l->o.threads : 1;
  l->workers = su_calloc((size_t)l->n_workers * sizeof *l->workers);
  if (!l->workers) return false;
  for (int i = 0; i < l->n_workers; i++) l->workers[i].l = l;
  if (!open_sides(l)) return false;
  l->n_slots = l->o.threads > 0 ? l->o.threads + 2 : 1; /* one held by the consumer, one in reserve */
  l->slots = su_calloc((size_t)l->n_slots * sizeof *l->slots);
  if (!l->slots) return false;
  for (int i = 0; i < l->n_slots; i++)
    if (!make_slot(l, &l->slots[i])) return false;
  for (int i = 0; i < l->n_workers; i++)
    if (!make_worker(l, &l->workers[i])) return false;
  l->base = l->next = l->o.start;
  start_threads(l);
  return true;
}

su_loader *su_loader_open(const su_loader_options *o) {
  su_loader *l = su_calloc(sizeof *l);
  if (!l) return NULL;
  l->o = *o;
  pthread_mutex_init(&l->lock, NULL);
  pthread_cond_init(&l->room, NULL);
  pthread_cond_init(&l->ready, NULL);
  if (open_loader(l)) return l;
  su_loader_close(l);
  return NULL;
}

static void stop_threads(su_loader *l) {
  pthread_mutex_lock(&l->lock);
  l->stop = true;
  pthread_cond_broadcast(&l->room);
  pthread_mutex_unlock(&l->lock);
  for (int i = 0; i < l->running; i++) pthread_join(l->workers[i].thread, NULL);
}

void su_loader_close(su_loader *l) {
  if (!l) return;
  stop_threads(l);
  for (int i = 0; l->workers && i < l->n_workers; i++)
    for (int k = 0; k < 2; k++) {
      su_fetcher_free(&l->workers[i].fetch[k]);
      su_free(l->workers[i].order[k]);
    }
  for (int i = 0; l->slots && i < l->n_slots; i++) su_free(l->slots[i].memory);
  for (int64_t i = 0; i < l->n_warnings; i++) su_free(l->warnings[i]);
  su_examples_close(l->side[0]);
  su_examples_close(l->side[1]);
  pthread_mutex_destroy(&l->lock);
  pthread_cond_destroy(&l->room);
  pthread_cond_destroy(&l->ready);
  su_free(l->workers), su_free(l->slots), su_free(l->labels), su_free(l->warnings);
  su_free(l);
}
