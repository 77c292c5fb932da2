/* epilogue.h -- y = act(x + bias) over rows of channels, rounded once: what a library's product still
 * wants when none of its engines takes bias and activation in. x may be y; or its rows are longer, and the
 * rest of them is left out. */
#ifndef SUMI_CUDA_EPILOGUE_H
#define SUMI_CUDA_EPILOGUE_H

#include "cu.h"

extern "C" {
#include "../runtime/cpu/conv.h"
}

/* As ops tanh and lrelu have it; slope 0 for ReLU. */
CU_DEVICE float cu_conv_act(int act, float slope, float v) {
  if (act == SU_CONV_TANH) return tanhf(v);
  return act == SU_CONV_PLAIN || v > 0 ? v : slope * v;
}

template <class X, class Y>
CU_KERNEL(256) epilogue_rows(int64_t n, int channels, const X *x, int pitch, const float *bias, int act,
                             float slope, Y *y) {
  const int64_t step = (int64_t)gridDim.x * 256;
  for (int64_t k = (int64_t)blockIdx.x * 256 + threadIdx.x; k < n; k += step) {
    const int c = (int)(k % channels);
    float v = cu_float(x[k / channels * pitch + c]);
    if (bias) v += bias[c];
    cu_store(y + k, cu_conv_act(act, slope, v));
  }
}

/* x [rows,pitch], y [rows,channels]; bias [channels] or NULL; act: enum su_conv_act. */
template <class X, class Y>
void cu_epilogue(const char *name, int64_t rows, int64_t channels, const X *x, int64_t pitch, const float *bias,
                 int act, float slope, Y *y) {
  const int64_t n = rows * channels;
  cu_launch(name, epilogue_rows<X, Y>, dim3(cu_blocks(n, 256)), 256, n, (int)channels, x, (int)pitch, bias,
            act, slope, y);
}

#endif
