/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * crash: QEMU has ended, and nobody had asked it to. Who did so shows in its SHUTDOWN event; of a
 * domain libvirt knows it as well, and is asked where the event has not come. No event is an end
 * by itself: killed, aborted, out of memory.
 *
 * An end that was asked for is no failure. It is kept in StasisWatched.ended, for who wants to know
 * (stasis_watch_follow_end()).
 */
#include <poll.h>
#include <string.h>

#include "base/clock.h"
#include "base/json.h"
#include "engine/guards/watch.h"
#include "vmm/domain.h"

#define EVENT "SHUTDOWN"
/* For what a QEMU that is no more has told before; the end of the connection ends it. */
#define REST_MS 1000u
/* From the event to the end of the process, on a busy host. */
#define REST_US (REST_MS * 1000u)

typedef struct {
    guint64 seen_us;
    guint64 told_us, rests_us; /* of an event; until when QEMU may take to end */
    gboolean quiet;            /* only an end that was asked for is told */
} Crash;

static gpointer open_crash(const StasisWatcherOps *ops, StasisWatched *vm, const char *text,
                           double seconds, GError **error)
{
    Crash *crash = g_new0(Crash, 1);
    crash->quiet = ops == &stasis_watch_end;
    crash->seen_us = stasis_qmp_wait_event(vm->qmp, EVENT, 0, 0);
    return crash;
}

/* ShutdownCause of QEMU's qapi/run-state.json. These are nobody's wish; who wanted a reset, and has
 * a QEMU that ends by it (-no-reboot; a kernel that panics, a triple fault), wanted to go on. */
static gboolean is_failure(const char *reason)
{
    static const char *const failures[] = { "host-error", "guest-panic", "guest-reset", NULL };
    return reason != NULL && g_strv_contains(failures, reason);
}

/* Of the last event. Free with g_free(). */
static char *read_reason(const StasisWatched *vm)
{
    g_autofree char *data = stasis_event_log_last(vm->log, EVENT);
    g_autoptr(JsonObject) object = data != NULL ? stasis_json_parse_object(data, -1, NULL) : NULL;
    return object != NULL ? g_strdup(stasis_json_string_or(object, "reason", NULL)) : NULL;
}

static gboolean judge(const Crash *crash, StasisWatched *vm, gboolean asked, const char *reason,
                      char **ret_detail)
{
    if (asked) {
        vm->ended = g_strdup_printf("it was shut down%s%s", reason != NULL ? ": " : "",
                                    reason != NULL ? reason : "");
        return FALSE;
    }
    *ret_detail = g_strdup_printf("QEMU (process %d) has ended by itself%s%s", (int)vm->record->pid,
                                  reason != NULL ? ": " : "", reason != NULL ? reason : "");
    return !crash->quiet;
}

static StasisDomainEnd ask_libvirt(const StasisWatched *vm)
{
    return vm->record->uri != NULL ? stasis_domain_find_end(vm->record->uri, vm->record->uuid)
                                   : STASIS_DOMAIN_END_UNKNOWN;
}

/* QEMU is no more. What it told before that has come, or comes now; libvirt may take a moment to
 * learn of it, and forgets a transient domain. */
static gboolean look_at_end(Crash *crash, StasisWatched *vm, guint64 at_us, char **ret_detail)
{
    gboolean told = at_us > crash->seen_us;
    StasisDomainEnd end = told ? STASIS_DOMAIN_END_UNKNOWN : ask_libvirt(vm);
    if (!told && end == STASIS_DOMAIN_END_UNKNOWN) {
        guint lag_ms = stasis_qmp_get_event_lag_ms(vm->qmp);
        at_us = stasis_qmp_wait_event(vm->qmp, EVENT, crash->seen_us, MAX(lag_ms, REST_MS));
        told = at_us > crash->seen_us;
        end = told ? end : ask_libvirt(vm);
    }
    if (!told)
        return judge(crash, vm, end == STASIS_DOMAIN_END_ASKED,
                     end != STASIS_DOMAIN_END_UNKNOWN ? "says libvirt" : NULL, ret_detail);
    vm->since_us = (gint64)at_us;
    g_autofree char *reason = read_reason(vm);
    return judge(crash, vm, !is_failure(reason), reason, ret_detail);
}

/* It has told of a SHUTDOWN, and is still there: on its way out, or to stand still (-no-shutdown),
 * or somebody lets it begin anew (libvirt, at a reboot). */
static gboolean look_at_rest(Crash *crash, StasisWatched *vm, guint64 at_us, char **ret_detail)
{
    if (crash->told_us != at_us) {
        crash->told_us = at_us;
        crash->rests_us = stasis_now_us() + REST_US;
    }
    vm->ending = stasis_now_us() < crash->rests_us;
    if (vm->ending)
        return FALSE;
    g_autofree char *state = stasis_qmp_run_state(vm->qmp, NULL);
    g_autofree char *reason = read_reason(vm);
    /* No answer any more: it may write for minutes to a slow disk, or hang on its way out. What
     * ends by a failure has not ended yet. */
    if (state == NULL && is_failure(reason))
        return FALSE;
    crash->seen_us = at_us;
    if (state != NULL && strcmp(state, "shutdown") != 0)
        return FALSE;
    vm->since_us = (gint64)at_us;
    return judge(crash, vm, !is_failure(reason), reason, ret_detail);
}

static gboolean look_for_crash(gpointer data, StasisWatched *vm, char **ret_detail)
{
    Crash *crash = data;
    struct pollfd process = { .fd = vm->pidfd, .events = POLLIN };
    if (vm->ended != NULL)
        return FALSE;
    /* In this order: what it told before it ended has come then. */
    gboolean gone = vm->pidfd < 0 || poll(&process, 1, 0) > 0;
    guint64 at_us = stasis_qmp_wait_event(vm->qmp, EVENT, crash->seen_us, 0);
    vm->ending = FALSE;
    if (gone)
        return look_at_end(crash, vm, at_us, ret_detail);
    return at_us > crash->seen_us && look_at_rest(crash, vm, at_us, ret_detail);
}

const StasisWatcherOps stasis_watch_crash = {
    .name = "crash",
    .needs_monitor = TRUE,
    .of_end = TRUE,
    .open = open_crash,
    .look = look_for_crash,
    .close = g_free,
};

/* No word of a user's: not in watchers[]. */
const StasisWatcherOps stasis_watch_end = {
    .name = "end",
    .needs_monitor = TRUE,
    .open = open_crash,
    .look = look_for_crash,
    .close = g_free,
};
