/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What is known about a VM: the telling half of include/stasis/vm.h. */
#include <stasis/error.h>
#include <stasis/vm.h>

#include "base/fd.h"
#include "engine/disks/vm-disks.h"
#include "engine/restore/pager.h"
#include "engine/rollback/rollback-mark.h"
#include "engine/vm/session.h"
#include "track/shim-client.h"
#include "track/tracker.h"
#include "vmm/machine.h"
#include "vmm/ram.h"

void stasis_vm_info_free(StasisVmInfo *info)
{
    if (info == NULL)
        return;
    for (guint i = 0; i < info->n_blocks; i++) {
        g_free(info->blocks[i].name);
        g_free(info->blocks[i].backing);
    }
    g_free(info->blocks);
    g_free(info->name);
    g_free(info->state);
    g_free(info->accel);
    g_free(info->machine);
    g_free(info->qemu_version);
    g_free(info->qmp_path);
    g_free(info->console_path);
    g_free(info->tracker);
    g_free(info->tracked_since);
    g_free(info->accel_reason);
    g_free(info->kvm_log_missing);
    g_free(info->kvm_log);
    g_free(info->rolling_back_to);
    g_free(info->connect);
    g_free(info->domain);
    g_free(info->uuid);
    g_free(info->disk_dir);
    g_free(info);
}

static StasisVmInfo *info_from_record(const StasisRecord *record, const char *state)
{
    StasisVmInfo *info = g_new0(StasisVmInfo, 1);
    info->name = g_strdup(record->name);
    info->pid = record->pid;
    info->state = g_strdup(state);
    info->qmp_path = g_strdup(record->qmp_path);
    info->connect = g_strdup(record->uri);
    info->domain = g_strdup(record->domain);
    info->uuid = g_strdup(record->uuid);
    info->console_path = g_strdup(record->console_path);
    info->accel_reason = g_strdup(record->accel_reason);
    info->prepared = record->prepared;
    info->loading = stasis_pager_is_loading(record->name);
    info->tracked_since = g_strdup(record->track_image);
    info->tracker = g_strdup("none");
    g_autoptr(StasisRollbackMark) mark = stasis_rollback_mark_get(record->name);
    info->rolling_back_to = mark != NULL ? g_strdup(mark->image) : NULL;
    info->disk_dir = g_strdup(record->disk_dir);
    return info;
}

static void fill_blocks(StasisVmInfo *info, const StasisRecord *record, const StasisRam *ram)
{
    static const char *const backings[] = {
        [STASIS_BACKING_ANONYMOUS] = "anonymous",
        [STASIS_BACKING_MEMFD] = "memfd",
        [STASIS_BACKING_FILE] = "file",
        [STASIS_BACKING_HUGETLB] = "hugetlb",
    };
    info->n_blocks = ram->blocks->len;
    info->blocks = g_new0(StasisRamBlockInfo, info->n_blocks);
    for (guint i = 0; i < info->n_blocks; i++) {
        const StasisRamBlock *block = g_ptr_array_index(ram->blocks, i);
        info->blocks[i] = (StasisRamBlockInfo){ .name = g_strdup(block->name),
                                                .size_bytes = block->size_bytes,
                                                .page_bytes = block->page_bytes,
                                                .backing = g_strdup(backings[block->backing]) };
    }
    info->ram_bytes = ram->total_bytes;
    const StasisTrackerOps *kept = stasis_tracker_kept(ram, record->track_token);
    if (kept != NULL) {
        g_free(info->tracker);
        info->tracker = g_strdup(kept->name);
    }
}

static StasisVmInfo *info_from_session(StasisSession *session, GError **error)
{
    g_autofree char *state = stasis_qmp_run_state(session->qmp, error);
    if (state == NULL)
        return NULL;
    g_autoptr(StasisVmInfo) info = info_from_record(session->record, state);
    if (info->rolling_back_to != NULL) {
        g_free(info->state);
        info->state = g_strdup("half-rolled-back");
    }
    g_autoptr(StasisMachine) machine = stasis_machine_from_running(
        session->record->name, session->qmp, session->record->pid, NULL, error);
    if (machine == NULL)
        return NULL;
    info->accel = g_strdup(machine->accel);
    info->machine = g_strdup(machine->machine);
    info->qemu_version = g_strdup(machine->qemu_version);
    info->n_vcpus = machine->n_vcpus;
    g_autoptr(StasisRam) ram = stasis_ram_discover(session->qmp, session->record->pid, error);
    if (ram == NULL)
        return NULL;
    fill_blocks(info, session->record, ram);
    info->kvm_log_missing = g_strdup(stasis_shim_why_not(ram));
    info->kvm_log = g_strdup(stasis_shim_kind(ram));
    return g_steal_pointer(&info);
}

/* @wait_ms: how long to wait for an operation that holds the VM before "busy" is the answer. */
static StasisVmInfo *get_info(const char *name, guint wait_ms, GError **error)
{
    g_autoptr(StasisRecord) record = stasis_record_load(name, error);
    if (record == NULL)
        return NULL;
    if (!stasis_record_is_alive(record))
        return info_from_record(record, "gone");
    g_autoptr(GError) local = NULL;
    g_autoptr(StasisSession) session = stasis_session_open(name, wait_ms, &local);
    if (session != NULL)
        return info_from_session(session, error);
    if (g_error_matches(local, STASIS_ERROR, STASIS_ERROR_BUSY))
        return info_from_record(record, "busy");
    g_propagate_error(error, g_steal_pointer(&local));
    return NULL;
}

StasisVmInfo *stasis_vm_get_info(StasisVm *vm, GError **error)
{
    return get_info(stasis_vm_get_name(vm), 200, error);
}

StasisVmInfo *stasis_vm_info_of(const char *name)
{
    g_autoptr(StasisRecord) record = stasis_record_load(name, NULL);
    if (record == NULL)
        return NULL;
    StasisVmInfo *info = get_info(name, 0, NULL);
    return info != NULL ? info : info_from_record(record, "unknown");
}
/* With the lock held: a VM of that name may just be starting. */
static void forget_gone(const char *name)
{
    stasis_autofd int lock_fd = stasis_record_lock(name, 0, NULL);
    g_autoptr(StasisRecord) record = lock_fd >= 0 ? stasis_record_load(name, NULL) : NULL;
    if (record == NULL || stasis_record_is_alive(record))
        return;
    if (record->disk_dir != NULL && record->disks_temporary)
        stasis_vm_disks_remove(record->disk_dir);
    stasis_record_remove(name, NULL);
}

char **stasis_vm_list_names(GError **error)
{
    return stasis_record_names(error);
}

GPtrArray *stasis_vm_list(GError **error)
{
    g_auto(GStrv) names = stasis_record_names(error);
    if (names == NULL)
        return NULL;
    g_autoptr(GPtrArray) list = g_ptr_array_new_with_free_func((GDestroyNotify)stasis_vm_info_free);
    for (char **name = names; *name != NULL; name++) {
        g_autoptr(StasisRecord) record = stasis_record_load(*name, NULL);
        if (record == NULL)
            continue;
        StasisVmInfo *info = stasis_vm_info_of(*name);
        if (info == NULL)
            continue;
        g_ptr_array_add(list, info);
        if (!stasis_record_is_alive(record))
            forget_gone(*name);
    }
    return g_steal_pointer(&list);
}
