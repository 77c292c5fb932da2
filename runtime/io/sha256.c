/* sha256.c -- SHA-256 (FIPS 180-4): a portable block function, and one in the CPU's SHA instructions where
 * it has them (about 1.6 GB/s instead of 0.2), since checkpoints of hundreds of megabytes are hashed at
 * every save. */
#include "sha256.h"

#include <stdatomic.h>
#include <stdbool.h>
#include <string.h>

#if defined(__x86_64__) && defined(__GNUC__)
#define HAVE_SHA_NI 1
#define SHA_NI __attribute__((target("sha,sse4.1,ssse3")))
#include <cpuid.h>
#include <immintrin.h>
#endif

/* First 32 bits of the fractional parts of the cube roots of the first 64 primes. */
static const uint32_t K[64] = {
    0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
    0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
    0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
    0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
    0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
    0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
    0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
    0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2,
};

static atomic_int force_portable;

void su_sha256_use_portable(int portable) { atomic_store(&force_portable, portable); }

static uint32_t rotr(uint32_t x, int n) { return (x >> n) | (x << (32 - n)); }

static uint32_t load_be(const unsigned char *p) {
  return (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
}

static void store_be(unsigned char *p, uint32_t v) {
  p[0] = (unsigned char)(v >> 24);
  p[1] = (unsigned char)(v >> 16);
  p[2] = (unsigned char)(v >> 8);
  p[3] = (unsigned char)v;
}

/* FIPS 180-4 section 6.2.2, blocks of 64 bytes. */
static void blocks_portable(uint32_t state[8], const unsigned char *p, size_t n) {
  for (; n > 0; n--, p += 64) {
    uint32_t w[64];
    for (int t = 0; t < 16; t++) w[t] = load_be(p + 4 * t);
    for (int t = 16; t < 64; t++) {
      uint32_t s0 = rotr(w[t - 15], 7) ^ rotr(w[t - 15], 18) ^ (w[t - 15] >> 3);
      uint32_t s1 = rotr(w[t - 2], 17) ^ rotr(w[t - 2], 19) ^ (w[t - 2] >> 10);
      w[t] = s1 + w[t - 7] + s0 + w[t - 16];
    }
    uint32_t a = state[0], b = state[1], c = state[2], d = state[3];
    uint32_t e = state[4], f = state[5], g = state[6], h = state[7];
    for (int t = 0; t < 64; t++) {
      uint32_t s1 = rotr(e, 6) ^ rotr(e, 11) ^ rotr(e, 25);
      uint32_t t1 = h + s1 + ((e & f) ^ (~e & g)) + K[t] + w[t];
      uint32_t s0 = rotr(a, 2) ^ rotr(a, 13) ^ rotr(a, 22);
      uint32_t t2 = s0 + ((a & b) ^ (a & c) ^ (b & c));
      h = g, g = f, f = e, e = d + t1;
      d = c, c = b, b = a, a = t1 + t2;
    }
    const uint32_t s[8] = {a, b, c, d, e, f, g, h};
    for (int i = 0; i < 8; i++) state[i] += s[i];
  }
}

#ifdef HAVE_SHA_NI
/* The instructions keep the eight words as ABEF and CDGH; four rounds at a time, the schedule w four words
 * ahead. */
SHA_NI static void blocks_sha_ni(uint32_t state[8], const unsigned char *p, size_t n) {
  const __m128i swap = _mm_set_epi64x(0x0c0d0e0f08090a0bLL, 0x0405060700010203LL);
  __m128i low = _mm_shuffle_epi32(_mm_loadu_si128((const __m128i *)(const void *)state), 0xb1); /* CDAB */
  __m128i high =
      _mm_shuffle_epi32(_mm_loadu_si128((const __m128i *)(const void *)(state + 4)), 0x1b); /* EFGH */
  __m128i abef = _mm_alignr_epi8(low, high, 8), cdgh = _mm_blend_epi16(high, low, 0xf0);
  for (; n > 0; n--, p += 64) {
    const __m128i abef0 = abef, cdgh0 = cdgh;
    __m128i w[4];
    for (int i = 0; i < 4; i++)
      w[i] = _mm_shuffle_epi8(_mm_loadu_si128((const __m128i *)(const void *)(p + 16 * i)), swap);
#pragma GCC unroll 16
    for (int g = 0; g < 16; g++) {
      __m128i now = w[g & 3];
      __m128i k = _mm_add_epi32(now, _mm_loadu_si128((const __m128i *)(const void *)(K + 4 * g)));
      cdgh = _mm_sha256rnds2_epu32(cdgh, abef, k);
      abef = _mm_sha256rnds2_epu32(abef, cdgh, _mm_shuffle_epi32(k, 0x0e));
      if (g >= 12) continue;
      __m128i last = w[(g + 3) & 3]; /* w[t-4..t-1] for the t that replaces `now` */
      __m128i next = _mm_add_epi32(_mm_sha256msg1_epu32(now, w[(g + 1) & 3]),
                                   _mm_alignr_epi8(last, w[(g + 2) & 3], 4));
      w[g & 3] = _mm_sha256msg2_epu32(next, last);
    }
    abef = _mm_add_epi32(abef, abef0);
    cdgh = _mm_add_epi32(cdgh, cdgh0);
  }
  low = _mm_shuffle_epi32(abef, 0x1b);  /* FEBA */
  high = _mm_shuffle_epi32(cdgh, 0xb1); /* DCHG */
  _mm_storeu_si128((__m128i *)(void *)state, _mm_blend_epi16(low, high, 0xf0));
  _mm_storeu_si128((__m128i *)(void *)(state + 4), _mm_alignr_epi8(high, low, 8));
}

static bool cpu_has_sha(void) {
  unsigned a, b, c, d;
  if (!__get_cpuid(1, &a, &b, &c, &d) || !(c & bit_SSE4_1) || !(c & bit_SSSE3)) return false;
  return __get_cpuid_count(7, 0, &a, &b, &c, &d) && (b & bit_SHA);
}
#endif

static void blocks(uint32_t state[8], const unsigned char *p, size_t n) {
#ifdef HAVE_SHA_NI
  static atomic_int known; /* 0: not asked yet, 1: no, 2: yes */
  int k = atomic_load_explicit(&known, memory_order_relaxed);
  if (k == 0) atomic_store_explicit(&known, k = cpu_has_sha() ? 2 : 1, memory_order_relaxed);
  if (k == 2 && !atomic_load_explicit(&force_portable, memory_order_relaxed)) {
    blocks_sha_ni(state, p, n);
    return;
  }
#endif
  blocks_portable(state, p, n);
}

void su_sha256_begin(su_sha256 *ctx) {
  static const uint32_t start[8] = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a,
                                    0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
  memcpy(ctx->state, start, sizeof start);
  ctx->bytes = 0;
}

void su_sha256_add(su_sha256 *ctx, const void *data, size_t bytes) {
  const unsigned char *p = data;
  size_t held = (size_t)(ctx->bytes % 64);
  if (bytes == 0) return;
  ctx->bytes += bytes;
  if (held > 0) {
    size_t take = bytes < 64 - held ? bytes : 64 - held;
    memcpy(ctx->tail + held, p, take);
    p += take;
    bytes -= take;
    if (held + take < 64) return;
    blocks(ctx->state, ctx->tail, 1);
  }
  blocks(ctx->state, p, bytes / 64);
  memcpy(ctx->tail, p + bytes / 64 * 64, bytes % 64);
}

void su_sha256_end(su_sha256 *ctx, uint8_t out[32]) {
  unsigned char pad[72] = {0x80};
  uint64_t bits = ctx->bytes * 8;
  size_t zeros = (size_t)((119 - ctx->bytes % 64) % 64); /* so that 1 + zeros + 8 fills a block */
  store_be(pad + 1 + zeros, (uint32_t)(bits >> 32));
  store_be(pad + 5 + zeros, (uint32_t)bits);
  su_sha256_add(ctx, pad, 9 + zeros);
  for (int i = 0; i < 8; i++) store_be(out + 4 * i, ctx->state[i]);
}

void su_sha256_text(const uint8_t digest[32], char out[65]) {
  static const char digit[] = "0123456789abcdef";
  for (int i = 0; i < 32; i++) {
    out[2 * i] = digit[digest[i] >> 4];
    out[2 * i + 1] = digit[digest[i] & 15];
  }
  out[64] = 0;
}

void su_sha256_hex(const void *data, size_t bytes, char out[65]) {
  su_sha256 ctx;
  uint8_t digest[32];
  su_sha256_begin(&ctx);
  su_sha256_add(&ctx, data, bytes);
  su_sha256_end(&ctx, digest);
  su_sha256_text(digest, out);
}
