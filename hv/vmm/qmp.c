/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The QMP client's conversation: connect, greet, ask, answer.
 *
 * Every command carries an "id" of ours, and an answer with another one is not ours. Every wait has
 * a deadline, also against a peer that never stops talking. stasis_qmp_execute_line() builds
 * nothing: its answer is looked at in place (qmp-line.c).
 */
#include <errno.h>
#include <stasis/error.h>
#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "base/fd.h"
#include "base/json.h"
#include "vmm/qmp-peer.h"
#include "vmm/qmp-wire.h"

#define MAX_EARLY_EVENTS 64
#define FIRST_BUFFER (64u << 10)
#define DEFAULT_TIMEOUT_MS 30000

/* Commands are named in messages by themselves, without the newline that may end them. */
static int shown_len(const char *command)
{
    return (int)MIN(strcspn(command, "\r\n"), 200);
}

/* Wait for the answer to command @id. The line is valid until the next stasis_qmp_receive(). */
static gboolean wait_answer(StasisQmp *qmp, guint64 id, guint64 deadline_us, const char *what,
                            const char **ret_text, gsize *ret_len, StasisQmpLine *ret,
                            GError **error)
{
    for (;;) {
        int r = stasis_qmp_take_line(qmp, ret_text, ret_len, ret, error);
        if (r < 0)
            return FALSE;
        gboolean answer =
            r > 0 && (ret->kind == STASIS_QMP_RETURN || ret->kind == STASIS_QMP_ERROR);
        /* An error without id: QEMU could not read our line far enough to find it. */
        if (answer && (ret->has_id ? ret->id == id : ret->kind == STASIS_QMP_ERROR))
            return TRUE;
        /* A peer that never stops talking must not keep us for ever. */
        if (r > 0 && stasis_now_us() < deadline_us)
            continue;
        g_autoptr(GError) local = NULL;
        if (r == 0 && stasis_qmp_receive(qmp, deadline_us, &local))
            continue;
        if (local != NULL) {
            g_propagate_prefixed_error(error, g_steal_pointer(&local), "%.*s: ", shown_len(what),
                                       what);
            return FALSE;
        }
        return stasis_qmp_fail(
            qmp, STASIS_ERROR_FAILED, error,
            "%.*s: no answer in time; QEMU hangs or is stopped, see its state in ps",
            shown_len(what), what);
    }
}

static guint64 deadline_of(guint timeout_ms)
{
    return stasis_now_us() +
           (timeout_ms != 0 ? timeout_ms : DEFAULT_TIMEOUT_MS) * G_GUINT64_CONSTANT(1000);
}

/* Turn an error answer into @error. Always FALSE. */
static gboolean report_error(const char *command, const char *text, gsize len, GError **error)
{
    g_autoptr(JsonObject) answer = stasis_json_parse_object(text, (gssize)len, error);
    if (answer == NULL) {
        g_prefix_error(error, "%.*s: ", shown_len(command), command);
        return FALSE;
    }
    JsonObject *what = NULL;
    const char *desc = "an error without description";
    if (stasis_json_object(answer, "error", &what, NULL))
        desc = stasis_json_string_or(what, "desc", desc);
    g_autofree char *shown = g_utf8_make_valid(desc, -1);
    g_set_error(error, STASIS_ERROR, STASIS_ERROR_FAILED, "%.*s: %s", shown_len(command), command,
                g_strdelimit(g_strchomp(shown), "\r\n", ' '));
    return FALSE;
}

/* Send the object @json (whose final brace is found from its end) with an id added, and wait for
 * the answer. The answer's text is valid until the next command. */
static gboolean ask(StasisQmp *qmp, const char *what, const char *json, int pass_fd,
                    guint timeout_ms, const char **ret_text, gsize *ret_len, GError **error)
{
    const char *brace = strrchr(json, '}');
    if (qmp->broken || brace == NULL) {
        g_set_error(error, STASIS_ERROR, STASIS_ERROR_FAILED, "QMP %s: %.*s: %s", qmp->path,
                    shown_len(what), what,
                    brace == NULL ? "the command is no JSON object"
                                  : "the connection failed before; connect again");
        return FALSE;
    }
    guint64 id = ++qmp->last_id;
    guint64 deadline_us = deadline_of(timeout_ms);
    char tail[40];
    int tail_len = snprintf(tail, sizeof tail, ",\"id\":%" G_GUINT64_FORMAT "}\n", id);
    struct iovec iov[] = { { (char *)json, (gsize)(brace - json) }, { tail, (gsize)tail_len } };
    StasisQmpLine line;
    if (!stasis_qmp_send(qmp, iov, G_N_ELEMENTS(iov), pass_fd, deadline_us, error) ||
        !wait_answer(qmp, id, deadline_us, what, ret_text, ret_len, &line, error))
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
    g_autoptr(JsonObject) answer = stasis_json_parse_object(text, (gssize)len, error);
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

guint64 stasis_qmp_wait_event(StasisQmp *qmp, const char *name, guint64 after_us, guint timeout_ms)
{
    guint64 deadline_us = stasis_now_us() + timeout_ms * G_GUINT64_CONSTANT(1000);
    for (gboolean last = FALSE;;) {
        const char *text;
        gsize len;
        StasisQmpLine line;
        int r = -1;
        while (!qmp->broken && (r = stasis_qmp_take_line(qmp, &text, &len, &line, NULL)) > 0)
            ;
        const StasisQmpEvent *event = stasis_qmp_find_event(qmp, name, strlen(name));
        guint64 time_us = event != NULL ? event->time_us : 0;
        if (time_us > after_us || r < 0 || last)
            return time_us;
        last = stasis_now_us() >= deadline_us; /* but what has come by now still counts */
        if (!stasis_qmp_receive(qmp, deadline_us, NULL))
            return time_us;
    }
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

int stasis_qmp_get_fd(StasisQmp *qmp)
{
    return qmp->fd;
}

const char *stasis_qmp_get_path(StasisQmp *qmp)
{
    return qmp->path;
}

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
        qmp->peer_pid = stasis_qmp_find_peer(qmp->fd);
    return qmp->peer_pid;
}

/* {"QMP": {"version": {"qemu": {"major": 7, "minor": 2, "micro": 22}, …}, …}} */
static gboolean read_greeting(StasisQmp *qmp, const char *text, gsize len, GError **error)
{
    g_autoptr(GError) local = NULL;
    g_autoptr(JsonObject) root = stasis_json_parse_object(text, (gssize)len, &local);
    JsonObject *o = NULL;
    guint64 major, minor, micro;
    if (root == NULL || !stasis_json_object(root, "QMP", &o, &local) ||
        !stasis_json_object(o, "version", &o, &local) ||
        !stasis_json_object(o, "qemu", &o, &local) ||
        !stasis_json_uint(o, "major", &major, &local) ||
        !stasis_json_uint(o, "minor", &minor, &local) ||
        !stasis_json_uint(o, "micro", &micro, &local))
        return stasis_qmp_fail(qmp, STASIS_ERROR_CORRUPT, error, "greeting: %s", local->message);
    if (major > 9999 || minor > 99 || micro > 99)
        return stasis_qmp_fail(qmp, STASIS_ERROR_CORRUPT, error, "greeting: not a QEMU version");
    qmp->version = g_strdup_printf("%u.%u.%u", (guint)major, (guint)minor, (guint)micro);
    qmp->version_number = (guint)(major * 10000 + minor * 100 + micro);
    return TRUE;
}

/* QEMU's first words. An event that it sends between its start and our connection waits for us in
 * its buffer and comes before them. */
static gboolean greet(StasisQmp *qmp, guint64 deadline_us, GError **error)
{
    for (guint n_events = 0;;) {
        const char *text;
        gsize len;
        StasisQmpLine line;
        int r = stasis_qmp_take_line(qmp, &text, &len, &line, error);
        if (r > 0 && line.kind == STASIS_QMP_GREETING)
            return read_greeting(qmp, text, len, error);
        if (r > 0 && line.kind == STASIS_QMP_EVENT && n_events++ < MAX_EARLY_EVENTS)
            continue;
        if (r > 0)
            return stasis_qmp_fail(qmp, STASIS_ERROR_CORRUPT, error,
                                   "no greeting first; is this QEMU?");
        if (r < 0)
            return FALSE;
        g_autoptr(GError) local = NULL;
        if (stasis_qmp_receive(qmp, deadline_us, &local))
            continue;
        if (local == NULL)
            return stasis_qmp_fail(
                qmp, STASIS_ERROR_BUSY, error,
                "no greeting: another client holds this monitor, which serves one at a "
                "time (or QEMU hangs); close that client or give QEMU a second -qmp");
        g_propagate_error(error, g_steal_pointer(&local));
        return FALSE;
    }
}

StasisQmp *stasis_qmp_open_fd(int fd, const char *path, guint timeout_ms, GCancellable *cancellable,
                              GError **error)
{
    guint64 deadline_us = deadline_of(timeout_ms);
    g_autoptr(StasisQmp) qmp = g_new0(StasisQmp, 1);
    qmp->fd = fd;
    qmp->path = g_strdup(path);
    qmp->capacity = FIRST_BUFFER;
    qmp->in = g_malloc(qmp->capacity);
    qmp->cancellable = cancellable;
    if (!greet(qmp, deadline_us, error))
        return NULL;
    guint64 now = stasis_now_us();
    guint left_ms = now < deadline_us ? (guint)((deadline_us - now + 999) / 1000) : 1;
    if (!stasis_qmp_execute_line(qmp, "{\"execute\":\"qmp_capabilities\"}\n", left_ms, error))
        return NULL;
    qmp->cancellable = NULL;
    return g_steal_pointer(&qmp);
}

StasisQmp *stasis_qmp_connect_cancellable(const char *path, guint timeout_ms,
                                          GCancellable *cancellable, GError **error)
{
    guint64 deadline_us = deadline_of(timeout_ms);
    int r = 0;
    stasis_autofd int fd = stasis_qmp_socket_connect(path, deadline_us, cancellable, &r);
    if (fd < 0 && r == -EAGAIN) {
        g_set_error(error, STASIS_ERROR, STASIS_ERROR_BUSY,
                    "QMP %s: other clients wait for this monitor, which serves one at a time; "
                    "close them or give QEMU a second -qmp",
                    path);
        return NULL;
    }
    if (fd < 0) {
        int code = r == -ENOENT || r == -ECONNREFUSED ? STASIS_ERROR_NOT_FOUND
                   : r == -ECANCELED                  ? STASIS_ERROR_CANCELLED
                                                      : STASIS_ERROR_FAILED;
        g_set_error(error, STASIS_ERROR, code, "QMP %s: connect: %s%s", path, g_strerror(-r),
                    code == STASIS_ERROR_NOT_FOUND ? "; no QEMU listens there" : "");
        return NULL;
    }
    guint64 now = stasis_now_us();
    guint left_ms = now < deadline_us ? (guint)((deadline_us - now + 999) / 1000) : 1;
    return stasis_qmp_open_fd(stasis_steal_fd(&fd), path, left_ms, cancellable, error);
}

StasisQmp *stasis_qmp_connect(const char *path, guint timeout_ms, GError **error)
{
    return stasis_qmp_connect_cancellable(path, timeout_ms, NULL, error);
}

void stasis_qmp_free(StasisQmp *qmp)
{
    if (qmp == NULL)
        return;
    stasis_close_fdp(&qmp->fd);
    g_free(qmp->path);
    g_free(qmp->version);
    g_free(qmp->in);
    g_free(qmp);
}
