/* idx.c -- reads idx files: 0 0 type ndim, ndim big-endian sizes, then the numbers (type 8: bytes). zlib
 * reads plain files too. */
#include "idx.h"

#include <string.h>

#include <zlib.h>

#define MAX_BYTES (INT64_C(1) << 32)

static bool read_all(gzFile f, void *to, int64_t bytes, const char *path) {
  uint8_t *p = to;
  while (bytes > 0) {
    int n = gzread(f, p, (unsigned)(bytes < 1 << 20 ? bytes : 1 << 20));
    if (n <= 0) return su_fail("%s: the idx file ends early or is damaged", path);
    p += n;
    bytes -= n;
  }
  return true;
}

static bool read_header(gzFile f, su_idx *out, int64_t *bytes, const char *path) {
  uint8_t magic[4], size[4];
  int got = gzread(f, magic, 4);
  if (got != 4 || magic[0] != 0 || magic[1] != 0 || magic[3] < 1 || magic[3] > 4)
    return su_fail("%s: not an idx file (MNIST's format: 0 0 8 3 for images, 0 0 8 1 for labels)", path);
  if (magic[2] != 8)
    return su_fail("%s: holds numbers of type 0x%02x; only bytes (0x08) are read", path, magic[2]);
  out->ndim = magic[3];
  *bytes = 1;
  for (int i = 0; i < out->ndim; i++) {
    if (!read_all(f, size, 4, path)) return false;
    out->shape[i] = (int64_t)size[0] << 24 | (int64_t)size[1] << 16 | (int64_t)size[2] << 8 | size[3];
    if (out->shape[i] > MAX_BYTES / *bytes)
      return su_fail("%s: larger than %lld bytes", path, (long long)MAX_BYTES);
    *bytes *= out->shape[i];
    if (*bytes == 0) return su_fail("%s: holds nothing (size %d is 0)", path, i + 1);
  }
  return true;
}

bool su_idx_load(const char *path, su_idx *out) {
  int64_t bytes = 0;
  memset(out, 0, sizeof *out);
  gzFile f = gzopen(path, "rb");
  if (!f) return su_fail("%s: cannot be opened", path);
  bool ok = read_header(f, out, &bytes, path) && (out->data = su_malloc((size_t)bytes)) != NULL &&
            read_all(f, out->data, bytes, path);
  gzclose_r(f);
  if (!ok) su_idx_free(out);
  return ok;
}

void su_idx_free(su_idx *set) {
  su_free(set->data);
  memset(set, 0, sizeof *set);
}
