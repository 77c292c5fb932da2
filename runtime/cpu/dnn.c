/* dnn.c -- convolution by oneDNN: the only file that calls it. Serves its 2.x C interface (Debian 12) and
 * its 3.x one; what differs between them is in the first section. Not here: who is chosen when (conv.c).
 *
 * A plan holds the primitives and the memory objects; running it sets pointers and executes: reorder what
 * oneDNN wants in another layout into the workspace, convolve, reorder the result back. Its scratchpad is
 * part of the workspace too. */
#include "conv.h"

#include <dnnl.h>
#include <omp.h>

/* ---- the two interfaces ---- */

#if DNNL_VERSION_MAJOR >= 3
typedef dnnl_memory_desc_t layout;                   /* owned pointer */
typedef const_dnnl_memory_desc_t layout_ref;
static layout_ref ref(const layout *d) { return *d; }
static void drop(layout *d) { if (*d) dnnl_memory_desc_destroy(*d); }
static bool make_layout(layout *d, int nd, const dnnl_dims_t dims, const dnnl_dims_t strides) {
  if (!strides) return !dnnl_memory_desc_create_with_tag(d, nd, dims, dnnl_f32, dnnl_format_tag_any);
  return !dnnl_memory_desc_create_with_strides(d, nd, dims, dnnl_f32, strides);
}
#else
typedef dnnl_memory_desc_t layout;                   /* a plain struct */
typedef const dnnl_memory_desc_t *layout_ref;
static layout_ref ref(const layout *d) { return d; }
static void drop(layout *d) { (void)d; }
static bool make_layout(layout *d, int nd, const dnnl_dims_t dims, const dnnl_dims_t strides) {
  if (!strides) return !dnnl_memory_desc_init_by_tag(d, nd, dims, dnnl_f32, dnnl_format_tag_any);
  return !dnnl_memory_desc_init_by_strides(d, nd, dims, dnnl_f32, strides);
}
#endif

struct wish {                                        /* a convolution as oneDNN is asked for it */
  layout x, w, y, b;
  bool bias;
  dnnl_dims_t stride, dilation, before, after;
};

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

typedef struct dnn_state {
  struct side side[SIDES];
  dnnl_memory_t bias, scratch;
  dnnl_primitive_t conv;
  size_t scratch_offset;
} dnn_state;

static struct { dnnl_engine_t engine; dnnl_stream_t stream; dnnl_primitive_attr_t attr; } one;

static bool open_dnn(void) {
  if (one.stream) return true;
  omp_set_num_threads(1);               /* its team would wait for cores that ours has: see threads.c */
  if (dnnl_engine_create(&one.engine, dnnl_cpu, 0)) return false;
  if (dnnl_primitive_attr_create(&one.attr)) return false;
  if (dnnl_primitive_attr_set_scratchpad_mode(one.attr, dnnl_scratchpad_mode_user)) return false;
  return !dnnl_stream_create(&one.stream, one.engine, dnnl_stream_default_flags);
}

static void free_dnn(void *state) {
  dnn_state *s = state;
  for (int k = 0; k < SIDES; k++) {
    struct side *d = &s->side[k];
    if (d->reorder) dnnl_primitive_destroy(d->reorder);
    if (d->theirs != d->ours) dnnl_memory_destroy(d->theirs);
    if (d->ours) dnnl_memory_destroy(d->ours);
  }
  if (s->bias) dnnl_memory_destroy(s->bias);
  if (s->scratch) dnnl_memory_destroy(s->scratch);
  if (s->conv) dnnl_primitive_destroy(s->conv);
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

static bool make_wish(struct wish *q, layout ours[SIDES], const su_conv_geo *g, bool as_they_lie) {
  dnnl_dims_t dims[SIDES], strides[SIDES], one_stride = {1}, channels = {g->co};
  int nd[SIDES];
  layout *asked[SIDES] = {&q->x, &q->w, &q->y};
  dims_of(g, dims, strides, nd);
  for (int s = 0; s < SIDES; s++) {
    bool as_it_lies = as_they_lie && s != W;
    if (!make_layout(&ours[s], nd[s], dims[s], strides[s])) return false;
    if (!make_layout(asked[s], nd[s], dims[s], as_it_lies ? strides[s] : NULL)) return false;
  }
  if (!make_layout(&q->b, 1, channels, one_stride)) return false;
  q->bias = g->bias;
  q->stride[0] = g->sh, q->stride[1] = g->sw;
  q->dilation[0] = g->dh - 1, q->dilation[1] = g->dw - 1;
  q->before[0] = g->pt, q->before[1] = g->pl;
  q->after[0] = g->pb, q->after[1] = g->pr;
  return true;
}

static bool make_primitives(dnn_state *s, dnnl_primitive_desc_t pd, layout ours[SIDES], layout_ref bias,
                            enum su_conv_dir dir, size_t *top) {
  bool gx = dir == SU_CONV_GX, gw = dir == SU_CONV_GW, y = dir == SU_CONV_Y;
  layout_ref theirs[SIDES] = {
    dnnl_primitive_desc_query_md(pd, gx ? dnnl_query_diff_src_md : dnnl_query_src_md, 0),
    dnnl_primitive_desc_query_md(pd, gw ? dnnl_query_diff_weights_md : dnnl_query_weights_md, 0),
    dnnl_primitive_desc_query_md(pd, y ? dnnl_query_dst_md : dnnl_query_diff_dst_md, 0)};
  for (int k = 0; k < SIDES; k++) {
    bool output = k == (y ? Y : gx ? X : W);
    if (!make_side(&s->side[k], ref(&ours[k]), theirs[k], output, top)) return false;
  }
  layout_ref scratch = dnnl_primitive_desc_query_md(pd, dnnl_query_scratchpad_md, 0);
  s->scratch_offset = take(top, dnnl_memory_desc_get_size(scratch));
  if (dnnl_memory_create(&s->scratch, scratch, one.engine, DNNL_MEMORY_NONE)) return false;
  if (dnnl_memory_create(&s->bias, bias, one.engine, DNNL_MEMORY_NONE)) return false;
  return !dnnl_primitive_create(&s->conv, pd);
}

/* ---- running ---- */

static void reorder(const struct side *d, dnnl_memory_t from, dnnl_memory_t to) {
  dnnl_exec_arg_t args[2] = {{DNNL_ARG_FROM, from}, {DNNL_ARG_TO, to}};
  dnnl_primitive_execute(d->reorder, one.stream, 2, args);
}

static void put_in(const struct side *d, const float *data, char *ws) {
  dnnl_memory_set_data_handle(d->ours, (void *)data);
  if (!d->reorder) return;
  dnnl_memory_set_data_handle(d->theirs, ws + d->offset);
  reorder(d, d->ours, d->theirs);
}

static void run_dnn(const su_conv_by *by, const float *a, const float *b, const float *bias, float *out,
                    void *ws) {
  const dnn_state *s = by->state;
  static const int arg[3][SIDES] = {{DNNL_ARG_SRC, DNNL_ARG_WEIGHTS, DNNL_ARG_DST},
                                    {DNNL_ARG_DIFF_SRC, DNNL_ARG_WEIGHTS, DNNL_ARG_DIFF_DST},
                                    {DNNL_ARG_SRC, DNNL_ARG_DIFF_WEIGHTS, DNNL_ARG_DIFF_DST}};
  static const int first[3] = {X, Y, X}, second[3] = {W, W, Y}, result[3] = {Y, X, W};
  const struct side *o = &s->side[result[by->dir]];
  put_in(&s->side[first[by->dir]], a, ws);
  put_in(&s->side[second[by->dir]], b, ws);
  dnnl_memory_set_data_handle(o->ours, out);
  if (o->reorder) dnnl_memory_set_data_handle(o->theirs, (char *)ws + o->offset);
  dnnl_memory_set_data_handle(s->scratch, (char *)ws + s->scratch_offset);
  dnnl_exec_arg_t args[SIDES + 2];
  int n = 0;
  for (int k = 0; k < SIDES; k++) args[n++] = (dnnl_exec_arg_t){arg[by->dir][k], s->side[k].theirs};
  args[n++] = (dnnl_exec_arg_t){DNNL_ARG_SCRATCHPAD, s->scratch};
  if (by->g.bias) {
    dnnl_memory_set_data_handle(s->bias, (void *)bias);
    args[n++] = (dnnl_exec_arg_t){DNNL_ARG_BIAS, s->bias};
  }
  dnnl_primitive_execute(s->conv, one.stream, n, args);
  if (o->reorder) reorder(o, o->theirs, o->ours);
}

static bool plan_dnn(su_conv_by *by, const su_conv_geo *g, enum su_conv_dir dir, bool as_they_lie) {
  struct wish q = {.bias = false};
  layout ours[SIDES] = {0};
  dnnl_primitive_desc_t pd = NULL;
  if (!open_dnn()) return false;
  dnn_state *s = su_calloc(sizeof *s);
  bool ok = s && make_wish(&q, ours, g, as_they_lie) && describe(&pd, &q, dir, one.attr, one.engine);
  size_t top = 0;
  ok = ok && make_primitives(s, pd, ours, ref(&q.b), dir, &top);
  if (pd) dnnl_primitive_desc_destroy(pd);
  drop(&q.x), drop(&q.w), drop(&q.y), drop(&q.b);
  for (int k = 0; k < SIDES; k++) drop(&ours[k]);
  if (!ok) {
    if (s) free_dnn(s);
    return false;
  }
  *by = (su_conv_by){as_they_lie ? "dnn" : "dnn reordered", run_dnn, free_dnn, s, top, *g, dir};
  return true;
}

/* Images as they lie if oneDNN has a kernel for that, else reordered into the layout it likes best. */
bool su_conv_by_dnn(su_conv_by *by, const su_conv_geo *g, enum su_conv_dir dir) {
  return !g->reflect && (plan_dnn(by, g, dir, true) || plan_dnn(by, g, dir, false));
}
