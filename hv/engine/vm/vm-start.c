/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "engine/vm/vm-start.h"

#include <errno.h>
#include <sched.h>
#include <stasis/error.h>

#include "base/fd.h"
#include "base/io.h"
#include "engine/guest/awaken.h"
#include "engine/restore/pager-file.h"
#include "engine/rollback/rollback-mark.h"
#include "vmm/machine.h"

#define CLAIM_WAIT_MS 2000

int stasis_vm_claim_name(const char *name, GError **error)
{
    g_autofree char *dir = stasis_vm_dir(name, error);
    if (dir == NULL)
        return -1;
    if (g_mkdir_with_parents(dir, 0700) < 0) {
        stasis_set_errno(error, errno, "make %s", dir);
        return -1;
    }
    stasis_autofd int fd = stasis_record_lock(name, CLAIM_WAIT_MS, error);
    if (fd < 0)
        return -1;
    g_autoptr(StasisRecord) old = stasis_record_load(name, NULL);
    if (old != NULL && stasis_record_is_alive(old)) {
        g_set_error(error, STASIS_ERROR, STASIS_ERROR_BUSY,
                    "VM %s exists already (process %d); kill or detach it first, or take another "
                    "name",
                    name, (int)old->pid);
        return -1;
    }
    /* Of an earlier VM of that name, which ended while it was loading, or half rolled back. */
    stasis_pager_task_remove(name, NULL);
    stasis_rollback_mark_clear(name, NULL);
    stasis_awaken_unmark(name);
    return stasis_steal_fd(&fd);
}

/* Not yet QEMU, so all of its threads will. Where that is not to be known it runs where we may. */
static void keep_to_cpus(pid_t pid, pid_t beside)
{
    cpu_set_t cpus;
    if (beside != 0 && sched_getaffinity(beside, sizeof cpus, &cpus) == 0)
        sched_setaffinity(pid, sizeof cpus, &cpus);
}

static gboolean announce(pid_t pid, gpointer user_data, GError **error)
{
    const StasisStart *start = user_data;
    keep_to_cpus(pid, start->beside);
    return start->nursery == NULL || stasis_nursery_add(start->nursery, start->name, pid,
                                                        stasis_process_start_time(pid), error);
}

static void take_identity(StasisStarted *started, StasisLaunch *launch)
{
    started->uuid = g_steal_pointer(&launch->uuid);
    started->generation_id = g_steal_pointer(&launch->generation_id);
    started->macs = g_steal_pointer(&launch->macs);
}

StasisStarted *stasis_vm_start(const StasisStart *start, GCancellable *cancellable, GError **error)
{
    stasis_autofd int lock_fd = stasis_vm_claim_name(start->name, error);
    g_autofree char *dir = lock_fd >= 0 ? stasis_vm_dir(start->name, error) : NULL;
    if (dir == NULL)
        return NULL;
    g_autoptr(StasisStarted) started = g_new0(StasisStarted, 1);
    started->lock_fd = stasis_steal_fd(&lock_fd);
    started->record = g_new0(StasisRecord, 1);
    started->record->name = g_strdup(start->name);
    started->nursery = start->nursery;
    started->bound = start->bound;
    StasisLaunchOptions options = { .runtime_dir = dir,
                                    .accel = start->accel,
                                    .incoming = start->incoming,
                                    .no_shim = start->no_shim,
                                    .niceness = start->niceness,
                                    .agent = start->agent,
                                    .clone = start->clone,
                                    .disks = start->disks,
                                    .n_disks = start->n_disks,
                                    .born = announce,
                                    .born_data = (gpointer)start };
    g_autoptr(StasisLaunch) launch = stasis_launch_prepare(start->argv, &options, error);
    if (launch == NULL)
        return NULL;
    started->qmp = stasis_launch_spawn(launch, &options, start->cwd, &started->record->pid,
                                       cancellable, error);
    if (started->qmp == NULL)
        return NULL;
    started->record->start_time = stasis_process_start_time(started->record->pid);
    started->record->qmp_path = g_strdup(launch->qmp_path);
    started->record->console_path = g_strdup(launch->console_path);
    started->record->accel_reason = g_strdup(launch->accel_reason);
    started->record->prepared = TRUE;
    take_identity(started, launch);
    /* A wrapper script may have started another process, which is QEMU. */
    if (!announce(started->record->pid, (gpointer)start, error))
        return NULL;
    return g_steal_pointer(&started);
}

gboolean stasis_started_keep(StasisStarted *started, GError **error)
{
    started->kept = stasis_record_save(started->record, error);
    if (started->kept && started->nursery != NULL && !started->bound)
        stasis_nursery_release(started->nursery, started->record->pid);
    return started->kept;
}

void stasis_started_free(StasisStarted *started)
{
    if (started == NULL)
        return;
    g_clear_pointer(&started->qmp, stasis_qmp_free);
    if (!started->kept) {
        if (started->record->pid > 0)
            stasis_process_end(started->record->pid, started->record->start_time, NULL);
        stasis_record_remove(started->record->name, NULL);
        if (started->nursery != NULL)
            stasis_nursery_release(started->nursery, started->record->pid);
    }
    g_free(started->uuid);
    g_free(started->generation_id);
    g_strfreev(started->macs);
    g_clear_pointer(&started->record, stasis_record_free);
    stasis_clear_fd(&started->lock_fd);
    g_free(started);
}
