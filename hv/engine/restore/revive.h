/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * From an image to a VM that runs, what restore and clone share: a fresh paused QEMU of the same
 * description, RAM supplied from outside, the device state loaded as an incoming migration without
 * RAM, go.
 */
#pragma once

#include <gio/gio.h>
#include <stasis/progress.h>

#include "device/vmstate.h"
#include "engine/vm/nursery.h"
#include "engine/vm/vm-start.h"
#include "store/cache.h"
#include "store/image.h"
#include "vmm/machine.h"

G_BEGIN_DECLS

/* An image that VMs are made from: read once, whatever their number. Immutable, for any thread. */
typedef struct {
    StasisStore *store;
    StasisImageReader *reader;
    StasisMachine *machine;
    GBytes *devices;  /* as a loading QEMU wants them */
    GPtrArray *disks; /* of StasisDiskNote: those with content */
} StasisSource;

StasisSource *stasis_source_open(StasisStore *store, const char *id, GError **error);
void stasis_source_free(StasisSource *source);
/* For a clone of it: RAM of its own, on demand, no block mapped from a file that others have.
 * Element type StasisCloneRam; names stay the source's. */
GArray *stasis_source_own_ram(const StasisSource *source);

typedef struct {
    const char *name;
    gboolean paused;
    gboolean eager;
    gboolean no_shim;
    gboolean agent;       /* the port to the agent leads to a socket, whatever was behind it */
    int niceness;         /* of QEMU, added to ours */
    pid_t beside;         /* or 0: as in StasisStart */
    gboolean with_memory; /* of pages touched first, when on demand */
    const StasisLaunchClone *clone; /* or NULL */
    gboolean no_disks;              /* the disks that the command line names, as they are now … */
    gboolean in_place;              /* … or with the image's content written to them */
    const GArray *disks;  /* of StasisLaunchDisk, or NULL: files that are there for it … */
    const char *disk_dir; /* … or below which its own disks are made; NULL: in the store */
    gboolean disks_temporary;
    /* Or NULL, both: RAM blocks that are mapped from files, and a stream with all other RAM. */
    const StasisTemplate *templates;
    GBytes *stream;
    const char *kind; /* what the agent in the guest is told that the VM is: "restored" …; NULL: it
                         is not told anything */
    StasisNursery *nursery; /* or NULL: ends the VM if we die before it is complete … */
    gboolean bound;         /* … or after that, too */
    gboolean throw_away;    /* it never is: it ends with us, or with what is returned */
    StasisProgressFunc progress;
    gpointer progress_data;
} StasisRevival;

/* The VM, kept (unless it is to be thrown away) and running or paused; NULL with nothing left
 * behind. */
StasisStarted *stasis_revive(const StasisSource *source, const StasisRevival *revival,
                             GCancellable *cancellable, GError **error);

G_DEFINE_AUTOPTR_CLEANUP_FUNC(StasisSource, stasis_source_free)

G_END_DECLS
