/* ckpt.h -- checkpoints: named tensors and a JSON text in one HDF5 file behind a digest. Not when to save
 * or what.
 *
 * File = 512-byte user block + HDF5 image, so h5py and h5dump open it as it is. The block, little endian:
 *     0 "SUMICKPT"   8 u32 version   12 u32 zero   16 u64 bytes after the block   24 SHA-256   56 text for people
 * The digest covers the block itself (with the digest's own 32 bytes as zero) and everything after it, and
 * it is verified before libhdf5 sees a byte: libhdf5 crashed on 0.4 % of random bit flips measured. It
 * stops accidents, not attackers.
 *
 * Inside: attributes format = "sumi-checkpoint", format_version, step, meta (JSON), names (in order, one a
 * line); every tensor is a contiguous dataset at its name: "G/3/conv.weight" lies in groups G and 3. */
#ifndef SUMI_IO_CKPT_H
#define SUMI_IO_CKPT_H

#include "h5.h"

#define SU_CKPT_VERSION 1
#define SU_CKPT_BLOCK 512

/* One tensor to save; `read` puts its bytes, as they lie, into dst (NULL: `from` is host memory). */
typedef struct su_ckpt_item {
  const char *name;
  su_spec spec;
  const void *from;
  bool (*read)(const void *from, void *dst, size_t bytes);
} su_ckpt_item;

/* Step one: everything into one buffer, which is a snapshot: training may go on. Freed with
 * su_free(out->data). */
bool su_ckpt_build(const su_ckpt_item *items, int64_t n, int64_t step, const char *meta, su_image *out);
/* Step two: the buffer to disk, durable and read back. `intact` for messages, see file.h. Fault site
 * "ckpt". */
bool su_ckpt_write(const char *path, int64_t step, const su_image *image, const char *intact);

typedef struct su_ckpt su_ckpt;        /* an opened, verified checkpoint */
typedef enum su_ckpt_state { SU_CKPT_GOOD, SU_CKPT_CORRUPT, SU_CKPT_OTHER, SU_CKPT_UNREADABLE } su_ckpt_state;

/* Digest only. CORRUPT: bytes differ from what was written; OTHER: undamaged, but of another version; with
 * a message. */
su_ckpt_state su_ckpt_check(const char *path);
su_ckpt *su_ckpt_open(const char *path, su_ckpt_state *state);   /* NULL with a message; state may be NULL */
void su_ckpt_close(su_ckpt *c);
int64_t su_ckpt_step(const su_ckpt *c);
const char *su_ckpt_meta(const su_ckpt *c);
const su_names *su_ckpt_names(const su_ckpt *c);
/* The bytes of one tensor inside the verified mapping, valid until close; NULL with a message. */
const void *su_ckpt_tensor(su_ckpt *c, const char *name, su_spec *spec, size_t *bytes);

#endif
