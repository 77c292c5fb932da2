/* fuzz_image.c -- any bytes into the decoders, the converter and the resizer. With libFuzzer:
 *   clang -g -O1 -fsanitize=fuzzer,address,undefined -DLIBFUZZER tests/fuzz_image.c (and the sources named
 * in test_image's rule) Without it, a main of its own damages the files given: `fuzz_image ROUNDS FILE...`;
 * build that with -fsanitize=address,undefined. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../runtime/io/image.h"
#include "../runtime/rng.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n) {
  su_image im, small;
  su_scratch scratch = {0};
  if (su_image_decode(data, n, &im) && (int64_t)im.h * im.w < 1 << 20) {
    if (su_image_new(&small, 1 + im.w % 37, 1 + im.h % 41, im.c))
      su_image_resize(&im, &small, SU_BICUBIC, &scratch);
    su_image_free(&small);
    su_image_convert(&im, 1 + im.h % 4);
  }
  su_image_free(&im);
  su_scratch_free(&scratch);
  return 0;
}

#ifndef LIBFUZZER
int main(int argc, char **argv) {
  int rounds = argc > 1 ? atoi(argv[1]) : 0;
  long tried = 0;
  for (int a = 2; a < argc; a++) {
    uint8_t *bytes;
    size_t n;
    if (!su_file_bytes(argv[a], &bytes, &n)) continue; /* the empty file of the tests */
    for (int r = 0; r < rounds; r++, tried++) {
      su_philox p = su_philox_at(1, (uint32_t)r, (uint32_t)a, 0, 0);
      size_t cut = p.v[0] % 4 == 0 ? p.v[1] % n + 1 : n;
      uint8_t *copy = malloc(cut); /* its own block, so that ASan sees the end */
      memcpy(copy, bytes, cut);
      for (uint32_t k = 0; k < 1 + p.v[2] % 6; k++) {
        su_philox q = su_philox_at(1, (uint32_t)r, (uint32_t)a, k, 1);
        copy[q.v[0] % (q.v[1] % 2 ? cut : (cut < 64 ? cut : 64))] = (uint8_t)q.v[2];
      }
      LLVMFuzzerTestOneInput(copy, cut);
      free(copy);
    }
    su_free(bytes);
  }
  printf("fuzz_image: %ld damaged files, no trouble\n", tried);
  return 0;
}
#endif
