/* plugin.c -- devices that are not built in: finds and loads libsumi_NAME.so. What a plug-in fills
 * is in op.h.
 *
 * It is looked for in $SUMI_BACKEND_DIR, beside the program (beside core.so where Sumi is a module
 * of another program) and in the configured folder; never in the current folder, nor by the
 * loader's own search. Once loaded it stays. */
#define _GNU_SOURCE
#include "plugin.h"

#include <dlfcn.h>
#include <limits.h>
#include <link.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#ifndef SUMI_LIBDIR
#define SUMI_LIBDIR "/usr/local/lib/sumi"
#endif

#define MAX_FOLDERS 3
typedef struct folders { int n; char at[MAX_FOLDERS][PATH_MAX]; } folders;

/* ---- where to look ---- */

static void add_folder(folders *f, const char *path) {
  char real[PATH_MAX];
  if (!path || !*path || f->n == MAX_FOLDERS) return;
  snprintf(f->at[f->n], PATH_MAX, "%s", realpath(path, real) ? real : path);
  for (int k = 0; k < f->n; k++)
    if (strcmp(f->at[k], f->at[f->n]) == 0) return;
  f->n++;
}

static void add_folder_of(folders *f, const char *file) {
  char real[PATH_MAX];
  if (!realpath(file, real)) return;
  char *slash = strrchr(real, '/');
  if (!slash) return;
  *slash = 0;
  add_folder(f, real);
}

/* The shared object that this code is in; "" in a program of its own. */
static const char *own_object(void) {
  Dl_info info;
  struct link_map *map = NULL;
  union { void (*function)(void); void *p; } here = {.function = (void (*)(void))own_object};
  return dladdr1(here.p, &info, (void **)&map, RTLD_DL_LINKMAP) && map && map->l_name ? map->l_name : "";
}

static void find_folders(folders *f) {
  const char *own = own_object();
  f->n = 0;
  add_folder(f, getenv("SUMI_BACKEND_DIR"));
  add_folder_of(f, *own ? own : "/proc/self/exe");
  add_folder(f, SUMI_LIBDIR);
}

/* "a, b or c" */
static void list_folders(const folders *f, char *buf, size_t size) {
  size_t n = 0;
  buf[0] = 0;
  for (int k = 0; k < f->n && n < size; k++)
    n += (size_t)snprintf(buf + n, size - n, "%s%s", k == 0 ? "" : k == f->n - 1 ? " or " : ", ", f->at[k]);
}

/* The base of "NAME" or "NAME:INDEX"; false when it cannot be one, such as a path. */
static bool base_name(const char *name, char *base, size_t size) {
  size_t n = strspn(name, "abcdefghijklmnopqrstuvwxyz0123456789_");
  if (n == 0 || n >= size || (name[n] && name[n] != ':')) return false;
  const char *index = name[n] ? name + n + 1 : "0";
  if (!*index || strspn(index, "0123456789") != strlen(index)) return false;
  snprintf(base, size, "%.*s", (int)n, name);
  return true;
}

/* ---- loading ---- */

/* A plug-in calls our functions: where we are a module that was loaded privately, make them
 * visible. */
static void show_own_symbols(void) {
  const char *own = own_object();
  if (*own) dlopen(own, RTLD_NOLOAD | RTLD_GLOBAL | RTLD_NOW);
}

/* dlerror, as one line and without the path that the message has already. */
static const char *loader_said(const char *path) {
  const char *s = dlerror();
  if (!s) return "refused by the loader";
  size_t n = strlen(path);
  return strncmp(s, path, n) == 0 && strncmp(s + n, ": ", 2) == 0 ? s + n + 2 : s;
}

static su_device *enter(const char *name, const char *path, char *why, size_t size) {
  show_own_symbols();
  void *lib = dlopen(path, RTLD_NOW | RTLD_LOCAL);
  if (!lib) {
    snprintf(why, size, "%s does not load (%s); build it anew with make", path, loader_said(path));
    return NULL;
  }
  union { void *p; su_plugin_entry *call; } entry = {.p = dlsym(lib, "sumi_plugin")};
  if (!entry.p) {
    snprintf(why, size, "%s is no plug-in of Sumi (it has no sumi_plugin); build it anew with make", path);
    return NULL;
  }
  char reason[512] = "";
  su_device *d = entry.call(SU_DEVICE_ABI, name, reason, sizeof reason);
  if (!d) {
    snprintf(why, size, "%s", *reason ? reason : "its plug-in gives no device and no reason");
  } else if (d->abi != SU_DEVICE_ABI) {
    snprintf(why, size, "%s was built for interface %u, this program has %u; build both anew with make", path,
             d->abi, SU_DEVICE_ABI);
    d = NULL;
  }
  return d;
}

su_device *su_plugin_load(const char *name, char *path, char *why, size_t size) {
  char base[32], where[3 * 256];
  folders f;
  path[0] = why[0] = 0;
  if (!base_name(name, base, sizeof base)) return NULL;
  find_folders(&f);
  for (int k = 0; k < f.n; k++) {
    int n = snprintf(path, PATH_MAX, "%s/libsumi_%s.so", f.at[k], base);
    if (n < PATH_MAX && access(path, F_OK) == 0) return enter(name, path, why, size);
  }
  path[0] = 0;
  list_folders(&f, where, sizeof where);
  snprintf(why, size, "no libsumi_%s.so in %s (make builds it where its compiler is)", base, where);
  return NULL;
}
