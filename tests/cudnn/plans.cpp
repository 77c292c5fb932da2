/* plans.cpp -- asks cuDNN, without a GPU, for a plan of every convolution that it reads (shapes.lua) on
 * every device that its arguments describe, and holds each against our rules. tests/test_cudnn.sh runs it.
 *
 *   plans DEVICE.json... <SHAPES
 *
 * One check is one line of SHAPES in one direction, precision and device. What runs forwards with a bias
 * or an activation is asked for once more as a whole, in bf16 on the first device: cuDNN compiles a kernel
 * for it, which takes about a second. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <fstream>
#include <iostream>
#include <sstream>
#include <string>
#include <vector>

#include "../../cuda/dnn.h"
#include "../../cuda/dnn_conv.h"
#include "../../cuda/dnn_graph.h"

extern "C" {
#include "../../runtime/base.h"
}

void cu_blas_version(char *buf, size_t n) { snprintf(buf, n, "cuBLASLt is not asked"); }

struct shape {
  su_conv_geo g;
  enum su_conv_dir forward;
  bool bias;
  std::string text;
};

static int passed, failed, compiled, whole, wide;

static void check(bool ok, const std::string &what, const char *why) {
  if (ok) passed++;
  else {
    failed++;
    printf("FAILED  %s: %s\n", what.c_str(), why);
  }
}

static int64_t outputs(int64_t size, int64_t pad, int64_t k, int64_t stride) {
  return (size + 2 * pad - k) / stride + 1;
}

static std::vector<shape> read_shapes() {
  std::vector<shape> list;
  for (std::string line; std::getline(std::cin, line);) {
    shape s = {};
    su_conv_geo *g = &s.g;
    std::istringstream in(line);
    std::string forward;
    int64_t pad, act, leak;
    in >> g->n >> g->h >> g->w >> g->ci >> g->co >> g->kh >> g->kw >> g->sh >> pad >> g->groups >> forward >>
        s.bias >> act >> leak;
    if (!in) {
      check(false, line, "is no shape");
      continue;
    }
    g->sw = g->sh, g->dh = g->dw = 1;
    g->pt = g->pb = g->pl = g->pr = pad;
    g->oh = outputs(g->h, pad, g->kh, g->sh), g->ow = outputs(g->w, pad, g->kw, g->sw);
    g->act = (enum su_conv_act)act, g->slope = (float)leak / 1000;
    s.forward = forward == "gx" ? SU_CONV_GX : SU_CONV_Y;
    s.text = line;
    list.push_back(s);
  }
  return list;
}

/* The rules, judged by what cuDNN says about the engine that was chosen. */
static const char *breach(const cu_dnn_wish *w, const cu_dnn_choice *c) {
  const uint32_t rounds =
      1u << CUDNN_NUMERICAL_NOTE_TENSOR_CORE | 1u << CUDNN_NUMERICAL_NOTE_DOWN_CONVERT_INPUTS;
  if (c->notes & 1u << CUDNN_NUMERICAL_NOTE_NONDETERMINISTIC) return "the engine is not deterministic";
  if (c->notes & 1u << CUDNN_NUMERICAL_NOTE_REDUCED_PRECISION_REDUCTION)
    return "the engine sums in less than f32";
  if (!w->bf16 && !w->tf32 && (c->notes & rounds)) return "the engine rounds f32 operands";
  if (c->workspace > CU_DNN_WORKSPACE) return "the engine wants more scratch than there is";
  return nullptr;
}

static void ask(const cu_dnn_wish &w, const shape &s, const std::string &device) {
  static const char *const directions[] = {"y", "gx", "gw"};
  std::string what = device + ", " + s.text + ", " + directions[w.dir] +
                     (w.bf16   ? " bf16"
                      : w.tf32 ? " tf32"
                               : " f32");
  cu_dnn_conv_plan p = {};
  if (!cu_dnn_plan_conv(&w, &p)) {
    check(false, what, cu_dnn_refusal());
    return;
  }
  const char *broken = breach(&w, &p.choice);
  check(!broken, what, broken);
  compiled += p.choice.compiled, whole += p.fused, wide += p.wide;
  if (getenv("VERBOSE"))
    printf("  %s: engine %d, notes %x, %.1f MB%s%s%s\n", what.c_str(), (int)p.choice.engine, p.choice.notes,
           1e-6 * (double)p.choice.workspace, p.choice.compiled ? ", compiled" : "", p.fused ? ", whole" : "",
           p.wide ? ", wide" : "");
}

static void ask_all(const shape &s, const std::string &device, bool compile) {
  cu_dnn_wish w = {};
  for (int precision = 0; precision < 3; precision++)
    for (int dir = 0; dir < 3; dir++) {
      w.g = s.g, w.dir = (enum su_conv_dir)dir;
      w.g.act = SU_CONV_PLAIN;
      w.tf32 = precision == 1, w.bf16 = precision == 2;
      ask(w, s, device);
    }
  if (!compile || !(s.bias || s.g.act)) return;
  w.g = s.g, w.dir = s.forward, w.bias = s.bias;
  ask(w, s, device);
}

int main(int argc, char **argv) {
  char version[600];
  std::vector<shape> shapes = read_shapes();
  check(!shapes.empty(), "the list of shapes", "is empty");
  check(!cu_dnn_describe_device("{\"deviceVer\": 900}") && *su_error(), "half a description", "was accepted");
  for (int k = 1; k < argc; k++) {
    std::ifstream file(argv[k]);
    std::stringstream json;
    json << file.rdbuf();
    bool ok = cu_dnn_describe_device(json.str().c_str());
    check(ok, argv[k], su_error());
    std::string name = argv[k];
    name = name.substr(name.rfind('/') + 1);
    for (size_t n = 0; ok && n < shapes.size(); n++)
      ask_all(shapes[n], name.substr(0, name.find('.')), k == 1);
  }
  cu_dnn_version(version, sizeof version);
  printf("%s: %d convolutions on %d devices; %d with bias and activation inside, %d in f32 before them, %d "
         "compiled by cuDNN\n",
         version, (int)shapes.size(), argc - 1, whole, wide, compiled);
  printf("%d passed, %d failed\n", passed, failed);
  return failed != 0;
}
