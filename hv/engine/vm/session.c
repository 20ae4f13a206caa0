/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "engine/vm/session.h"

#include <stasis/error.h>

#include "base/fd.h"
#include "engine/fork/fork-sweep.h"
#include "engine/restore/pager.h"
#include "vmm/logs.h"

/* QEMU's monitor, whoever has it. */
static gboolean connect_monitor(StasisSession *session, GError **error)
{
    const StasisRecord *record = session->record;
    if (record->uri == NULL) {
        session->qmp = stasis_qmp_connect(record->qmp_path, STASIS_QMP_TIMEOUT_MS, error);
        return session->qmp != NULL;
    }
    session->domain = stasis_domain_open(record->uri, record->uuid, error);
    if (session->domain != NULL)
        session->qmp = stasis_domain_open_qmp(session->domain, STASIS_QMP_TIMEOUT_MS, error);
    return session->qmp != NULL;
}

StasisSession *stasis_session_open(const char *name, guint wait_ms, GError **error)
{
    g_autoptr(StasisSession) session = g_new0(StasisSession, 1);
    session->lock_fd = -1;
    stasis_forks_sweep(NULL);
    stasis_logs_bound(NULL);
    g_autoptr(StasisRecord) before = stasis_record_load(name, error);
    if (before == NULL)
        return NULL;
    session->lock_fd = stasis_record_lock(name, wait_ms, error);
    if (session->lock_fd < 0)
        return NULL;
    /* What another operation changed while we waited. */
    session->record = stasis_record_load(name, error);
    if (session->record == NULL)
        return NULL;
    if (!stasis_record_is_alive(session->record)) {
        g_set_error(error, STASIS_ERROR, STASIS_ERROR_NOT_FOUND,
                    "VM %s: its QEMU (process %d) has ended", name, (int)session->record->pid);
        stasis_record_remove(name, NULL);
        return NULL;
    }
    /* Before QEMU is spoken to: its main loop may be waiting for a page. */
    if (!stasis_pager_ensure(session->record, error))
        return NULL;
    if (!connect_monitor(session, error)) {
        g_prefix_error(error, "VM %s: ", name);
        return NULL;
    }
    return g_steal_pointer(&session);
}

void stasis_session_free(StasisSession *session)
{
    if (session == NULL)
        return;
    g_clear_pointer(&session->qmp, stasis_qmp_free);
    g_clear_pointer(&session->domain, stasis_domain_free);
    g_clear_pointer(&session->record, stasis_record_free);
    stasis_clear_fd(&session->lock_fd);
    g_free(session);
}
