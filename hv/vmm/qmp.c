/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The QMP client's conversation: ask, answer, events; how that travels is the transport's.
 *
 * Events that come meanwhile are noted by name, newest time only, in a table of fixed size.
 * stasis_qmp_execute_line() builds nothing: its answer is looked at in place (qmp-line.c).
 */
#include <stasis/error.h>
#include <string.h>

#include "base/clock.h"
#include "base/json.h"
#include "vmm/qmp-transport.h"

/* ---- for transports ---- */

int stasis_qmp_shown_len(const char *command)
{
    return (int)MIN(strcspn(command, "\r\n"), 200);
}

guint64 stasis_qmp_deadline_us(guint timeout_ms)
{
    return stasis_now_us() + (timeout_ms != 0 ? timeout_ms : STASIS_QMP_DEFAULT_TIMEOUT_MS) *
                                 G_GUINT64_CONSTANT(1000);
}

gboolean stasis_qmp_fail(StasisQmp *qmp, int code, GError **error, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    g_autofree char *what = g_strdup_vprintf(format, args);
    va_end(args);
    qmp->broken = TRUE;
    g_set_error(error, STASIS_ERROR, code, "QMP %s: %s", qmp->path, what);
    return FALSE;
}

/* The event of that name, or NULL when there was none. */
static StasisQmpEvent *find_event(StasisQmp *qmp, const char *name, gsize len)
{
    for (guint i = 0; i < qmp->n_events; i++)
        if (strlen(qmp->events[i].name) == len && memcmp(qmp->events[i].name, name, len) == 0)
            return &qmp->events[i];
    return NULL;
}

void stasis_qmp_note_event(StasisQmp *qmp, const char *name, gsize len, guint64 time_us,
                           const char *text, gsize text_len)
{
    if (qmp->event_log != NULL)
        stasis_event_log_add(qmp->event_log, name, len, time_us, text, text_len);
    if (len > STASIS_QMP_EVENT_NAME)
        return;
    StasisQmpEvent *event = find_event(qmp, name, len);
    if (event == NULL && qmp->n_events < STASIS_QMP_EVENTS) {
        event = &qmp->events[qmp->n_events++];
        memcpy(event->name, name, len);
        event->name[len] = '\0';
    }
    if (event != NULL)
        event->time_us = time_us;
}

gboolean stasis_qmp_set_version(StasisQmp *qmp, JsonObject *version, GError **error)
{
    JsonObject *o;
    guint64 major, minor, micro;
    if (!stasis_json_object(version, "qemu", &o, error) ||
        !stasis_json_uint(o, "major", &major, error) ||
        !stasis_json_uint(o, "minor", &minor, error) ||
        !stasis_json_uint(o, "micro", &micro, error))
        return FALSE;
    if (major > 9999 || minor > 99 || micro > 99) {
        g_set_error_literal(error, STASIS_ERROR, STASIS_ERROR_CORRUPT, "not a QEMU version");
        return FALSE;
    }
    g_free(qmp->version);
    qmp->version = g_strdup_printf("%u.%u.%u", (guint)major, (guint)minor, (guint)micro);
    qmp->version_number = (guint)(major * 10000 + minor * 100 + micro);
    return TRUE;
}

/* ---- commands ---- */

/* Turn an error answer into @error. Always FALSE. */
static gboolean report_error(const char *command, const char *text, gsize len, GError **error)
{
    g_autoptr(JsonObject) answer = stasis_json_parse_object(text, (gssize)len, error);
    if (answer == NULL) {
        g_prefix_error(error, "%.*s: ", stasis_qmp_shown_len(command), command);
        return FALSE;
    }
    JsonObject *what = NULL;
    const char *desc = "an error without description";
    if (stasis_json_object(answer, "error", &what, NULL))
        desc = stasis_json_string_or(what, "desc", desc);
    g_autofree char *shown = g_utf8_make_valid(desc, -1);
    g_set_error(error, STASIS_ERROR, STASIS_ERROR_FAILED, "%.*s: %s", stasis_qmp_shown_len(command),
                command, g_strdelimit(g_strchomp(shown), "\r\n", ' '));
    return FALSE;
}

/* The answer's text is valid until the next command. */
static gboolean ask(StasisQmp *qmp, const char *what, const char *json, int pass_fd,
                    guint timeout_ms, const char **ret_text, gsize *ret_len, GError **error)
{
    StasisQmpLine line;
    if (qmp->broken) {
        g_set_error(error, STASIS_ERROR, STASIS_ERROR_FAILED,
                    "QMP %s: %.*s: the connection failed before; connect again", qmp->path,
                    stasis_qmp_shown_len(what), what);
        return FALSE;
    }
    if (!qmp->transport->ask(qmp, what, json, pass_fd, timeout_ms, ret_text, ret_len, &line, error))
        return FALSE;
    return line.kind == STASIS_QMP_RETURN || report_error(what, *ret_text, *ret_len, error);
}

JsonNode *stasis_qmp_execute(StasisQmp *qmp, const char *command, JsonObject *arguments,
                             int pass_fd, guint timeout_ms, GError **error)
{
    g_autoptr(JsonObject) request = json_object_new();
    json_object_set_string_member(request, "execute", command);
    if (arguments != NULL)
        json_object_set_object_member(request, "arguments", json_object_ref(arguments));
    g_autofree char *json = stasis_json_to_text(request, FALSE);
    const char *text;
    gsize len;
    if (!ask(qmp, command, json, pass_fd, timeout_ms, &text, &len, error))
        return NULL;
    g_autoptr(JsonObject) answer = stasis_json_parse_deep(text, (gssize)len, error);
    if (answer == NULL) {
        g_prefix_error(error, "%s: ", command);
        return NULL;
    }
    JsonNode *value = json_object_dup_member(answer, "return");
    if (value == NULL)
        g_set_error(error, STASIS_ERROR, STASIS_ERROR_CORRUPT, "%s: answer without \"return\"",
                    command);
    return value;
}

gboolean stasis_qmp_execute_line(StasisQmp *qmp, const char *line, guint timeout_ms, GError **error)
{
    const char *text;
    gsize len;
    return ask(qmp, line, line, -1, timeout_ms, &text, &len, error);
}

char *stasis_qmp_human(StasisQmp *qmp, const char *line, GError **error)
{
    g_autoptr(JsonObject) arguments = json_object_new();
    json_object_set_string_member(arguments, "command-line", line);
    g_autoptr(JsonNode) node =
        stasis_qmp_execute(qmp, "human-monitor-command", arguments, -1, 0, error);
    if (node == NULL)
        return NULL;
    if (JSON_NODE_HOLDS_VALUE(node) && json_node_get_value_type(node) == G_TYPE_STRING)
        return json_node_dup_string(node);
    g_set_error(error, STASIS_ERROR, STASIS_ERROR_CORRUPT,
                "human-monitor-command %s: the answer is no string", line);
    return NULL;
}

char *stasis_qmp_run_state(StasisQmp *qmp, GError **error)
{
    g_autoptr(JsonNode) node = stasis_qmp_execute(qmp, "query-status", NULL, -1, 0, error);
    const char *status = NULL;
    if (node == NULL)
        return NULL;
    if (JSON_NODE_HOLDS_OBJECT(node))
        status = stasis_json_string_or(json_node_get_object(node), "status", NULL);
    if (status == NULL)
        g_set_error(error, STASIS_ERROR, STASIS_ERROR_CORRUPT, "query-status: no \"status\"");
    return g_strdup(status);
}

/* ---- events ---- */

guint64 stasis_qmp_wait_event(StasisQmp *qmp, const char *name, guint64 after_us, guint timeout_ms)
{
    guint64 deadline_us = stasis_now_us() + timeout_ms * G_GUINT64_CONSTANT(1000);
    for (gboolean last = FALSE;;) {
        gboolean whole = !qmp->broken && qmp->transport->take_events(qmp);
        const StasisQmpEvent *event = find_event(qmp, name, strlen(name));
        guint64 time_us = event != NULL ? event->time_us : 0;
        if ((time_us > after_us && timeout_ms > 0) || !whole || last)
            return time_us;
        last = stasis_now_us() >= deadline_us; /* but what has come by now still counts */
        if (!qmp->transport->wait(qmp, deadline_us))
            return time_us;
    }
}

gboolean stasis_qmp_was_resumed(StasisQmp *qmp, guint64 noted_us, guint64 stopped_us)
{
    guint64 stop = stasis_qmp_wait_event(qmp, "STOP", 0, 0);
    guint64 resumed = stasis_qmp_wait_event(qmp, "RESUME", 0, 0);
    return resumed != noted_us && resumed > MAX(stop, stopped_us);
}

void stasis_qmp_set_event_log(StasisQmp *qmp, StasisEventLog *log)
{
    qmp->event_log = log;
}

guint stasis_qmp_get_event_lag_ms(StasisQmp *qmp)
{
    return qmp->transport->event_lag_ms;
}

/* ---- the connection ---- */

const char *stasis_qmp_get_version(StasisQmp *qmp)
{
    return qmp->version;
}

guint stasis_qmp_get_version_number(StasisQmp *qmp)
{
    return qmp->version_number;
}

pid_t stasis_qmp_get_peer_pid(StasisQmp *qmp)
{
    if (qmp->peer_pid == 0)
        qmp->peer_pid = qmp->transport->find_peer(qmp);
    return qmp->peer_pid;
}

guint stasis_qmp_get_generation(StasisQmp *qmp)
{
    return qmp->generation;
}

gboolean stasis_qmp_refresh(StasisQmp *qmp, GError **error)
{
    return qmp->transport->refresh == NULL || qmp->transport->refresh(qmp, error);
}

void stasis_qmp_get_legacy(StasisQmp *qmp, StasisQmpLegacy *ret)
{
    qmp->transport->get_legacy(qmp, ret);
}

void stasis_qmp_free(StasisQmp *qmp)
{
    if (qmp == NULL)
        return;
    g_free(qmp->path);
    g_free(qmp->version);
    qmp->transport->close(qmp);
}
