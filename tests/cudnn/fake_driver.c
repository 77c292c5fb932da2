/* fake_driver.c -- enough of libcuda.so.1 for cuDNN to compile kernels on a machine without a GPU: it
 * takes what NVRTC made, says that everything went well, and answers with the limits of a Hopper. Nothing
 * can run. fake_driver.sh adds the driver's other functions, all failing. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

typedef int status;                     /* CUresult; 0 is success, 500 not found, 801 not supported */
typedef void *object;                   /* a library, kernel, function or context */

static char something;                  /* what all of them point to */

status cuInit(unsigned flags) { return (void)flags, 0; }

status cuDriverGetVersion(int *version) {
  *version = 13000;
  return 0;
}

status cuGetProcAddress_v2(const char *name, void **at, int version, uint64_t flags, int *found) {
  (void)version, (void)flags;
  *at = dlsym(RTLD_DEFAULT, name);
  if (!*at) {
    void *self = dlopen("libcuda.so.1", RTLD_NOW | RTLD_NOLOAD);
    *at = self ? dlsym(self, name) : NULL;
  }
  if (found) *found = *at ? 0 : 1;
  return *at ? 0 : 500;
}

status cuGetErrorString(status s, const char **text) {
  (void)s;
  *text = "the driver is a fake";
  return 0;
}
status cuGetErrorName(status s, const char **text) { return cuGetErrorString(s, text); }

status cuDeviceGetCount(int *n) {
  *n = 0;
  return 0;
}

status cuLibraryLoadData(object *lib, const void *code, int *jit, void **values, unsigned n, int *options,
                         void **option_values, unsigned m) {
  (void)code, (void)jit, (void)values, (void)n, (void)options, (void)option_values, (void)m;
  *lib = &something;
  return 0;
}
status cuLibraryUnload(object lib) { return (void)lib, 0; }

status cuLibraryGetKernel(object *kernel, object lib, const char *name) {
  (void)lib, (void)name;
  *kernel = &something;
  return 0;
}

status cuKernelGetFunction(object *function, object kernel) {
  *function = kernel;
  return 0;
}

/* In the order of CUfunction_attribute: threads per block, shared, constant, local bytes, registers, PTX
 * and binary version. */
status cuFuncGetAttribute(int *value, int attribute, object function) {
  static const int known[] = {1024, 0, 0, 0, 128, 90, 90};
  (void)function;
  *value = attribute >= 0 && attribute < (int)(sizeof known / sizeof *known) ? known[attribute] : 0;
  return 0;
}
status cuKernelGetAttribute(int *value, int attribute, object kernel, int device) {
  (void)device;
  return cuFuncGetAttribute(value, attribute, kernel);
}
status cuFuncSetAttribute(object function, int attribute, int value) {
  return (void)function, (void)attribute, (void)value, 0;
}
status cuKernelSetAttribute(int attribute, int value, object kernel, int device) {
  return (void)attribute, (void)value, (void)kernel, (void)device, 0;
}

status cuOccupancyMaxActiveBlocksPerMultiprocessor(int *blocks, object function, int threads, size_t shared) {
  (void)function, (void)threads, (void)shared;
  *blocks = 1;
  return 0;
}
status cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(int *blocks, object function, int threads,
                                                            size_t shared, unsigned flags) {
  (void)flags;
  return cuOccupancyMaxActiveBlocksPerMultiprocessor(blocks, function, threads, shared);
}
status cuOccupancyMaxActiveClusters(int *clusters, object function, const void *config) {
  (void)function, (void)config;
  *clusters = 16;
  return 0;
}
