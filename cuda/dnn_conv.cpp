/* dnn_conv.cpp -- a convolution as a graph of cuDNN operations; see dnn_conv.h. */
#ifdef SUMI_HAVE_CUDNN
#include "dnn_conv.h"

#include "dnn_graph.h"

/* Ids of the tensors: the two operands and the result in the order of the op's call, then the bias; then
 * what stays inside. */
enum { ID_A, ID_B, ID_BIAS, ID_OUT, ID_SUM, ID_BIASED };

/* A tensor in channels-last memory. cuDNN counts its dimensions n c h w whatever the memory's order. */
static cu_desc tensor(int64_t id, cudnnDataType_t type, int64_t n, int64_t h, int64_t w, int64_t c,
                      bool inside) {
  int64_t dims[4] = {n, c, h, w}, strides[4] = {h * w * c, 1, w * c, c}, align = 16;
  cu_desc t = cu_dnn_make(CUDNN_BACKEND_TENSOR_DESCRIPTOR);
  cu_dnn_set(t, CUDNN_ATTR_TENSOR_DATA_TYPE, CUDNN_TYPE_DATA_TYPE, 1, &type);
  cu_dnn_set(t, CUDNN_ATTR_TENSOR_DIMENSIONS, CUDNN_TYPE_INT64, 4, dims);
  cu_dnn_set(t, CUDNN_ATTR_TENSOR_STRIDES, CUDNN_TYPE_INT64, 4, strides);
  cu_dnn_set(t, CUDNN_ATTR_TENSOR_UNIQUE_ID, CUDNN_TYPE_INT64, 1, &id);
  cu_dnn_set(t, CUDNN_ATTR_TENSOR_BYTE_ALIGNMENT, CUDNN_TYPE_INT64, 1, &align);
  cu_dnn_set(t, CUDNN_ATTR_TENSOR_IS_VIRTUAL, CUDNN_TYPE_BOOLEAN, 1, &inside);
  return cu_dnn_done(t);
}

static cu_desc x_of(const su_conv_geo *g, int64_t id, cudnnDataType_t type, bool inside) {
  return tensor(id, type, g->n, g->h, g->w, g->ci, inside);
}

static cu_desc w_of(const su_conv_geo *g, int64_t id, cudnnDataType_t type) {
  return tensor(id, type, g->co, g->kh, g->kw, g->ci / g->groups, false);
}

static cu_desc y_of(const su_conv_geo *g, int64_t id, cudnnDataType_t type, bool inside) {
  return tensor(id, type, g->n, g->oh, g->ow, g->co, inside);
}

static cu_desc convolution(const su_conv_geo *g) {
  const cudnnConvolutionMode_t mode = CUDNN_CROSS_CORRELATION;
  const cudnnDataType_t sums = CUDNN_DATA_FLOAT;
  int64_t two = 2, before[2] = {g->pt, g->pl}, after[2] = {g->pb, g->pr}, stride[2] = {g->sh, g->sw},
          dilation[2] = {g->dh, g->dw};
  cu_desc c = cu_dnn_make(CUDNN_BACKEND_CONVOLUTION_DESCRIPTOR);
  cu_dnn_set(c, CUDNN_ATTR_CONVOLUTION_CONV_MODE, CUDNN_TYPE_CONVOLUTION_MODE, 1, &mode);
  cu_dnn_set(c, CUDNN_ATTR_CONVOLUTION_COMP_TYPE, CUDNN_TYPE_DATA_TYPE, 1, &sums);
  cu_dnn_set(c, CUDNN_ATTR_CONVOLUTION_SPATIAL_DIMS, CUDNN_TYPE_INT64, 1, &two);
  cu_dnn_set(c, CUDNN_ATTR_CONVOLUTION_PRE_PADDINGS, CUDNN_TYPE_INT64, 2, before);
  cu_dnn_set(c, CUDNN_ATTR_CONVOLUTION_POST_PADDINGS, CUDNN_TYPE_INT64, 2, after);
  cu_dnn_set(c, CUDNN_ATTR_CONVOLUTION_FILTER_STRIDES, CUDNN_TYPE_INT64, 2, stride);
  cu_dnn_set(c, CUDNN_ATTR_CONVOLUTION_DILATIONS, CUDNN_TYPE_INT64, 2, dilation);
  return cu_dnn_done(c);
}

/* out = 1 * conv(a, b) + 0 * out; the names of the attributes differ by direction. */
struct direction {
  cudnnBackendDescriptorType_t type;
  cudnnBackendAttributeName_t conv, a, b, out, alpha, beta;
};

static const direction directions[] = {
    {CUDNN_BACKEND_OPERATION_CONVOLUTION_FORWARD_DESCRIPTOR,
     CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_CONV_DESC, CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_X,
     CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_W, CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_Y,
     CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_ALPHA, CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_BETA},
    {CUDNN_BACKEND_OPERATION_CONVOLUTION_BACKWARD_DATA_DESCRIPTOR,
     CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_CONV_DESC, CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_DY,
     CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_W, CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_DX,
     CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_ALPHA, CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_BETA},
    {CUDNN_BACKEND_OPERATION_CONVOLUTION_BACKWARD_FILTER_DESCRIPTOR,
     CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_CONV_DESC, CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_X,
     CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_DY, CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_DW,
     CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_ALPHA, CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_BETA},
};

static cudnnDataType_t type_of(const cu_dnn_wish *wish) {
  return wish->bf16 ? CUDNN_DATA_BFLOAT16 : CUDNN_DATA_FLOAT;
}

static cu_desc convolve(const cu_dnn_wish *wish, const cu_desc &out) {
  const direction *d = &directions[wish->dir];
  const su_conv_geo *g = &wish->g;
  cudnnDataType_t type = type_of(wish);
  float one = 1, zero = 0;
  cu_desc a = wish->dir == SU_CONV_GX ? y_of(g, ID_A, type, false) : x_of(g, ID_A, type, false);
  cu_desc b = wish->dir == SU_CONV_GW ? y_of(g, ID_B, type, false) : w_of(g, ID_B, type);
  cu_desc o = cu_dnn_make(d->type);
  cu_dnn_set(o, d->alpha, CUDNN_TYPE_FLOAT, 1, &one);
  cu_dnn_set(o, d->beta, CUDNN_TYPE_FLOAT, 1, &zero);
  if (!cu_dnn_set_desc(o, d->conv, convolution(g)) || !cu_dnn_set_desc(o, d->a, a)) return {};
  if (!cu_dnn_set_desc(o, d->b, b) || !cu_dnn_set_desc(o, d->out, out)) return {};
  return cu_dnn_done(o);
}

/* What the direction makes, as tensor `id`. */
static cu_desc result(const cu_dnn_wish *wish, int64_t id, cudnnDataType_t type, bool inside) {
  if (wish->dir == SU_CONV_Y) return y_of(&wish->g, id, type, inside);
  return wish->dir == SU_CONV_GX ? x_of(&wish->g, id, type, inside) : w_of(&wish->g, id, type);
}

/* y = mode(x) or mode(x, b), computed in f32. */
static cu_desc pointwise(cudnnPointwiseMode_t mode, double slope, const cu_desc &x, const cu_desc &b,
                         const cu_desc &y) {
  const cudnnDataType_t precision = CUDNN_DATA_FLOAT;
  cu_desc how = cu_dnn_make(CUDNN_BACKEND_POINTWISE_DESCRIPTOR),
          o = cu_dnn_make(CUDNN_BACKEND_OPERATION_POINTWISE_DESCRIPTOR);
  cu_dnn_set(how, CUDNN_ATTR_POINTWISE_MODE, CUDNN_TYPE_POINTWISE_MODE, 1, &mode);
  cu_dnn_set(how, CUDNN_ATTR_POINTWISE_MATH_PREC, CUDNN_TYPE_DATA_TYPE, 1, &precision);
  if (mode == CUDNN_POINTWISE_RELU_FWD && slope != 0)
    cu_dnn_set(how, CUDNN_ATTR_POINTWISE_RELU_LOWER_CLIP_SLOPE, CUDNN_TYPE_DOUBLE, 1, &slope);
  cu_dnn_set_desc(o, CUDNN_ATTR_OPERATION_POINTWISE_PW_DESCRIPTOR, cu_dnn_done(how));
  if (!cu_dnn_set_desc(o, CUDNN_ATTR_OPERATION_POINTWISE_XDESC, x)) return {};
  if (b && !cu_dnn_set_desc(o, CUDNN_ATTR_OPERATION_POINTWISE_BDESC, b)) return {};
  if (!cu_dnn_set_desc(o, CUDNN_ATTR_OPERATION_POINTWISE_YDESC, y)) return {};
  return cu_dnn_done(o);
}

static cu_dnn_rule rule_of(const cu_dnn_wish *wish, int tries) {
  return {!wish->bf16 && !wish->tf32, CU_DNN_WORKSPACE, tries};
}

static bool plain(const cu_dnn_wish *wish, cu_dnn_choice *c) {
  return cu_dnn_choose({convolve(wish, result(wish, ID_OUT, type_of(wish), false))}, rule_of(wish, 64), c);
}

/* Convolution, bias, activation in one. What stays inside is f32. cuDNN compiles such plans, which takes
 * long: few tries. */
static bool fused(const cu_dnn_wish *wish, cu_dnn_choice *c) {
  std::vector<cu_desc> ops;
  cu_desc sum = result(wish, ID_SUM, CUDNN_DATA_FLOAT, true), y = result(wish, ID_OUT, type_of(wish), false);
  ops.push_back(convolve(wish, sum));
  if (wish->bias) {
    int64_t channels = wish->dir == SU_CONV_Y ? wish->g.co : wish->g.ci;
    cu_desc b = tensor(ID_BIAS, CUDNN_DATA_FLOAT, 1, 1, 1, channels, false);
    cu_desc biased = wish->g.act ? result(wish, ID_BIASED, CUDNN_DATA_FLOAT, true) : y;
    ops.push_back(pointwise(CUDNN_POINTWISE_ADD, 0, sum, b, biased));
    sum = biased;
  }
  if (wish->g.act) {
    cudnnPointwiseMode_t mode =
        wish->g.act == SU_CONV_TANH ? CUDNN_POINTWISE_TANH_FWD : CUDNN_POINTWISE_RELU_FWD;
    ops.push_back(pointwise(mode, wish->g.act == SU_CONV_LRELU ? wish->g.slope : 0, sum, {}, y));
  }
  return cu_dnn_choose(ops, rule_of(wish, 4), c);
}

/* An f32 result of bf16 operands: engines that are compiled make it, behind a copy within the graph. Those
 * want rows of 16 bytes, which few channels do not have: then with more channels, that the caller fills
 * with zeros in w. */
static bool wide(const cu_dnn_wish *wish, cu_dnn_conv_plan *out) {
  cu_dnn_wish w = *wish;
  const bool gx = w.dir == SU_CONV_GX;
  const int64_t channels = (w.g.ci + 7) / 8 * 8;
  out->wide = true;
  for (int turn = 0; turn < (gx && w.g.groups == 1 && channels > wish->g.ci ? 2 : 1); turn++) {
    if (turn == 1) w.g.ci = channels;
    cu_desc sum = result(&w, ID_SUM, CUDNN_DATA_FLOAT, true), y = result(&w, ID_OUT, CUDNN_DATA_FLOAT, false);
    out->channels = gx ? w.g.ci : w.g.co;
    if (cu_dnn_choose({convolve(&w, sum), pointwise(CUDNN_POINTWISE_IDENTITY, 0, sum, {}, y)}, rule_of(&w, 4),
                      &out->choice))
      return true;
  }
  return false;
}

bool cu_dnn_plan_conv(const cu_dnn_wish *wish, cu_dnn_conv_plan *out) {
  const bool more = wish->bias || wish->g.act;
  out->wide = false;
  out->fused = more && fused(wish, &out->choice);
  if (out->fused) return true;
  return wish->bf16 && more ? wide(wish, out) : plain(wish, &out->choice);
}

int cu_dnn_ids(const cu_dnn_wish *wish, const cu_dnn_conv_plan *plan, int64_t *id) {
  int n = 0;
  id[n++] = ID_A;
  id[n++] = ID_B;
  if (plan->fused && wish->bias) id[n++] = ID_BIAS;
  id[n++] = ID_OUT;
  return n;
}

#endif
