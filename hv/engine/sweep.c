/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "engine/sweep.h"

#include "disk/disk.h"
#include "engine/session.h"
#include "vmm/libexec.h"

gboolean stasis_vm_sweep(const char *name, guint wait_ms, GError **error)
{
    g_autoptr(StasisSession) session = stasis_session_open(name, wait_ms, error);
    return session != NULL && stasis_disks_sweep(session->qmp, session->record->pid,
                                                 session->record->track_image, error);
}

char **stasis_vm_sweep_argv(const char *name)
{
    g_autofree char *program = stasis_libexec_find("stasis-sweep", "STASIS_SWEEP");
    const char *argv[] = { program, name, NULL };
    return program != NULL ? g_strdupv((char **)argv) : NULL;
}
