/* wino.h -- the one-dimensional transforms of Winograd's F(4,3) at the points 0, a, -a, b, -b, infinity, on vectors of 16 floats.
 *
 *   y = AT [ (G g) . (BT d) ]     6 inputs d, 3 weights g, 4 outputs y; nested it serves two dimensions (Lavin & Gray 2016).
 * Their transposes A, B and GT give the two gradients. The points decide the rounding error: 1 and 2, as in the paper, lose
 * twice as much as a = 5/8, b = 11/8, found by trying (256 channels, error of a sum 1.9e-5 against 1.0e-5 directly).
 * G's rows should be divided by products of differences of the points; weights are transformed far more often than patches,
 * so that division is left to whichever of bt and a meets them (`scaled`).
 * Each takes x[0], x[xs], x[2 xs] ... and writes y[0], y[ys] ...; x and y must not overlap. */
#ifndef SUMI_CPU_WINO_H
#define SUMI_CPU_WINO_H

typedef float v16 __attribute__((vector_size(64), aligned(4), may_alias));
#define WINO_INLINE static inline __attribute__((always_inline, unused))

#define PA 0.625f
#define PB 1.375f
#define PA2 (PA * PA)
#define PB2 (PB * PB)
#define C0 (1.0f / (PA2 * PB2))                      /* 1 / product of differences of the points, at 0, a and b */
#define CA (1.0f / (2 * PA2 * (PA2 - PB2)))
#define CB (1.0f / (2 * PB2 * (PB2 - PA2)))

/* 6 -> 6: inputs to products, scaled. */
WINO_INLINE void wino_bt(const v16 *x, int xs, v16 *y, int ys) {
  v16 e = CA * x[4 * xs] - (CA * PB2) * x[2 * xs], o = (CA * PA) * x[3 * xs] - (CA * PA * PB2) * x[xs];
  v16 f = CB * x[4 * xs] - (CB * PA2) * x[2 * xs], q = (CB * PB) * x[3 * xs] - (CB * PB * PA2) * x[xs];
  y[0] = x[0] - (C0 * (PA2 + PB2)) * x[2 * xs] + C0 * x[4 * xs];
  y[ys] = e + o;
  y[2 * ys] = e - o;
  y[3 * ys] = f + q;
  y[4 * ys] = f - q;
  y[5 * ys] = PA2 * PB2 * x[xs] - (PA2 + PB2) * x[3 * xs] + x[5 * xs];
}

/* 6 -> 6: the transpose of bt without its scale. */
WINO_INLINE void wino_b(const v16 *x, int xs, v16 *y, int ys) {
  v16 sa = x[xs] + x[2 * xs], da = PA * (x[xs] - x[2 * xs]);
  v16 sb = x[3 * xs] + x[4 * xs], db = PB * (x[3 * xs] - x[4 * xs]);
  y[0] = PA2 * PB2 * x[0];
  y[ys] = PA2 * PB2 * x[5 * xs] - PB2 * da - PA2 * db;
  y[2 * ys] = -(PA2 + PB2) * x[0] - PB2 * sa - PA2 * sb;
  y[3 * ys] = da + db - (PA2 + PB2) * x[5 * xs];
  y[4 * ys] = x[0] + sa + sb;
  y[5 * ys] = x[5 * xs];
}

/* 3 -> 6: weights to products. */
WINO_INLINE void wino_g(const v16 *x, int xs, v16 *y, int ys) {
  v16 e = x[0] + PA2 * x[2 * xs], f = x[0] + PB2 * x[2 * xs];
  y[0] = x[0];
  y[ys] = e + PA * x[xs];
  y[2 * ys] = e - PA * x[xs];
  y[3 * ys] = f + PB * x[xs];
  y[4 * ys] = f - PB * x[xs];
  y[5 * ys] = x[2 * xs];
}

/* 6 -> 3: the transpose of g. */
WINO_INLINE void wino_gt(const v16 *x, int xs, v16 *y, int ys) {
  v16 sa = x[xs] + x[2 * xs], da = x[xs] - x[2 * xs], sb = x[3 * xs] + x[4 * xs], db = x[3 * xs] - x[4 * xs];
  y[0] = x[0] + sa + sb;
  y[ys] = PA * da + PB * db;
  y[2 * ys] = PA2 * sa + PB2 * sb + x[5 * xs];
}

/* 6 -> 4: products to outputs. */
WINO_INLINE void wino_at(const v16 *x, int xs, v16 *y, int ys) {
  v16 sa = x[xs] + x[2 * xs], da = PA * (x[xs] - x[2 * xs]);
  v16 sb = x[3 * xs] + x[4 * xs], db = PB * (x[3 * xs] - x[4 * xs]);
  y[0] = x[0] + sa + sb;
  y[ys] = da + db;
  y[2 * ys] = PA2 * sa + PB2 * sb;
  y[3 * ys] = PA2 * da + PB2 * db + x[5 * xs];
}

/* 4 -> 6: the transpose of at, scaled (to meet weights) or not (to meet inputs, which are). */
WINO_INLINE void wino_a(const v16 *x, int xs, v16 *y, int ys, const int scaled) {
  const float c0 = scaled ? C0 : 1, ca = scaled ? CA : 1, cb = scaled ? CB : 1;
  v16 e = ca * x[0] + (ca * PA2) * x[2 * xs], o = (ca * PA) * x[xs] + (ca * PA * PA2) * x[3 * xs];
  v16 f = cb * x[0] + (cb * PB2) * x[2 * xs], q = (cb * PB) * x[xs] + (cb * PB * PB2) * x[3 * xs];
  y[0] = c0 * x[0];
  y[ys] = e + o;
  y[2 * ys] = e - o;
  y[3 * ys] = f + q;
  y[4 * ys] = f - q;
  y[5 * ys] = x[3 * xs];
}

#endif
