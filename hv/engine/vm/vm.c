/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Starting, adopting and ending VMs: include/stasis/vm.h, but for what it tells about them. */
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stasis/error.h>
#include <stasis/vm.h>
#include <string.h>
#include <sys/pidfd.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/io.h"
#include "base/options.h"
#include "disk/disk.h"
#include "engine/ci/bound.h"
#include "engine/devices/device-load.h"
#include "engine/disks/vm-disks.h"
#include "engine/guest/awaken.h"
#include "engine/restore/pager.h"
#include "engine/rollback/rollback-mark.h"
#include "engine/vm/session.h"
#include "engine/vm/sweep.h"
#include "engine/vm/vm-start.h"
#include "track/tracker.h"
#include "vmm/machine.h"
#include "vmm/ram.h"

#define TERM_WAIT_MS 5000
#define KILL_WAIT_MS 10000

struct _StasisVm {
    gint refs;
    char *name;
};

StasisVm *stasis_vm_new(const char *name)
{
    StasisVm *vm = g_new0(StasisVm, 1);
    vm->refs = 1;
    vm->name = g_strdup(name);
    return vm;
}

void stasis_vm_unref(StasisVm *vm)
{
    if (vm == NULL || !g_atomic_int_dec_and_test(&vm->refs))
        return;
    g_free(vm->name);
    g_free(vm);
}

const char *stasis_vm_get_name(StasisVm *vm)
{
    return vm->name;
}

StasisVm *stasis_vm_open(const char *name, GError **error)
{
    g_autoptr(StasisRecord) record = stasis_record_load(name, error);
    if (record == NULL)
        return NULL;
    if (record->uri == NULL || g_getenv(STASIS_NO_DOMAINS_VARIABLE) == NULL)
        return stasis_vm_new(name);
    g_set_error(error, STASIS_ERROR, STASIS_ERROR_FAILED,
                "\"%s\" is a libvirt domain: say so with --connect %s", name, record->uri);
    return NULL;
}

StasisVm *stasis_vm_run_bound(const char *name, const StasisRunOptions *options,
                              const char *const *argv, StasisNursery *nursery,
                              GCancellable *cancellable, GError **error)
{
    g_autofree char *cwd = options->cwd != NULL ? g_strdup(options->cwd) : g_get_current_dir();
    StasisStart start = { .name = name,
                          .argv = argv,
                          .cwd = cwd,
                          .accel = options->accel != NULL ? options->accel : "auto",
                          .no_shim = options->no_shim,
                          .agent = options->agent,
                          .nursery = nursery,
                          .bound = nursery != NULL };
    g_autoptr(StasisStarted) started = stasis_vm_start(&start, cancellable, error);
    if (started == NULL)
        return NULL;
    if (!options->paused) {
        g_autoptr(JsonNode) answer = stasis_qmp_execute(started->qmp, "cont", NULL, -1, 0, error);
        if (answer == NULL)
            return NULL;
    }
    return stasis_started_keep(started, error) ? stasis_vm_new(name) : NULL;
}

StasisVm *stasis_vm_run(const char *name, const StasisRunOptions *given, const char *const *argv,
                        GCancellable *cancellable, GError **error)
{
    StasisRunOptions own = STASIS_RUN_OPTIONS_INIT;
    const StasisRunOptions *options = stasis_own_options(&own, given, sizeof own);
    return stasis_vm_run_bound(name, options, argv, /* nursery= */ NULL, cancellable, error);
}

/* One QEMU has one name: two records would each believe that tracking counts from its own image. */
static gboolean is_unknown(pid_t pid, GError **error)
{
    if (pid <= 0) {
        g_set_error_literal(error, STASIS_ERROR, STASIS_ERROR_UNSUPPORTED,
                            "it can't be told which process answers there");
        return FALSE;
    }
    g_auto(GStrv) names = stasis_record_names(error);
    for (char **name = names; name != NULL && *name != NULL; name++) {
        g_autoptr(StasisRecord) record = stasis_record_load(*name, NULL);
        if (record == NULL || record->pid != pid || !stasis_record_is_alive(record))
            continue;
        g_set_error(error, STASIS_ERROR, STASIS_ERROR_BUSY,
                    "process %d is known as VM %s already; detach that first", (int)pid, *name);
        return FALSE;
    }
    return names != NULL;
}

/* The lock also keeps two attachments of one name apart. */
gboolean stasis_vm_adopt(StasisRecord *record, StasisQmp *qmp, GError **error)
{
    g_autoptr(StasisRam) ram = NULL;
    record->pid = qmp != NULL ? stasis_qmp_get_peer_pid(qmp) : 0;
    if (qmp != NULL && is_unknown(record->pid, error) &&
        stasis_vm_check_supported(qmp, record->pid, error) &&
        stasis_disks_sweep(qmp, record->pid, NULL, error))
        ram = stasis_ram_discover(qmp, record->pid, error);
    if (ram == NULL) {
        stasis_record_forget(record->name, NULL);
        return FALSE;
    }
    record->start_time = stasis_process_start_time(record->pid);
    return stasis_record_save(record, error);
}

StasisVm *stasis_vm_attach(const char *name, const char *qmp_path, GCancellable *cancellable,
                           GError **error)
{
    stasis_autofd int lock_fd = stasis_vm_claim_name(name, error);
    if (lock_fd < 0)
        return NULL;
    g_autofree char *path = g_canonicalize_filename(qmp_path, NULL);
    g_autoptr(StasisQmp) qmp = stasis_qmp_connect(path, STASIS_QMP_TIMEOUT_MS, error);
    StasisRecord record = { .name = (char *)name, .qmp_path = path };
    return stasis_vm_adopt(&record, qmp, error) ? stasis_vm_new(name) : NULL;
}

gboolean stasis_vm_detach(StasisVm *vm, GCancellable *cancellable, GError **error)
{
    g_autoptr(StasisSession) session = stasis_session_open(vm->name, STASIS_LOCK_WAIT_MS, error);
    if (session == NULL)
        return FALSE;
    if (stasis_pager_is_loading(vm->name)) {
        g_set_error(error, STASIS_ERROR, STASIS_ERROR_BUSY,
                    "VM %s is still loading from its image; detach it when that is done", vm->name);
        return FALSE;
    }
    return stasis_rollback_check_whole(vm->name, error) &&
           stasis_device_load_sweep(session->qmp, error) &&
           stasis_session_sweep(session, NULL, error) &&
           stasis_tracker_sweep(session->record->pid, error) &&
           stasis_record_forget(vm->name, error);
}

/* A domain by libvirt's own means: it decides what else belongs to it. */
static gboolean change_state(StasisSession *session, gboolean run, GError **error)
{
    if (session->domain != NULL)
        return run ? stasis_domain_resume(session->domain, error)
                   : stasis_domain_suspend(session->domain, error);
    g_autoptr(JsonNode) answer =
        stasis_qmp_execute(session->qmp, run ? "cont" : "stop", NULL, -1, 0, error);
    return answer != NULL;
}

gboolean stasis_vm_pause(StasisVm *vm, GError **error)
{
    g_autoptr(StasisSession) session = stasis_session_open(vm->name, STASIS_LOCK_WAIT_MS, error);
    return session != NULL && change_state(session, FALSE, error);
}

gboolean stasis_vm_resume(StasisVm *vm, GError **error)
{
    g_autoptr(StasisSession) session = stasis_session_open(vm->name, STASIS_LOCK_WAIT_MS, error);
    if (session == NULL || !stasis_rollback_check_whole(vm->name, error))
        return FALSE;
    g_autoptr(StasisAwakening) awakening = stasis_awaken_begin(session->record, session->qmp);
    if (!change_state(session, TRUE, error))
        return FALSE;
    stasis_awaken_finish(g_steal_pointer(&awakening), session->record, session->qmp, NULL);
    return TRUE;
}

gboolean stasis_process_end(pid_t pid, guint64 start_time, GError **error)
{
    stasis_autofd int pidfd = pidfd_open(pid, 0);
    if (pidfd < 0 || stasis_process_start_time(pid) != start_time)
        return TRUE;
    const struct {
        int signal, wait_ms;
    } steps[] = { { SIGTERM, TERM_WAIT_MS }, { SIGKILL, KILL_WAIT_MS } };
    for (gsize i = 0; i < G_N_ELEMENTS(steps); i++) {
        if (pidfd_send_signal(pidfd, steps[i].signal, NULL, 0) < 0 && errno != ESRCH)
            return stasis_set_errno(error, errno, "end process %d", (int)pid);
        struct pollfd ended = { .fd = pidfd, .events = POLLIN };
        if (poll(&ended, 1, steps[i].wait_ms) > 0)
            return TRUE;
    }
    g_set_error(error, STASIS_ERROR, STASIS_ERROR_FAILED, "process %d does not end", (int)pid);
    return FALSE;
}

static gboolean end_domain(const StasisRecord *record, GError **error)
{
    g_autoptr(StasisDomain) domain = stasis_domain_open(record->uri, record->uuid, error);
    return domain != NULL && stasis_domain_destroy(domain, error);
}

/* Not a session: a QEMU that no longer answers must be killable too. */
static gboolean kill_vm(StasisVm *vm, gboolean with_disks, GError **error)
{
    g_autoptr(StasisRecord) record = stasis_record_load(vm->name, error);
    if (record == NULL)
        return FALSE;
    stasis_autofd int lock_fd = stasis_record_lock(vm->name, STASIS_LOCK_WAIT_MS, error);
    if (lock_fd < 0)
        return FALSE;
    /* Another one of that name may have come while we waited. */
    g_autoptr(StasisRecord) now = stasis_record_load(vm->name, error);
    if (now == NULL || now->pid != record->pid || now->start_time != record->start_time)
        return now != NULL;
    gboolean alive = stasis_record_is_alive(record);
    if (alive && record->uri != NULL
            ? !end_domain(record, error)
            : alive && !stasis_process_end(record->pid, record->start_time, error))
        return FALSE;
    if (record->disk_dir != NULL && (with_disks || record->disks_temporary))
        stasis_vm_disks_remove(record->disk_dir);
    return stasis_record_remove(vm->name, error);
}

gboolean stasis_vm_kill(StasisVm *vm, GError **error)
{
    return kill_vm(vm, FALSE, error);
}

gboolean stasis_vm_kill_with_disks(StasisVm *vm, GError **error)
{
    return kill_vm(vm, TRUE, error);
}

/* What can't be ended now the nursery tries once more. */
void stasis_vm_end_bound(StasisVm *vm, StasisNursery *nursery)
{
    g_autoptr(StasisRecord) record = stasis_record_load(vm->name, NULL);
    if (record != NULL && kill_vm(vm, TRUE, NULL))
        stasis_nursery_release(nursery, record->pid);
}
