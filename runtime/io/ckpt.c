/* ckpt.c -- checkpoints: build, write, verify, read. See ckpt.h for the format. */
#define _GNU_SOURCE
#include "ckpt.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "sha256.h"

static const char magic[8] = {'S', 'U', 'M', 'I', 'C', 'K', 'P', 'T'};
static const char for_people[] =
    "Sumi checkpoint. HDF5 begins at byte 512; the SHA-256 at byte 24 covers the rest.\n";
enum { AT_VERSION = 8, AT_LENGTH = 16, AT_DIGEST = 24, DIGEST = 32, AT_TEXT = 56 };

static void put_le(unsigned char *to, uint64_t v, int bytes) {
  for (int i = 0; i < bytes; i++) to[i] = (unsigned char)(v >> 8 * i);
}

static uint64_t get_le(const unsigned char *from, int bytes) {
  uint64_t v = 0;
  for (int i = bytes - 1; i >= 0; i--) v = v << 8 | from[i];
  return v;
}

static void digest_of(const unsigned char *data, size_t bytes, uint8_t out[DIGEST]) {
  static const unsigned char zero[DIGEST];
  su_sha256 h;
  su_sha256_begin(&h);
  su_sha256_add(&h, data, AT_DIGEST);
  su_sha256_add(&h, zero, DIGEST);
  su_sha256_add(&h, data + AT_TEXT, bytes - AT_TEXT);
  su_sha256_end(&h, out);
}

/* ---- building ---- */

static size_t item_bytes(const su_ckpt_item *it) {
  return (size_t)su_spec_size(&it->spec) * su_dtype_size(it->spec.dtype);
}

static char *joined_names(const su_ckpt_item *items, int64_t n) {
  size_t bytes = 1;
  for (int64_t i = 0; i < n; i++) bytes += strlen(items[i].name) + 1;
  char *all = su_malloc(bytes), *p = all;
  if (!all) return NULL;
  for (int64_t i = 0; i < n; i++) p += sprintf(p, "%s\n", items[i].name);
  *p = 0;
  return all;
}

static bool describe(su_h5 *h, const su_ckpt_item *items, int64_t n, int64_t step, const char *meta) {
  char *names = joined_names(items, n);
  bool ok = names && su_h5_set_text(h, "/", "format", "sumi-checkpoint") &&
            su_h5_set_int(h, "/", "format_version", SU_CKPT_VERSION) && su_h5_set_int(h, "/", "step", step) &&
            su_h5_set_text(h, "/", "meta", meta) && su_h5_set_text(h, "/", "names", names);
  su_free(names);
  return ok;
}

static bool fill(const su_ckpt_item *items, int64_t n, const size_t *at, const su_image *image) {
  for (int64_t i = 0; i < n; i++) {
    size_t bytes = item_bytes(&items[i]);
    if (!bytes) continue;
    if (at[i] < SU_CKPT_BLOCK || at[i] + bytes > image->bytes)
      return su_fail("checkpoint: '%s' lies outside the image", items[i].name);
    unsigned char *to = image->data + at[i];
    if (!items[i].read) memcpy(to, items[i].from, bytes);
    else if (!items[i].read(items[i].from, to, bytes)) return false;
  }
  return true;
}

static void seal_block(const su_image *image) {
  unsigned char *b = image->data;
  memset(b, 0, SU_CKPT_BLOCK);
  memcpy(b, magic, sizeof magic);
  put_le(b + AT_VERSION, SU_CKPT_VERSION, 4);
  put_le(b + AT_LENGTH, image->bytes - SU_CKPT_BLOCK, 8);
  memcpy(b + AT_TEXT, for_people, sizeof for_people);
  uint8_t digest[DIGEST];
  digest_of(b, image->bytes, digest);
  memcpy(b + AT_DIGEST, digest, DIGEST);
}

bool su_ckpt_build(const su_ckpt_item *items, int64_t n, int64_t step, const char *meta, su_image *out) {
  size_t expect = (size_t)1 << 16;
  *out = (su_image){0};
  for (int64_t i = 0; i < n; i++) expect += item_bytes(&items[i]) + 1024;
  size_t *at = su_malloc((size_t)(n ? n : 1) * sizeof *at);
  su_h5 *h = at ? su_h5_begin(SU_CKPT_BLOCK, expect) : NULL;
  bool ok = h && describe(h, items, n, step, meta);
  for (int64_t i = 0; ok && i < n; i++) ok = su_h5_hole(h, items[i].name, &items[i].spec, &at[i]);
  if (ok) ok = su_h5_end(h, out);
  else su_h5_close(h);
  ok = ok && fill(items, n, at, out);
  su_free(at);
  if (ok) return seal_block(out), true;
  su_free(out->data);
  *out = (su_image){0};
  return false;
}

bool su_ckpt_write(const char *path, int64_t step, const su_image *image, const char *intact) {
  char what[64];
  snprintf(what, sizeof what, "the checkpoint of step %lld", (long long)step);
  su_part part = {image->data, image->bytes};
  su_put put = {.path = path, .site = "ckpt", .what = what, .intact = intact, .parts = &part, .n_parts = 1,
                .verify = true};
  return su_file_put(&put);
}

/* ---- verifying ---- */

typedef struct mapping { const unsigned char *data; size_t bytes; } mapping;

static bool map_file(const char *path, mapping *m) {
  struct stat st;
  *m = (mapping){0};
  int fd = open(path, O_RDONLY | O_CLOEXEC);
  bool ok = fd >= 0 && fstat(fd, &st) == 0;
  if (ok && st.st_size > 0) {
    void *p = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_PRIVATE | MAP_POPULATE, fd, 0);
    ok = p != MAP_FAILED;
    if (ok) *m = (mapping){p, (size_t)st.st_size};
  }
  if (!ok) su_fail_code(errno == ENOENT ? SU_ENONE : SU_EMACHINE, "%s: cannot read: %s", path, strerror(errno));
  if (fd >= 0) close(fd);
  return ok;
}

static void unmap(mapping *m) {
  if (m->data) munmap((void *)m->data, m->bytes);
  *m = (mapping){0};
}

static su_ckpt_state judge(const char *path, const mapping *m) {
  if (m->bytes < SU_CKPT_BLOCK || memcmp(m->data, magic, sizeof magic) != 0) {
    su_fail("%s: not a checkpoint, or a damaged one: it does not begin with SUMICKPT", path);
    return SU_CKPT_CORRUPT;
  }
  uint64_t length = get_le(m->data + AT_LENGTH, 8);
  if (length != m->bytes - SU_CKPT_BLOCK) {
    su_fail("%s: damaged: %llu bytes after the block, its length says %llu", path,
            (unsigned long long)(m->bytes - SU_CKPT_BLOCK), (unsigned long long)length);
    return SU_CKPT_CORRUPT;
  }
  uint8_t digest[DIGEST];
  digest_of(m->data, m->bytes, digest);
  if (memcmp(digest, m->data + AT_DIGEST, DIGEST) != 0) {
    su_fail("%s: damaged: its bytes do not have the SHA-256 they were written with", path);
    return SU_CKPT_CORRUPT;
  }
  unsigned version = (unsigned)get_le(m->data + AT_VERSION, 4);
  if (version == SU_CKPT_VERSION) return SU_CKPT_GOOD;
  su_fail("%s: checkpoint of format version %u, this Sumi reads version %d", path, version, SU_CKPT_VERSION);
  return SU_CKPT_OTHER;
}

su_ckpt_state su_ckpt_check(const char *path) {
  mapping m;
  if (!map_file(path, &m)) return SU_CKPT_UNREADABLE;
  su_ckpt_state state = judge(path, &m);
  unmap(&m);
  return state;
}

/* ---- reading ---- */

struct su_ckpt {
  mapping map;
  su_h5 *h;
  int64_t step;
  char *meta, *path;
  su_names names;
};

static bool split_lines(const char *text, su_names *out) {
  for (const char *p = text; *p;) {
    size_t n = strcspn(p, "\n");
    char *line = su_malloc(n + 1);
    if (!line) return false;
    memcpy(line, p, n);
    line[n] = 0;
    bool ok = su_names_add(out, line);
    su_free(line);
    if (!ok) return false;
    p += n + (p[n] == '\n');
  }
  return true;
}

static bool read_head(su_ckpt *c) {
  su_value step, meta = {0}, names = {0};
  bool ok = su_h5_attr(c->h, "/", "step", &step) && su_h5_attr(c->h, "/", "meta", &meta) &&
            su_h5_attr(c->h, "/", "names", &names);
  if (ok && (step.kind != 'i' || meta.kind != 't' || meta.n != 1 || names.kind != 't' || names.n != 1))
    ok = su_fail("%s: attributes of other types than a checkpoint has", c->path);
  if (ok) {
    c->step = step.ints[0];
    c->meta = su_strdup(meta.texts.at[0]);
    ok = c->meta && split_lines(names.texts.at[0], &c->names);
  }
  su_value_free(&step);
  su_value_free(&meta);
  su_value_free(&names);
  return ok;
}

su_ckpt *su_ckpt_open(const char *path, su_ckpt_state *state) {
  su_ckpt_state dummy;
  if (!state) state = &dummy;
  *state = SU_CKPT_UNREADABLE;
  su_ckpt *c = su_calloc(sizeof *c);
  if (!c) return NULL;
  c->path = su_strdup(path);
  bool ok = c->path && map_file(path, &c->map);
  if (ok) {
    *state = judge(path, &c->map);
    ok = *state == SU_CKPT_GOOD && (c->h = su_h5_open(path)) && read_head(c);
  }
  if (ok) return c;
  su_ckpt_close(c);
  return NULL;
}

void su_ckpt_close(su_ckpt *c) {
  if (!c) return;
  su_h5_close(c->h);
  unmap(&c->map);
  su_names_free(&c->names);
  su_free(c->meta);
  su_free(c->path);
  su_free(c);
}

int64_t su_ckpt_step(const su_ckpt *c) { return c->step; }
const char *su_ckpt_meta(const su_ckpt *c) { return c->meta; }
const su_names *su_ckpt_names(const su_ckpt *c) { return &c->names; }

const void *su_ckpt_tensor(su_ckpt *c, const char *name, su_spec *spec, size_t *bytes) {
  size_t at = 0;
  if (su_h5_kind(c->h, name) != 'd') {
    su_fail("%s: no tensor '%s' in it", c->path, name);
    return NULL;
  }
  if (!su_h5_place(c->h, name, spec, &at)) return NULL;
  *bytes = (size_t)su_spec_size(spec) * su_dtype_size(spec->dtype);
  if (at > c->map.bytes || *bytes > c->map.bytes - at) {
    su_fail("%s: '%s' lies outside the file", c->path, name);
    return NULL;
  }
  return c->map.data + at;
}
