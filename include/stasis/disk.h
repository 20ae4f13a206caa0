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

typedef enum {
    STASIS_DISK_FILE_TOP,   /* the VM writes to it */
    STASIS_DISK_FILE_BELOW, /* it reads from it */
    STASIS_DISK_FILE_ASIDE, /* neither: a rollback has left it */
} StasisDiskFileUse;

typedef struct {
    char *disk; /* as the machine calls it */
    char *path; /* absolute */
    StasisDiskFileUse use;
    guint64 stored_bytes; /* what it takes on the host */
    char **images;        /* IDs of images of the store that refer to it */
    char **overlays;      /* files that were found to lie on it */
} StasisVmDiskFile;

STASIS_API void stasis_vm_disk_file_free(StasisVmDiskFile *file);

/* The files of @vm's writable disks, by disk: from what it writes to down, then those that were
 * made by STASIS_DISKS_OVERLAY and lie beside them. @store: whose images, and disks of VMs
 * restored from it, are looked at besides such disks beside the files and those of all VMs of the
 * host; NULL: none. Element type: StasisVmDiskFile. */
STASIS_API GPtrArray *stasis_vm_list_disk_files(StasisVm *vm, StasisStore *store, GError **error);

/* Remove those that lie beside and that no image of @store, no file that was found to lie on it and
 * no program that has it open needs. Returns what was removed (@dry_run: would be), as above. What
 * images of other stores refer to, and overlays that are elsewhere, is not known. */
STASIS_API GPtrArray *stasis_vm_prune_disk_files(StasisVm *vm, StasisStore *store, gboolean dry_run,
                                                 GError **error);

/*
 * Write the overlays that @vm's disks were given into the files below them, while it runs, until it
 * writes to the files that it was started with, and remove them. Unless @force that ends above the
 * first file that an image of @store (NULL: not looked at) refers to. *ret_n: how many were written
 * back; *ret_left: how many there still are. STASIS_ERROR_BUSY names an image when there are some
 * and none could be. If the calling process is killed, the next call for that VM completes it.
 */
STASIS_API gboolean stasis_vm_commit_disks(StasisVm *vm, StasisStore *store, gboolean force,
                                           guint *ret_n, guint *ret_left, GError **error);

G_END_DECLS
