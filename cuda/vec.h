/* vec.h -- several neighbouring channels at once: 16 bytes per access where channels and addresses allow it, one
 * number where they do not. In registers they are always floats. */
#ifndef SUMI_CUDA_VEC_H
#define SUMI_CUDA_VEC_H

#include "kernel.h"

template <class T, int V> struct alignas(sizeof(T) * V < 16 ? sizeof(T) * V : 16) cu_vec { T v[V]; };

template <int V, class T> CU_DEVICE void cu_get(const T *p, float (&f)[V]) {
  const cu_vec<T, V> x = *reinterpret_cast<const cu_vec<T, V> *>(p);
  CU_UNROLL
  for (int k = 0; k < V; k++) f[k] = cu_float(x.v[k]);
}

template <int V, class T> CU_DEVICE void cu_put(T *p, const float (&f)[V]) {
  cu_vec<T, V> x;
  CU_UNROLL
  for (int k = 0; k < V; k++) cu_store(&x.v[k], f[k]);
  *reinterpret_cast<cu_vec<T, V> *>(p) = x;
}

/* May rows of c numbers at these addresses be read 16 bytes at a time? width: numbers in 16 bytes; NULL fits. */
static inline bool cu_wide(int64_t c, int width, const void *a, const void *b = nullptr, const void *d = nullptr) {
  return c % width == 0 && (((uintptr_t)a | (uintptr_t)b | (uintptr_t)d) & 15) == 0;
}

#endif
