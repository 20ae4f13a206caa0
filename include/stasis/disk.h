/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The files that an image refers to instead of having its disks' content (STASIS_DISKS_OVERLAY). */
#pragma once

#include <stasis/store.h>
#include <stasis/vm.h>

G_BEGIN_DECLS

typedef struct {
    char *disk;         /* as the machine calls it */
    char *path;         /* absolute */
    char *format;       /* "raw", "qcow2" */
    guint depth;        /* 0: the disk's own file as of the instant, 1: what that lies on … */
    guint64 size_bytes; /* of the disk, as the guest sees it */
    char *problem;      /* why it can't be used any more, one line; NULL: it is as it was */
} StasisDiskFile;

STASIS_API void stasis_disk_file_free(StasisDiskFile *file);

/* By disk, from the top down. Element type: StasisDiskFile; empty when the image refers to none.
 * Each is looked at, not read. */
STASIS_API GPtrArray *stasis_image_get_disk_files(StasisStore *store, const char *id,
                                                  GError **error);
/* Are all of them as they were? STASIS_ERROR_FAILED names the first that is not. */
STASIS_API gboolean stasis_image_check_disk_files(StasisStore *store, const char *id,
                                                  GError **error);

/*
 * Write the overlays that @vm's disks were given into the files below them, while it runs, until it
 * writes to the files that it was started with, and remove them. *ret_n: how many there were.
 * STASIS_ERROR_BUSY when an image of @store (NULL: not looked at) refers to a file that would be
 * written to, unless @force. If the calling process is killed, the next call for that VM completes
 * it.
 */
STASIS_API gboolean stasis_vm_commit_disks(StasisVm *vm, StasisStore *store, gboolean force,
                                           guint *ret_n, GError **error);

G_END_DECLS
