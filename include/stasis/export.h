/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Images for other tools. */
#pragma once

#include <stasis/store.h>

G_BEGIN_DECLS

typedef enum {
    STASIS_EXPORT_RAW_MEMORY, /* guest-physical memory from address 0, sparse; holes are zero */
    STASIS_EXPORT_ELF_CORE,   /* ELF64 core: a PT_LOAD for each RAM range, a note for each vCPU */
    STASIS_EXPORT_QEMU,       /* migration stream, as QEMU's -incoming takes it */
    STASIS_EXPORT_VIRSH_SAVE, /* what `virsh restore` takes */
    STASIS_EXPORT_DISK,       /* the content of one disk, raw, sparse, of its size */
    STASIS_EXPORT_QCOW2,      /* the same, as a qcow2 file without a backing file */
} StasisExportFormat;

typedef struct {
    size_t struct_size;
    StasisExportFormat format;
    const char *path; /* made aside and renamed; NULL: into @fd */
    /* An open file or pipe, written from where it stands and left open. Only for formats that are
     * streams. When writing fails, what was written stays. */
    int fd;
    StasisProgressFunc progress;
    gpointer progress_data;
    /* Of the libvirt domain that goes on; NULL: the image's own. Only for virsh-save. */
    const char *domain_xml;
    const char *disk; /* of stasis_store_get_disks(); only, and needed, for those */
} StasisExportOptions;
#define STASIS_EXPORT_OPTIONS_INIT                           \
    {                                                        \
        .struct_size = sizeof(StasisExportOptions), .fd = -1 \
    }

/* Write the image @id, or a prefix of it, in another tool's format. */
STASIS_API gboolean stasis_export(StasisStore *store, const char *id,
                                  const StasisExportOptions *options, GCancellable *cancellable,
                                  GError **error);

/* "raw-memory", "elf-core", "qemu", "virsh-save", "raw", "qcow2"; -1 when unknown. */
STASIS_API int stasis_export_format_from_string(const char *name);

/* Can @format be written into a pipe? */
STASIS_API gboolean stasis_export_format_is_stream(StasisExportFormat format);

G_END_DECLS
