/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "engine/transactions/undo.h"

#include <stasis/error.h>
#include <stasis/restore.h>

#include "base/clock.h"
#include "engine/vm/session.h"

#define ENDING_US 1000000u
#define STEP_US 10000u

void stasis_undone_free(StasisUndone *undone)
{
    if (undone == NULL)
        return;
    g_clear_pointer(&undone->rollback, stasis_rollback_info_free);
    g_free(undone->device_failed);
    g_free(undone);
}

static gboolean is_alive(const char *name)
{
    g_autoptr(StasisRecord) record = stasis_record_load(name, NULL);
    return record != NULL && stasis_record_is_alive(record);
}

static gboolean end_old(const char *name, GError **error)
{
    g_autoptr(StasisVm) vm = stasis_vm_new(name);
    g_autoptr(GError) local = NULL;
    if (stasis_vm_kill(vm, &local) || g_error_matches(local, STASIS_ERROR, STASIS_ERROR_NOT_FOUND))
        return TRUE;
    g_propagate_error(error, g_steal_pointer(&local));
    return FALSE;
}

/* All of RAM at once, since the store may go. */
static gboolean start_anew(const char *name, const char *uri, StasisStore *store, const char *image,
                           GCancellable *cancellable, GError **error)
{
    StasisRestoreOptions options = STASIS_RESTORE_OPTIONS_INIT;
    g_autoptr(StasisImageInfo) info = stasis_store_get_image(store, image, error);
    if (info == NULL || !end_old(name, error))
        return FALSE;
    options.name = name;
    options.connect = uri;
    options.eager = TRUE;
    options.in_place = info->n_disks > 0;
    g_autoptr(StasisVm) vm = stasis_restore(store, image, &options, cancellable, error);
    return vm != NULL;
}

/* Takes @ready. */
static StasisRollbackInfo *put_back(const char *name, StasisRollback *ready, StasisStore *store,
                                    const char *image, GCancellable *cancellable, GError **error)
{
    StasisRollbackOptions options = STASIS_ROLLBACK_OPTIONS_INIT;
    options.force = TRUE;
    g_autoptr(StasisVm) vm = stasis_vm_new(name);
    g_autoptr(StasisRollback) rollback =
        ready != NULL ? ready
                      : stasis_rollback_prepare(vm, store, image, &options, cancellable, error);
    return rollback != NULL ? stasis_rollback_run(rollback, cancellable, error) : NULL;
}

/* A QEMU that is ending closes its sockets first, and is still there for a moment. */
static gboolean is_ending(const char *name)
{
    for (guint us = 0; us < ENDING_US; us += STEP_US) {
        if (!is_alive(name))
            return TRUE;
        g_usleep(STEP_US);
    }
    return FALSE;
}

StasisUndone *stasis_undo(const char *name, const char *uri, StasisRollback *ready,
                          StasisStore *store, const char *image, gboolean restart,
                          GCancellable *cancellable, GError **error)
{
    guint64 begun_us = stasis_now_us();
    g_autoptr(StasisRollback) rollback = ready;
    g_autoptr(StasisUndone) undone = g_new0(StasisUndone, 1);
    g_autoptr(GError) local = NULL;
    if (!restart && is_alive(name)) {
        undone->rollback =
            put_back(name, g_steal_pointer(&rollback), store, image, cancellable, &local);
        if (undone->rollback == NULL && !is_ending(name)) {
            g_propagate_error(error, g_steal_pointer(&local));
            return NULL;
        }
    }
    g_clear_pointer(&rollback, stasis_rollback_free);
    undone->restarted = undone->rollback == NULL;
    if (undone->restarted && !start_anew(name, uri, store, image, cancellable, error))
        return NULL;
    undone->total_us = stasis_now_us() - begun_us;
    return g_steal_pointer(&undone);
}
