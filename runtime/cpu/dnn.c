/* dnn.c -- convolution by oneDNN: the only file that calls it. Serves its 2.x C interface (Debian 12) and
 * its 3.x one; what differs between them is in the first section. Not here: who is chosen when (conv.c), and how bf16
 * convolutions are cut into parts for our threads (parts.c).
 *
 * A plan holds the primitives and the memory objects; running it sets pointers and executes: reorder what
 * oneDNN wants in another layout into the workspace, convolve, reorder the result back. Its scratchpad is
 * part of the workspace too. */
#include "dnn.h"

#include <dnnl.h>
#include <omp.h>
#include <string.h>

/* ---- the two interfaces ---- */

#if DNNL_VERSION_MAJOR >= 3
typedef dnnl_memory_desc_t layout;                   /* owned pointer */
typedef const_dnnl_memory_desc_t layout_ref;
static layout_ref ref(const layout *d) { return *d; }
static void drop(layout *d) { if (*d) dnnl_memory_desc_destroy(*d); }
static bool make_layout(layout *d, int nd, const dnnl_dims_t dims, const dnnl_dims_t strides, dnnl_data_type_t type) {
  if (!strides) return !dnnl_memory_desc_create_with_tag(d, nd, dims, type, dnnl_format_tag_any);
  return !dnnl_memory_desc_create_with_strides(d, nd, dims, type, strides);
}
#else
typedef dnnl_memory_desc_t layout;                   /* a plain struct */
typedef const dnnl_memory_desc_t *layout_ref;
static layout_ref ref(const layout *d) { return d; }
static void drop(layout *d) { (void)d; }
static bool make_layout(layout *d, int nd, const dnnl_dims_t dims, const dnnl_dims_t strides, dnnl_data_type_t type) {
  if (!strides) return !dnnl_memory_desc_init_by_tag(d, nd, dims, type, dnnl_format_tag_any);
  return !dnnl_memory_desc_init_by_strides(d, nd, dims, type, strides);
}
#endif

struct wish {                                        /* a convolution as oneDNN is asked for it */
  layout x, w, y, b;
  bool bias;
  dnnl_dims_t stride, dilation, before, after;
};

/* How a blocked layout places numbers. */
struct blocks { dnnl_dims_t strides, padded, size, axis; int inner; };

#if DNNL_VERSION_MAJOR >= 3
static bool take_blocks(struct blocks *b, layout_ref d) {
  const dnnl_dims_t *strides, *padded, *size, *axis;
  dnnl_format_kind_t kind;
  if (dnnl_memory_desc_query(d, dnnl_query_format_kind, &kind) || kind != dnnl_blocked) return false;
  if (dnnl_memory_desc_query(d, dnnl_query_inner_nblks_s32, &b->inner)) return false;
  if (dnnl_memory_desc_query(d, dnnl_query_strides, &strides)) return false;
  if (dnnl_memory_desc_query(d, dnnl_query_padded_dims, &padded)) return false;
  if (dnnl_memory_desc_query(d, dnnl_query_inner_blks, &size)) return false;
  if (dnnl_memory_desc_query(d, dnnl_query_inner_idxs, &axis)) return false;
  memcpy(b->strides, *strides, sizeof b->strides), memcpy(b->padded, *padded, sizeof b->padded);
  memcpy(b->size, *size, sizeof b->size), memcpy(b->axis, *axis, sizeof b->axis);
  return true;
}
#else
static bool take_blocks(struct blocks *b, layout_ref d) {
  const dnnl_blocking_desc_t *f = &d->format_desc.blocking;
  if (d->format_kind != dnnl_blocked || d->extra.flags || d->offset0) return false;
  b->inner = f->inner_nblks;
  memcpy(b->strides, f->strides, sizeof b->strides), memcpy(b->padded, d->padded_dims, sizeof b->padded);
  memcpy(b->size, f->inner_blks, sizeof b->size), memcpy(b->axis, f->inner_idxs, sizeof b->axis);
  return true;
}
#endif

/* Where index i of an axis lies, in numbers: an index's place is the sum of those of its four axes. */
static int64_t place(const struct blocks *b, int axis, int64_t i) {
  int64_t at = 0, step = 1;
  for (int k = b->inner - 1; k >= 0; step *= b->size[k--]) {
    if (b->axis[k] != axis) continue;
    at += i % b->size[k] * step;
    i /= b->size[k];
  }
  return at + i * b->strides[axis];
}

#if DNNL_VERSION_MAJOR >= 3
static bool describe(dnnl_primitive_desc_t *pd, const struct wish *q, enum su_conv_dir dir,
                     dnnl_primitive_attr_t attr, dnnl_engine_t engine) {
  layout_ref b = q->bias ? ref(&q->b) : NULL;
  dnnl_primitive_desc_t hint = NULL;
  if (dnnl_convolution_forward_primitive_desc_create(
        dir == SU_CONV_Y ? pd : &hint, engine, dnnl_forward_training, dnnl_convolution_direct, ref(&q->x),
        ref(&q->w), b, ref(&q->y), q->stride, q->dilation, q->before, q->after, attr))
    return false;
  if (dir == SU_CONV_Y) return true;
  dnnl_status_t bad = dir == SU_CONV_GX
    ? dnnl_convolution_backward_data_primitive_desc_create(pd, engine, dnnl_convolution_direct, ref(&q->x),
                                                           ref(&q->w), ref(&q->y), q->stride, q->dilation,
                                                           q->before, q->after, hint, attr)
    : dnnl_convolution_backward_weights_primitive_desc_create(pd, engine, dnnl_convolution_direct, ref(&q->x),
                                                              ref(&q->w), NULL, ref(&q->y), q->stride,
                                                              q->dilation, q->before, q->after, hint, attr);
  dnnl_primitive_desc_destroy(hint);
  return !bad;
}
#else
static bool describe(dnnl_primitive_desc_t *pd, const struct wish *q, enum su_conv_dir dir,
                     dnnl_primitive_attr_t attr, dnnl_engine_t engine) {
  dnnl_convolution_desc_t d;
  dnnl_status_t bad;
  if (dir == SU_CONV_Y)
    bad = dnnl_dilated_convolution_forward_desc_init(&d, dnnl_forward_training, dnnl_convolution_direct,
                                                     &q->x, &q->w, q->bias ? &q->b : NULL, &q->y, q->stride,
                                                     q->dilation, q->before, q->after);
  else if (dir == SU_CONV_GX)
    bad = dnnl_dilated_convolution_backward_data_desc_init(&d, dnnl_convolution_direct, &q->x, &q->w, &q->y,
                                                           q->stride, q->dilation, q->before, q->after);
  else
    bad = dnnl_dilated_convolution_backward_weights_desc_init(
      &d, dnnl_convolution_direct, &q->x, &q->w, NULL, &q->y, q->stride, q->dilation, q->before, q->after);
  return !bad && !dnnl_primitive_desc_create(pd, &d, attr, engine, NULL);
}
#endif

/* ---- a plan ---- */

enum { X, W, Y, SIDES };

struct side {                                        /* a tensor of the convolution */
  dnnl_memory_t ours, theirs; /* as it lies; as oneDNN wants it (the same object if it agrees) */
  dnnl_primitive_t reorder; /* between the two, towards where the data go; NULL: none */
  size_t offset;                                     /* of theirs, in the workspace */
};

struct su_dnn {
  struct side side[SIDES];
  dnnl_memory_t bias, scratch;
  dnnl_primitive_t conv;
  dnnl_stream_t stream;                 /* its own: parts of a convolution run side by side */
  size_t scratch_offset, workspace;
  enum su_conv_dir dir;
  int32_t *place;                       /* of bf16 weights [ci + taps + co]: where they lie in oneDNN's order; or NULL */
  int64_t co, ci, taps;
  bool padded;                          /* that order has zeros in between */
};

static struct { dnnl_engine_t engine; dnnl_primitive_attr_t attr; bool open; } one;

static bool open_dnn(void) {
  if (one.open) return true;
  omp_set_num_threads(1);               /* its team would wait for cores that ours has: see threads.c */
  if (dnnl_engine_create(&one.engine, dnnl_cpu, 0)) return false;
  if (dnnl_primitive_attr_create(&one.attr)) return false;
  if (dnnl_primitive_attr_set_scratchpad_mode(one.attr, dnnl_scratchpad_mode_user)) return false;
  return one.open = true;
}

void su_dnn_free(su_dnn *s) {
  if (!s) return;
  for (int k = 0; k < SIDES; k++) {
    struct side *d = &s->side[k];
    if (d->reorder) dnnl_primitive_destroy(d->reorder);
    if (d->theirs != d->ours) dnnl_memory_destroy(d->theirs);
    if (d->ours) dnnl_memory_destroy(d->ours);
  }
  if (s->bias) dnnl_memory_destroy(s->bias);
  if (s->scratch) dnnl_memory_destroy(s->scratch);
  if (s->conv) dnnl_primitive_destroy(s->conv);
  if (s->stream) dnnl_stream_destroy(s->stream);
  su_free(s->place);
  su_free(s);
}

static size_t take(size_t *top, size_t bytes) {
  size_t at = *top;
  *top += (bytes + 63) / 64 * 64;
  return at;
}

static bool make_reorder(dnnl_primitive_t *p, layout_ref from, layout_ref to) {
  dnnl_primitive_desc_t pd;
  if (dnnl_reorder_primitive_desc_create(&pd, from, one.engine, to, one.engine, one.attr)) return false;
  layout_ref scratch = dnnl_primitive_desc_query_md(pd, dnnl_query_scratchpad_md, 0);
  bool ok = !(scratch && dnnl_memory_desc_get_size(scratch)) && !dnnl_primitive_create(p, pd);
  dnnl_primitive_desc_destroy(pd);
  return ok;
}

/* Memory objects of one tensor, and the reorder when oneDNN wants it otherwise. */
static bool make_side(struct side *d, layout_ref ours, layout_ref theirs, bool output, size_t *top) {
  if (dnnl_memory_create(&d->ours, ours, one.engine, DNNL_MEMORY_NONE)) return false;
  d->theirs = d->ours;
  if (dnnl_memory_desc_equal(ours, theirs)) return true;
  d->theirs = NULL;
  if (dnnl_memory_create(&d->theirs, theirs, one.engine, DNNL_MEMORY_NONE)) return false;
  d->offset = take(top, dnnl_memory_desc_get_size(theirs));
  return output ? make_reorder(&d->reorder, theirs, ours) : make_reorder(&d->reorder, ours, theirs);
}

static void dims_of(const su_conv_geo *g, dnnl_dims_t dims[SIDES], dnnl_dims_t strides[SIDES],
                    int nd[SIDES]) {
  int64_t c = g->ci / g->groups, o = g->co / g->groups;
  int64_t all[SIDES][2][5] = {
    {{g->n, g->ci, g->h, g->w}, {g->h * g->w * g->ci, 1, g->w * g->ci, g->ci}},
    {{g->groups, o, c, g->kh, g->kw}, {o * g->kh * g->kw * c, g->kh * g->kw * c, 1, g->kw * c, c}},
    {{g->n, g->co, g->oh, g->ow}, {g->oh * g->ow * g->co, 1, g->ow * g->co, g->co}}};
  for (int s = 0; s < SIDES; s++) {
    int skip = s == W && g->groups == 1;             /* no leading groups axis then */
    nd[s] = s == W ? 5 - skip : 4;
    for (int k = 0; k < nd[s]; k++) dims[s][k] = all[s][0][k + skip], strides[s][k] = all[s][1][k + skip];
  }
}

static bool make_wish(struct wish *q, layout ours[SIDES], const su_conv_geo *g, bool as_they_lie,
                      const dnnl_data_type_t type[SIDES]) {
  dnnl_dims_t dims[SIDES], strides[SIDES], one_stride = {1}, channels = {g->co};
  int nd[SIDES];
  layout *asked[SIDES] = {&q->x, &q->w, &q->y};
  dims_of(g, dims, strides, nd);
  for (int s = 0; s < SIDES; s++) {
    bool as_it_lies = as_they_lie && s != W;
    if (!make_layout(&ours[s], nd[s], dims[s], strides[s], type[s])) return false;
    if (!make_layout(asked[s], nd[s], dims[s], as_it_lies ? strides[s] : NULL, type[s])) return false;
  }
  if (!make_layout(&q->b, 1, channels, one_stride, dnnl_f32)) return false;
  q->bias = g->bias;
  q->stride[0] = g->sh, q->stride[1] = g->sw;
  q->dilation[0] = g->dh - 1, q->dilation[1] = g->dw - 1;
  q->before[0] = g->pt, q->before[1] = g->pl;
  q->after[0] = g->pb, q->after[1] = g->pr;
  return true;
}

static bool make_primitives(su_dnn *s, dnnl_primitive_desc_t pd, layout ours[SIDES], layout_ref bias,
                            enum su_conv_dir dir, bool shared, size_t *top) {
  size_t nowhere = 0;                   /* shared weights lie outside the workspace */
  bool gx = dir == SU_CONV_GX, gw = dir == SU_CONV_GW, y = dir == SU_CONV_Y;
  layout_ref theirs[SIDES] = {
    dnnl_primitive_desc_query_md(pd, gx ? dnnl_query_diff_src_md : dnnl_query_src_md, 0),
    dnnl_primitive_desc_query_md(pd, gw ? dnnl_query_diff_weights_md : dnnl_query_weights_md, 0),
    dnnl_primitive_desc_query_md(pd, y ? dnnl_query_dst_md : dnnl_query_diff_dst_md, 0)};
  for (int k = 0; k < SIDES; k++) {
    bool output = k == (y ? Y : gx ? X : W);
    size_t *at = k == W && shared ? &nowhere : top;
    if (!make_side(&s->side[k], ref(&ours[k]), theirs[k], output, at)) return false;
  }
  layout_ref scratch = dnnl_primitive_desc_query_md(pd, dnnl_query_scratchpad_md, 0);
  s->scratch_offset = take(top, dnnl_memory_desc_get_size(scratch));
  if (dnnl_memory_create(&s->scratch, scratch, one.engine, DNNL_MEMORY_NONE)) return false;
  if (dnnl_memory_create(&s->bias, bias, one.engine, DNNL_MEMORY_NONE)) return false;
  if (dnnl_stream_create(&s->stream, one.engine, dnnl_stream_default_flags)) return false;
  return !dnnl_primitive_create(&s->conv, pd);
}

/* ---- running ---- */

static const int result[3] = {Y, X, W};

static void reorder(const su_dnn *s, const struct side *d, dnnl_memory_t from, dnnl_memory_t to) {
  dnnl_exec_arg_t args[2] = {{DNNL_ARG_FROM, from}, {DNNL_ARG_TO, to}};
  dnnl_primitive_execute(d->reorder, s->stream, 2, args);
}

static void put_in(const su_dnn *s, const struct side *d, const void *data, char *ws) {
  dnnl_memory_set_data_handle(d->ours, (void *)data);
  if (!d->reorder) return;
  dnnl_memory_set_data_handle(d->theirs, ws + d->offset);
  reorder(s, d, d->ours, d->theirs);
}

size_t su_dnn_weights(const su_dnn *s) {
  layout_ref d;
  if (!s->side[W].reorder || dnnl_memory_get_memory_desc(s->side[W].theirs, &d)) return 0;
  return dnnl_memory_desc_get_size(d);
}

bool su_dnn_same_weights(const su_dnn *s, const su_dnn *t) {
  layout_ref a, b;
  if (dnnl_memory_get_memory_desc(s->side[W].theirs, &a)) return false;
  return !dnnl_memory_get_memory_desc(t->side[W].theirs, &b) && dnnl_memory_desc_equal(a, b);
}

/* bf16 weights [co,kh,kw,ci] into oneDNN's order, on all threads: its own reorders take longer than the convolution. */
enum { TURN = 16 };                     /* output channels side by side */

struct turn_job { const su_dnn *s; const uint16_t *ours; uint16_t *theirs; };

static void turn_range(void *arg, int64_t first, int64_t last) {
  const struct turn_job *j = arg;
  const int64_t co = j->s->co, ci = j->s->ci, taps = j->s->taps, row = taps * ci;
  const int32_t *at_i = j->s->place, *at_tap = at_i + ci, *at_o = at_tap + taps;
  for (int64_t o = first * TURN; o < co && o < last * TURN; o += TURN) {
    const int64_t n = co - o < TURN ? co - o : TURN;
    for (int64_t tap = 0; tap < taps; tap++) {
      const uint16_t *from = j->ours + o * row + tap * ci;
      uint16_t *to = j->theirs + at_tap[tap];
      for (int64_t i = 0; i < ci; i++)
        for (int64_t k = 0; k < n; k++) to[at_i[i] + at_o[o + k]] = from[k * row + i];
    }
  }
}

/* Tables of where input channels, taps and output channels lie; without them oneDNN's own reorder must do. */
static void make_places(su_dnn *s, const su_conv_geo *g) {
  struct blocks b;
  layout_ref d;
  if (g->groups != 1 || dnnl_memory_get_memory_desc(s->side[W].theirs, &d) || !take_blocks(&b, d)) return;
  s->co = g->co, s->ci = g->ci, s->taps = g->kh * g->kw;
  s->padded = b.padded[0] != s->co || b.padded[1] != s->ci;
  int32_t *p = s->place = su_malloc((size_t)(s->ci + s->taps + s->co) * sizeof *p);
  if (!p) return;                      /* slower, but right */
  for (int64_t i = 0; i < s->ci; i++) *p++ = (int32_t)place(&b, 1, i);
  for (int64_t t = 0; t < s->taps; t++) *p++ = (int32_t)(place(&b, 2, t / g->kw) + place(&b, 3, t % g->kw));
  for (int64_t o = 0; o < s->co; o++) *p++ = (int32_t)place(&b, 0, o);
}

void su_dnn_turn(const su_dnn *s, void *ours, void *theirs) {
  const struct side *d = &s->side[W];
  if (s->place) {
    struct turn_job j = {s, ours, theirs};
    if (s->padded) memset(theirs, 0, su_dnn_weights(s));
    su_parallel((s->co + TURN - 1) / TURN, 1, turn_range, &j);
    return;
  }
  dnnl_memory_set_data_handle(d->ours, ours);
  dnnl_memory_set_data_handle(d->theirs, theirs);
  if (s->dir == SU_CONV_GW) reorder(s, d, d->theirs, d->ours);
  else reorder(s, d, d->ours, d->theirs);
}

size_t su_dnn_workspace(const su_dnn *s) { return s->workspace; }

void su_dnn_run(const su_dnn *s, const void *a, const void *b, const float *bias, void *out, void *ws, void *turned) {
  static const int arg[3][SIDES] = {{DNNL_ARG_SRC, DNNL_ARG_WEIGHTS, DNNL_ARG_DST},
                                    {DNNL_ARG_DIFF_SRC, DNNL_ARG_WEIGHTS, DNNL_ARG_DIFF_DST},
                                    {DNNL_ARG_SRC, DNNL_ARG_DIFF_WEIGHTS, DNNL_ARG_DIFF_DST}};
  static const int first[3] = {X, Y, X}, second[3] = {W, W, Y};
  const struct side *o = &s->side[result[s->dir]];
  omp_set_num_threads(1);               /* of the calling thread; a worker's is not set yet */
  put_in(s, &s->side[first[s->dir]], a, ws);
  if (turned) dnnl_memory_set_data_handle(s->side[W].theirs, turned);
  if (!turned || s->dir == SU_CONV_GW) put_in(s, &s->side[second[s->dir]], b, ws);
  bool back = o->reorder && !(turned && s->dir == SU_CONV_GW);
  if (!turned || s->dir != SU_CONV_GW) dnnl_memory_set_data_handle(o->ours, out);
  if (back) dnnl_memory_set_data_handle(o->theirs, (char *)ws + o->offset);
  dnnl_memory_set_data_handle(s->scratch, (char *)ws + s->scratch_offset);
  dnnl_exec_arg_t args[SIDES + 2];
  int n = 0;
  for (int k = 0; k < SIDES; k++) args[n++] = (dnnl_exec_arg_t){arg[s->dir][k], s->side[k].theirs};
  args[n++] = (dnnl_exec_arg_t){DNNL_ARG_SCRATCHPAD, s->scratch};
  if (bias) {
    dnnl_memory_set_data_handle(s->bias, (void *)bias);
    args[n++] = (dnnl_exec_arg_t){DNNL_ARG_BIAS, s->bias};
  }
  dnnl_primitive_execute(s->conv, s->stream, n, args);
  if (back) reorder(s, o, o->theirs, o->ours);
}

su_dnn *su_dnn_new(const su_conv_geo *g, enum su_conv_dir dir, struct su_dnn_opt opt) {
  struct wish q = {.bias = false};
  layout ours[SIDES] = {0};
  dnnl_primitive_desc_t pd = NULL;
  dnnl_data_type_t low = opt.bf16 ? dnnl_bf16 : dnnl_f32, type[SIDES] = {low, low, low};
  if (opt.f32_out) type[result[dir]] = dnnl_f32;
  if (!open_dnn()) return NULL;
  su_dnn *s = su_calloc(sizeof *s);
  bool ok = s && make_wish(&q, ours, g, opt.as_they_lie, type) && describe(&pd, &q, dir, one.attr, one.engine);
  size_t top = 0;
  ok = ok && make_primitives(s, pd, ours, ref(&q.b), dir, opt.shared, &top);
  if (pd) dnnl_primitive_desc_destroy(pd);
  drop(&q.x), drop(&q.w), drop(&q.y), drop(&q.b);
  for (int k = 0; k < SIDES; k++) drop(&ours[k]);
  if (ok) {
    s->workspace = top, s->dir = dir;
    if (opt.bf16 && dir != SU_CONV_GW && s->side[W].reorder) make_places(s, g);
    return s;
  }
  su_dnn_free(s);
  return NULL;
}

/* ---- a runner: f32, the whole convolution on the calling thread ---- */

static void run_by(const su_conv_by *by, const float *a, const float *b, const float *bias, float *out, void *ws) {
  su_dnn_run(by->state, a, b, by->g.bias ? bias : NULL, out, ws, NULL);
}

static void free_by(void *state) { su_dnn_free(state); }

/* Images as they lie if oneDNN has a kernel for that, else reordered into the layout it likes best. */
bool su_conv_by_dnn(su_conv_by *by, const su_conv_geo *g, enum su_conv_dir dir) {
  if (g->reflect) return false;
  su_dnn *s = su_dnn_new(g, dir, (struct su_dnn_opt){.as_they_lie = true});
  const char *name = s ? "dnn" : "dnn reordered";
  if (!s) s = su_dnn_new(g, dir, (struct su_dnn_opt){0});
  if (!s) return false;
  *by = (su_conv_by){name, run_by, free_by, s, s->workspace, *g, dir};
  return true;
}
