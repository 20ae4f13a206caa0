/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 *      devices:   stop ──┬──> save ──────────────────┬──> resume
 *      RAM:              └──> during() of the mode ──┘
 *
 * QEMU's xen-save-devices-state writes the state of CPUs and devices without RAM. With live=false
 * on a stopped VM it leaves the VM stopped and the disks' locks alone.
 */
#include "engine/checkpoint/instant.h"

#include <errno.h>
#include <semaphore.h>
#include <stasis/error.h>
#include <string.h>

#include "base/clock.h"
#include "base/fault.h"
#include "base/io.h"
#include "engine/checkpoint/stopper.h"
#include "vmm/state-file.h"

/* Kept back of a pause budget for letting the VM go on. */
#define CONT_RESERVE_US 1000
/* How long nothing of ours runs after the VM was let go. QEMU's main loop still holds the lock that
 * the virtual CPUs want, and threads of ours that begin to compress now, on its CPU, would keep it
 * from running until the scheduler's next tick. */
#define LET_GO_US 1000

struct _StasisInstant {
    StasisQmp *qmp;
    StasisStopper *stopper;
    pid_t pid;             /* QEMU's */
    StasisStateFile state; /* into which it saves its devices */
    gboolean was_paused, stopped;
    guint lent;       /* generation of the connection that the state's memory was handed over on */
    guint generation; /* the same, before the stop */
    guint64 reset_event_us, resume_event_us; /* the last before the stop, by QEMU's clock */
    guint64 stop_sent_us, ram_us, pause_us, worst_pause_us;
    gint64 time_us;

    StasisCopy *copy;
    const StasisModeOps *mode;
    StasisDiskTaking *disks; /* or NULL */
    gboolean disks_given;    /* to the stopper, which takes them as it stops the VM */
    guint64 disk_us;
    GThread *thread; /* made before the stop */
    sem_t go;        /* posted when the RAM thread may begin, or shall end */
    gboolean abandoned;
    gboolean late; /* no stop was made: it would have begun too late */
    int ram_result;
};

static gboolean lend(StasisInstant *instant, GError **error)
{
    instant->lent = stasis_qmp_get_generation(instant->qmp);
    return stasis_state_file_lend(&instant->state, instant->qmp, instant->pid, error);
}

/* A QEMU whose monitor was closed meanwhile has dropped our descriptor. */
static gboolean ensure_lent(StasisInstant *instant, GError **error)
{
    if (!stasis_qmp_refresh(instant->qmp, error))
        return FALSE;
    return instant->lent == stasis_qmp_get_generation(instant->qmp) || lend(instant, error);
}

/* Not in the middle of a migration or snapshot of QEMU's own. */
static gboolean state_is_fit(const char *state)
{
    static const char *const unfit[] = { "inmigrate",   "save-vm", "restore-vm", "finish-migrate",
                                         "postmigrate", "colo",    NULL };
    return !g_strv_contains(unfit, state);
}

StasisInstant *stasis_instant_new(StasisQmp *qmp, pid_t pid, GError **error)
{
    g_autoptr(StasisInstant) instant = g_new0(StasisInstant, 1);
    *instant = (StasisInstant){ .qmp = qmp, .pid = pid, .state = STASIS_STATE_FILE_NONE };
    sem_init(&instant->go, 0, 0);
    return lend(instant, error) ? g_steal_pointer(&instant) : NULL;
}

gboolean stasis_instant_begin(StasisInstant *instant, StasisLifeline *lifeline,
                              const StasisCopy *copy, const GPtrArray *disks, gboolean has_disks,
                              gboolean qmp_needed, GError **error)
{
    g_autofree char *state = stasis_qmp_run_state(instant->qmp, error);
    if (state == NULL)
        return FALSE;
    if (!ensure_lent(instant, error))
        return FALSE;
    instant->was_paused = strcmp(state, "running") != 0;
    instant->pause_us = instant->worst_pause_us = 0;
    if (!state_is_fit(state)) {
        g_set_error(error, STASIS_ERROR, STASIS_ERROR_BUSY,
                    "the VM is in state \"%s\": something else is being done to it; try again",
                    state);
        return FALSE;
    }
    StasisStopperMeans means = {
        .pid = copy->ram->pid,
        .qmp = instant->qmp,
        .lifeline = lifeline,
        .tracker = copy->tracker,
        .fdset = instant->state.set,
        .may_be_long = copy->stop_may_be_long,
        .has_disks = has_disks,
        .disks = disks,
        .qmp_needed = qmp_needed,
    };
    instant->stopper = stasis_stopper_open(&means, instant->was_paused);
    return TRUE;
}

void stasis_instant_end(StasisInstant *instant)
{
    g_clear_pointer(&instant->stopper, stasis_stopper_close);
}

void stasis_instant_free(StasisInstant *instant)
{
    if (instant == NULL)
        return;
    stasis_instant_end(instant);
    sem_destroy(&instant->go);
    stasis_state_file_close(&instant->state, instant->qmp, instant->was_paused);
    g_free(instant);
}

void stasis_instant_flush(StasisInstant *instant)
{
    if (!instant->was_paused)
        instant->stopper->ops->flush(instant->stopper);
}

/* The VM runs, as far as we know. */
static gboolean give_disks(StasisInstant *instant, GError **error)
{
    const StasisStopperOps *ops = instant->stopper->ops;
    instant->disks_given =
        instant->disks != NULL && !instant->was_paused && ops->give_disks != NULL;
    return !instant->disks_given || ops->give_disks(instant->stopper, instant->disks, error);
}

/* The stopper knows the old one. */
static gboolean check_lent(StasisInstant *instant, GError **error)
{
    if (!stasis_qmp_refresh(instant->qmp, error))
        return FALSE;
    if (instant->lent == stasis_qmp_get_generation(instant->qmp))
        return TRUE;
    g_set_error_literal(
        error, STASIS_ERROR, STASIS_ERROR_FAILED,
        "libvirtd was restarted right before the stop, and QEMU has dropped what it "
        "was lent; try again");
    return FALSE;
}

static gboolean late_error(GError **error)
{
    g_clear_error(error);
    g_set_error_literal(error, STASIS_ERROR, STASIS_ERROR_BUDGET,
                        "the VM could not be stopped in time; it runs on");
    return FALSE;
}

static gboolean stop(StasisInstant *instant, GError **error)
{
    instant->reset_event_us = stasis_qmp_wait_event(instant->qmp, "RESET", 0, 0);
    instant->resume_event_us = stasis_qmp_wait_event(instant->qmp, "RESUME", 0, 0);
    instant->generation = stasis_qmp_get_generation(instant->qmp);
    instant->stop_sent_us = stasis_now_us();
    instant->time_us = g_get_real_time();
    if (instant->was_paused)
        return TRUE;
    guint64 by_us = instant->copy->stop_by_us;
    instant->late = by_us != 0 && instant->stop_sent_us > by_us;
    gboolean ok =
        !instant->late && instant->stopper->ops->stop(instant->stopper, by_us, &instant->stopped,
                                                      &instant->late, error);
    if (instant->late)
        return late_error(error);
    if (ok && !instant->stopped)
        instant->was_paused = TRUE;
    instant->disks_given &= instant->stopped;
    return ok && stasis_fault(STASIS_FAULT_STOPPED, error);
}

/* On every way out of the stop; nothing is worse than a VM left stopped. @error, if set already, is
 * what went wrong before. */
static gboolean resume(StasisInstant *instant, GError **error)
{
    if (!instant->stopped)
        return TRUE;
    g_autoptr(GError) local = NULL;
    instant->stopped = FALSE;
    if (stasis_stopper_resume(instant->stopper, &local))
        return TRUE;
    g_autofree char *before =
        error != NULL && *error != NULL ? g_strdup((*error)->message) : g_strdup("");
    g_clear_error(error);
    g_set_error(error, STASIS_ERROR, STASIS_ERROR_FAILED,
                "%s%sthe VM could not be resumed at once (%s); see stasis info, and stasis resume",
                before, *before != '\0' ? "; " : "", local->message);
    return FALSE;
}

/* Somebody else's hand on the VM in the middle of it. */
static gboolean check_undisturbed(StasisInstant *instant, GError **error)
{
    gboolean resumed =
        stasis_qmp_was_resumed(instant->qmp, instant->resume_event_us, (guint64)instant->time_us);
    guint64 reset = stasis_qmp_wait_event(instant->qmp, "RESET", 0, 0);
    if (stasis_qmp_get_generation(instant->qmp) != instant->generation) {
        g_set_error_literal(error, STASIS_ERROR, STASIS_ERROR_FAILED,
                            "libvirtd was restarted while the VM was stopped for the checkpoint, "
                            "and nobody saw what else was done to the VM; try again");
        return FALSE;
    }
    if (!resumed && reset == instant->reset_event_us)
        return TRUE;
    g_set_error_literal(error, STASIS_ERROR, STASIS_ERROR_FAILED,
                        "the VM was resumed or reset by someone else while it was stopped for the "
                        "checkpoint; try again");
    return FALSE;
}

static gpointer ram_thread(gpointer data)
{
    StasisInstant *instant = data;
    while (sem_wait(&instant->go) < 0)
        ;
    guint64 t0 = stasis_now_us();
    if (!instant->abandoned)
        instant->ram_result = instant->mode->during(instant->copy);
    instant->ram_us = stasis_now_us() - t0;
    return NULL;
}

static gboolean budget_error(const StasisCopy *copy, const char *why, GError **error)
{
    g_set_error(error, STASIS_ERROR, STASIS_ERROR_BUDGET,
                "the pause would have been longer than the %.1f ms allowed (%s); the VM runs on",
                (double)copy->max_pause_us / 1e3, why);
    return FALSE;
}

static gboolean check_ram(const StasisInstant *instant, GError **error)
{
    if (instant->ram_result == 0)
        return TRUE;
    /* Where it was written meanwhile, that knows better. */
    if (!stasis_copy_may_go_on(instant->copy, error))
        return FALSE;
    if (instant->ram_result == -ETIME)
        return budget_error(instant->copy, "memory to copy", error);
    if (instant->ram_result == -ENOBUFS) {
        g_set_error(error, STASIS_ERROR, STASIS_ERROR_OUTRUN,
                    "the guest wrote far more in the last moment than in the round before: "
                    "%" G_GUINT64_FORMAT " MiB; try again",
                    instant->copy->residual_pages * STASIS_PAGE_BYTES >> 20);
        return FALSE;
    }
    return stasis_set_errno(error, -instant->ram_result, "take the RAM of the stopped VM");
}

static gboolean take_disks(StasisInstant *instant, GError **error)
{
    guint64 t0 = stasis_now_us();
    guint64 deadline_us = instant->copy->max_pause_us != 0 ? instant->copy->stop_deadline_us : 0;
    instant->disk_us = 0;
    if (instant->disks == NULL)
        return TRUE;
    gboolean ok = instant->disks_given
                      ? stasis_fault(STASIS_FAULT_DISK_TAKEN, error)
                      : instant->disks->ops->take(instant->disks, deadline_us, error);
    instant->disk_us = instant->disks_given ? instant->stopper->ops->get_disk_us(instant->stopper)
                                            : stasis_now_us() - t0;
    return ok;
}

/* The VM is stopped. */
static gboolean take_stopped(StasisInstant *instant, GError **error)
{
    StasisCopy *copy = instant->copy;
    guint64 stop_us = stasis_now_us() - instant->stop_sent_us;
    if (copy->max_pause_us != 0) {
        copy->stop_deadline_us = instant->stop_sent_us + copy->max_pause_us - CONT_RESERVE_US;
        if (stop_us + CONT_RESERVE_US > copy->max_pause_us)
            return budget_error(copy, "stopping alone took it", error);
    }
    instant->abandoned = FALSE;
    sem_post(&instant->go);
    gboolean saved =
        take_disks(instant, error) && instant->stopper->ops->save(instant->stopper, error);
    g_thread_join(g_steal_pointer(&instant->thread));
    if (!saved || !stasis_fault(STASIS_FAULT_HARVESTED, error) || !check_ram(instant, error) ||
        !check_undisturbed(instant, error))
        return FALSE;
    return stasis_fault(STASIS_FAULT_DEVICES_SAVED, error);
}

/* QEMU's own times where it gives them; they leave out our scheduling. */
static void measure(StasisInstant *instant, guint64 resumed_us)
{
    if (instant->was_paused)
        return;
    guint64 begin = stasis_qmp_wait_event(instant->qmp, "STOP", 0, 0);
    guint64 end = stasis_qmp_wait_event(instant->qmp, "RESUME", 0, 0);
    if (end > begin && begin >= (guint64)instant->time_us)
        instant->pause_us = end - begin;
    else
        instant->pause_us = resumed_us - instant->stop_sent_us;
    instant->worst_pause_us = MAX(instant->worst_pause_us, instant->pause_us);
}

gboolean stasis_instant_take(StasisInstant *instant, StasisCopy *copy, const StasisModeOps *mode,
                             StasisDiskTaking *disks, GError **error)
{
    instant->copy = copy;
    instant->mode = mode;
    instant->disks = disks;
    instant->ram_result = 0;
    instant->late = FALSE;
    instant->abandoned = TRUE;
    instant->thread = g_thread_try_new("stasis-ram", ram_thread, instant, error);
    if (instant->thread == NULL)
        return FALSE;
    g_autoptr(GError) local = NULL;
    gboolean ok =
        check_lent(instant, &local) && stasis_state_file_rewind(&instant->state, &local) &&
        give_disks(instant, &local) && stop(instant, &local) && take_stopped(instant, &local);
    if (!resume(instant, &local))
        ok = FALSE;
    guint64 resumed_us = stasis_now_us();
    if (instant->thread != NULL) {
        sem_post(&instant->go);
        g_thread_join(g_steal_pointer(&instant->thread));
    }
    if (!instant->late)
        measure(instant, resumed_us);
    if (!instant->was_paused && !instant->late)
        g_usleep(LET_GO_US);
    if (!ok) {
        g_propagate_error(error, g_steal_pointer(&local));
        return FALSE;
    }
    if (copy->max_pause_us != 0 && instant->pause_us > copy->max_pause_us)
        return budget_error(copy, "measured after the fact", error);
    return stasis_fault(STASIS_FAULT_RESUMED, error);
}

gboolean stasis_instant_was_late(const StasisInstant *instant)
{
    return instant->late;
}

gboolean stasis_instant_lacked_memory(const StasisInstant *instant)
{
    return instant->ram_result == -ENOBUFS;
}

GBytes *stasis_instant_get_vmstate(StasisInstant *instant, GError **error)
{
    return stasis_state_file_read(&instant->state, error);
}

GBytes *stasis_instant_save_devices(StasisInstant *instant, GError **error)
{
    return ensure_lent(instant, error)
               ? stasis_state_file_save(&instant->state, instant->qmp, error)
               : NULL;
}

gint64 stasis_instant_get_time_us(StasisInstant *instant)
{
    return instant->time_us;
}

guint64 stasis_instant_get_pause_us(StasisInstant *instant)
{
    return instant->pause_us;
}

guint64 stasis_instant_get_worst_pause_us(StasisInstant *instant)
{
    return instant->worst_pause_us;
}

guint64 stasis_instant_get_device_us(StasisInstant *instant)
{
    return instant->stopper->ops->get_save_us(instant->stopper);
}

guint64 stasis_instant_get_ram_us(StasisInstant *instant)
{
    return instant->ram_us;
}

guint64 stasis_instant_get_disk_us(StasisInstant *instant)
{
    return instant->disk_us;
}

gboolean stasis_instant_was_paused(StasisInstant *instant)
{
    return instant->was_paused;
}
