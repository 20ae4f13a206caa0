/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The manifest of an image of processes, for its reader and its writer. */
#pragma once

#include "store/proc-image.h"

G_BEGIN_DECLS

#define STASIS_PROCESS_FORMAT 1u
#define STASIS_PROCESS_FORMAT_PAGES 2u  /* with pages that are its parent's */
#define STASIS_PROCESS_FORMAT_SEALED 3u /* encrypted; it is one of these besides */
#define STASIS_PROCESS_DIR "processes"
#define STASIS_MAX_PROCESSES 4096u
#define STASIS_MAX_PROCESS_FILES 4096u

void stasis_proc_image_file_free(StasisProcImageFile *file);
/* The file's text. */
typedef struct _StasisSeals StasisSeals;
/* Authenticated with @seals (seal-manifest.h; NULL: not). */
char *stasis_proc_image_manifest_write(const StasisProcessImageInfo *info, const GPtrArray *files,
                                       const StasisSeals *seals, GError **error);
/* Every member is checked. *ret_files: of StasisProcImageFile, sorted. */
StasisProcessImageInfo *stasis_proc_image_manifest_parse(const char *text, gsize len,
                                                         GPtrArray **ret_files, GError **error);
/* Is it, as @text has it, sealed as @store demands? Notes in @info what could be checked. */
gboolean stasis_proc_image_manifest_check_seal(StasisStore *store, StasisProcessImageInfo *info,
                                               const char *text, gsize len, GError **error);

G_END_DECLS
