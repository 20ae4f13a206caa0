/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "engine/vm/sweep.h"

#include <stasis/error.h>
#include <unistd.h>

#include "disk/disk.h"
#include "engine/disks/disk-freeze.h"
#include "track/shim-client.h"
#include "vmm/libexec.h"
#include "vmm/output-hold.h"

static gboolean is_reader_alive(const StasisRecord *record)
{
    return record->reader_pid != 0 &&
           stasis_process_start_time(record->reader_pid) == record->reader_start_time;
}

static gboolean set_reader(StasisRecord *record, pid_t pid, GError **error)
{
    record->reader_pid = pid;
    record->reader_start_time = pid != 0 ? stasis_process_start_time(pid) : 0;
    return stasis_record_save(record, error);
}

gboolean stasis_session_sweep(StasisSession *session, const char *keep, GError **error)
{
    StasisRecord *record = session->record;
    if (is_reader_alive(record)) {
        g_set_error(error, STASIS_ERROR, STASIS_ERROR_BUSY,
                    "VM %s: process %d takes an image of processes, and its fork reads the VM's "
                    "disks; wait for it to end, or end it",
                    record->name, (int)record->reader_pid);
        return FALSE;
    }
    stasis_shim_settle(record->pid);
    return stasis_output_sweep(session->qmp, error) &&
           stasis_disks_sweep(session->qmp, record->pid, keep, error) &&
           stasis_disk_freezing_sweep(session, error) &&
           (record->reader_pid == 0 || set_reader(record, 0, error));
}

gboolean stasis_session_lend_disks(StasisSession *session, GError **error)
{
    return set_reader(session->record, getpid(), error);
}

gboolean stasis_vm_sweep(const char *name, guint wait_ms, GError **error)
{
    g_autoptr(StasisSession) session = stasis_session_open(name, wait_ms, error);
    return session != NULL && stasis_session_sweep(session, session->record->track_image, error);
}

gboolean stasis_vm_release_disks(const char *name, guint wait_ms, GError **error)
{
    g_autoptr(StasisSession) session = stasis_session_open(name, wait_ms, error);
    return session != NULL && set_reader(session->record, 0, error) &&
           stasis_session_sweep(session, session->record->track_image, error);
}

char **stasis_vm_sweep_argv(const char *name)
{
    g_autofree char *program = stasis_libexec_find("stasis-sweep", "STASIS_SWEEP");
    const char *argv[] = { program, name, NULL };
    return program != NULL ? g_strdupv((char **)argv) : NULL;
}
