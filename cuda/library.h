/* library.h -- where NVIDIA's libraries lie on this machine. They are neither linked nor shipped: each is
 * looked for by the loader's own path, then in the toolkit, then in the folders of Python wheels (no
 * Python is run). */
#ifndef SUMI_CUDA_LIBRARY_H
#define SUMI_CUDA_LIBRARY_H

#include <stddef.h>

struct cu_library {
  const char *name;                     /* "cuDNN" */
  const char *const *sonames;           /* in order of preference, NULL terminated */
  const char *folders;                  /* among Python's packages: "nvidia/cu13/lib nvidia/cublas/lib" */
  const char *env;                      /* a variable that names the one folder to look in, or NULL */
};

/* dlopen it, for good. NULL: not found, and `why` says what was looked for and where. */
void *cu_library_open(const cu_library *lib, char *why, size_t n);

/* Load what a library that is in will open by its bare name from its own folder, where the loader may not
 * look: all that match `pattern`. */
void cu_library_open_beside(void *lib, const char *pattern);

/* cuDNN, cuBLASLt, and NVRTC, which cuDNN compiles kernels with. */
extern const cu_library cu_lib_dnn, cu_lib_blas, cu_lib_nvrtc;

/* One line for `sumi doctor`: "cuDNN 9.19.0, cuBLASLt 13.1.0", or what is missing and where it was looked
 * for. Loads them. */
void cu_libraries(char *buf, size_t n);

#endif
