/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 *     hold the VM's directory in memory        one transaction at a time
 *     recover                                  what a dead one left
 *     checkpoint                               the VM is held for it
 *     dead man's switch                        becomes stasis-sweep if we die
 *     transaction.json                         --- it has begun
 *     … whatever is tried …
 *     commit: remove transaction.json          --- it is over
 *     or roll back, and then remove it
 *
 * Killed before the file is there, the VM simply runs on: nothing was tried. Killed after it was
 * removed, it was committed. In between the VM goes back, whoever does it, and as often as it
 * takes: a rollback that is done twice ends where it ended once.
 */
#include <stasis/error.h>
#include <stasis/transaction.h>
#include <string.h>

#include "base/clock.h"
#include "base/fault.h"
#include "base/fd.h"
#include "base/options.h"
#include "engine/checkpoint/series.h"
#include "engine/guards/made.h"
#include "engine/guards/watch.h"
#include "engine/rollback/rollback-mark.h"
#include "engine/rollback/rollback-internal.h"
#include "engine/transactions/transaction-device.h"
#include "engine/transactions/transaction-file.h"
#include "engine/transactions/undo.h"
#include "engine/vm/stray.h"
#include "engine/vm/sweep.h"
#include "store/image.h"
#include "vmm/agent-channel.h"

#define NOTE "transaction"
#define WAIT_MS 10000

struct _StasisTransaction {
    char *name, *uri;
    StasisMemory *memory;
    StasisStore *store;
    gboolean in_memory, keep, open;
    StasisImageInfo *image;
    StasisLifeline *lifeline;
    StasisSession *session; /* while the monitor is needed: it does not hold the VM */
    StasisRollback *ready;  /* or NULL: it is to be held no longer than it must */
    StasisWatch *watch;
    StasisTransactionDevice *device; /* that goes back alone if that can be, or NULL */
};

/* ---- back ---- */

/* Or no more; then it is started again. */
static gboolean is_the_same(const char *name, const StasisTransactionFile *file)
{
    g_autoptr(StasisRecord) record = stasis_record_load(name, NULL);
    return record == NULL || !stasis_record_is_alive(record) ||
           (record->pid == file->pid && record->start_time == file->start_time);
}

static void let_end(const char *name)
{
    g_autoptr(StasisSession) session = stasis_session_open(name, STASIS_LOCK_WAIT_MS, NULL);
    if (session != NULL)
        stasis_watch_keep_ended(session->qmp, session->record, STASIS_KEEP_NONE);
}

/* To the image in @file, whose directory is held. @ready (taken; or NULL) is to that one. */
static StasisUndone *go_back(const char *name, const char *dir, const StasisTransactionFile *file,
                             StasisRollback *ready, GCancellable *cancellable, GError **error)
{
    g_autoptr(StasisRollback) rollback = ready;
    if (!is_the_same(name, file)) {
        g_set_error(error, STASIS_ERROR, STASIS_ERROR_NOT_FOUND,
                    "VM %s is another one than the transaction was begun on; it is left alone",
                    name);
        stasis_transaction_file_remove(dir, NULL);
        return NULL;
    }
    g_autoptr(StasisStore) store = stasis_store_open(file->store, STASIS_STORE_EXISTING, error);
    if (store == NULL)
        return NULL;
    /* What is left of the command would go on with what it was at. */
    stasis_end_marked(STASIS_TRY_IMAGE_VARIABLE, file->image);
    g_autoptr(StasisUndone) undone = stasis_undo(name, file->uri, g_steal_pointer(&rollback), store,
                                                 file->image, FALSE, cancellable, error);
    if (undone == NULL)
        return NULL;
    if (!stasis_fault(STASIS_FAULT_TRANSACTION_BACK, error) ||
        !stasis_transaction_file_remove(dir, error))
        return NULL;
    return g_steal_pointer(&undone);
}

StasisUndone *stasis_transaction_recover(const char *name, GCancellable *cancellable,
                                         GError **error)
{
    g_autoptr(StasisMemory) memory = stasis_memory_open(name, "recovery", WAIT_MS, error);
    g_autoptr(GError) local = NULL;
    g_autoptr(StasisTransactionFile) file =
        memory != NULL ? stasis_transaction_file_get(memory->dir, &local) : NULL;
    if (file == NULL) {
        if (local != NULL)
            g_propagate_error(error, g_steal_pointer(&local));
        else if (memory != NULL)
            g_set_error(error, STASIS_ERROR, STASIS_ERROR_NOT_FOUND,
                        "VM %s: no transaction is to be rolled back", name);
        return NULL;
    }
    StasisUndone *undone = go_back(name, memory->dir, file, NULL, cancellable, error);
    if (undone != NULL)
        let_end(name);
    return undone;
}

/* ---- beginning ---- */

static void close_all(StasisTransaction *tx)
{
    g_clear_pointer(&tx->watch, stasis_watch_free);
    g_clear_pointer(&tx->session, stasis_session_free);
    g_clear_pointer(&tx->ready, stasis_rollback_free);
}

/* What is only wanted while it is under way. */
static void finish(StasisTransaction *tx)
{
    close_all(tx);
    tx->open = FALSE;
    if (tx->lifeline != NULL)
        stasis_lifeline_disarm(tx->lifeline);
    g_clear_pointer(&tx->lifeline, stasis_lifeline_free);
    if (tx->image != NULL && tx->memory != NULL)
        let_end(tx->name);
    if (tx->image != NULL && tx->store != NULL)
        stasis_made_prune(tx->memory, tx->store, tx->name, NOTE, 1, NULL);
    g_clear_pointer(&tx->store, stasis_store_unref);
    if (tx->memory != NULL)
        stasis_memory_close(g_steal_pointer(&tx->memory), tx->in_memory && !tx->keep);
}

void stasis_transaction_free(StasisTransaction *tx)
{
    if (tx == NULL)
        return;
    if (tx->open) {
        g_autoptr(StasisUndone) undone = stasis_transaction_rollback(tx, NULL);
    }
    finish(tx);
    g_clear_pointer(&tx->device, stasis_transaction_device_free);
    g_clear_pointer(&tx->image, stasis_image_info_free);
    g_free(tx->name);
    g_free(tx->uri);
    g_free(tx);
}

static gboolean recover_first(StasisTransaction *tx, GCancellable *cancellable, GError **error)
{
    g_autoptr(GError) local = NULL;
    g_autoptr(StasisTransactionFile) file = stasis_transaction_file_get(tx->memory->dir, &local);
    if (file == NULL) {
        if (local != NULL)
            g_propagate_error(error, g_steal_pointer(&local));
        return local == NULL;
    }
    g_autoptr(StasisUndone) undone =
        go_back(tx->name, tx->memory->dir, file, NULL, cancellable, &local);
    if (undone != NULL || g_error_matches(local, STASIS_ERROR, STASIS_ERROR_NOT_FOUND))
        return TRUE;
    g_propagate_prefixed_error(error, g_steal_pointer(&local),
                               "VM %s: the transaction before was not completed: ", tx->name);
    return FALSE;
}

/* Where its agent is must be known to others without asking QEMU or libvirt. */
static gboolean can_be_held(const StasisRecord *record)
{
    g_autofree char *path = record->uri == NULL ? stasis_agent_channel_guess(record->pid) : NULL;
    return path != NULL;
}

/* Takes @series. NULL when that can't be: whoever gets ready later says why. */
static StasisRollback *get_ready(StasisSeries *series, StasisStore *store, const char *image)
{
    StasisRollbackOptions options = STASIS_ROLLBACK_OPTIONS_INIT;
    options.force = TRUE;
    return stasis_rollback_prepare_held(series, store, image, /* flags= */ 0, &options, NULL, NULL);
}

static gboolean take_image(StasisTransaction *tx, StasisVm *vm,
                           const StasisTransactionOptions *options, StasisTransactionFile *file,
                           GCancellable *cancellable, GError **error)
{
    const char *const device[] = { options->device, NULL };
    StasisCheckpointOptions checkpoint = STASIS_CHECKPOINT_OPTIONS_INIT;
    checkpoint.disks = options->disks;
    checkpoint.note = NOTE;
    if (tx->device != NULL && !stasis_transaction_device_has_state(tx->device))
        checkpoint.guest_suspend = device;
    else if (options->guest_suspend != NULL)
        checkpoint.guest_suspend = options->guest_suspend;
    g_autoptr(StasisSeries) series =
        stasis_series_new(vm, tx->store, &checkpoint, cancellable, error);
    tx->image = series != NULL ? stasis_series_take(series, cancellable, error) : NULL;
    if (tx->image == NULL || !stasis_made_note(tx->memory, tx->store, NOTE, tx->image->id, error))
        return FALSE;
    stasis_watch_keep_ended(series->session->qmp, series->session->record,
                            options->on != NULL && stasis_watch_has(options->on, "crash") &&
                                    !stasis_watch_has(options->on, "exit")
                                ? STASIS_KEEP_PANICKED
                                : STASIS_KEEP_ALL);
    file->pid = series->session->record->pid;
    file->start_time = series->session->record->start_time;
    tx->uri = g_strdup(series->session->record->uri);
    file->uri = tx->uri;
    if (options->hold && tx->device == NULL && can_be_held(series->session->record))
        tx->ready = get_ready(g_steal_pointer(&series), tx->store, tx->image->id);
    return TRUE;
}

static gboolean take_device(StasisTransaction *tx, StasisVm *vm, const char *device,
                            GCancellable *cancellable, GError **error)
{
    if (device != NULL)
        tx->device = stasis_transaction_device_take(vm, tx->store, device, cancellable, error);
    return device == NULL || tx->device != NULL;
}

static gboolean arm(StasisTransaction *tx, GError **error)
{
    g_auto(GStrv) argv = stasis_vm_sweep_argv(tx->name);
    if (argv == NULL)
        return TRUE; /* the next command recovers */
    const char *const words[] = { argv[0], "--transaction", tx->name, NULL };
    tx->lifeline = stasis_lifeline_new_program(words, error);
    if (tx->lifeline == NULL)
        return FALSE;
    stasis_lifeline_arm(tx->lifeline);
    return TRUE;
}

/* The VM is not held from here on, unless that was asked for: what is tried may itself be a command
 * of ours. */
static gboolean watch(StasisTransaction *tx, const StasisTransactionOptions *options,
                      GError **error)
{
    static const char *const fallback[] = { "exit", NULL };
    const char *const *on = options->on != NULL ? options->on : fallback;
    g_autoptr(StasisRecord) record = stasis_record_load(tx->name, error);
    if (record == NULL)
        return FALSE;
    if (tx->ready == NULL && stasis_watch_needs_monitor(on)) {
        tx->session = stasis_session_open(tx->name, STASIS_LOCK_WAIT_MS, error);
        if (tx->session == NULL)
            return FALSE;
        stasis_clear_fd(&tx->session->lock_fd);
    }
    const StasisSession *session = tx->ready != NULL ? tx->ready->session : tx->session;
    tx->watch = stasis_watch_new(record, session != NULL ? session->qmp : NULL, on,
                                 /* whole_console= */ FALSE, error);
    return tx->watch != NULL;
}

void stasis_transaction_abandon(StasisTransaction *tx)
{
    stasis_transaction_file_remove(tx->memory->dir, NULL);
    tx->open = FALSE;
}

StasisTransaction *stasis_transaction_begin(StasisVm *vm, StasisStore *store,
                                            const StasisTransactionOptions *given,
                                            GCancellable *cancellable, GError **error)
{
    StasisTransactionOptions own = STASIS_TRANSACTION_OPTIONS_INIT;
    const StasisTransactionOptions *options = stasis_own_options(&own, given, sizeof own);
    g_autoptr(StasisTransaction) tx = g_new0(StasisTransaction, 1);
    if (options->on != NULL && !stasis_watch_check(options->on, error))
        return NULL;
    tx->name = g_strdup(stasis_vm_get_name(vm));
    tx->keep = options->keep;
    tx->in_memory = store == NULL;
    tx->memory = stasis_memory_open(tx->name, "a transaction", WAIT_MS, error);
    if (tx->memory == NULL || !recover_first(tx, cancellable, error))
        return NULL;
    /* Whoever completes that needs its image, which may be a guard's, here. */
    if (!stasis_rollback_check_whole(tx->name, error)) {
        tx->keep = TRUE;
        return NULL;
    }
    tx->store =
        store != NULL ? stasis_store_ref(store) : stasis_memory_get_store(tx->memory, error);
    StasisTransactionFile file = { .in_memory = tx->in_memory };
    if (tx->store == NULL || !take_device(tx, vm, options->device, cancellable, error) ||
        !take_image(tx, vm, options, &file, cancellable, error) ||
        !stasis_fault(STASIS_FAULT_TRANSACTION_IMAGE, error) || !arm(tx, error))
        return NULL;
    file.image = tx->image->id;
    file.store = (char *)stasis_store_get_path(tx->store);
    if (!stasis_transaction_file_set(tx->memory->dir, &file, error))
        return NULL;
    tx->open = TRUE;
    if (stasis_fault(STASIS_FAULT_TRANSACTION_BEGUN, error) && watch(tx, options, error))
        return g_steal_pointer(&tx);
    stasis_transaction_abandon(tx);
    return NULL;
}

const StasisImageInfo *stasis_transaction_get_image(StasisTransaction *tx)
{
    return tx->image;
}

StasisStore *stasis_transaction_get_store(StasisTransaction *tx)
{
    return tx->store;
}

StasisFailure *stasis_transaction_wait(StasisTransaction *tx, guint64 timeout_us, int wake_fd,
                                       GCancellable *cancellable)
{
    guint64 now = stasis_now_us();
    guint64 deadline_us = timeout_us > G_MAXUINT64 - now ? G_MAXUINT64 - 1000 : now + timeout_us;
    return stasis_watch_wait(tx->watch, deadline_us, wake_fd, cancellable);
}

/* ---- ending ---- */

/* What nobody was watching for must not be committed all the same. */
static gboolean check_alive(StasisTransaction *tx, GError **error)
{
    static const char *const ended[] = { "guest-panicked", "shutdown", "watchdog",
                                         "internal-error", "io-error", NULL };
    g_autoptr(StasisSession) session = stasis_session_open(tx->name, STASIS_LOCK_WAIT_MS, error);
    g_autofree char *state = session != NULL ? stasis_qmp_run_state(session->qmp, error) : NULL;
    if (state == NULL)
        return FALSE;
    if (!g_strv_contains(ended, state))
        return TRUE;
    g_set_error(error, STASIS_ERROR, STASIS_ERROR_FAILED, "VM %s is not well: its state is \"%s\"",
                tx->name, state);
    return FALSE;
}

/* An end that was asked for is no failure where only others are (--on crash, without exit). */
static gboolean may_have_ended(const StasisTransaction *tx)
{
    return tx->watch != NULL && stasis_watch_get_end(tx->watch) != NULL;
}

/* A last look: one that is on its way out has ended, or has failed, or goes on. */
static gboolean has_not_failed(StasisTransaction *tx, GError **error)
{
    StasisFailure *failure = NULL;
    if (tx->watch == NULL)
        return TRUE;
    while ((failure = stasis_watch_look(tx->watch)) == NULL && stasis_watch_is_ending(tx->watch))
        g_usleep(10000);
    if (failure == NULL)
        return TRUE;
    g_set_error(error, STASIS_ERROR, STASIS_ERROR_FAILED, "VM %s has failed: %s%s%s", tx->name,
                failure->kind, failure->detail != NULL ? ": " : "",
                failure->detail != NULL ? failure->detail : "");
    stasis_failure_free(failure);
    return FALSE;
}

gboolean stasis_transaction_commit(StasisTransaction *tx, GError **error)
{
    if (!has_not_failed(tx, error))
        return FALSE;
    gboolean ended = may_have_ended(tx);
    close_all(tx);
    if ((!ended && !check_alive(tx, error)) ||
        !stasis_fault(STASIS_FAULT_TRANSACTION_COMMIT, error) ||
        !stasis_transaction_file_remove(tx->memory->dir, error))
        return FALSE;
    tx->open = FALSE;
    if (!stasis_fault(STASIS_FAULT_TRANSACTION_COMMITTED, error))
        return FALSE;
    finish(tx);
    return TRUE;
}

/* The device alone. NULL, with @error, when the VM has to go back. */
static StasisUndone *put_device_back(StasisTransaction *tx, GError **error)
{
    guint64 begun_us = stasis_now_us();
    const char *dir = tx->memory->dir;
    if (!check_alive(tx, error) || !stasis_transaction_device_put_back(tx->device, error) ||
        !stasis_transaction_file_remove(dir, error))
        return NULL;
    StasisUndone *undone = g_new0(StasisUndone, 1);
    undone->device_only = TRUE;
    undone->total_us = stasis_now_us() - begun_us;
    return undone;
}

static StasisUndone *put_vm_back(StasisTransaction *tx, GError **error)
{
    g_autoptr(StasisTransactionFile) file = stasis_transaction_file_get(tx->memory->dir, error);
    if (file == NULL || !stasis_fault(STASIS_FAULT_TRANSACTION_UNDO, error))
        return NULL;
    return go_back(tx->name, tx->memory->dir, file, g_steal_pointer(&tx->ready), NULL, error);
}

static StasisUndone *undo(StasisTransaction *tx, GError **error)
{
    g_autoptr(GError) local = NULL;
    StasisUndone *undone = tx->device != NULL ? put_device_back(tx, &local) : NULL;
    if (undone != NULL)
        return undone;
    undone = put_vm_back(tx, error);
    if (undone != NULL && local != NULL)
        undone->device_failed = g_strdup(local->message);
    return undone;
}

StasisUndone *stasis_transaction_rollback(StasisTransaction *tx, GError **error)
{
    g_clear_pointer(&tx->watch, stasis_watch_free);
    g_clear_pointer(&tx->session, stasis_session_free);
    tx->open = FALSE; /* what fails now is recovered, not tried again by _free() */
    g_autoptr(StasisUndone) undone = undo(tx, error);
    if (undone == NULL) {
        g_prefix_error(error, "VM %s: rolling back failed, `stasis try --recover %s` tries again: ",
                       tx->name, tx->name);
        tx->keep = TRUE;
        return NULL;
    }
    finish(tx);
    return g_steal_pointer(&undone);
}
