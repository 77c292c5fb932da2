/* h5in.h -- what h5.c and h5read.c share; nobody else includes it. */
#ifndef SUMI_IO_H5IN_H
#define SUMI_IO_H5IN_H

#include <hdf5.h>

#include "h5.h"

struct su_h5 {
  hid_t file;                          /* -1: closed */
  unsigned char *image;                /* building: the buffer, su_malloc'ed */
  size_t room, user;
  char name[512];                      /* for messages */
};

void su_h5_quiet(void);                /* no printing and no plug-ins by libhdf5 */
hid_t su_h5_string_type(void);         /* variable-length UTF-8; H5Tclose it */

#endif
