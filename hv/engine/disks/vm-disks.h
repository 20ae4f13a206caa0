/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The disks of a VM that is made from an image: a directory of its own, with a read-only file of
 * the image's content and a qcow2 file on top of it for each disk. Neither the original disks nor
 * the image are ever written; the content is shared by hard links with all VMs of the image, and
 * stays when image or cache are deleted.
 *
 *      STORE/cache/ID.disk/disk-0 ──┬── STORE/disks/web.x7Gh2a/disk-0.base  <── disk-0.qcow2
 *       (made once)                 └── STORE/disks/ci-1.K3mn0q/disk-0.base <── disk-0.qcow2
 */
#pragma once

#include <gio/gio.h>
#include <stasis/progress.h>

#include "disk/describe.h"
#include "store/image.h"
#include "vmm/machine.h"
#include "vmm/registry.h"

G_BEGIN_DECLS

typedef struct {
    char *dir;
    char *link;     /* in the store, to one that is elsewhere, or NULL */
    int dir_fd;     /* flock()ed until they are kept, and marked as ours: nobody sweeps it */
    GArray *disks;  /* of StasisLaunchDisk */
    GPtrArray *own; /* of char: what those point to */
    gboolean kept;
} StasisVmDisks;

/* The notes (disk/describe.h) of @reader's disks with content, each checked against the image's own
 * list; empty when it has none. */
GPtrArray *stasis_vm_disks_read_notes(StasisImageReader *reader, GError **error);

/* Are the files that they were in nobody's, so that they can be written in place? Those with other
 * names than paths are left to QEMU's locks. */
gboolean stasis_vm_disks_check_unused(const GPtrArray *notes, GError **error);

/* May a VM start with the files that the disks of @notes were in? Not if the image refers to them.
 */
gboolean stasis_vm_disks_check_own(const GPtrArray *notes, GError **error);

/* What the command line of such a VM needs, with the files to be in @dir; nothing is made. */
StasisVmDisks *stasis_vm_disks_plan(const GPtrArray *notes, const char *dir);

typedef struct {
    StasisStore *store;
    StasisImageReader *reader;
    const GPtrArray *notes;
    const char *vm_name;
    const char *dir; /* below which to make the directory; NULL: STORE/disks */
    StasisProgressFunc progress;
    gpointer progress_data;
} StasisVmDisksWanted;

/* Make them. */
StasisVmDisks *stasis_vm_disks_new(const StasisVmDisksWanted *wanted, GCancellable *cancellable,
                                   GError **error);
/* The VM is there: @record says which, and whether they go with it. */
gboolean stasis_vm_disks_keep(StasisVmDisks *disks, const StasisRecord *record, GError **error);
/* Removes the files unless they were kept. */
void stasis_vm_disks_free(StasisVmDisks *disks);

/* Remove the files of VM disks in @dir, and it if nothing else is there. */
void stasis_vm_disks_remove(const char *dir);

G_DEFINE_AUTOPTR_CLEANUP_FUNC(StasisVmDisks, stasis_vm_disks_free)

G_END_DECLS
