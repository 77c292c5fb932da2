/* rt_cuda.cu -- rt.h on CUDA's runtime (linked statically). Device memory is one range of addresses
 * for the whole budget, backed in chunks as the arena grows; that part is the driver's, looked up
 * when a device is opened. */
#include "rt.h"

#include <cuda.h>
#include <stdio.h>
#include <string.h>

#include <vector>

namespace {

const size_t CHUNK = (size_t)64 << 20;
const size_t STAGE = (size_t)4 << 20;   /* bytes of pinned memory per stage */
enum { STAGES = 4 };

/* The driver's functions for virtual memory. */
struct {
  decltype(&cuMemAddressReserve) reserve;
  decltype(&cuMemCreate) create;
  decltype(&cuMemMap) map;
  decltype(&cuMemSetAccess) access;
  decltype(&cuMemUnmap) unmap;
  decltype(&cuMemRelease) release;
  decltype(&cuMemGetAllocationGranularity) granularity;
} vm;

struct stage {
  char *at;
  size_t used;
  cudaEvent_t done;                     /* the last copy out of it */
  bool pending;
};

struct {
  int index;
  cudaStream_t stream;
  char *base;
  size_t reserved, backed, chunk;
  stage stages[STAGES];
  int current;                          /* the stage that is being filled */
} the;

/* Errors after which CUDA's context is of no use. */
bool fatal(cudaError_t e) {
  switch (e) {
    case cudaErrorIllegalAddress: case cudaErrorLaunchTimeout: case cudaErrorHardwareStackError:
    case cudaErrorIllegalInstruction: case cudaErrorMisalignedAddress: case cudaErrorInvalidAddressSpace:
    case cudaErrorInvalidPc: case cudaErrorLaunchFailure: case cudaErrorECCUncorrectable: case cudaErrorAssert:
    case cudaErrorNvlinkUncorrectable: case cudaErrorMpsClientTerminated:
#if CUDART_VERSION >= 13000
    case cudaErrorContained:
#endif
    case cudaErrorDeviceUninitialized: case cudaErrorContextIsDestroyed:
    case cudaErrorExternalDevice: case cudaErrorUnknown:
      return true;
    default:
      return false;
  }
}

/* True when e is success; else it is kept, with what was being done. */
bool well(cudaError_t e, const char *what) {
  if (e == cudaSuccess) return true;
  cudaGetLastError();
  rt_keep(fatal(e), "%s: %s", what, cudaGetErrorString(e));
  return false;
}

template <class F> bool driver_function(const char *name, F *f) {
  void *p = nullptr;
  cudaDriverEntryPointQueryResult found;
  const cudaError_t e = cudaGetDriverEntryPointByVersion(name, &p, 12000, cudaEnableDefault, &found);
  if (e == cudaSuccess && found == cudaDriverEntryPointSuccess && p) {
    *f = (F)p;
    return true;
  }
  rt_keep(false, "the driver has no %s", name);
  return false;
}

bool driver_functions() {
  return driver_function("cuMemAddressReserve", &vm.reserve) && driver_function("cuMemCreate", &vm.create) &&
         driver_function("cuMemMap", &vm.map) && driver_function("cuMemSetAccess", &vm.access) &&
         driver_function("cuMemUnmap", &vm.unmap) && driver_function("cuMemRelease", &vm.release) &&
         driver_function("cuMemGetAllocationGranularity", &vm.granularity);
}

CUmemAllocationProp memory_kind() {
  CUmemAllocationProp kind;
  memset(&kind, 0, sizeof kind);
  kind.type = CU_MEM_ALLOCATION_TYPE_PINNED;
  kind.location.type = CU_MEM_LOCATION_TYPE_DEVICE;
  kind.location.id = the.index;
  return kind;
}

size_t round_up(size_t n, size_t unit) { return (n + unit - 1) / unit * unit; }

/* One line, whatever the reason; the remedy behind a semicolon. */
bool no_gpu(cudaError_t e, char *why, size_t n) {
  int driver = 0, runtime = 0;
  cudaDriverGetVersion(&driver);
  cudaRuntimeGetVersion(&runtime);
  if (driver == 0)
    snprintf(why, n, "no NVIDIA driver here; install it (Debian: apt install nvidia-driver), for a GPU of "
             "compute capability 8.0 or later");
  else if (e == cudaErrorInsufficientDriver)
    snprintf(why, n, "the NVIDIA driver is for CUDA %d.%d, this plug-in wants %d.%d; install a newer driver",
             driver / 1000, driver % 1000 / 10, runtime / 1000, runtime % 1000 / 10);
  else if (e == cudaErrorNoDevice)
    snprintf(why, n, "the NVIDIA driver shows no GPU; look at CUDA_VISIBLE_DEVICES and nvidia-smi");
  else
    snprintf(why, n, "CUDA does not start (%s); look at nvidia-smi", cudaGetErrorString(e));
  return false;
}

}  // namespace

/* ---- opening ---- */

bool rt_find(int index, rt_gpu *gpu, char *why, size_t n) {
  int count = 0;
  cudaError_t e = cudaGetDeviceCount(&count);
  if (e != cudaSuccess || count == 0) return no_gpu(e != cudaSuccess ? e : cudaErrorNoDevice, why, n);
  if (index >= count) {
    snprintf(why, n, "GPU %d is not there, the last one is %d; name another", index, count - 1);
    return false;
  }
  cudaDeviceProp prop;
  if ((e = cudaGetDeviceProperties(&prop, index)) != cudaSuccess) return no_gpu(e, why, n);
  if (prop.major < 8) {
    snprintf(why, n, "%s has compute capability %d.%d and 8.0 is the least; use a newer GPU", prop.name,
             prop.major, prop.minor);
    return false;
  }
  memset(gpu, 0, sizeof *gpu);
  snprintf(gpu->props.name, sizeof gpu->props.name, "%.63s", prop.name);
  gpu->props.sm = 10 * prop.major + prop.minor;
  gpu->props.processors = prop.multiProcessorCount;
  gpu->props.memory = prop.totalGlobalMem;
  cudaDriverGetVersion(&gpu->driver);
  cudaRuntimeGetVersion(&gpu->runtime);
  size_t total;
  if ((e = cudaSetDevice(index)) != cudaSuccess || (e = cudaMemGetInfo(&gpu->free, &total)) != cudaSuccess)
    return no_gpu(e, why, n);
  the.index = index;
  return true;
}

static bool open_stages() {
  for (stage &s : the.stages) {
    if (!well(cudaMallocHost((void **)&s.at, STAGE), "pinned memory") ||
        !well(cudaEventCreateWithFlags(&s.done, cudaEventDisableTiming), "event"))
      return false;
  }
  return true;
}

void *rt_open(size_t budget) {
  if (!well(cudaSetDevice(the.index), "open") || !driver_functions()) return nullptr;
  if (!well(cudaStreamCreateWithFlags(&the.stream, cudaStreamNonBlocking), "stream")) return nullptr;
  if (!open_stages()) return nullptr;
  const CUmemAllocationProp kind = memory_kind();
  size_t unit = 0;
  CUdeviceptr at = 0;
  if (vm.granularity(&unit, &kind, CU_MEM_ALLOC_GRANULARITY_RECOMMENDED) != CUDA_SUCCESS) unit = CHUNK;
  the.chunk = round_up(CHUNK, unit);
  the.reserved = round_up(budget, the.chunk);
  if (vm.reserve(&at, the.reserved, 0, 0, 0) != CUDA_SUCCESS) {
    rt_keep(false, "%zu bytes of address space refused", the.reserved);
    return nullptr;
  }
  return the.base = (char *)at;
}

/* ---- memory ---- */

static bool back_chunk(char *at) {
  const CUmemAllocationProp kind = memory_kind();
  CUmemGenericAllocationHandle memory;
  CUmemAccessDesc access;
  memset(&access, 0, sizeof access);
  access.location = kind.location;
  access.flags = CU_MEM_ACCESS_FLAGS_PROT_READWRITE;
  if (vm.create(&memory, the.chunk, &kind, 0) != CUDA_SUCCESS) return false;
  const CUdeviceptr p = (CUdeviceptr)at;
  bool ok = vm.map(p, the.chunk, 0, memory, 0) == CUDA_SUCCESS;
  if (ok && vm.access(p, the.chunk, &access, 1) != CUDA_SUCCESS) {
    vm.unmap(p, the.chunk);
    ok = false;
  }
  vm.release(memory);                   /* the mapping holds it */
  return ok;
}

bool rt_commit(size_t top) {
  while (the.backed < top) {
    if (rt_lost()) return false;
    const size_t wanted = round_up(top, the.chunk) - the.backed;
    if (the.backed + wanted > the.reserved || su_fault("cuda_malloc") || !back_chunk(the.base + the.backed)) {
      const cudaError_t e = cudaStreamQuery(the.stream);      /* memory is refused to a broken context, too */
      if (fatal(e)) return well(e, "memory");
      rt_keep(false, "%.1f MB more of device memory refused", 1e-6 * (double)wanted);
      return false;
    }
    the.backed += the.chunk;
  }
  return true;
}

/* Pinned room for at most `bytes`; *got says how many. Waits for the copies that last left the
 * stage. */
static stage *stage_room(size_t bytes, size_t *got) {
  stage *s = &the.stages[the.current];
  if (s->used + bytes > STAGE && s->used) {
    the.current = (the.current + 1) % STAGES;
    s = &the.stages[the.current];
    if (s->pending && !well(cudaEventSynchronize(s->done), "copy to the device")) return nullptr;
    s->used = 0;
    s->pending = false;
  }
  *got = bytes < STAGE ? bytes : STAGE;
  return s;
}

bool rt_upload(void *dst, const void *src, size_t bytes) {
  if (rt_injected("cuda_copy", "copy to the device")) return false;
  while (bytes) {
    size_t n;
    stage *s = stage_room(bytes, &n);
    if (!s) return false;
    memcpy(s->at + s->used, src, n);
    cudaError_t e = cudaMemcpyAsync(dst, s->at + s->used, n, cudaMemcpyHostToDevice, the.stream);
    if (e == cudaSuccess) e = cudaEventRecord(s->done, the.stream);
    if (!well(e, "copy to the device")) return false;
    s->used = round_up(s->used + n, 256);
    s->pending = true;
    dst = (char *)dst + n;
    src = (const char *)src + n;
    bytes -= n;
  }
  return true;
}

bool rt_download(void *dst, const void *src, size_t bytes) {
  if (rt_injected("cuda_copy", "copy from the device")) return false;
  while (bytes) {
    size_t n;
    stage *s = stage_room(bytes < STAGE ? bytes : STAGE, &n);
    if (!s) return false;
    cudaError_t e = cudaMemcpyAsync(s->at + s->used, src, n, cudaMemcpyDeviceToHost, the.stream);
    if (e == cudaSuccess) e = cudaStreamSynchronize(the.stream);
    if (!well(e, "copy from the device")) return false;
    memcpy(dst, s->at + s->used, n);
    dst = (char *)dst + n;
    src = (const char *)src + n;
    bytes -= n;
  }
  return true;
}

bool rt_copy(void *dst, const void *src, size_t bytes) {
  if (rt_injected("cuda_copy", "copy within the device")) return false;
  if (bytes == 0) return true;
  const cudaError_t e = cudaMemcpyAsync(dst, src, bytes, cudaMemcpyDeviceToDevice, the.stream);
  return well(e, "copy within the device");
}

bool rt_sync() { return !rt_lost() && well(cudaStreamSynchronize(the.stream), "wait"); }

/* ---- launches and graphs ---- */

void *cu_stream() { return the.stream; }

void cu_launched(const char *name) {
  if (!well(cudaGetLastError(), name)) return;
  if (su_fault("cuda_lost")) rt_keep(true, "%s: the device was lost", name);
  if (su_fault("cuda_launch")) rt_keep(false, "%s: failed on purpose (SUMI_FAULT)", name);
}

/* Relaxed: the first launch of a kernel may load its module, which the other modes forbid. */
bool rt_capture_begin() {
  return !rt_lost() && well(cudaStreamBeginCapture(the.stream, cudaStreamCaptureModeRelaxed), "recording");
}

void *rt_capture_end() {
  cudaGraph_t graph = nullptr;
  cudaGraphExec_t exec = nullptr;
  bool ok = well(cudaStreamEndCapture(the.stream, &graph), "recording") && !rt_failed() &&
            well(cudaGraphInstantiate(&exec, graph, 0), "recording");
  if (graph) cudaGraphDestroy(graph);
  return ok ? exec : nullptr;
}

bool rt_graph_launch(void *graph) {
  if (rt_injected("cuda_launch", "graph")) return false;
  return well(cudaGraphLaunch((cudaGraphExec_t)graph, the.stream), "graph");
}

void rt_graph_free(void *graph) {
  if (rt_lost()) return;
  cudaStreamSynchronize(the.stream);    /* it may still run */
  cudaGraphExecDestroy((cudaGraphExec_t)graph);
}
