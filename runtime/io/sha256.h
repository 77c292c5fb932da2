/* sha256.h -- SHA-256 (FIPS 180-4) in pieces: begin, add as often as you like, end. Not for secrets: not
 * constant time. */
#ifndef SUMI_SHA256_H
#define SUMI_SHA256_H

#include <stddef.h>
#include <stdint.h>

typedef struct su_sha256 {
  uint32_t state[8];
  uint64_t bytes;         /* added so far */
  unsigned char tail[64]; /* the last bytes % 64 of them, not hashed yet */
} su_sha256;

void su_sha256_begin(su_sha256 *ctx);
void su_sha256_add(su_sha256 *ctx, const void *data, size_t bytes);
/* Finishes and writes the digest. The context must be begun again before it is used again. */
void su_sha256_end(su_sha256 *ctx, uint8_t out[32]);

/* 64 lower-case hex digits and a NUL. */
void su_sha256_text(const uint8_t digest[32], char out[65]);
/* The digest of one buffer as text. */
void su_sha256_hex(const void *data, size_t bytes, char out[65]);

/* Tests only: hash with the portable code even where the CPU has SHA instructions. */
void su_sha256_use_portable(int portable);

#endif
