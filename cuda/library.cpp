/* library.cpp -- looks for NVIDIA's libraries; see library.h. */
#include "library.h"

#include <dlfcn.h>
#include <glob.h>
#include <limits.h>
#include <link.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <string>
#include <vector>

#include "blas.h"
#include "dnn.h"

typedef std::vector<std::string> strings;

static const char *const dnn_sonames[] = {"libcudnn.so.9", nullptr};
static const char *const blas_sonames[] = {"libcublasLt.so.13", "libcublasLt.so.12", nullptr};
static const char *const nvrtc_sonames[] = {"libnvrtc.so.13", "libnvrtc.so.12", nullptr};

const cu_library cu_lib_dnn = {"cuDNN", dnn_sonames, "nvidia/cudnn/lib", "SUMI_CUDNN_DIR"};
const cu_library cu_lib_blas = {"cuBLASLt", blas_sonames, "nvidia/cu13/lib nvidia/cublas/lib", nullptr};
const cu_library cu_lib_nvrtc = {"NVRTC", nvrtc_sonames, "nvidia/cu13/lib nvidia/cuda_nvrtc/lib", nullptr};

static strings words(const char *text) {
  strings out;
  for (std::string word; *text; text++) {
    if (*text != ' ') word += *text;
    if (!word.empty() && (*text == ' ' || !text[1])) out.push_back(word), word.clear();
  }
  return out;
}

static void add_prefix(strings *to, const char *prefix) {
  if (!prefix || !*prefix) return;
  for (const std::string &known : *to)
    if (known == prefix) return;
  to->push_back(prefix);
}

/* The prefix of a program at PREFIX/bin/NAME. */
static std::string prefix_of(std::string path) {
  for (int k = 0; k < 2; k++) path.resize(path.rfind('/') == std::string::npos ? 0 : path.rfind('/'));
  return path;
}

/* The first python3 on PATH belongs to a prefix whose wheels count, and so does what it is a link to. */
static void add_python(strings *to) {
  const char *path = getenv("PATH");
  for (const char *end; path && *path; path = *end ? end + 1 : end) {
    end = strchrnul(path, ':');
    std::string program = std::string(path, (size_t)(end - path)) + "/python3";
    char real[PATH_MAX];
    if (program[0] != '/' || !realpath(program.c_str(), real)) continue;
    add_prefix(to, prefix_of(program).c_str());
    add_prefix(to, prefix_of(real).c_str());
    return;
  }
}

static strings matches(const std::string &pattern) {
  strings out;
  glob_t found;
  if (glob(pattern.c_str(), 0, nullptr, &found) == 0)
    for (size_t k = 0; k < found.gl_pathc; k++) out.push_back(found.gl_pathv[k]);
  globfree(&found);
  return out;
}

/* Folders that hold Python packages. */
static strings package_folders() {
  strings prefixes, out;
  const char *home = getenv("HOME");
  add_prefix(&prefixes, getenv("VIRTUAL_ENV"));
  add_prefix(&prefixes, getenv("CONDA_PREFIX"));
  add_python(&prefixes);
  if (home && *home) add_prefix(&prefixes, (std::string(home) + "/.local").c_str());
  add_prefix(&prefixes, "/usr/local");
  add_prefix(&prefixes, "/usr");
  for (const std::string &prefix : prefixes)
    for (const char *kind : {"/lib/python3*/site-packages", "/lib/python3*/dist-packages"})
      for (const std::string &folder : matches(prefix + kind)) out.push_back(folder);
  return out;
}

static strings folders_of(const cu_library *lib) {
  strings out = {"/usr/local/cuda/lib64"};
  for (const std::string &folder : matches("/usr/local/cuda/targets/*/lib")) out.push_back(folder);
  for (const std::string &packages : package_folders())
    for (const std::string &folder : words(lib->folders)) out.push_back(packages + "/" + folder);
  return out;
}

static void *open_in(const std::string &folder, const char *soname, std::string *broken) {
  std::string path = folder + "/" + soname;
  void *lib = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (!lib && !matches(path).empty()) *broken = dlerror();
  return lib;
}

void *cu_library_open(const cu_library *lib, char *why, size_t n) {
  const char *only = lib->env ? getenv(lib->env) : nullptr;
  bool told = only && *only;
  strings folders = told ? strings{only} : folders_of(lib);
  std::string broken;
  if (n) *why = 0;
  for (const char *const *soname = lib->sonames; *soname; soname++) {
    void *found = told ? nullptr : dlopen(*soname, RTLD_NOW | RTLD_LOCAL);
    for (size_t k = 0; k < folders.size() && !found; k++) found = open_in(folders[k], *soname, &broken);
    if (found) return found;
  }
  std::string names = lib->sonames[0];
  for (const char *const *soname = lib->sonames + 1; *soname; soname++)
    names += std::string(" or ") + *soname;
  if (!broken.empty()) snprintf(why, n, "%s does not load: %s", lib->name, broken.c_str());
  else if (told) snprintf(why, n, "no %s: %s is not in %s (%s)", lib->name, names.c_str(), only, lib->env);
  else
    snprintf(why, n,
             "no %s: %s is neither on the loader's path nor in /usr/local/cuda nor in a Python's %s%s%s",
             lib->name, names.c_str(), lib->folders, lib->env ? "; to name its folder: " : "",
             lib->env ? lib->env : "");
  return nullptr;
}

void cu_library_open_beside(void *lib, const char *pattern) {
  struct link_map *map = nullptr;
  if (!lib || dlinfo(lib, RTLD_DI_LINKMAP, &map) != 0 || !map->l_name) return;
  const std::string path = map->l_name;
  for (const std::string &file : matches(path.substr(0, path.rfind('/') + 1) + pattern))
    dlopen(file.c_str(), RTLD_NOW | RTLD_LOCAL);
}

void cu_libraries(char *buf, size_t n) {
  char dnn[400], blas[400];
  cu_dnn_version(dnn, sizeof dnn);
  cu_blas_version(blas, sizeof blas);
  snprintf(buf, n, "%s, %s", dnn, blas);
}
