/* dnn_graph.cpp -- cuDNN's backend descriptors and the choice of an engine; see dnn_graph.h. */
#ifdef SUMI_HAVE_CUDNN
#include "dnn_graph.h"

#include <dlfcn.h>
#include <stdio.h>
#include <string.h>

#include "dnn.h"
#include "library.h"

extern "C" {
#include "../runtime/base.h"
}

/* ---- the library ---- */

#define FUNCTIONS(X)                                                                                           \
  X(cudnnGetVersion) X(cudnnGetErrorString) X(cudnnGetLastErrorString) X(cudnnCreate) X(cudnnSetStream)        \
  X(cudnnBackendCreateDescriptor) X(cudnnBackendDestroyDescriptor) X(cudnnBackendFinalize)                     \
  X(cudnnBackendSetAttribute) X(cudnnBackendGetAttribute) X(cudnnBackendExecute)

#define MEMBER(name) decltype(&::name) name;
static struct { FUNCTIONS(MEMBER) } dnn;

static enum { NOT_TRIED, LOADED, ABSENT } loaded;
static char absent[600], refusal[400];
static cudnnHandle_t handle;
static cu_desc described;               /* the device that stands in for one that is there */

static bool find_functions(void *lib) {
#define FIND(name)                                                                                       \
  if (!(dnn.name = (decltype(dnn.name))dlsym(lib, #name))) {                                             \
    snprintf(absent, sizeof absent, "cuDNN has no %s: too old, 9.1 or later is wanted", #name);          \
    return false;                                                                                        \
  }
  FUNCTIONS(FIND)
  return true;
}

/* cuDNN opens cuBLASLt and NVRTC by their bare names when it needs them, and NVRTC its built-ins: that works
 * when they are in already. */
static bool load() {
  char why[400];
  void *lib = cu_library_open(&cu_lib_dnn, absent, sizeof absent);
  if (!lib || !find_functions(lib)) return false;
  cu_library_open(&cu_lib_blas, why, sizeof why);
  cu_library_open_beside(cu_library_open(&cu_lib_nvrtc, why, sizeof why), "libnvrtc-builtins.so.[0-9]*");
  return true;
}

bool cu_dnn_load(char *why, size_t n) {
  if (loaded == NOT_TRIED) loaded = load() ? LOADED : ABSENT;
  if (loaded == ABSENT && why) snprintf(why, n, "%s", absent);
  return loaded == LOADED;
}

void cu_dnn_version(char *buf, size_t n) {
  if (!cu_dnn_load(buf, n)) return;
  size_t v = dnn.cudnnGetVersion();     /* 91900 for 9.19.0 */
  snprintf(buf, n, "cuDNN %zu.%zu.%zu", v / 10000, v / 100 % 100, v % 100);
}

static bool judged(cudnnStatus_t status) {
  if (status == CUDNN_STATUS_SUCCESS) return true;
  char text[300] = "";
  dnn.cudnnGetLastErrorString(text, sizeof text);
  text[strcspn(text, "\n")] = 0;
  snprintf(refusal, sizeof refusal, "%s%s%s", dnn.cudnnGetErrorString(status), *text ? ": " : "", text);
  return false;
}

const char *cu_dnn_refusal() { return refusal; }

bool cu_dnn_open_handle() {
  char why[600];
  if (!cu_dnn_load(why, sizeof why)) return su_fail("%s", why);
  if (handle || judged(dnn.cudnnCreate(&handle))) return true;
  handle = nullptr;
  return su_fail("cuDNN does not start: %s", refusal);
}

bool cu_dnn_ready() { return handle || described; }

/* ---- descriptors ---- */

static void destroy(void *d) {
  if (d) dnn.cudnnBackendDestroyDescriptor(d);
}

cu_desc cu_dnn_make(cudnnBackendDescriptorType_t type) {
  cudnnBackendDescriptor_t d = nullptr;
  if (!judged(dnn.cudnnBackendCreateDescriptor(type, &d))) return {};
  return cu_desc(d, destroy);
}

bool cu_dnn_set(const cu_desc &d, cudnnBackendAttributeName_t name, cudnnBackendAttributeType_t type,
                int64_t count, const void *v) {
  return d && judged(dnn.cudnnBackendSetAttribute(d.get(), name, type, count, v));
}

bool cu_dnn_set_desc(const cu_desc &d, cudnnBackendAttributeName_t name, const cu_desc &v) {
  void *at = v.get();
  return at && cu_dnn_set(d, name, CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, &at);
}

cu_desc cu_dnn_done(const cu_desc &d) {
  return d && judged(dnn.cudnnBackendFinalize(d.get())) ? d : cu_desc();
}

/* Up to `most` values; their number, or 0. */
static int64_t get(const cu_desc &d, cudnnBackendAttributeName_t name, cudnnBackendAttributeType_t type,
                   int64_t most, void *v) {
  int64_t n = 0;
  return d && judged(dnn.cudnnBackendGetAttribute(d.get(), name, type, most, &n, v)) ? n : 0;
}

/* ---- the device ---- */

bool cu_dnn_describe_device(const char *json) {
  char why[600];
  described.reset();
  if (!json) return true;
  if (!cu_dnn_load(why, sizeof why)) return su_fail("%s", why);
#if CUDNN_VERSION >= 91100
  cu_desc d = cu_dnn_make(CUDNN_BACKEND_DEVICEPROP_DESCRIPTOR);
  cu_dnn_set(d, CUDNN_ATTR_DEVICEPROP_JSON_REPRESENTATION, CUDNN_TYPE_CHAR, (int64_t)strlen(json) + 1, json);
  if ((described = cu_dnn_done(d))) return true;
  return su_fail("cuDNN refuses the description of a device: %s", refusal);
#else
  return su_fail("cuDNN %d.%d knows no described devices, 9.11 and later do", CUDNN_MAJOR, CUDNN_MINOR);
#endif
}

static bool name_device(const cu_desc &d, cudnnBackendAttributeName_t attribute) {
#if CUDNN_VERSION >= 91100
  if (described) return cu_dnn_set_desc(d, attribute, described);
#endif
  (void)d, (void)attribute;
  return true;
}

/* Graph and plan know the handle; for a described device the plan, like engine and heuristics, knows the
 * description. */
static bool name_handle(const cu_desc &d, cudnnBackendAttributeName_t attribute) {
  return described || cu_dnn_set(d, attribute, CUDNN_TYPE_HANDLE, 1, &handle);
}

#if CUDNN_VERSION >= 91100
#define DEVICE_OF(what) CUDNN_ATTR_##what##_DEVICEPROP
#else
#define DEVICE_OF(what) (cudnnBackendAttributeName_t)0
#endif

/* ---- the choice ---- */

static cu_desc graph_of(const std::vector<cu_desc> &operations) {
  std::vector<void *> at;
  for (const cu_desc &o : operations) {
    if (!o) return {};
    at.push_back(o.get());
  }
  cu_desc g = cu_dnn_make(CUDNN_BACKEND_OPERATIONGRAPH_DESCRIPTOR);
  if (!cu_dnn_set(g, CUDNN_ATTR_OPERATIONGRAPH_OPS, CUDNN_TYPE_BACKEND_DESCRIPTOR, (int64_t)at.size(),
                  at.data()))
    return {};
  if (!name_handle(g, CUDNN_ATTR_OPERATIONGRAPH_HANDLE)) return {};
  return cu_dnn_done(g);
}

static std::vector<cu_desc> configurations(const cu_desc &graph, cudnnBackendHeurMode_t mode) {
  const auto name = CUDNN_ATTR_ENGINEHEUR_RESULTS;
  cu_desc h = cu_dnn_make(CUDNN_BACKEND_ENGINEHEUR_DESCRIPTOR);
  if (!cu_dnn_set_desc(h, CUDNN_ATTR_ENGINEHEUR_OPERATION_GRAPH, graph)) return {};
  if (!cu_dnn_set(h, CUDNN_ATTR_ENGINEHEUR_MODE, CUDNN_TYPE_HEUR_MODE, 1, &mode)) return {};
  if (!name_device(h, DEVICE_OF(ENGINEHEUR)) || !cu_dnn_done(h)) return {};
  int64_t count = get(h, name, CUDNN_TYPE_BACKEND_DESCRIPTOR, 0, nullptr);
  std::vector<cu_desc> list((size_t)count);
  std::vector<void *> at;
  for (cu_desc &c : list) {
    if (!(c = cu_dnn_make(CUDNN_BACKEND_ENGINECFG_DESCRIPTOR))) return {};
    at.push_back(c.get());
  }
  if (count) list.resize((size_t)get(h, name, CUDNN_TYPE_BACKEND_DESCRIPTOR, count, at.data()));
  return list;
}

/* What cuDNN says about the configuration's engine. */
static bool read_notes(const cu_desc &config, cu_dnn_choice *out) {
  cu_desc engine = cu_dnn_make(CUDNN_BACKEND_ENGINE_DESCRIPTOR);
  void *at = engine.get();
  cudnnBackendNumericalNote_t notes[CUDNN_NUMERICAL_NOTE_TYPE_COUNT];
  cudnnBackendBehaviorNote_t behaviour[CUDNN_BEHAVIOR_NOTE_TYPE_COUNT];
  if (!at || !get(config, CUDNN_ATTR_ENGINECFG_ENGINE, CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, &at)) return false;
  get(engine, CUDNN_ATTR_ENGINE_GLOBAL_INDEX, CUDNN_TYPE_INT64, 1, &out->engine);
  int64_t n = get(engine, CUDNN_ATTR_ENGINE_NUMERICAL_NOTE, CUDNN_TYPE_NUMERICAL_NOTE,
                  CUDNN_NUMERICAL_NOTE_TYPE_COUNT, notes);
  out->notes = 0;
  for (int64_t k = 0; k < n; k++) out->notes |= 1u << notes[k];
  n = get(engine, CUDNN_ATTR_ENGINE_BEHAVIOR_NOTE, CUDNN_TYPE_BEHAVIOR_NOTE, CUDNN_BEHAVIOR_NOTE_TYPE_COUNT,
          behaviour);
  out->compiled = false;
  for (int64_t k = 0; k < n; k++) out->compiled |= behaviour[k] == CUDNN_BEHAVIOR_NOTE_RUNTIME_COMPILATION;
  return true;
}

static uint32_t forbidden(const cu_dnn_rule &rule) {
  uint32_t never =
      1u << CUDNN_NUMERICAL_NOTE_NONDETERMINISTIC | 1u << CUDNN_NUMERICAL_NOTE_REDUCED_PRECISION_REDUCTION;
  return !rule.exact ? never
                     : never | 1u << CUDNN_NUMERICAL_NOTE_TENSOR_CORE |
                           1u << CUDNN_NUMERICAL_NOTE_DOWN_CONVERT_INPUTS |
                           1u << CUDNN_NUMERICAL_NOTE_WINOGRAD_TILE_6x6 |
                           1u << CUDNN_NUMERICAL_NOTE_WINOGRAD_TILE_13x13;
}

static bool plan_of(const cu_desc &config, cu_dnn_choice *out) {
  cu_desc p = cu_dnn_make(CUDNN_BACKEND_EXECUTION_PLAN_DESCRIPTOR);
  if (!name_handle(p, CUDNN_ATTR_EXECUTION_PLAN_HANDLE)) return false;
  if (!cu_dnn_set_desc(p, CUDNN_ATTR_EXECUTION_PLAN_ENGINE_CONFIG, config)) return false;
  if (!name_device(p, DEVICE_OF(EXECUTION_PLAN)) || !cu_dnn_done(p)) return false;
  out->plan = p;
  out->workspace = 0;
  get(p, CUDNN_ATTR_EXECUTION_PLAN_WORKSPACE_SIZE, CUDNN_TYPE_INT64, 1, &out->workspace);
  return true;
}

bool cu_dnn_choose(const std::vector<cu_desc> &operations, const cu_dnn_rule &rule, cu_dnn_choice *out) {
  cu_desc graph = graph_of(operations);
  if (!graph) return false;
  int failed = 0;
  for (cudnnBackendHeurMode_t mode : {CUDNN_HEUR_MODE_A, CUDNN_HEUR_MODE_B, CUDNN_HEUR_MODE_FALLBACK})
    for (const cu_desc &config : configurations(graph, mode)) {
      if (!read_notes(config, out) || (out->notes & forbidden(rule))) continue;
      if (plan_of(config, out) && out->workspace <= rule.workspace) return true;
      out->plan.reset();
      if (++failed >= rule.tries) return false;
    }
  return false;
}

/* ---- running ---- */

static bool make_pack(cu_dnn_pack *pack) {
  cu_desc d = cu_dnn_make(CUDNN_BACKEND_VARIANT_PACK_DESCRIPTOR);
  pack->desc.reset();
  if (!cu_dnn_set(d, CUDNN_ATTR_VARIANT_PACK_UNIQUE_IDS, CUDNN_TYPE_INT64, pack->n, pack->id)) return false;
  if (!cu_dnn_set(d, CUDNN_ATTR_VARIANT_PACK_DATA_POINTERS, CUDNN_TYPE_VOID_PTR, pack->n, pack->at))
    return false;
  if (!cu_dnn_set(d, CUDNN_ATTR_VARIANT_PACK_WORKSPACE, CUDNN_TYPE_VOID_PTR, 1, &pack->workspace))
    return false;
  return bool(pack->desc = cu_dnn_done(d));
}

bool cu_dnn_run(const cu_dnn_choice *c, cu_dnn_pack *pack, const void *const *at, void *workspace,
                void *stream) {
  bool same =
      pack->desc && pack->workspace == workspace && !memcmp(pack->at, at, (size_t)pack->n * sizeof *at);
  if (!same) {
    memcpy(pack->at, at, (size_t)pack->n * sizeof *at);
    pack->workspace = workspace;
    if (!make_pack(pack)) return false;
  }
  static void *on;
  if (on != stream && !judged(dnn.cudnnSetStream(handle, (cudaStream_t)stream))) return false;
  on = stream;
  return judged(dnn.cudnnBackendExecute(handle, c->plan.get(), pack->desc.get()));
}

#endif
