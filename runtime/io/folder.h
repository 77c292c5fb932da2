/* folder.h -- the image files below a folder, in a fixed order. */
#ifndef SUMI_FOLDER_H
#define SUMI_FOLDER_H

#include "file.h"

/* Paths relative to dir ("sub/x.jpg"), sorted by bytes, of every .jpg .jpeg .png .webp below it; hidden
 * entries are left out. glob (NULL: all) is matched against the relative path and against the name alone.
 * others counts files of other kinds, filtered those that the glob left out. A folder that cannot be read
 * is an error that names it. */
bool su_folder_images(const char *dir, const char *glob, su_names *out, int64_t *others, int64_t *filtered);

#endif
