/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Transport "socket": a QMP socket that we are the client of.
 *
 * Every command carries an "id" of ours, and an answer with another one is not ours. Every wait has
 * a deadline, also against a peer that never stops talking.
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

static const StasisQmpTransport socket_transport;

/* Wait for the answer to command @id. The line is valid until the next stasis_qmp_receive(). */
static gboolean wait_answer(StasisQmpWire *wire, guint64 id, guint64 deadline_us, const char *what,
                            const char **ret_text, gsize *ret_len, StasisQmpLine *ret,
                            GError **error)
{
    for (;;) {
        int r = stasis_qmp_take_line(wire, ret_text, ret_len, ret, error);
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
        if (r == 0 && stasis_qmp_receive(wire, deadline_us, &local))
            continue;
        if (local != NULL) {
            g_propagate_prefixed_error(error, g_steal_pointer(&local),
                                       "%.*s: ", stasis_qmp_shown_len(what), what);
            return FALSE;
        }
        return stasis_qmp_fail(
            &wire->base, STASIS_ERROR_FAILED, error,
            "%.*s: no answer in time; QEMU hangs or is stopped, see its state in ps",
            stasis_qmp_shown_len(what), what);
    }
}

/* @json's final brace is found from its end, and an id added before it. */
static gboolean socket_ask(StasisQmp *qmp, const char *what, const char *json, int pass_fd,
                           guint timeout_ms, const char **ret_text, gsize *ret_len,
                           StasisQmpLine *ret, GError **error)
{
    StasisQmpWire *wire = (StasisQmpWire *)qmp;
    const char *brace = strrchr(json, '}');
    if (brace == NULL) {
        g_set_error(error, STASIS_ERROR, STASIS_ERROR_FAILED,
                    "QMP %s: %.*s: the command is no JSON object", qmp->path,
                    stasis_qmp_shown_len(what), what);
        return FALSE;
    }
    guint64 id = ++wire->last_id;
    guint64 deadline_us = stasis_qmp_deadline_us(timeout_ms);
    char tail[40];
    int tail_len = snprintf(tail, sizeof tail, ",\"id\":%" G_GUINT64_FORMAT "}\n", id);
    struct iovec iov[] = { { (char *)json, (gsize)(brace - json) }, { tail, (gsize)tail_len } };
    return stasis_qmp_send(wire, iov, G_N_ELEMENTS(iov), pass_fd, deadline_us, error) &&
           wait_answer(wire, id, deadline_us, what, ret_text, ret_len, ret, error);
}

/* {"QMP": {"version": {"qemu": {"major": 7, "minor": 2, "micro": 22}, …}, …}} */
static gboolean read_greeting(StasisQmp *qmp, const char *text, gsize len, GError **error)
{
    g_autoptr(GError) local = NULL;
    g_autoptr(JsonObject) root = stasis_json_parse_object(text, (gssize)len, &local);
    JsonObject *o = NULL;
    if (root == NULL || !stasis_json_object(root, "QMP", &o, &local) ||
        !stasis_json_object(o, "version", &o, &local) || !stasis_qmp_set_version(qmp, o, &local))
        return stasis_qmp_fail(qmp, STASIS_ERROR_CORRUPT, error, "greeting: %s", local->message);
    return TRUE;
}

/* QEMU's first words. An event that it sends between its start and our connection waits for us in
 * its buffer and comes before them. */
static gboolean greet(StasisQmpWire *wire, guint64 deadline_us, GError **error)
{
    for (guint n_events = 0;;) {
        const char *text;
        gsize len;
        StasisQmpLine line;
        int r = stasis_qmp_take_line(wire, &text, &len, &line, error);
        if (r > 0 && line.kind == STASIS_QMP_GREETING)
            return read_greeting(&wire->base, text, len, error);
        if (r > 0 && line.kind == STASIS_QMP_EVENT && n_events++ < MAX_EARLY_EVENTS)
            continue;
        if (r > 0)
            return stasis_qmp_fail(&wire->base, STASIS_ERROR_CORRUPT, error,
                                   "no greeting first; is this QEMU?");
        if (r < 0)
            return FALSE;
        g_autoptr(GError) local = NULL;
        if (stasis_qmp_receive(wire, deadline_us, &local))
            continue;
        if (local == NULL)
            return stasis_qmp_fail(
                &wire->base, STASIS_ERROR_BUSY, error,
                "no greeting: another client holds this monitor, which serves one at a "
                "time (or QEMU hangs); close that client or give QEMU a second -qmp");
        g_propagate_error(error, g_steal_pointer(&local));
        return FALSE;
    }
}

StasisQmp *stasis_qmp_open_fd(int fd, const char *path, guint timeout_ms, GCancellable *cancellable,
                              GError **error)
{
    guint64 deadline_us = stasis_qmp_deadline_us(timeout_ms);
    StasisQmpWire *wire = g_new0(StasisQmpWire, 1);
    g_autoptr(StasisQmp) qmp = &wire->base;
    qmp->transport = &socket_transport;
    qmp->path = g_strdup(path);
    wire->fd = fd;
    wire->capacity = FIRST_BUFFER;
    wire->in = g_malloc(wire->capacity);
    wire->cancellable = cancellable;
    if (!greet(wire, deadline_us, error))
        return NULL;
    guint64 now = stasis_now_us();
    guint left_ms = now < deadline_us ? (guint)((deadline_us - now + 999) / 1000) : 1;
    if (!stasis_qmp_execute_line(qmp, "{\"execute\":\"qmp_capabilities\"}\n", left_ms, error))
        return NULL;
    wire->cancellable = NULL;
    return g_steal_pointer(&qmp);
}

StasisQmp *stasis_qmp_connect_cancellable(const char *path, guint timeout_ms,
                                          GCancellable *cancellable, GError **error)
{
    guint64 deadline_us = stasis_qmp_deadline_us(timeout_ms);
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

static gboolean socket_take_events(StasisQmp *qmp)
{
    const char *text;
    gsize len;
    StasisQmpLine line;
    int r;
    while ((r = stasis_qmp_take_line((StasisQmpWire *)qmp, &text, &len, &line, NULL)) > 0)
        ;
    return r == 0;
}

static gboolean socket_wait(StasisQmp *qmp, guint64 deadline_us)
{
    return stasis_qmp_receive((StasisQmpWire *)qmp, deadline_us, NULL);
}

static pid_t socket_find_peer(StasisQmp *qmp)
{
    return stasis_qmp_find_peer(((StasisQmpWire *)qmp)->fd);
}

static void socket_get_legacy(StasisQmp *qmp, StasisQmpLegacy *ret)
{
    *ret = (StasisQmpLegacy){ .fd = ((StasisQmpWire *)qmp)->fd };
}

static void socket_close(StasisQmp *qmp)
{
    StasisQmpWire *wire = (StasisQmpWire *)qmp;
    stasis_close_fdp(&wire->fd);
    g_free(wire->in);
    g_free(wire);
}

static const StasisQmpTransport socket_transport = {
    .name = "socket",
    .ask = socket_ask,
    .take_events = socket_take_events,
    .wait = socket_wait,
    .find_peer = socket_find_peer,
    .get_legacy = socket_get_legacy,
    .close = socket_close,
};
