/* philox.h -- rng.h's Philox4x32-10 for 16 consecutive blocks at once, laid out so that gcc makes vectors of
 * it. The same integers, bit for bit; for use inside SU_CLONES functions. */
#ifndef SUMI_CPU_PHILOX_H
#define SUMI_CPU_PHILOX_H

#include <stdint.h>

enum { SU_PHILOX_LANES = 16 };

/* bits[4*k + j] is number j of block + k: 64 numbers in the order of their elements. */
static inline __attribute__((always_inline, unused)) void
su_philox_fill(uint64_t key, uint32_t block, uint32_t step, uint32_t site, uint32_t stream,
               uint32_t bits[restrict 64]) {
  for (uint32_t k = 0; k < SU_PHILOX_LANES; k++) {
    uint32_t c0 = block + k, c1 = step, c2 = site, c3 = stream;
    uint32_t k0 = (uint32_t)key, k1 = (uint32_t)(key >> 32);
#pragma GCC unroll 10                  /* a loop inside would keep the lanes from becoming vectors */
    for (int r = 0; r < 10; r++) {
      const uint64_t a = (uint64_t)0xD2511F53u * c0, b = (uint64_t)0xCD9E8D57u * c2;
      c0 = (uint32_t)(b >> 32) ^ c1 ^ k0;
      c2 = (uint32_t)(a >> 32) ^ c3 ^ k1;
      c1 = (uint32_t)b;
      c3 = (uint32_t)a;
      k0 += 0x9E3779B9u;
      k1 += 0xBB67AE85u;
    }
    bits[4 * k] = c0;
    bits[4 * k + 1] = c1;
    bits[4 * k + 2] = c2;
    bits[4 * k + 3] = c3;
  }
}

#endif
