/* rng.h -- Philox4x32-10 (Salmon, Moraes, Dror and Shaw 2011): numbers as a function of a key and a counter.
 *
 * No state: key = the run's seed, counter = (block, step, site, stream). The same integers on every device, in
 * any order, with any number of threads; a checkpoint of it is two integers. Header only, so that a GPU
 * compiler sees the same lines. */
#ifndef SUMI_RNG_H
#define SUMI_RNG_H

#include <stdint.h>

#ifdef __CUDACC__
#define SU_RNG __host__ __device__ static __forceinline__
#else
#define SU_RNG static inline
#endif

typedef struct su_philox { uint32_t v[4]; } su_philox;

SU_RNG su_philox su_philox_at(uint64_t key, uint32_t block, uint32_t step, uint32_t site, uint32_t stream) {
  uint32_t k0 = (uint32_t)key, k1 = (uint32_t)(key >> 32);
  uint32_t c0 = block, c1 = step, c2 = site, c3 = stream;
  for (int r = 0; r < 10; r++) {
    uint64_t a = (uint64_t)0xD2511F53u * c0, b = (uint64_t)0xCD9E8D57u * c2;
    uint32_t n0 = (uint32_t)(b >> 32) ^ c1 ^ k0, n2 = (uint32_t)(a >> 32) ^ c3 ^ k1;
    c1 = (uint32_t)b;
    c3 = (uint32_t)a;
    c0 = n0;
    c2 = n2;
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  su_philox words = {{c0, c1, c2, c3}};
  return words;
}

/* A uniform in [0,1) with 24 bits, exact in float32 and float64 alike. */
SU_RNG double su_u01(uint32_t bits) { return (double)(bits >> 8) * (1.0 / 16777216.0); }

#endif
