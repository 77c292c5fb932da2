/* test_image.c -- decoders, conversion, orientation, resize, PNG writing and SHA-256 against
 * tests/images/golden.tsv, whose hashes were made with Pillow by tests/images/pillow.py. Run from the
 * repository's root. `test_image pixels FILE C H W FILTER` writes the pixels instead, for that script's
 * random comparison. */
#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "../runtime/io/idx.h"
#include "../runtime/io/image.h"
#include "../runtime/io/sha256.h"

static int passed, failed;

static void check(bool ok, const char *what) {
  if (ok) {
    passed++;
    return;
  }
  failed++;
  printf("FAILED %s\n  last message: %s\n", what, su_error());
}

/* The same formula as pattern() in pillow.py. */
static bool pattern(su_image *im, int h, int w, int c) {
  if (!su_image_new(im, h, w, c)) return false;
  for (int y = 0; y < h; y++)
    for (int x = 0; x < w; x++)
      for (int k = 0; k < c; k++)
        im->data[(y * w + x) * c + k] =
            (uint8_t)(x * 37 + y * 101 + k * 67 + ((x * y) ^ (x * x * 3 + y)) * 29);
  return true;
}

static void pixel_hash(const su_image *im, char hex[65]) {
  su_sha256_hex(im->data, (size_t)im->h * (size_t)im->w * (size_t)im->c, hex);
}

static bool resized(su_image *im, int h, int w, su_filter filter, su_scratch *scratch) {
  su_image to;
  if (!su_image_new(&to, h, w, im->c)) return false;
  bool ok = su_image_resize(im, &to, filter, scratch);
  su_image_free(im);
  *im = to;
  return ok;
}

/* resize H W C OH OW FILTER HASH */
static void resize_line(const char *line, su_scratch *scratch) {
  char filter[16], want[80], got[65] = "";
  int h, w, c, oh, ow;
  su_image im = {0};
  if (sscanf(line, "resize %d %d %d %d %d %15s %79s", &h, &w, &c, &oh, &ow, filter, want) != 7) {
    check(false, line);
    return;
  }
  bool ok = pattern(&im, h, w, c) &&
            resized(&im, oh, ow, strcmp(filter, "bicubic") == 0 ? SU_BICUBIC : SU_BILINEAR, scratch);
  if (ok) pixel_hash(&im, got);
  check(ok && strcmp(got, want) == 0, line);
  su_image_free(&im);
}

/* decode FILE CHANNELS H W HASH */
static void decode_line(const char *line) {
  char path[200], want[80], got[65] = "";
  int c, h, w;
  su_image im = {0};
  if (sscanf(line, "decode %199s %d %d %d %79s", path, &c, &h, &w, want) != 5) {
    check(false, line);
    return;
  }
  bool ok = su_image_load(path, &im) && (c == 0 || su_image_convert(&im, c));
  if (ok) pixel_hash(&im, got);
  check(ok && im.h == h && im.w == w && strcmp(got, want) == 0, line);
  su_image_free(&im);
}

/* error FILE words of the message */
static void error_line(const char *line) {
  char path[200];
  int at = 0;
  su_image im = {0};
  if (sscanf(line, "error %199s %n", path, &at) != 1 || at == 0) {
    check(false, line);
    return;
  }
  bool ok = su_image_load(path, &im);
  check(!ok && im.data == NULL && strncmp(su_error(), path, strlen(path)) == 0 &&
            strstr(su_error(), line + at),
        line);
  su_image_free(&im);
}

static void goldens(const char *file) {
  char line[512];
  su_scratch scratch = {0};
  FILE *f = fopen(file, "r");
  check(f != NULL, file);
  if (!f) return;
  while (fgets(line, sizeof line, f)) {
    line[strcspn(line, "\n")] = 0;
    if (strncmp(line, "resize", 6) == 0) resize_line(line, &scratch);
    else if (strncmp(line, "decode", 6) == 0) decode_line(line);
    else if (strncmp(line, "error", 5) == 0) error_line(line);
    else if (line[0] && line[0] != '#') check(false, line);
  }
  fclose(f);
  su_scratch_free(&scratch);
}

/* Every prefix of a good file must fail with a message, never read past the end (run under ASan) or invent
 * pixels. */
static void prefixes(const char *path, size_t whole_from) {
  uint8_t *bytes;
  size_t n;
  bool ok = su_file_bytes(path, &bytes, &n);
  check(ok, path);
  if (!ok) return;
  size_t wrong = 0;
  for (size_t cut = 0; cut + whole_from < n; cut += cut < 200 ? 1 : 37) {
    uint8_t *copy = malloc(cut ? cut : 1); /* its own block, so that ASan sees the end */
    memcpy(copy, bytes, cut);
    su_image im;
    if (su_image_decode(copy, cut, &im)) wrong++;
    su_image_free(&im);
    free(copy);
  }
  check(wrong == 0, path);
  su_free(bytes);
}

static void png_round_trip(void) {
  const char *path = "/tmp/sumi_test_image.png";
  for (int c = 1; c <= 4; c++) {
    su_image im, back = {0};
    char a[65], b[65];
    uint8_t *first = NULL, *second = NULL;
    size_t n1 = 0, n2 = 1;
    bool ok = pattern(&im, 19, 33, c) && su_png_write(path, &im) && su_file_bytes(path, &first, &n1) &&
              su_png_write(path, &im) && su_file_bytes(path, &second, &n2) && su_image_load(path, &back);
    check(ok && n1 == n2 && memcmp(first, second, n1) == 0, "png: same pixels, same bytes");
    pixel_hash(&im, a);
    if (ok) pixel_hash(&back, b);
    check(ok && back.c == c && strcmp(a, b) == 0, "png: reads back what was written");
    su_free(first), su_free(second);
    su_image_free(&im), su_image_free(&back);
  }
  unlink(path);
  su_image im = {0};
  check(pattern(&im, 2, 2, 3) && !su_png_write("/no/such/folder/x.png", &im) &&
            su_error_code() == SU_EMACHINE,
        "png: a folder that is not there is an error of the machine");
  su_image_free(&im);
}

static void grid(void) {
  float x[3 * 2 * 2];
  for (int i = 0; i < 12; i++) x[i] = i < 4 ? -1.0f : i < 8 ? 0.0f : 2.0f;
  const int64_t shape[4] = {3, 2, 2, 1};
  su_image im;
  check(su_image_grid(x, shape, 2, 2, 2, &im) && im.h == 6 && im.w == 6 && im.c == 1,
        "grid: 2x2 tiles of 2x2, gutter 2");
  check(im.data && im.data[0] == 0 && im.data[4] == 128 && im.data[2] == 255 && im.data[4 * 6] == 255 &&
            im.data[4 * 6 + 4] == 255,
        "grid: black, middle, clipped white, white gutter, missing tile white");
  su_image_free(&im);
  const int64_t two[4] = {1, 2, 2, 2};
  check(!su_image_grid(x, two, 1, 1, 2, &im), "grid: two channels are refused");
}

static void orientations(void) {
  const uint8_t tiff[] = "MM\0*\0\0\0\10\0\1\1\22\0\3\0\0\0\1\0\6\0\0\0\0\0";
  check(su_exif_orientation(tiff, sizeof tiff - 1) == 6, "exif: big endian");
  for (size_t n = 0; n < 20; n++) check(su_exif_orientation(tiff, n) == 1, "exif: cut short means 1");
  for (int o = 1; o <= 8; o++) {
    su_image im, twin;
    bool ok = pattern(&im, 3, 5, 2) && pattern(&twin, 3, 5, 2) && su_image_orient(&im, o);
    static const int inverse[9] = {0, 1, 2, 3, 4, 5, 8, 7, 6};
    ok = ok && (o < 5 || (im.h == 5 && im.w == 3)) && su_image_orient(&im, inverse[o]);
    check(ok && im.h == 3 && memcmp(im.data, twin.data, 30) == 0, "orient: and back");
    su_image_free(&im), su_image_free(&twin);
  }
}

static void sha(void) {
  static const char *const known[][2] = {
      /* FIPS 180-4 examples */
      {"", "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"},
      {"abc", "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"},
      {"abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq",
       "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1"}};
  char one[65], two[65];
  uint8_t data[400], digest[32];
  for (int portable = 0; portable < 2; portable++) {
    su_sha256_use_portable(portable);
    for (int i = 0; i < 3; i++) {
      su_sha256_hex(known[i][0], strlen(known[i][0]), one);
      check(strcmp(one, known[i][1]) == 0, "sha256: a published example");
    }
  }
  for (int i = 0; i < 400; i++) data[i] = (uint8_t)(i * 7 + 1);
  bool same = true;
  for (size_t n = 0; n <= 400; n++) {
    su_sha256 ctx;
    su_sha256_use_portable(0);
    su_sha256_hex(data, n, one);
    su_sha256_use_portable(1);
    su_sha256_begin(&ctx);
    su_sha256_add(&ctx, data, n / 3);
    su_sha256_add(&ctx, data + n / 3, n - n / 3);
    su_sha256_end(&ctx, digest);
    su_sha256_text(digest, two);
    same = same && strcmp(one, two) == 0;
  }
  su_sha256_use_portable(0);
  check(same, "sha256: both block functions, any length, any pieces");
}

static void idx(void) {
  su_idx set;
  bool ok = su_idx_load("tests/images/digits.idx.gz", &set);
  check(ok && set.ndim == 3 && set.shape[0] == 3 && set.shape[1] == 4 && set.shape[2] == 5,
        "idx: gzipped, three dimensions");
  check(ok && set.data[0] == 0 && set.data[59] == 59 * 3, "idx: bytes in order");
  su_idx_free(&set);
  ok = su_idx_load("tests/images/labels.idx", &set);
  check(ok && set.ndim == 1 && set.shape[0] == 3 && set.data[2] == 9, "idx: plain, labels");
  su_idx_free(&set);
  check(!su_idx_load("tests/images/short.idx", &set) && strstr(su_error(), "short.idx"),
        "idx: short file is an error");
  check(!su_idx_load("tests/images/gray.png", &set) && strstr(su_error(), "not an idx file"),
        "idx: a PNG is none");
}

static int write_pixels(char **a) {
  su_image im;
  su_scratch scratch = {0};
  int c = atoi(a[3]), h = atoi(a[4]), w = atoi(a[5]);
  bool ok = su_image_load(a[2], &im) && (c == 0 || su_image_convert(&im, c));
  if (ok && h > 0)
    ok = resized(&im, h, w, strcmp(a[6], "bicubic") == 0 ? SU_BICUBIC : SU_BILINEAR, &scratch);
  if (ok) fwrite(im.data, (size_t)im.c, (size_t)im.h * (size_t)im.w, stdout);
  else fprintf(stderr, "%s\n", su_error());
  su_scratch_free(&scratch);
  su_image_free(&im);
  return ok ? 0 : 1;
}

int main(int argc, char **argv) {
  if (argc == 7 && strcmp(argv[1], "pixels") == 0) return write_pixels(argv);
  sha();
  goldens("tests/images/golden.tsv");
  prefixes("tests/images/colour.jpg", 2);
  prefixes("tests/images/progressive.jpg", 2);
  prefixes("tests/images/rgba.png", 12);
  prefixes("tests/images/lossy.webp", 2);
  png_round_trip();
  grid();
  orientations();
  idx();
  printf("test_image: %d passed, %d failed\n", passed, failed);
  printf("%d passed, %d failed\n", passed, failed);
  return failed != 0;
}
