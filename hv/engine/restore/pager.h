/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Restore on demand: a process of its own (hv/pager) puts pages into the new QEMU as the guest
 * touches them, and the rest in the background; then it lets go of everything and ends.
 *
 * What it needs is in pager.json in the VM's directory; that file is there as long as RAM is not
 * complete. The userfaultfd stays open in QEMU meanwhile, so that nobody sees a wrong page if the
 * pager dies: who needs a page waits. A supervisor starts the pager anew, and so does the next
 * command on the VM if both were killed.
 */
#pragma once

#include <gio/gio.h>
#include <stasis/progress.h>

#include "store/image.h"
#include "track/uffd.h"
#include "vmm/ram.h"
#include "vmm/registry.h"

G_BEGIN_DECLS

/* One RAM block to be filled: where it is in QEMU, and which block of the image it is. */
typedef struct {
    guint image_block;
    guint64 hva, size_bytes, page_bytes;
    guint64 view_hva; /* KVM's own mapping of it, registered too, else 0 */
} StasisPagerBlock;

/* Write pager.json and start the pager; returns when it serves. The blocks must be registered for
 * missing pages with a kept userfaultfd of STASIS_UFFD_PAGER_FEATURES. Element type of @blocks:
 * StasisPagerBlock. @with_memory: first bring in the pages that earlier VMs of this image touched
 * first, and remember those that this one waited for. *@ret_swept_fd is for
 * stasis_pager_wait_swept(). */
gboolean stasis_pager_start(const StasisRecord *record, const char *store_path, const char *image,
                            GArray *blocks, gboolean with_memory, int *ret_swept_fd,
                            GError **error);
/* Wait for that first sweep to end, for a moment and no longer: what is missing then comes as the
 * VM touches it. Closes the descriptor. */
void stasis_pager_wait_swept(int *swept_fd);

/* Is RAM still incomplete? */
gboolean stasis_pager_is_loading(const char *vm_name);
/* Start the pager again if it should run and does not. */
gboolean stasis_pager_ensure(const StasisRecord *record, GError **error);
/* Wait until RAM is complete. */
gboolean stasis_pager_wait(const StasisRecord *record, StasisProgressFunc progress,
                           gpointer user_data, GCancellable *cancellable, GError **error);

/* The pager's own main function: supervises @worker until RAM is complete. @ready_fd gets a byte
 * when it serves. Exit code of the process. */
int stasis_pager_main(const char *vm_name, int ready_fd);

G_END_DECLS
