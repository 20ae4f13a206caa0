/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Images from other tools' files. */
#pragma once

#include <stasis/checkpoint.h>

G_BEGIN_DECLS

typedef struct {
    size_t struct_size;
    const char *path; /* a migration stream, or a file of `virsh save`; NULL: read @fd */
    int fd;           /* left open */
    const char *name; /* of the VM; NULL: the one that the file or the command line has */
    const char *note;
    /* The command line of the QEMU that the file is from, NULL-terminated. A file of `virsh save`
     * knows its domain: NULL lets libvirt turn that into one, by @connect. */
    const char *const *argv;
    const char *connect; /* a libvirt URI; NULL: qemu:///system */
    StasisCodec codec;
    StasisProgressFunc progress;
    gpointer progress_data;
} StasisImportOptions;
#define STASIS_IMPORT_OPTIONS_INIT                           \
    {                                                        \
        .struct_size = sizeof(StasisImportOptions), .fd = -1 \
    }

/* Make a full image, which can be restored, of such a file. Its memory is what a QEMU that loads
 * the file would have. */
STASIS_API StasisImageInfo *stasis_import(StasisStore *store, const StasisImportOptions *options,
                                          GCancellable *cancellable, GError **error);

G_END_DECLS
