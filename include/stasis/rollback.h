/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Taking a VM back to an image in place: the same QEMU process, and only the pages that were
 * written since are rewritten.
 *
 * What is costly is done once, in stasis_rollback_prepare(): finding RAM, opening image and
 * tracker, handing the device state to QEMU. The object then holds the VM (others get
 * STASIS_ERROR_BUSY) and stasis_rollback_run() takes it back as often as wanted, a hundred times a
 * second and more.
 */
#pragma once

#include <stasis/store.h>
#include <stasis/vm.h>

G_BEGIN_DECLS

typedef struct {
    size_t struct_size;
    gboolean force;  /* also when the VM has run since its last image, or has written to a disk
                        whose content the image does not have */
    gboolean safety; /* take a checkpoint first, in prepare: then only such a disk needs force */
    gboolean paused; /* leave it paused at the image's instant */
    guint64 max_cache_bytes; /* memory for the image's pages; 0: 256 MiB */
    StasisProgressFunc progress;
    gpointer progress_data;
} StasisRollbackOptions;
#define STASIS_ROLLBACK_OPTIONS_INIT                 \
    {                                                \
        .struct_size = sizeof(StasisRollbackOptions) \
    }

/* One rollback, and what it cost. Times in microseconds. */
typedef struct {
    char *id;          /* the image that the VM went back to */
    char *safety_id;   /* the checkpoint that was taken first, or NULL */
    gboolean resumed;  /* the VM runs again */
    gboolean compared; /* no tracking helped: all of RAM was compared with the image */
    guint64 rewritten_pages;
    guint64 stop_us; /* from our stopping it to its running again; if it stays paused, to the end */
    guint64 device_us;            /* of that, loading the devices */
    guint64 ram_us;               /* of that, writing memory */
    guint64 total_us;             /* the whole call */
    guint64 rewritten_disk_pages; /* of 4 KiB */
    guint64 disk_us;              /* of the stop, writing disks */
} StasisRollbackInfo;

typedef struct _StasisRollback StasisRollback;

/*
 * Get ready to take @vm back to image @id of @store (a full ID; NULL: where a rollback was
 * interrupted, else the image that tracking counts from, else the newest of this VM). The VM runs
 * on. STASIS_ERROR_UNSAVED when state would be lost that no image has and neither force nor safety
 * is set; STASIS_ERROR_UNSUPPORTED when the machine is another one than the image's. Borrows
 * nothing but options->progress_data.
 */
STASIS_API StasisRollback *stasis_rollback_prepare(StasisVm *vm, StasisStore *store, const char *id,
                                                   const StasisRollbackOptions *options,
                                                   GCancellable *cancellable, GError **error);

/*
 * Do it. The VM is exactly what it was at the image's instant, and runs from there unless
 * options->paused or the image is of a paused VM. The next checkpoint is incremental to the image.
 *
 * On failure the VM goes on as it was, or (the message says so) is left paused, half rolled back:
 * it must not run like that, and another rollback, by this object or a new one, completes it. The
 * same holds when the calling process is killed.
 */
STASIS_API StasisRollbackInfo *stasis_rollback_run(StasisRollback *rollback,
                                                   GCancellable *cancellable, GError **error);

STASIS_API const char *stasis_rollback_get_id(StasisRollback *rollback);

/* Gives the VM back; nothing of ours stays in its QEMU but the tracking. */
STASIS_API void stasis_rollback_free(StasisRollback *rollback);
STASIS_API void stasis_rollback_info_free(StasisRollbackInfo *info);

G_DEFINE_AUTOPTR_CLEANUP_FUNC(StasisRollback, stasis_rollback_free)
G_DEFINE_AUTOPTR_CLEANUP_FUNC(StasisRollbackInfo, stasis_rollback_info_free)

G_END_DECLS
