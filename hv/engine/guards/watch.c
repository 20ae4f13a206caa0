/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "engine/guards/watch.h"

#include <errno.h>
#include <poll.h>
#include <stasis/error.h>
#include <string.h>
#include <sys/pidfd.h>

#include "base/clock.h"
#include "base/fd.h"

/* All there are; their words are in <stasis/watch.h>. Those of one name watch for the same in
 * different places: what has the better time first. */
static const StasisWatcherOps *const watchers[] = {
    &stasis_watch_panic, &stasis_watch_last_words, &stasis_watch_watchdog,
    &stasis_watch_reset, &stasis_watch_crash,      &stasis_watch_exit,
    &stasis_watch_hang,  &stasis_watch_agent,      &stasis_watch_console,
};

#define LOOK_MS 20
#define MIN_SECONDS 0.1
#define MAX_SECONDS 3600.0

typedef struct {
    const StasisWatcherOps *ops;
    gpointer state;
} Watcher;

struct _StasisWatch {
    StasisWatched vm;
    StasisRecord record; /* as much of it as watchers ask for */
    GArray *watchers;    /* of Watcher */
    gboolean any_end;    /* … is a failure */
    gboolean follows_end;
};

void stasis_failure_free(StasisFailure *failure)
{
    if (failure == NULL)
        return;
    g_free(failure->kind);
    g_free(failure->detail);
    g_free(failure);
}

StasisFailure *stasis_failure_new(const char *kind, const char *detail)
{
    StasisFailure *failure = g_new0(StasisFailure, 1);
    failure->kind = g_strdup(kind);
    failure->detail = g_strdup(detail);
    failure->at_us = failure->since_us = g_get_real_time();
    return failure;
}

/* ---- words ---- */

char **stasis_watch_split(const char *text)
{
    GPtrArray *words = g_ptr_array_new();
    for (const char *at = text; *at != '\0';) {
        gsize n = g_str_has_prefix(at, "log=") ? strlen(at) : strcspn(at, ",");
        g_ptr_array_add(words, g_strndup(at, n));
        at += n + (at[n] == ',');
    }
    g_ptr_array_add(words, NULL);
    return (char **)g_ptr_array_free(words, FALSE);
}

/* The watcher that @word means, *ret_text its value (or NULL) and *ret_seconds the same as number.
 */
static const StasisWatcherOps *find(const char *word, const char **ret_text, double *ret_seconds,
                                    GError **error)
{
    gsize n = strcspn(word, "=");
    const char *value = word[n] == '=' ? word + n + 1 : NULL;
    const StasisWatcherOps *ops = NULL;
    for (guint i = 0; i < G_N_ELEMENTS(watchers) && ops == NULL; i++)
        if (strlen(watchers[i]->name) == n && strncmp(watchers[i]->name, word, n) == 0)
            ops = watchers[i];
    if (ops == NULL) {
        g_set_error(
            error, STASIS_ERROR, STASIS_ERROR_USAGE,
            "\"%.80s\" is nothing to watch for: panic, hang[=SEC], watchdog, reset, crash, exit, "
            "agent-lost[=SEC], log=REGEX",
            word);
        return NULL;
    }
    char *end = NULL;
    double seconds = value != NULL && !ops->value_is_text ? g_ascii_strtod(value, &end) : 0;
    gboolean bad_number =
        end != NULL && (*end != '\0' || !(seconds >= MIN_SECONDS && seconds <= MAX_SECONDS));
    if ((value != NULL && (ops->value == NULL || *value == '\0')) ||
        (value == NULL && ops->value_needed) || bad_number) {
        g_set_error(error, STASIS_ERROR, STASIS_ERROR_USAGE, "\"%.80s\": %s takes %s%s", word,
                    ops->name, ops->value != NULL ? "a value, " : "no value",
                    ops->value != NULL ? ops->value : "");
        return NULL;
    }
    *ret_text = value;
    *ret_seconds = seconds;
    return ops;
}

gboolean stasis_watch_check(const char *const *on, GError **error)
{
    for (const char *const *word = on; *word != NULL; word++) {
        const char *text;
        double seconds;
        const StasisWatcherOps *ops = find(*word, &text, &seconds, error);
        if (ops == NULL)
            return FALSE;
        if (ops != &stasis_watch_console)
            continue;
        g_autoptr(GError) wrong = NULL;
        g_autoptr(GRegex) regex = g_regex_new(text, G_REGEX_OPTIMIZE, 0, &wrong);
        if (regex != NULL)
            continue;
        g_set_error(error, STASIS_ERROR, STASIS_ERROR_USAGE, "\"%.80s\": %s", *word,
                    wrong->message);
        return FALSE;
    }
    return TRUE;
}

gboolean stasis_watch_needs_monitor(const char *const *on)
{
    for (const char *const *word = on; *word != NULL; word++) {
        const char *text;
        double seconds;
        const StasisWatcherOps *ops = find(*word, &text, &seconds, NULL);
        if (ops != NULL && ops->needs_monitor)
            return TRUE;
    }
    return FALSE;
}

gboolean stasis_watch_has(const char *const *on, const char *name)
{
    gsize n = strlen(name);
    for (const char *const *word = on; *word != NULL; word++)
        if (strncmp(*word, name, n) == 0 && ((*word)[n] == '\0' || (*word)[n] == '='))
            return TRUE;
    return FALSE;
}

/* ---- watching ---- */

static void copy_record(StasisWatch *watch, const StasisRecord *record)
{
    watch->record.name = g_strdup(record->name);
    watch->record.pid = record->pid;
    watch->record.start_time = record->start_time;
    watch->record.console_path = g_strdup(record->console_path);
    watch->record.uri = g_strdup(record->uri);
    watch->record.uuid = g_strdup(record->uuid);
    watch->vm.record = &watch->record;
}

/* Begin with all watchers that @word means. */
static gboolean add_watchers(StasisWatch *watch, const char *word, GError **error)
{
    const char *text;
    double seconds;
    const char *name = find(word, &text, &seconds, error)->name;
    for (guint i = 0; i < G_N_ELEMENTS(watchers); i++) {
        Watcher watcher = { .ops = watchers[i] };
        g_autoptr(GError) why = NULL;
        if (strcmp(watcher.ops->name, name) != 0 ||
            (watcher.ops->needs_monitor && watch->vm.qmp == NULL))
            continue;
        watcher.state = watcher.ops->open(watcher.ops, &watch->vm, text, seconds, &why);
        if (why != NULL) {
            g_propagate_prefixed_error(error, g_steal_pointer(&why),
                                       "VM %s: %s: ", watch->record.name, name);
            return FALSE;
        }
        if (watcher.state != NULL)
            g_array_append_val(watch->watchers, watcher);
    }
    return TRUE;
}

StasisWatch *stasis_watch_new(const StasisRecord *record, StasisQmp *qmp, const char *const *on,
                              gboolean whole_console, GError **error)
{
    g_autoptr(StasisWatch) watch = g_new0(StasisWatch, 1);
    watch->watchers = g_array_new(FALSE, FALSE, sizeof(Watcher));
    copy_record(watch, record);
    watch->vm.qmp = qmp;
    watch->vm.whole_console = whole_console;
    watch->vm.log = stasis_event_log_new();
    watch->vm.pidfd = pidfd_open(record->pid, 0);
    if (qmp != NULL)
        stasis_qmp_set_event_log(qmp, watch->vm.log);
    if (!stasis_watch_check(on, error))
        return NULL;
    for (const char *const *word = on; *word != NULL; word++)
        if (!add_watchers(watch, *word, error))
            return NULL;
    watch->any_end = stasis_watch_has(on, stasis_watch_exit.name);
    return g_steal_pointer(&watch);
}

void stasis_watch_free(StasisWatch *watch)
{
    if (watch == NULL)
        return;
    for (guint i = 0; i < watch->watchers->len; i++) {
        Watcher *watcher = &g_array_index(watch->watchers, Watcher, i);
        watcher->ops->close(watcher->state);
    }
    if (watch->vm.qmp != NULL)
        stasis_qmp_set_event_log(watch->vm.qmp, NULL);
    g_array_unref(watch->watchers);
    stasis_event_log_free(watch->vm.log);
    stasis_clear_fd(&watch->vm.pidfd);
    g_free(watch->vm.ended);
    g_free(watch->record.name);
    g_free(watch->record.console_path);
    g_free(watch->record.uri);
    g_free(watch->record.uuid);
    g_free(watch);
}

void stasis_watch_follow_end(StasisWatch *watch)
{
    if (watch->any_end || watch->vm.qmp == NULL)
        return;
    Watcher watcher = { .ops = &stasis_watch_end };
    watcher.state = watcher.ops->open(watcher.ops, &watch->vm, NULL, 0, NULL);
    g_array_append_val(watch->watchers, watcher);
    watch->follows_end = TRUE;
}

const char *stasis_watch_get_end(const StasisWatch *watch)
{
    return watch->vm.ended;
}

gboolean stasis_watch_is_ending(const StasisWatch *watch)
{
    return watch->vm.ending;
}

StasisEventLog *stasis_watch_get_log(StasisWatch *watch)
{
    return watch->vm.log;
}

/* Of one that has ended there is what it said, and nothing to be asked. */
static gboolean hears(const StasisWatcherOps *ops)
{
    return ops->event != NULL || !ops->needs_monitor;
}

/* The first that a watcher sees, as a failure; NULL: none does. Of a VM that has @ended, but its
 * end. */
static StasisFailure *first_seen(StasisWatch *watch, gboolean ended, gboolean *ret_of_end)
{
    for (guint i = 0; i < watch->watchers->len; i++) {
        const Watcher *watcher = &g_array_index(watch->watchers, Watcher, i);
        g_autofree char *detail = NULL;
        watch->vm.since_us = 0;
        if ((ended && (watcher->ops->of_end || !hears(watcher->ops))) ||
            !watcher->ops->look(watcher->state, &watch->vm, &detail))
            continue;
        stasis_event_log_note(watch->vm.log, watcher->ops->name, detail);
        StasisFailure *failure = stasis_failure_new(watcher->ops->name, detail);
        if (watch->vm.since_us != 0)
            failure->since_us = watch->vm.since_us;
        *ret_of_end = watcher->ops->of_end;
        return failure;
    }
    return NULL;
}

StasisFailure *stasis_watch_look(StasisWatch *watch)
{
    gboolean of_end = FALSE, of_why;
    g_autoptr(StasisFailure) seen = first_seen(watch, /* ended= */ FALSE, &of_end);
    if (seen != NULL ? !of_end : !watch->follows_end || watch->vm.ended == NULL)
        return g_steal_pointer(&seen);
    /* Why it ended was told before that, and perhaps since the others looked. */
    StasisFailure *why = first_seen(watch, /* ended= */ TRUE, &of_why);
    return why != NULL ? why : g_steal_pointer(&seen);
}

StasisFailure *stasis_watch_wait(StasisWatch *watch, guint64 deadline_us, int wake_fd,
                                 GCancellable *cancellable)
{
    StasisQmpLegacy monitor = { .fd = -1 };
    GPollFD cancelled = { .fd = -1 };
    gboolean can_poll = g_cancellable_make_pollfd(cancellable, &cancelled);
    if (watch->vm.qmp != NULL)
        stasis_qmp_get_legacy(watch->vm.qmp, &monitor);
    StasisFailure *failure;
    for (;;) {
        failure = stasis_watch_look(watch);
        guint64 now = stasis_now_us();
        if (failure != NULL || (watch->follows_end && watch->vm.ended != NULL) ||
            now >= deadline_us || (cancellable != NULL && g_cancellable_is_cancelled(cancellable)))
            break;
        struct pollfd fds[] = {
            { .fd = wake_fd, .events = POLLIN },
            { .fd = can_poll ? cancelled.fd : -1, .events = POLLIN },
            { .fd = watch->vm.pidfd, .events = POLLIN },
            { .fd = monitor.fd, .events = POLLIN },
        };
        guint64 left_ms = (deadline_us - now + 999) / 1000;
        if (poll(fds, G_N_ELEMENTS(fds), (int)MIN(left_ms, LOOK_MS)) <= 0)
            continue;
        if (fds[0].revents != 0)
            break;
        /* Nobody watches for the end of QEMU, or a monitor that is gone: no reason to spin. */
        if ((fds[2].revents | fds[3].revents) != 0)
            g_usleep(1000);
    }
    if (can_poll)
        g_cancellable_release_fd(cancellable);
    return failure;
}
