/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What QEMU tells by itself: panic, watchdog, reset, exit. What was before we connected shows in
 * the run state. */
#include <poll.h>
#include <string.h>

#include "base/json.h"
#include "engine/guards/watch.h"
#include "vmm/cmdline.h"

typedef struct {
    const StasisWatcherOps *ops;
    guint64 seen_us;
    gint64 begun_us;     /* Unix time */
    gboolean was_before; /* it is in that state already */
} Event;

static gpointer open_event(const StasisWatcherOps *ops, StasisWatched *vm, const char *text,
                           double seconds, GError **error)
{
    Event *event = g_new0(Event, 1);
    event->ops = ops;
    event->begun_us = g_get_real_time();
    if (vm->qmp == NULL)
        return event;
    event->seen_us = stasis_qmp_wait_event(vm->qmp, ops->event, 0, 0);
    g_autofree char *now = ops->state != NULL ? stasis_qmp_run_state(vm->qmp, NULL) : NULL;
    event->was_before = now != NULL && strcmp(now, ops->state) == 0;
    return event;
}

static gboolean look_for_event(gpointer data, StasisWatched *vm, char **ret_detail)
{
    Event *event = data;
    if (event->was_before) {
        event->was_before = FALSE;
        vm->since_us = event->begun_us;
        *ret_detail = g_strdup_printf("QEMU's state is \"%s\"", event->ops->state);
        return TRUE;
    }
    if (vm->qmp == NULL)
        return FALSE;
    guint64 at_us = stasis_qmp_wait_event(vm->qmp, event->ops->event, event->seen_us, 0);
    if (at_us <= event->seen_us)
        return FALSE;
    event->seen_us = at_us;
    vm->since_us = (gint64)at_us;
    g_autofree char *data_text = stasis_event_log_last(vm->log, event->ops->event);
    *ret_detail = data_text != NULL ? g_strconcat(event->ops->event, " ", data_text, NULL)
                                    : g_strdup(event->ops->event);
    return TRUE;
}

/* ---- panic, watchdog, reset ---- */

const StasisWatcherOps stasis_watch_panic = {
    .name = "panic",
    .needs_monitor = TRUE,
    .event = "GUEST_PANICKED",
    .state = "guest-panicked",
    .open = open_event,
    .look = look_for_event,
    .close = g_free,
};

const StasisWatcherOps stasis_watch_watchdog = {
    .name = "watchdog",
    .needs_monitor = TRUE,
    .event = "WATCHDOG",
    .state = "watchdog",
    .open = open_event,
    .look = look_for_event,
    .close = g_free,
};

const StasisWatcherOps stasis_watch_reset = {
    .name = "reset",
    .needs_monitor = TRUE,
    .event = "RESET",
    .open = open_event,
    .look = look_for_event,
    .close = g_free,
};

/* ---- exit: needs no monitor, but hears more with one ---- */

static gboolean look_for_exit(gpointer data, StasisWatched *vm, char **ret_detail)
{
    if (look_for_event(data, vm, ret_detail))
        return TRUE;
    struct pollfd ended = { .fd = vm->pidfd, .events = POLLIN };
    if (vm->pidfd >= 0 && poll(&ended, 1, 0) == 0)
        return FALSE;
    *ret_detail = g_strdup_printf("QEMU (process %d) has ended", (int)vm->record->pid);
    return TRUE;
}

const StasisWatcherOps stasis_watch_exit = {
    .name = "exit",
    .of_end = TRUE,
    .event = "SHUTDOWN",
    .state = "shutdown",
    .open = open_event,
    .look = look_for_exit,
    .close = g_free,
};

/* ---- what QEMU does then ---- */

/* As the command line says it; QMP can't be asked. */
static char *action_of(const GPtrArray *options, const char *key, const char *fallback)
{
    g_autofree char *action = g_strdup(fallback);
    for (guint i = 0; options != NULL && i < options->len; i++) {
        const StasisOption *option = options->pdata[i];
        if (stasis_option_is(option, "no-shutdown")) { /* it is for both keys */
            g_free(action);
            action = g_strdup("pause");
        }
        char *given = stasis_option_is(option, "action") && option->value != NULL
                          ? stasis_optlist_get(option->value, key, NULL)
                          : NULL;
        if (given != NULL) {
            g_free(action);
            action = given;
        }
    }
    return g_steal_pointer(&action);
}

void stasis_watch_keep_ended(StasisQmp *qmp, const StasisRecord *record, StasisKeepEnded keep)
{
    g_autofree char *path = g_strdup_printf("/proc/%d/cmdline", (int)record->pid);
    g_autofree char *text = NULL;
    gsize len = 0;
    if (record->uri != NULL || qmp == NULL || !g_file_get_contents(path, &text, &len, NULL))
        return; /* what becomes of a domain is libvirt's business */
    g_autoptr(GPtrArray) argv = g_ptr_array_new();
    for (gsize at = 0; at < len; at += strlen(text + at) + 1)
        g_ptr_array_add(argv, text + at);
    g_ptr_array_add(argv, NULL);
    g_autoptr(GPtrArray) options = stasis_cmdline_parse((const char *const *)argv->pdata);
    g_autofree char *panic = action_of(options, "panic", "shutdown");
    g_autofree char *shutdown = action_of(options, "shutdown", "poweroff");
    g_autoptr(JsonObject) arguments = json_object_new();
    json_object_set_string_member(arguments, "panic", keep != STASIS_KEEP_NONE ? "pause" : panic);
    json_object_set_string_member(arguments, "shutdown",
                                  keep == STASIS_KEEP_ALL ? "pause" : shutdown);
    g_autoptr(JsonNode) answer = stasis_qmp_execute(qmp, "set-action", arguments, -1, 0, NULL);
}
