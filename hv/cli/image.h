/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include "cli.h"
#include "table.h"

G_BEGIN_DECLS

/* show-image.c */
JsonObject *cli_image_to_json(const StasisImageInfo *info);
void cli_print_image(const StasisImageInfo *info);
/* A row that says with which @key an image is sealed; none when @key is NULL. */
void cli_add_seal(CliTable *table, const char *label, const char *key, gboolean checked);

/* cmd-device.c. Elements: StasisDeviceInfo. */
void cli_print_devices(const GPtrArray *devices, guint indent);
JsonArray *cli_devices_to_json(const GPtrArray *devices);

/* show-process.c */
JsonObject *cli_process_image_to_json(const StasisProcessImageInfo *info);
/* A table of them; nothing when there are none. */
void cli_print_process_images(const GPtrArray *images);
void cli_print_process_image(const StasisProcessImageInfo *info);

/* The image that @text means, of a VM or (*ret_process) of processes. "latest" is a VM's. */
char *cli_resolve_any(StasisStore *store, const char *text, gboolean *ret_process, GError **error);

G_END_DECLS
