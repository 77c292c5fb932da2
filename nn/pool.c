/* pool.c -- the pool of old fakes that a discriminator looks at (Shrivastava et al. 2017), by the rule of
 * junyanz's CycleGAN, for the pictures x[k] of a batch in turn: while the pool has room, x[k] is stored and
 * handed out; afterwards one half of them is handed out as it is, the other half swaps places with a stored
 * picture drawn at random.
 *
 * `count` pictures are stored when the op begins; whoever calls counts (lua/sumi/memory.lua). The draws for
 * x[k] are Philox block k at (seed, step, site, stream), see rng.h: the same decisions on every device. */
#include "nn.h"

#include "../runtime/rng.h"
#include "../runtime/tape.h"

#include <inttypes.h>
#include <string.h>

enum { COUNT, SEED, SEED_HI, STEP, SITE };         /* reals; the site carries the stream * 2^32 */

static bool pool_shape(su_call *c) {
  const su_spec *s = &c->in[0], *x = &c->in[1];
  bool fits = x->ndim >= 1 && s->ndim == x->ndim && s->shape[0] >= 1;
  for (int k = 1; fits && k < x->ndim; k++) fits = s->shape[k] == x->shape[k];
  if (!fits)
    return su_fail("pool: images wants pictures like those of x, any number of them: x has %s, images %s",
                   su_shape_text(x),
                   su_shape_text(s));
  c->out[0] = *x;
  return true;
}

static bool count_ok(const su_call *c, const double *r) {
  (void)c;
  return r[COUNT] >= 0 || su_fail("pool: count is how many pictures are stored, at least 0; got %g", r[COUNT]);
}

/* A swap needs a first draw above one half: 24 bits of it above 2^23. */
static void pool_any(const su_plan *p, void *const *in, void *const *out, const double *r, void *ws) {
  (void)ws;
  const su_spec *x = &p->call.in[1];
  const int64_t size = p->call.in[0].shape[0], n = x->shape[0], count = (int64_t)r[COUNT];
  const uint64_t key = (uint64_t)r[SEED_HI] << 32 | (uint64_t)r[SEED], site = (uint64_t)r[SITE];
  const size_t bytes = n ? (size_t)(su_spec_size(x) / n) * su_dtype_size(x->dtype) : 0;
  for (int64_t k = 0; k < n; k++) {
    const char *from = (const char *)in[1] + (size_t)k * bytes;
    char *to = (char *)out[0] + (size_t)k * bytes, *images = in[0];
    const su_philox q = su_philox_at(key, (uint32_t)k, (uint32_t)r[STEP], (uint32_t)site,
                                     (uint32_t)(site >> 32));
    const int64_t one = (int64_t)((uint64_t)(q.v[1] >> 8) * (uint64_t)size >> 24);
    const bool room = count + k < size, swap = !room && q.v[0] >> 8 > 1u << 23;
    char *stored = images + (size_t)(room ? count + k : one) * bytes;
    memcpy(to, swap ? stored : from, bytes);
    if (room || swap) memcpy(stored, from, bytes);
  }
}

static const char *const cases[] = {
  "images=3,2,2,1 x=2,2,2,1 count=0 seed=7 seed_hi=0 step=3 site=2",
  "images=3,2,2,1 x=4,2,2,1 count=2 seed=7 seed_hi=1 step=4 site=2",
  "images=2,3,5,3 x=9,3,5,3 count=2 seed=4294967295 seed_hi=9 step=5 site=8589934594",
  "images=50,16,8,8 x=1,16,8,8 count=50 seed=1 seed_hi=0 step=2 site=0",
  "images=1,4 x=6,4 count=0 seed=3 seed_hi=0 step=1 site=1",
  NULL};

SU_OP(pool) {
  .sig = "pool(images, x, count:real, seed:real, seed_hi:real, step:real, site:real) -> y",
  .doc = "For each picture of x itself, or half of the time an older one of images, which it replaces. While count, how "
         "many are stored, is below their number, x is stored and comes out itself. Changes images in place; drawn "
         "from (seed, step, site + stream*2^32).",
  .shape = pool_shape, .check = count_ok, .ref = pool_any, .cpu = pool_any, .bf16 = true, .writes = 1,
  .cases = cases};

su_tensor *su_pool(su_tensor *images, su_tensor *x, double count) {
  const su_draw d = su_rng_next();
  const double r[SU_MAX_REAL] = {count, (double)(uint32_t)d.seed, (double)(uint32_t)(d.seed >> 32), d.step,
                                 (double)((uint64_t)d.stream << 32 | d.site)};
  return su_apply1(&pool_op, (su_tensor *[SU_MAX_IN]){images, x}, (int64_t[SU_MAX_INT]){0}, r);
}
