/* edge.h -- what a border around an image shows, for kernels: along one axis of n pixels with `before` and `after`
 * border pixels, and its adjoint, who shows a pixel. The three edges are those of nn/pad.c. */
#ifndef SUMI_CUDA_EDGE_H
#define SUMI_CUDA_EDGE_H

#include "kernel.h"

enum { CU_EDGE_ZERO, CU_EDGE_REFLECT, CU_EDGE_REPLICATE };   /* as SU_EDGE_* */

/* Which of n pixels does border position k (0 is the first pixel) show? -1: none. */
CU_DEVICE int cu_edge_source(int k, int n, int edge) {
  if (k >= 0 && k < n) return k;
  if (edge == CU_EDGE_ZERO) return -1;
  if (edge == CU_EDGE_REPLICATE) return k < 0 ? 0 : n - 1;
  return k < 0 ? -k : 2 * (n - 1) - k;
}

/* The positions of the padded axis (0 is the first border pixel) that show pixel u: `count` of them, at(0), at(1), ... */
struct cu_edge_shows {
  int own, low, lows, high, count;
  CU_DEVICE cu_edge_shows(int u, int n, int before, int after, int edge) : own(u + before), low(0), lows(0), high(0) {
    int highs = 0;
    if (edge == CU_EDGE_REFLECT) {
      const int d = n - 1 - u;
      low = before - u, lows = u > 0 && u <= before;
      high = before + n - 1 + d, highs = d > 0 && d <= after;
    } else if (edge == CU_EDGE_REPLICATE) {
      lows = u == 0 ? before : 0;
      high = before + n, highs = u == n - 1 ? after : 0;
    }
    count = 1 + lows + highs;
  }
  CU_DEVICE int at(int k) const { return k == 0 ? own : k <= lows ? low + k - 1 : high + k - 1 - lows; }
};

#endif
