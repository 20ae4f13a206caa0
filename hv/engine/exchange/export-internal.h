/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What the files of an export share, grouped by file. */
#pragma once

#include <stasis/export.h>

#include "device/vmstate.h"
#include "store/image.h"
#include "vmm/machine.h"
#include "vmm/ram.h"

G_BEGIN_DECLS

/* ---- export-file.c: where it goes ---- */

typedef struct {
    const char *path; /* for messages; the caller's */
    char *aside;      /* made beside the path; NULL once renamed, or without a path */
    int fd;
    gboolean owned;
    gboolean pipe; /* a write may wait for a reader */
} StasisExportFile;

/* @options->path, or @options->fd. */
gboolean stasis_export_file_open(StasisExportFile *file, const StasisExportOptions *options,
                                 GError **error);
/* Behind what was written so far. Ends when @cancellable fires, also while nobody reads. */
gboolean stasis_export_file_append(StasisExportFile *file, const void *data, gsize len,
                                   GCancellable *cancellable, GError **error);
/* @len bytes at @offset of a file made aside, zeros left as holes. */
gboolean stasis_export_file_place(StasisExportFile *file, const guint8 *data, gsize len,
                                  guint64 offset, GError **error);
/* Sync and rename. @size_bytes: what the file ends up with, or 0 for as much as was written. */
gboolean stasis_export_file_commit(StasisExportFile *file, guint64 size_bytes, GError **error);
void stasis_export_file_clear(StasisExportFile *file);
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(StasisExportFile, stasis_export_file_clear)

/* ---- export.c ---- */

/* Pages that are read at once. */
#define STASIS_EXPORT_CHUNK_PAGES 256u

typedef struct {
    const StasisExportOptions *options;
    StasisImageReader *reader;
    StasisExportFile *file;
    guint8 *buffer; /* STASIS_EXPORT_CHUNK_PAGES */
    StasisProgress progress;
    guint64 reported_us;
    GCancellable *cancellable;
} StasisExport;

StasisMachine *stasis_export_machine(StasisExport *export, GError **error);
/* Tell the caller that @done_bytes of the memory are through, when it is time to. */
void stasis_export_report(StasisExport *export, guint64 done_bytes);

/* How a format is written; the table of them is in export.c. */
typedef gboolean (*StasisExportFunc)(StasisExport *export, GError **error);

/* ---- export-memory.c: guest-physical memory ---- */

gboolean stasis_export_raw_memory(StasisExport *export, GError **error);
gboolean stasis_export_elf_core(StasisExport *export, GError **error);
/* A disk is a piece like any other, that begins at 0. */
gboolean stasis_export_disk(StasisExport *export, GError **error);
/* The block of the disk that the options name; −1: there is none. */
int stasis_export_find_disk(StasisExport *export, GError **error);

/* ---- export-qcow2.c ---- */

gboolean stasis_export_qcow2(StasisExport *export, GError **error);

/* ---- export-refers.c: disks that are not in the image ---- */

/* Is it for this to do? Then *ret_ok says whether it was done. @format: "raw" or "qcow2". */
gboolean stasis_export_referred(StasisExport *export, const char *format, gboolean *ret_ok,
                                GError **error);

/* ---- export-stream.c: a migration stream ---- */

gboolean stasis_export_qemu(StasisExport *export, GError **error);

/* ---- export-virsh.c: that, with libvirt's head before it ---- */

gboolean stasis_export_virsh_save(StasisExport *export, GError **error);

/* ---- export-core.c: what an ELF core says about its memory ---- */

/* Alignment of memory in the file: with less, holes would not be on block boundaries. */
#define STASIS_EXPORT_ALIGN 4096u

/* One guest-physical range and where it goes. */
typedef struct {
    const StasisGpaRange *range;
    guint block;         /* index of its RAM block in the image */
    guint64 file_offset; /* of its first byte */
} StasisExportPiece;

/* What stands in front of the memory in an ELF core: header, program headers, notes. Sets the
 * file_offset of each of @pieces. */
GByteArray *stasis_export_core_header(GArray *pieces, StasisVmstate *vmstate, GError **error);

G_END_DECLS
