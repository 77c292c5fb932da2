/* test_loader.c -- the loader without Lua: the same batches whatever the threads, the cache and the way to
 * a step; broken images; pairs. Also the driver for ThreadSanitizer and AddressSanitizer. Run from
 * anywhere; writes below /tmp. */
#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "../runtime/io/folder.h"
#include "../runtime/io/loader.h"
#include "../runtime/io/sha256.h"

#define N 23

static int passed, failed;
static char dir[] = "/tmp/sumi_test_loader_XXXXXX";
static char *path_a[N], *path_b[N];

static void check(bool ok, const char *what) {
  if (ok) {
    passed++;
    return;
  }
  failed++;
  printf("FAILED %s\n  last message: %s\n", what, su_error());
}

/* A picture whose pixels tell which one it is: every byte is its number, except a gradient in channel 1. */
static bool picture(const char *path, int h, int w, int number) {
  su_image im;
  if (!su_image_new(&im, h, w, 3)) return false;
  for (int i = 0; i < h * w; i++) {
    im.data[3 * i] = (uint8_t)(number * 10);
    im.data[3 * i + 1] = (uint8_t)(i % w * 255 / w);
    im.data[3 * i + 2] = (uint8_t)(i / w * 255 / h);
  }
  bool ok = su_png_write(path, &im);
  su_image_free(&im);
  return ok;
}

static bool make_folder(void) {
  if (!mkdtemp(dir)) return false;
  bool ok = true;
  for (int i = 0; i < N; i++) {
    if (asprintf(&path_a[i], "%s/a%02d.png", dir, i) < 0 ||
        asprintf(&path_b[i], "%s/b%02d.png", dir, i) < 0)
      return false;
    ok = ok && picture(path_a[i], 40 + i % 3, 50 + i % 5, i) &&
         picture(path_b[i], 40 + i % 3, 50 + i % 5, i);
  }
  return ok;
}

static void remove_folder(void) {
  for (int i = 0; i < N; i++) {
    unlink(path_a[i]), unlink(path_b[i]);
    free(path_a[i]), free(path_b[i]);
  }
  rmdir(dir);
}

static su_loader_options basic(void) {
  su_loader_options o = {.batch = 3, .seed = 7, .shuffle = true, .threads = 2, .cache_bytes = 1 << 30};
  o.side[0] = (su_examples_options){.n = N, .a = (const char *const *)path_a};
  o.side[0].look = (su_look){
      .size_h = 36, .size_w = 36, .crop_h = 32, .crop_w = 32, .channels = 3, .train = true, .flip = true};
  return o;
}

/* A digest of batches first..last-1; "" on failure. */
static void run(const su_loader_options *o, int64_t first, int64_t last, char hex[65]) {
  su_sha256 ctx;
  uint8_t digest[32];
  su_loader *l = su_loader_open(o);
  hex[0] = 0;
  su_sha256_begin(&ctx);
  for (int64_t step = first; l && step < last; step++) {
    const su_batch *b = su_loader_get(l, step);
    if (!b) {
      su_loader_close(l);
      return;
    }
    for (int k = 0; k < b->n_images; k++) {
      int64_t s[4];
      su_loader_shape(l, k, s);
      su_sha256_add(&ctx, b->image[k], (size_t)(s[0] * s[1] * s[2] * s[3]) * sizeof(float));
    }
  }
  if (!l) return;
  su_sha256_end(&ctx, digest);
  su_sha256_text(digest, hex);
  su_loader_close(l);
}

static void same_whatever_the_threads(su_loader_options o, const char *what) {
  char want[65], got[65], text[200];
  o.threads = 0;
  run(&o, 0, 40, want);
  check(want[0] != 0, what);
  static const int threads[] = {1, 2, 5, 1, 5};
  static const int64_t cache[] = {1 << 30, 1 << 30, 1 << 30, 0, 20000};
  for (int i = 0; i < 5; i++) {
    o.threads = threads[i];
    o.cache_bytes = cache[i];
    run(&o, 0, 40, got);
    snprintf(text, sizeof text, "%s: %d threads, cache %lld", what, threads[i], (long long)cache[i]);
    check(strcmp(want, got) == 0, text);
  }
  o.start = 17;
  o.threads = 2;
  run(&o, 17, 40, got);
  o.threads = 0;
  o.start = 0;
  run(&o, 17, 40, want);
  check(got[0] && strcmp(want, got) == 0, what);
  o.seed++;
  run(&o, 17, 40, got);
  check(strcmp(want, got) != 0, "another seed gives other batches");
}

static void jumps(void) {
  su_loader_options o = basic();
  int64_t size = 3 * 32 * 32 * 3;
  float *want[30];
  su_loader *l = su_loader_open(&o);
  bool ok = l != NULL;
  for (int i = 0; ok && i < 30; i++) {
    const su_batch *b = su_loader_get(l, i);
    want[i] = malloc((size_t)size * sizeof(float));
    ok = b != NULL;
    if (ok) memcpy(want[i], b->image[0], (size_t)size * sizeof(float));
  }
  check(ok, "30 steps in a row");
  static const int to[] = {29, 3, 4, 5, 4, 4, 0, 28, 29, 1, 10, 11};
  for (int i = 0; ok && i < 12; i++) {
    const su_batch *b = su_loader_get(l, to[i]);
    check(b && memcmp(b->image[0], want[to[i]], (size_t)size * sizeof(float)) == 0,
          "a jump gives the batch of that step");
  }
  for (int i = 0; ok && i < 30; i++) free(want[i]);
  int64_t before = su_sys_allocs();
  for (int i = 12; i < 200; i++) ok = ok && su_loader_get(l, i);
  check(ok && su_sys_allocs() == before, "no allocation once every image is in RAM");
  check(!su_loader_get(l, -1), "a negative step is an error");
  su_loader_close(l);
}

static int number_of(float v) { return (int)((v + 1) * 127.5f + 0.5f) / 10; }

/* Every image once in an epoch; the order differs between epochs; without shuffle it is the list's. */
static void passes(void) {
  su_loader_options o = basic();
  o.batch = 1;
  su_loader *l = su_loader_open(&o);
  int seen[N] = {0}, order[2][N];
  check(l && su_loader_count(l) == N && su_loader_steps(l) == N, "an epoch is the folder");
  for (int i = 0; l && i < 2 * N; i++) {
    const su_batch *b = su_loader_get(l, i);
    if (b) seen[order[i / N][i % N] = number_of(b->image[0][0])]++;
  }
  bool twice = true;
  for (int i = 0; i < N; i++) twice = twice && seen[i] == 2;
  check(twice, "two epochs show every image twice");
  check(memcmp(order[0], order[1], sizeof order[0]) != 0, "each epoch has its own order");
  su_loader_close(l);
  o.shuffle = false;
  l = su_loader_open(&o);
  bool listed = l != NULL;
  for (int i = 0; listed && i < N; i++) listed = number_of(su_loader_get(l, i)->image[0][0]) == i;
  check(listed, "without shuffle: the order of the list");
  su_loader_close(l);
}

static void pairs(void) {
  su_loader_options o = basic();
  o.side[0].b = (const char *const *)path_b;
  same_whatever_the_threads(o, "aligned pairs");
  su_loader *l = su_loader_open(&o);
  bool same = l != NULL;
  for (int i = 0; same && i < 30; i++) {
    const su_batch *b = su_loader_get(l, i);
    same = b && b->n_images == 2 && memcmp(b->image[0], b->image[1], 3 * 32 * 32 * 3 * sizeof(float)) == 0;
  }
  check(same, "equal partners stay equal: one crop and flip for both");
  su_loader_close(l);
  o = basic();
  o.side[1] = o.side[0];
  o.side[1].a = (const char *const *)path_b;
  o.side[1].n = 7;
  same_whatever_the_threads(o, "two sides");
  o.side[0].b = NULL;
  l = su_loader_open(&o);
  int differ = 0, seen[N] = {0};
  for (int i = 0; l && i < 28; i++) {
    const su_batch *b = su_loader_get(l, i);
    for (int k = 0; b && k < 3; k++) {
      int a = number_of(b->image[0][k * 3072]), c = number_of(b->image[1][k * 3072]);
      differ += a != c;
      seen[c]++;
    }
  }
  bool even = true;
  for (int i = 0; i < 7; i++) even = even && seen[i] == 12;
  check(differ > 60 && even, "two sides: independent, and the shorter one is used evenly");
  su_loader_close(l);
}

static void broken(void) {
  char *keep[2] = {path_a[4], path_a[5]}, text[] = "/tmp/sumi_no_such_image.png";
  path_a[4] = path_a[5] = text;
  su_loader_options o = basic();
  su_loader *l = su_loader_open(&o);
  const su_batch *b = NULL;
  for (int i = 0; l && i < 8 && (b = su_loader_get(l, i)); i++) continue;
  check(l && !b && strstr(su_error(), text), "a broken image fails the step that needs it, by name");
  su_loader_close(l);
  o.side[0].skip = true;
  same_whatever_the_threads(o, "broken images skipped");
  l = su_loader_open(&o);
  for (int i = 0; l && i < 30; i++) b = su_loader_get(l, i);
  check(b && su_loader_warnings(l) == 1 && strstr(su_loader_warning(l, 0), text),
        "skipped: one warning for one file");
  su_loader_close(l);
  path_a[4] = keep[0], path_a[5] = keep[1];
  char *all[N];
  for (int i = 0; i < N; i++) all[i] = text;
  o.side[0].a = (const char *const *)all;
  check(!su_loader_open(&o) && strstr(su_error(), "all 23 images are broken"), "nothing but broken images");
}

static void wrong(void) {
  su_loader_options o = basic();
  o.side[0].look.size_h = o.side[0].look.size_w = 0;
  o.side[0].look.crop_h = o.side[0].look.crop_w = 45;
  check(!su_loader_open(&o) && strstr(su_error(), "smaller than the crop of 45x45"),
        "images smaller than the crop");
  o.side[0].look.crop_h = o.side[0].look.crop_w = 0;
  su_loader *l = su_loader_open(&o);
  const su_batch *b = l ? su_loader_get(l, 0) : NULL;
  check(l && !b && strstr(su_error(), "give size = N so that all become equal"), "images of several sizes");
  su_loader_close(l);
  o = basic();
  o.batch = N + 1;
  check(!su_loader_open(&o) && strstr(su_error(), "give batch = 23 or less"),
        "a batch larger than the folder");
  o = basic();
  o.side[0].look.channels = 5;
  check(!su_loader_open(&o) && strstr(su_error(), "channels must be"), "five channels");
  o = basic();
  o.side[0].look.crop_h = o.side[0].look.crop_w = 40;
  check(!su_loader_open(&o) && strstr(su_error(), "larger than the size"), "crop larger than size");
  o = basic();
  o.side[0].n = 0;
  check(!su_loader_open(&o), "no images");
  o = basic();
  o.side[0].halves = SU_HALVES_AB;
  l = su_loader_open(&o);
  b = NULL;
  for (int i = 0; l && i < 8 && (b = su_loader_get(l, i)); i++) continue;
  check(!b && strstr(su_error(), "two halves of equal width"), "side by side with an odd width");
  su_loader_close(l);
}

static void looks(void) {
  su_loader_options o = basic();
  o.side[0].look.jitter = 9;
  same_whatever_the_threads(o, "jitter");
  o.side[0].look =
      (su_look){.size_h = 36, .short_side = true, .crop_h = 32, .crop_w = 32, .channels = 1, .train = true};
  same_whatever_the_threads(o, "short side, gray");
  uint8_t digits[N * 6 * 5];
  for (int i = 0; i < N * 30; i++) digits[i] = (uint8_t)(i % 251);
  o = basic();
  o.side[0] = (su_examples_options){.n = N, .bytes = digits, .bytes_h = 6, .bytes_w = 5};
  o.side[0].look = (su_look){.channels = 1, .train = true};
  float labels[N];
  for (int i = 0; i < N; i++) labels[i] = (float)i;
  o.labels = labels;
  su_loader *l = su_loader_open(&o);
  bool ok = l != NULL;
  for (int i = 0; ok && i < 20; i++) {
    const su_batch *b = su_loader_get(l, i);
    for (int k = 0; k < 3; k++) {
      int at = (int)b->label[k], first = digits[at * 30];
      ok = ok && (int)((b->image[0][k * 30] + 1) * 127.5f + 0.5f) == first;
    }
  }
  check(ok, "images from memory carry their labels");
  su_loader_close(l);
  o.side[0].look.size_h = o.side[0].look.size_w = 8;
  same_whatever_the_threads(o, "images from memory, resized");
}

static void listing(void) {
  su_names names;
  int64_t others, filtered;
  bool ok = su_folder_images(dir, NULL, &names, &others, &filtered);
  check(ok && names.n == 2 * N && strcmp(names.at[0], "a00.png") == 0 &&
            strcmp(names.at[N], "b00.png") == 0,
        "listing");
  if (ok) su_names_free(&names);
  ok = su_folder_images(dir, "b*", &names, &others, &filtered);
  check(ok && names.n == N && filtered == N && others == 0, "listing with a filter");
  if (ok) su_names_free(&names);
  check(!su_folder_images("/no/such/folder", NULL, &names, &others, &filtered),
        "listing a folder that is not there");
  check(!su_folder_images(path_a[0], NULL, &names, &others, &filtered) &&
            strstr(su_error(), "not a folder"),
        "listing a file");
}

int main(void) {
  check(make_folder(), "temporary pictures");
  same_whatever_the_threads(basic(), "one folder");
  jumps();
  passes();
  pairs();
  broken();
  wrong();
  looks();
  listing();
  remove_folder();
  printf("test_loader: %d passed, %d failed\n", passed, failed);
  printf("%d passed, %d failed\n", passed, failed);
  return failed != 0;
}
