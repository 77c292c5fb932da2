/* wino.h -- one-dimensional Winograd transforms on vectors of 16 floats, at the points 0, a, -a, b, -b and (A
 * = 6) infinity.
 *
 *   m outputs of r weights take A = m + r - 1 inputs and as many products:  y = E(m)' [ (E(r) g) . (BT d) ]
 * E(n), n -> A, evaluates a polynomial of n coefficients at the points (at infinity: its last); E(n)' is its
 * transpose, and B that of BT. Nested they serve two dimensions (Lavin & Gray 2016); the transposes give the
 * two gradients. The points decide the rounding error: 1 and 2, as in the paper, lose twice as much as a =
 * 3/4, b = 3/2, found by trying (256 channels, m = 4, r = 3: error of a sum 2.5e-5 against 1.0e-5 directly).
 * Products must be divided, point by point, by the product of its distances from the other points; weights
 * are transformed more often than patches, so BT, or the E(m) that meets weights, does that. Each takes x[0],
 * x[xs], x[2 xs] ... and writes y[0], y[ys] ...; x and y must not overlap. Not here: the two dimensions
 * (wino.c). */
#ifndef SUMI_CPU_WINO_H
#define SUMI_CPU_WINO_H

typedef float v16 __attribute__((vector_size(64), aligned(4), may_alias));
#define WINO_INLINE static inline __attribute__((always_inline, unused))

#define PA 0.75
#define PB 1.5
#define PA2 (PA * PA)
#define PB2 (PB * PB)
#define C0 (1 / (PA2 * PB2)) /* 1 / product of distances, at 0, at a and -a, at b and -b */
#define CA (1 / (2 * PA2 * (PA2 - PB2)))
#define CB (1 / (2 * PB2 * (PB2 - PA2)))
#define K(x) ((float)(x))                            /* each coefficient is rounded once */

/* BT: A inputs to A products, divided. */
WINO_INLINE void wino_bt(const int A, const v16 *x, int xs, v16 *y, int ys) {
  v16 e = K(CA) * x[4 * xs] - K(CA * PB2) * x[2 * xs], o = K(CA * PA) * x[3 * xs] - K(CA * PA * PB2) * x[xs];
  v16 f = K(CB) * x[4 * xs] - K(CB * PA2) * x[2 * xs], q = K(CB * PB) * x[3 * xs] - K(CB * PB * PA2) * x[xs];
  y[0] = x[0] - K(C0 * (PA2 + PB2)) * x[2 * xs] + K(C0) * x[4 * xs];
  y[ys] = e + o;
  y[2 * ys] = e - o;
  y[3 * ys] = f + q;
  y[4 * ys] = f - q;
  if (A == 6) y[5 * ys] = K(PA2 * PB2) * x[xs] - K(PA2 + PB2) * x[3 * xs] + x[5 * xs];
}

/* B: the transpose of BT, not divided. */
WINO_INLINE void wino_b(const int A, const v16 *x, int xs, v16 *y, int ys) {
  v16 sa = x[xs] + x[2 * xs], da = K(PA) * (x[xs] - x[2 * xs]);
  v16 sb = x[3 * xs] + x[4 * xs], db = K(PB) * (x[3 * xs] - x[4 * xs]);
  y[0] = K(PA2 * PB2) * x[0];
  y[ys] = K(-PB2) * da - K(PA2) * db;
  y[2 * ys] = K(-PA2 - PB2) * x[0] - K(PB2) * sa - K(PA2) * sb;
  y[3 * ys] = da + db;
  y[4 * ys] = x[0] + sa + sb;
  if (A != 6) return;
  y[ys] += K(PA2 * PB2) * x[5 * xs];
  y[3 * ys] -= K(PA2 + PB2) * x[5 * xs];
  y[5 * ys] = x[5 * xs];
}

/* E(n): n coefficients to A values, n = 2, 3 or 4; divided or not. */
WINO_INLINE void wino_e(const int n, const int A, const int divided, const v16 *x, int xs, v16 *y, int ys) {
  const double c0 = divided ? C0 : 1, ca = divided ? CA : 1, cb = divided ? CB : 1;
  v16 e = K(ca) * x[0], f = K(cb) * x[0], o = K(ca * PA) * x[xs], q = K(cb * PB) * x[xs];
  if (n > 2) e += K(ca * PA2) * x[2 * xs], f += K(cb * PB2) * x[2 * xs];
  if (n > 3) o += K(ca * PA * PA2) * x[3 * xs], q += K(cb * PB * PB2) * x[3 * xs];
  y[0] = K(c0) * x[0];
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
  y[ys] = K(PA) * da + K(PB) * db;
  if (n > 2) y[2 * ys] = K(PA2) * sa + K(PB2) * sb;
  if (n > 3) y[3 * ys] = K(PA * PA2) * da + K(PB * PB2) * db;
  if (A == 6) y[(n - 1) * ys] += x[5 * xs];
}

#endif
