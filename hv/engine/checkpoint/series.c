/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What is costly to find out about a VM is found out once for a series of checkpoints: its RAM
 * blocks, its machine, its tracker. Between two of them the VM may change all the same (memory or a
 * device is plugged in or out by another monitor); QEMU's own lists of RAM blocks and of devices
 * tell. Its disks are looked at each time: a medium is changed in none of those lists.
 */
#include "engine/checkpoint/series.h"

#include <stasis/error.h>
#include <string.h>

#include "base/clock.h"
#include "base/fault.h"
#include "base/options.h"
#include "engine/checkpoint/dma.h"
#include "engine/restore/pager.h"
#include "engine/rollback/rollback-mark.h"
#include "engine/vm/sweep.h"
#include "store/image.h"
#include "vmm/pci.h"
#include "vmm/vcpus.h"

static void forget_memory(StasisSeries *series)
{
    if (series->tracker != NULL)
        series->tracker->ops->close(g_steal_pointer(&series->tracker), TRUE);
    g_clear_pointer(&series->ram, stasis_ram_free);
    g_clear_pointer(&series->machine, stasis_machine_free);
    g_clear_pointer(&series->vcpu_threads, g_array_unref);
    g_clear_pointer(&series->layout, g_free);
}

/* RAM blocks, and what was plugged in: as text, to be compared. Not what only is there (/objects),
 * as what holds the VM's output for us is. Free with g_free(). */
static char *look_at_layout(StasisQmp *qmp, GError **error)
{
    static const char *const containers[] = { "/machine/peripheral", "/machine/peripheral-anon" };
    g_autofree char *blocks = stasis_qmp_human(qmp, "info ramblock", error);
    if (blocks == NULL)
        return NULL;
    GString *layout = g_string_new(blocks);
    for (guint i = 0; i < G_N_ELEMENTS(containers); i++) {
        g_autoptr(JsonObject) arguments = json_object_new();
        json_object_set_string_member(arguments, "path", containers[i]);
        g_autoptr(JsonNode) children = stasis_qmp_execute(qmp, "qom-list", arguments, -1, 0, error);
        if (children == NULL) {
            g_string_free(layout, TRUE);
            return NULL;
        }
        g_autofree char *text = json_to_string(children, FALSE);
        g_string_append(layout, text);
    }
    /* One that went and came back under its name looks as if it had stayed. */
    g_string_append_printf(layout, "%" G_GUINT64_FORMAT,
                           stasis_qmp_wait_event(qmp, "DEVICE_DELETED", 0, 0));
    return g_string_free(layout, FALSE);
}

gboolean stasis_series_refresh(StasisSeries *series, GError **error)
{
    StasisQmp *qmp = series->session->qmp;
    StasisRecord *record = series->session->record;
    g_autofree char *layout = look_at_layout(qmp, error);
    if (layout == NULL ||
        (series->mode->pre_copies && !stasis_dma_needs_drain(qmp, &series->drain, error)))
        return FALSE;
    if (g_strcmp0(layout, series->layout) == 0)
        return TRUE;
    forget_memory(series);
    if (!stasis_vm_check_suspended(qmp, record->pid, series->suspended, &series->untracked, error))
        return FALSE;
    series->ram = stasis_ram_discover(qmp, record->pid, error);
    if (series->ram == NULL)
        return FALSE;
    series->machine =
        stasis_machine_from_running(record->name, qmp, record->pid, series->ram, error);
    series->vcpu_threads = series->machine != NULL ? stasis_vcpus_threads(qmp, error) : NULL;
    if (series->vcpu_threads == NULL)
        return FALSE;
    series->layout = g_steal_pointer(&layout);
    return TRUE;
}

static gboolean find_suspended(StasisSeries *series, GError **error)
{
    StasisQmp *qmp = series->session->qmp;
    const char *const *names = series->options.guest_suspend;
    series->suspended = stasis_pci_find(qmp, names, error);
    if (series->suspended != NULL)
        return stasis_vm_check_suspended(qmp, series->session->record->pid, series->suspended,
                                         &series->untracked, error);
    g_prefix_error(error, "VM %s (--guest-suspend): ", series->session->record->name);
    return FALSE;
}

/* From the first instant on. */
static gboolean hold_output(StasisSeries *series, gboolean have_sweeper, GError **error)
{
    if (!series->options.hold_output)
        return TRUE;
    if (!have_sweeper) {
        g_set_error_literal(error, STASIS_ERROR, STASIS_ERROR_FAILED,
                            "stasis-sweep is not installed where the library is: without it the "
                            "VM's output would be held for good if stasis died meanwhile");
        return FALSE;
    }
    if (series->untracked) {
        g_set_error_literal(error, STASIS_ERROR, STASIS_ERROR_UNSUPPORTED,
                            "a device that the guest suspends (--guest-suspend) is not QEMU's own "
                            "(passed through, vhost-user), and what it sends can't be held; take "
                            "the series without --hold-output");
        return FALSE;
    }
    series->hold = stasis_output_hold_new(series->session->qmp, series->options.hold_interfaces);
    stasis_series_set_untidy(series, FALSE);
    return TRUE;
}

static gboolean open_vm(StasisSeries *series, const char *name, GCancellable *cancellable,
                        GError **error)
{
    const StasisCheckpointOptions *options = &series->options;
    series->session = stasis_session_open(name, STASIS_LOCK_WAIT_MS, error);
    if (series->session == NULL || !stasis_fault(STASIS_FAULT_VM_LOCKED, error))
        return FALSE;
    StasisQmp *qmp = series->session->qmp;
    StasisRecord *record = series->session->record;
    if (!stasis_rollback_check_whole(record->name, error) || !find_suspended(series, error) ||
        !stasis_session_sweep(series->session, record->track_image, error) ||
        !stasis_pager_wait(record, options->progress, options->progress_data, cancellable, error) ||
        !stasis_series_refresh(series, error))
        return FALSE;
    g_auto(GStrv) sweeper = stasis_vm_sweep_argv(record->name);
    /* There is no such mark now: it is for whoever takes the VM back later. */
    g_autofree char *mark = stasis_rollback_mark_path(record->name, error);
    if (mark != NULL)
        series->lifeline =
            stasis_lifeline_new_sweeping(qmp, mark, (const char *const *)sweeper, error);
    if (series->lifeline == NULL || !stasis_fault(STASIS_FAULT_LIFELINE_UP, error) ||
        !hold_output(series, sweeper != NULL, error))
        return FALSE;
    series->instant = stasis_instant_new(qmp, record->pid, error);
    if (series->instant != NULL && options->missed_word != 0) {
        series->missed_word = stasis_cycle_word_new(qmp, record->pid, options->missed_word, error);
        if (series->missed_word == NULL)
            return FALSE;
    }
    if (series->instant == NULL || options->cycle_word == 0)
        return series->instant != NULL;
    /* A loop that has time between its cycles has none in them, for faults. */
    series->sparing.max_pages = STASIS_SPARING_CYCLE_PAGES;
    series->cycle_word = stasis_cycle_word_new(qmp, record->pid, options->cycle_word, error);
    return series->cycle_word != NULL;
}

StasisSeries *stasis_series_new(StasisVm *vm, StasisStore *store,
                                const StasisCheckpointOptions *given, GCancellable *cancellable,
                                GError **error)
{
    StasisCheckpointOptions own = STASIS_CHECKPOINT_OPTIONS_INIT;
    const StasisCheckpointOptions *options = stasis_own_options(&own, given, sizeof own);
    g_autoptr(StasisSeries) series = g_new0(StasisSeries, 1);
    series->begun_us = stasis_now_us();
    series->options = own;
    series->options.tracker = g_strdup(options->tracker);
    series->options.note = g_strdup(options->note);
    series->options.guest_suspend = (const char *const *)g_strdupv((char **)options->guest_suspend);
    series->options.hold_interfaces =
        (const char *const *)g_strdupv((char **)options->hold_interfaces);
    series->mode = stasis_mode_ops(options->mode);
    series->store = stasis_store_ref(store);
    if (!open_vm(series, stasis_vm_get_name(vm), cancellable, error))
        return NULL;
    return g_steal_pointer(&series);
}

void stasis_series_set_untidy(StasisSeries *series, gboolean untidy)
{
    stasis_lifeline_set_untidy(series->lifeline, untidy || series->hold != NULL);
}

const char *const *stasis_series_get_held(StasisSeries *series)
{
    return series->hold != NULL ? stasis_output_hold_get_names(series->hold) : NULL;
}

void stasis_series_release(StasisSeries *series, StasisHeld *ret)
{
    /* They can't be let go of without the session, and the lifeline is told that nothing is left.
     */
    g_assert(series->held_disks == NULL);
    g_clear_pointer(&series->hold, stasis_output_hold_free);
    stasis_series_set_untidy(series, FALSE);
    *ret = (StasisHeld){
        .session = g_steal_pointer(&series->session),
        .ram = g_steal_pointer(&series->ram),
        .machine = g_steal_pointer(&series->machine),
        .tracker = g_steal_pointer(&series->tracker),
        .lifeline = g_steal_pointer(&series->lifeline),
        .instant = g_steal_pointer(&series->instant),
    };
}

void stasis_series_free(StasisSeries *series)
{
    if (series == NULL)
        return;
    if (series->held_disks != NULL) {
        g_clear_pointer(&series->held_disks, stasis_disk_part_free);
        stasis_series_set_untidy(series, FALSE);
    }
    /* First of all: nobody can wait for an image any more. */
    g_clear_pointer(&series->hold, stasis_output_hold_free);
    forget_memory(series);
    stasis_capture_pool_clear(&series->pool);
    g_clear_pointer(&series->instant, stasis_instant_free);
    g_clear_pointer(&series->cycle_word, stasis_cycle_word_free);
    g_clear_pointer(&series->missed_word, stasis_cycle_word_free);
    g_clear_pointer(&series->lifeline, stasis_lifeline_free);
    g_clear_pointer(&series->session, stasis_session_free);
    stasis_store_unref(series->store);
    g_free((char *)series->options.tracker);
    g_free((char *)series->options.note);
    g_strfreev((char **)series->options.guest_suspend);
    g_strfreev((char **)series->options.hold_interfaces);
    g_clear_pointer(&series->suspended, g_ptr_array_unref);
    g_free(series);
}

StasisImageInfo *stasis_series_take(StasisSeries *series, GCancellable *cancellable, GError **error)
{
    /* The first one pays for getting ready. */
    if (series->begun_us == 0)
        series->begun_us = stasis_now_us();
    g_autoptr(StasisImageInfo) info = NULL;
    if (stasis_series_refresh(series, error))
        info = stasis_series_checkpoint(series, cancellable, error);
    if (info == NULL && !stasis_record_is_alive(series->session->record))
        g_prefix_error(error, "VM %s has ended meanwhile: ", series->session->record->name);
    series->begun_us = 0;
    return g_steal_pointer(&info);
}

StasisImageInfo *stasis_checkpoint_create_aside(StasisVm *vm, StasisStore *store,
                                                const StasisCheckpointOptions *options,
                                                GCancellable *cancellable, GError **error)
{
    g_autoptr(StasisSeries) series = stasis_series_new(vm, store, options, cancellable, error);
    if (series == NULL)
        return NULL;
    series->aside = TRUE;
    return stasis_series_take(series, cancellable, error);
}

StasisImageInfo *stasis_checkpoint_create(StasisVm *vm, StasisStore *store,
                                          const StasisCheckpointOptions *given,
                                          GCancellable *cancellable, GError **error)
{
    StasisCheckpointOptions own = STASIS_CHECKPOINT_OPTIONS_INIT;
    const StasisCheckpointOptions *options = stasis_own_options(&own, given, sizeof own);
    if (options->hold_output) {
        g_set_error_literal(error, STASIS_ERROR, STASIS_ERROR_USAGE,
                            "output is held from one image of a series to the next; this is one");
        return NULL;
    }
    g_autoptr(StasisSeries) series = stasis_series_new(vm, store, options, cancellable, error);
    return series != NULL ? stasis_series_take(series, cancellable, error) : NULL;
}
