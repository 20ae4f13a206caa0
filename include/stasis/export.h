/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Images for other tools. */
#pragma once

#include <stasis/store.h>

G_BEGIN_DECLS

typedef enum {
    STASIS_EXPORT_RAW_MEMORY, /* guest-physical memory from address 0, sparse; holes are zero */
    STASIS_EXPORT_ELF_CORE,   /* ELF64 core: a PT_LOAD for each RAM range, a note for each vCPU */
} StasisExportFormat;

/* Write the memory of @id to @path (made aside and renamed). */
STASIS_API gboolean stasis_export(StasisStore *store, const char *id, StasisExportFormat format,
                                  const char *path, StasisProgressFunc progress, gpointer user_data,
                                  GCancellable *cancellable, GError **error);

/* "raw-memory", "elf-core"; -1 when unknown. */
STASIS_API int stasis_export_format_from_string(const char *name);

G_END_DECLS
