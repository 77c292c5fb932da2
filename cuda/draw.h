/* draw.h -- where an op's Philox numbers come from on a GPU: five words, which a digest makes of the reals
 * (seed, seed_hi, step, site + stream * 2^32), and the kernel reads. The same integers as on the CPU
 * (runtime/rng.h). */
#ifndef SUMI_CUDA_DRAW_H
#define SUMI_CUDA_DRAW_H

#include "cu.h"

extern "C++" {
#include "../runtime/rng.h"
}

/* r: the four reals; w: five words. */
static inline void cu_draw_words(const double *r, uint32_t *w) {
  const uint64_t tail = (uint64_t)r[3];
  w[0] = (uint32_t)r[0];
  w[1] = (uint32_t)r[1];
  w[2] = (uint32_t)r[2];
  w[3] = (uint32_t)tail;
  w[4] = (uint32_t)(tail >> 32);
}

struct cu_draw {
  uint64_t key;
  uint32_t step, site, stream;
  /* From words `first` on. */
  CU_DEVICE cu_draw(const cu_words &w, int first)
      : key((uint64_t)w.u(first + 1) << 32 | w.u(first)), step(w.u(first + 2)), site(w.u(first + 3)),
        stream(w.u(first + 4)) {}
  CU_DEVICE su_philox block(int64_t k) const { return su_philox_at(key, (uint32_t)k, step, site, stream); }
};

/* A uniform in [0,1) with 24 bits. */
CU_DEVICE float cu_u01(uint32_t bits) { return (float)(bits >> 8) * (1.0f / 16777216.0f); }

#endif
