/* folder.c -- walks a folder. See folder.h. */
#define _GNU_SOURCE
#include "folder.h"

#include <dirent.h>
#include <errno.h>
#include <fnmatch.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>

#define MAX_PATH 4096
#define MAX_DEPTH 16 /* links may make a circle */

struct walk {
  const char *root, *glob;
  su_names *out;
  int64_t others, filtered;
};

static bool has_image_name(const char *name) {
  static const char *const kinds[] = {".jpg", ".jpeg", ".png", ".webp"};
  const char *dot = strrchr(name, '.');
  for (int i = 0; dot && i < 4; i++)
    if (strcasecmp(dot, kinds[i]) == 0) return true;
  return false;
}

static bool matches(const struct walk *w, const char *relative) {
  const char *slash = strrchr(relative, '/');
  return !w->glob || fnmatch(w->glob, relative, 0) == 0 ||
         fnmatch(w->glob, slash ? slash + 1 : relative, 0) == 0;
}

static bool walk_folder(struct walk *w, const char *below, int depth);

static bool walk_entry(struct walk *w, const char *relative, int depth) {
  char path[MAX_PATH];
  struct stat st;
  int n = snprintf(path, sizeof path, "%s/%s", w->root, relative);
  if (n >= (int)sizeof path) return su_fail("%s/%s: the path is too long", w->root, relative);
  if (stat(path, &st) !=
      0) { /* a dangling link: as broken as an unreadable image, if it is named like one */
    if (!has_image_name(relative)) return true;
  } else if (S_ISDIR(st.st_mode)) {
    return depth >= MAX_DEPTH || walk_folder(w, relative, depth + 1);
  }
  if (!has_image_name(relative)) w->others++;
  else if (!matches(w, relative)) w->filtered++;
  else return su_names_add(w->out, relative);
  return true;
}

static bool walk_folder(struct walk *w, const char *below, int depth) {
  char path[MAX_PATH], relative[MAX_PATH];
  const char *slash = below[0] ? "/" : "";
  if (snprintf(path, sizeof path, "%s%s%s", w->root, slash, below) >= (int)sizeof path)
    return su_fail("%s/%s: the path is too long", w->root, below);
  DIR *dir = opendir(path);
  if (!dir) {
    if (errno == ENOENT) return su_fail("%s: there is no such folder", path);
    return su_fail("%s: %s", path, errno == ENOTDIR ? "is a file, not a folder" : strerror(errno));
  }
  bool ok = true;
  for (struct dirent *e; ok && (e = readdir(dir));) {
    if (e->d_name[0] == '.') continue;
    if (snprintf(relative, sizeof relative, "%s%s%s", below, slash, e->d_name) >= (int)sizeof relative)
      ok = su_fail("%s/%s: the path is too long", path, e->d_name);
    else ok = walk_entry(w, relative, depth);
  }
  closedir(dir);
  return ok;
}

static int by_bytes(const void *a, const void *b) { return strcmp(*(char *const *)a, *(char *const *)b); }

bool su_folder_images(const char *dir, const char *glob, su_names *out, int64_t *others,
                      int64_t *filtered) {
  struct walk w = {.root = dir, .glob = glob, .out = out};
  memset(out, 0, sizeof *out);
  bool ok = walk_folder(&w, "", 0);
  if (ok && out->n > 1) qsort(out->at, (size_t)out->n, sizeof *out->at, by_bytes);
  if (!ok) su_names_free(out);
  *others = w.others;
  *filtered = w.filtered;
  return ok;
}
