/* wino.h -- one-dimensional Winograd transforms on vectors of 16 floats, at the points 0, a, -a, b, -b and (A = 6) infinity.
 *
 *   m outputs of r weights take A = m + r - 1 inputs and as many products:  y = E(m)' [ (E(r) g) . (BT d) ]
 * E(n), n -> A, evaluates a polynomial of n coefficients at the points (at infinity: its last); E(n)' is its transpose, and B that
 * of BT. Nested they serve two dimensions (Lavin & Gray 2016); the transposes give the two gradients. The points decide
 * the rounding error: 1 and 2, as in the paper, lose twice as much as a = 5/8, b = 11/8, found by trying (256 channels, m = 4,
 * r = 3: error of a sum 1.9e-5 against 1.0e-5 directly). Products must be divided, point by point, by the product of its distances
 * from the other points; weights are transformed more often than patches, so BT, or the E(m) that meets weights, does that.
 * Each takes x[0], x[xs], x[2 xs] ... and writes y[0], y[ys] ...; x and y must not overlap. Not here: the two dimensions (wino.c). */
#ifndef SUMI_CPU_WINO_H
#define SUMI_CPU_WINO_H

typedef float v16 __attribute__((vector_size(64), aligned(4), may_alias));
#define WINO_INLINE static inline __attribute__((always_inline, unused))

#define PA 0.625f
#define PB 1.375f
#define PA2 (PA * PA)
#define PB2 (PB * PB)
#define C0 (1.0f / (PA2 * PB2))                      /* 1 / product of distances, at 0, at a and -a, at b and -b */
#define CA (1.0f / (2 * PA2 * (PA2 - PB2)))
#define CB (1.0f / (2 * PB2 * (PB2 - PA2)))

/* BT: A inputs to A products, divided. */
WINO_INLINE void wino_bt(const int A, const v16 *x, int xs, v16 *y, int ys) {
  v16 e = CA * x[4 * xs] - (CA * PB2) * x[2 * xs], o = (CA * PA) * x[3 * xs] - (CA * PA * PB2) * x[xs];
  v16 f = CB * x[4 * xs] - (CB * PA2) * x[2 * xs], q = (CB * PB) * x[3 * xs] - (CB * PB * PA2) * x[xs];
  y[0] = x[0] - (C0 * (PA2 + PB2)) * x[2 * xs] + C0 * x[4 * xs];
  y[ys] = e + o;
  y[2 * ys] = e - o;
  y[3 * ys] = f + q;
  y[4 * ys] = f - q;
  if (A == 6) y[5 * ys] = PA2 * PB2 * x[xs] - (PA2 + PB2) * x[3 * xs] + x[5 * xs];
}

/* B: the transpose of BT, not divided. */
WINO_INLINE void wino_b(const int A, const v16 *x, int xs, v16 *y, int ys) {
  v16 sa = x[xs] + x[2 * xs], da = PA * (x[xs] - x[2 * xs]);
  v16 sb = x[3 * xs] + x[4 * xs], db = PB * (x[3 * xs] - x[4 * xs]);
  y[0] = PA2 * PB2 * x[0];
  y[ys] = -PB2 * da - PA2 * db;
  y[2 * ys] = -(PA2 + PB2) * x[0] - PB2 * sa - PA2 * sb;
  y[3 * ys] = da + db;
  y[4 * ys] = x[0] + sa + sb;
  if (A != 6) return;
  y[ys] += PA2 * PB2 * x[5 * xs];
  y[3 * ys] -= (PA2 + PB2) * x[5 * xs];
  y[5 * ys] = x[5 * xs];
}

/* E(n): n coefficients to A values, n = 2, 3 or 4; divided or not. */
WINO_INLINE void wino_e(const int n, const int A, const int divided, const v16 *x, int xs, v16 *y, int ys) {
  const float c0 = divided ? C0 : 1, ca = divided ? CA : 1, cb = divided ? CB : 1;
  v16 e = ca * x[0], f = cb * x[0], o = (ca * PA) * x[xs], q = (cb * PB) * x[xs];
  if (n > 2) e += (ca * PA2) * x[2 * xs], f += (cb * PB2) * x[2 * xs];
  if (n > 3) o += (ca * PA * PA2) * x[3 * xs], q += (cb * PB * PB2) * x[3 * xs];
  y[0] = c0 * x[0];
  y[ys] = e + o;
  y[2 * ys] = e - o;
  y[3 * ys] = f + q;
  y[4 * ys] = f - q;
  if (A == 6) y[5 * ys] = x[(n - 1) * xs];
}

/* E(n)': A values to n coefficients, not divided. */
WINO_INLINE void wino_et(const int n, const int A, const v16 *x, int xs, v16 *y, int ys) {
  v16 sa = x[xs] + x[2 * xs], da = x[xs] - x[2 * xs], sb = x[3 * xs] + x[4 * xs], db = x[3 * xs] - x[4 * xs];
  y[0] = x[0] + sa + sb;
  y[ys] = PA * da + PB * db;
  if (n > 2) y[2 * ys] = PA2 * sa + PB2 * sb;
  if (n > 3) y[3 * ys] = PA * PA2 * da + PB * PB2 * db;
  if (A == 6) y[(n - 1) * ys] += x[5 * xs];
}

#endif
