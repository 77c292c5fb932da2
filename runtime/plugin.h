/* plugin.h -- loading a device that is not built in; see plugin.c. */
#ifndef SUMI_PLUGIN_H
#define SUMI_PLUGIN_H

#include "op.h"

/* What libsumi_NAME.so exports as sumi_plugin: the device `name` ("cuda", "cuda:1"), not yet open,
 * or NULL with one line in `why`: the reason, and behind a semicolon the remedy. `abi` is the
 * SU_DEVICE_ABI of the program. */
typedef su_device *su_plugin_entry(uint32_t abi, const char *name, char *why, size_t size);

/* The device of a plug-in, or NULL with one line in why. path (PATH_MAX bytes): the plug-in's file,
 * "" where there is none. */
su_device *su_plugin_load(const char *name, char *path, char *why, size_t size);

/* What there is to say of a device that a plug-in may give; never fails and sets no message. */
typedef struct su_plugin_state {
  char path[4096];                      /* the plug-in's file; "" if none was found */
  char text[1024];                      /* ready: the device; else the reason, "; ", the remedy */
  bool ready;
} su_plugin_state;
void su_plugin_look(const char *name, su_plugin_state *s);

#endif
