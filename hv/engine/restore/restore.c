/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Restore: one VM, under the name it had or another. */
#include <stasis/error.h>
#include <stasis/restore.h>

#include "base/options.h"
#include "engine/ci/bound.h"
#include "engine/restore/revive.h"
#include "engine/vm/domain-restore.h"
#include "engine/vm/session.h"

StasisVm *stasis_restore_bound(StasisStore *store, const char *id,
                               const StasisRestoreOptions *options, StasisNursery *nursery,
                               GCancellable *cancellable, GError **error)
{
    if (options->in_place && options->no_disks) {
        g_set_error_literal(error, STASIS_ERROR, STASIS_ERROR_USAGE,
                            "disks can't be both left as they are and written in place");
        return NULL;
    }
    g_autoptr(StasisSource) source = stasis_source_open(store, id, error);
    if (source == NULL)
        return NULL;
    if (options->connect != NULL)
        return stasis_restore_domain(source, options, cancellable, error);
    if (!stasis_source_check_bare(source, error))
        return NULL;
    StasisRevival revival = { .name = options->name != NULL ? options->name : source->machine->name,
                              .kind = "restored",
                              .paused = options->paused,
                              .eager = options->eager,
                              .no_shim = options->no_shim,
                              .no_disks = options->no_disks,
                              .in_place = options->in_place,
                              .disk_dir = options->disk_dir,
                              .with_memory = !options->no_prefetch,
                              .nursery = nursery,
                              .bound = nursery != NULL,
                              .progress = options->progress,
                              .progress_data = options->progress_data };
    g_autoptr(StasisStarted) started = stasis_revive(source, &revival, cancellable, error);
    return started != NULL ? stasis_vm_new(started->record->name) : NULL;
}

StasisVm *stasis_restore(StasisStore *store, const char *id, const StasisRestoreOptions *given,
                         GCancellable *cancellable, GError **error)
{
    StasisRestoreOptions own = STASIS_RESTORE_OPTIONS_INIT;
    const StasisRestoreOptions *options = stasis_own_options(&own, given, sizeof own);
    return stasis_restore_bound(store, id, options, /* nursery= */ NULL, cancellable, error);
}
