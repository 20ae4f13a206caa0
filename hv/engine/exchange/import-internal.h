/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What the files of an import share, grouped by file. */
#pragma once

#include <stasis/import.h>

#include "device/savefile.h"
#include "device/stream-read.h"
#include "device/vmstate.h"
#include "store/image.h"
#include "vmm/machine.h"

G_BEGIN_DECLS

/* ---- import-source.c: the file, down to its plain migration stream ---- */

typedef struct _StasisImportSource StasisImportSource;

/* Open @options->path or take @options->fd, and read the head of a `virsh save` file. */
StasisImportSource *stasis_import_source_open(const StasisImportOptions *options,
                                              GCancellable *cancellable, GError **error);
void stasis_import_source_free(StasisImportSource *source);
/* NULL for a bare migration stream. */
const StasisSaveHead *stasis_import_source_get_head(StasisImportSource *source);
/* Bytes of the file, 0 when that is not known, and how many are read. */
guint64 stasis_import_source_get_size(StasisImportSource *source);
guint64 stasis_import_source_get_done(StasisImportSource *source);
/* Up to @len bytes of the stream: how many, 0 at its end, -1 on error. */
gssize stasis_import_source_read(StasisImportSource *source, void *buf, gsize len, GError **error);

G_DEFINE_AUTOPTR_CLEANUP_FUNC(StasisImportSource, stasis_import_source_free)

/* ---- import-ram.c: pages into extents ---- */

typedef struct _StasisImportRam StasisImportRam;

StasisImportRam *stasis_import_ram_new(StasisImageWriter *writer, StasisCodec codec);
void stasis_import_ram_free(StasisImportRam *ram);
/* As StasisStreamOps has them; @user_data is the StasisImportRam. */
gboolean stasis_import_ram_block(guint block, const char *name, guint64 size_bytes,
                                 gpointer user_data, GError **error);
gboolean stasis_import_ram_page(guint block, guint64 offset, const guint8 *page, gpointer user_data,
                                GError **error);
gboolean stasis_import_ram_finish(StasisImportRam *ram, GError **error);

G_DEFINE_AUTOPTR_CLEANUP_FUNC(StasisImportRam, stasis_import_ram_free)

/* ---- import-machine.c: what is to be started ---- */

/* From the command line given, or from the domain's XML, and what the devices tell. */
StasisMachine *stasis_import_machine(const StasisImportOptions *options, const StasisSaveHead *head,
                                     StasisVmstate *devices, GError **error);
/* Can that be done at all? Asked before a long read. */
gboolean stasis_import_machine_check(const StasisImportOptions *options, const StasisSaveHead *head,
                                     GError **error);

G_END_DECLS
