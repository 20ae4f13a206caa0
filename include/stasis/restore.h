/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Bringing a VM back from an image, as a new QEMU process. */
#pragma once

#include <stasis/store.h>
#include <stasis/vm.h>

G_BEGIN_DECLS

typedef struct {
    size_t struct_size;
    const char *name; /* NULL: the name the VM had */
    gboolean paused;  /* leave it paused */
    gboolean eager;   /* all RAM in place before the first instruction, instead of on demand */
    StasisProgressFunc progress;
    gpointer progress_data;
    gboolean no_shim; /* as in StasisRunOptions */
    /* Neither bring in the pages first that earlier VMs of this image touched first, nor remember
     * those that this one waits for. */
    gboolean no_prefetch;
    /* Not NULL: a libvirt domain at that libvirtd, of the XML that the image has (or @xml, if not
     * NULL); another name gets another UUID. All RAM is in place before its first instruction. */
    const char *connect;
    const char *xml;
    /* Start it with the disks that its command line names, as they are now. Else, where the image
     * has the content of disks, it gets disks of its own, on top of that content, and the original
     * ones are not even opened. */
    gboolean no_disks;
    /* Start it with the disks that its command line (or XML) names, and write the image's content
     * to them first. STASIS_ERROR_BUSY when something has one open; nothing is changed then. If it
     * fails or is killed in the middle of writing, what was on them is lost and another restore
     * completes it. */
    gboolean in_place;
    /* Below which to put its own disks; NULL: in the store's disks/, or for a libvirt domain beside
     * the original ones. */
    const char *disk_dir;
} StasisRestoreOptions;
#define STASIS_RESTORE_OPTIONS_INIT                 \
    {                                               \
        .struct_size = sizeof(StasisRestoreOptions) \
    }

/*
 * Start a fresh QEMU of the image's machine description, give it the image's RAM and device
 * state, and let it run. On demand (the default), a pager process of ours serves pages as the
 * guest touches them and the rest in the background, then ends; it is restarted if it is killed,
 * and the VM waits rather than sees a wrong page.
 */
STASIS_API StasisVm *stasis_restore(StasisStore *store, const char *id,
                                    const StasisRestoreOptions *options, GCancellable *cancellable,
                                    GError **error);

G_END_DECLS
