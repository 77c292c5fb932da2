/* test_vmath.c -- the errors that runtime/cpu/vmath.h promises, measured against libm's doubles over floats of
 * every size and sign; what happens at zeros, infinities and NaN; and that philox.h draws what rng.h draws.
 * Argument: how many floats to step over (4099). */
#define _GNU_SOURCE
#include "../runtime/cpu/philox.h"
#include "../runtime/cpu/vmath.h"
#include "../runtime/op.h"
#include "../runtime/rng.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

enum { N = 4096 };
typedef void loop(const float *x, float *y);

#define LOOP(f)                                                     \
  SU_CLONES static void f##_loop(const float *x, float *restrict y) { \
    for (int k = 0; k < N; k++) y[k] = f(x[k]);                     \
  }
LOOP(su_expf)
LOOP(su_logf)
LOOP(su_log1pf)
LOOP(su_tanhf)
LOOP(su_sigmoidf)
LOOP(su_softplusf)
LOOP(su_sin2pif)
LOOP(su_cos2pif)

static double sigmoid(double x) { return 1 / (1 + exp(-x)); }
static double softplus(double x) { return x > 40 ? x : log1p(exp(x)); }
static double sin2pi(double u) { return sin(2 * M_PI * u); }
static double cos2pi(double u) { return cos(2 * M_PI * u); }

/* Units of the last place of the float next to `want`; with `absolute`, of 2^-24. */
static double error(float got, double want, bool absolute) {
  const float near = (float)want;
  if (isnan(want)) return isnan(got) ? 0 : INFINITY;
  if (isinf(near) || isinf(got))                  /* where the range ends, either side of the last float will do */
    return near == got ? 0 : fabs(want) > 3.4028233e38 && fabsf(got) > 3.4e38f ? 1 : INFINITY;
  if (absolute) return fabs((double)got - want) * 16777216.0;
  const double a = fabs(want) < 0x1p-126 ? 0x1p-126 : fabs(want);
  return fabs((double)got - want) / ldexp(1, ilogb(a) - 23);
}

static const struct test {
  const char *name;
  loop *f;
  double (*want)(double), most;
  bool turns;                          /* arguments are angles in [0,1), errors absolute */
} tests[] = {
  {"exp", su_expf_loop, exp, 1.1, false},         {"log", su_logf_loop, log, 0.9, false},
  {"log1p", su_log1pf_loop, log1p, 0.9, false},   {"tanh", su_tanhf_loop, tanh, 2.6, false},
  {"sigmoid", su_sigmoidf_loop, sigmoid, 2.8, false}, {"softplus", su_softplusf_loop, softplus, 1.7, false},
  {"sin2pi", su_sin2pif_loop, sin2pi, 1.3, true}, {"cos2pi", su_cos2pif_loop, cos2pi, 1.3, true}};

static bool sweep(const struct test *t, uint64_t step) {
  static float x[N], y[N];
  double worst = 0;
  float at = 0;
  for (uint64_t u = 0; u < 1ull << 32; u += N * step) {
    for (uint64_t k = 0; k < N; k++) {
      const uint32_t bits = (uint32_t)(u + k * step);
      x[k] = t->turns ? (float)su_u01(bits) : su_unbits(bits);   /* NaNs, infinities and subnormals among them */
    }
    t->f(x, y);
    for (int k = 0; k < N; k++) {
      const double e = error(y[k], t->want((double)x[k]), t->turns);
      if (e > worst) worst = e, at = x[k];
    }
  }
  const bool ok = worst <= t->most;
  printf("%s %-9s at most %.3f (promised %.1f), at %.9g\n", ok ? "ok     " : "FAILED ", t->name, worst, t->most,
         (double)at);
  return ok;
}

static bool specials(const struct test *t) {
  static float x[N], y[N];
  const float all[] = {0.0f, -0.0f, INFINITY, -INFINITY, NAN, 1.0f, -1.0f, 1e-45f, -1e-45f, 3.4e38f, -3.4e38f};
  enum { M = sizeof all / sizeof *all };
  memcpy(x, all, sizeof all);
  t->f(x, y);
  bool ok = true;
  for (int k = 0; k < M && !t->turns; k++) ok = ok && error(y[k], t->want((double)x[k]), false) <= t->most;
  if (!ok) printf("FAILED  %s at a zero, an infinity, NaN or an end of the range\n", t->name);
  return ok;
}

static bool philox_same(void) {
  uint32_t bits[64];
  su_philox_fill(0x123456789abcdef0u, 4294967290u, 7, 8, 9, bits);   /* the block counter wraps in the middle */
  for (uint32_t k = 0; k < 64; k++)
    if (bits[k] != su_philox_at(0x123456789abcdef0u, 4294967290u + k / 4, 7, 8, 9).v[k % 4]) {
      printf("FAILED  philox: number %u of 64 differs from rng.h's\n", k);
      return false;
    }
  return true;
}

int main(int argc, char **argv) {
  const uint64_t step = argc > 1 ? strtoull(argv[1], NULL, 10) : 4099;
  const int n = sizeof tests / sizeof *tests;
  int failed = !philox_same();
  for (int k = 0; k < n; k++) failed += !sweep(&tests[k], step) + !specials(&tests[k]);
  printf("%d passed, %d failed\n", 2 * n + 1 - failed, failed);
  return failed > 0;
}
