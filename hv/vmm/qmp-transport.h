/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The QMP client's inside: what the conversation (qmp.c) and its transports share. A transport is
 * how commands reach QEMU and events reach us: a socket of ours (qmp-socket.c), or libvirtd, which
 * has the only monitor and lends it (qmp-libvirt.c).
 */
#pragma once

#include "vmm/qmp-line.h"
#include "vmm/qmp.h"

G_BEGIN_DECLS

#define STASIS_QMP_EVENTS 64     /* names that are remembered */
#define STASIS_QMP_EVENT_NAME 47 /* longest such name */
#define STASIS_QMP_DEFAULT_TIMEOUT_MS 30000

typedef struct {
    char name[STASIS_QMP_EVENT_NAME + 1];
    guint64 time_us;
} StasisQmpEvent;

typedef struct {
    const char *name;
    /* How long after the answer to a command an event may come that QEMU sent before it. */
    guint event_lag_ms;
    /* Have the object @json executed, @pass_fd (or -1) along with it. *ret is the answer's kind
     * (RETURN or ERROR), *ret_text its line, valid until the next call. @what names it in errors.
     */
    gboolean (*ask)(StasisQmp *qmp, const char *what, const char *json, int pass_fd,
                    guint timeout_ms, const char **ret_text, gsize *ret_len, StasisQmpLine *ret,
                    GError **error);
    /* Note the events that have come. FALSE: the connection is broken. */
    gboolean (*take_events)(StasisQmp *qmp);
    /* Wait for something to take; FALSE at the deadline, or when nothing will come any more. */
    gboolean (*wait)(StasisQmp *qmp, guint64 deadline_us);
    /* Or NULL: a lost connection stays lost. */
    gboolean (*refresh)(StasisQmp *qmp, GError **error);
    /* The process that answers; 0 when it can't be told. */
    pid_t (*find_peer)(StasisQmp *qmp);
    /* How a process that is not us any more lets the VM go on, see StasisQmpLegacy. */
    void (*get_legacy)(StasisQmp *qmp, StasisQmpLegacy *ret);
    /* Ends the connection and frees @qmp; what is in the common part is freed already. */
    void (*close)(StasisQmp *qmp);
} StasisQmpTransport;

/* Every transport's own structure starts with this. */
struct _StasisQmp {
    const StasisQmpTransport *transport;
    char *path;       /* as shown in messages */
    gboolean broken;  /* never to be used again: an answer could be taken for another's */
    pid_t peer_pid;   /* 0: not looked for yet */
    guint generation; /* of the connection */
    char *version;
    guint version_number;
    StasisQmpEvent events[STASIS_QMP_EVENTS];
    guint n_events;
    StasisEventLog *event_log; /* borrowed, or NULL */
};

/* Mark the connection unusable and set "QMP <path>: …". Always FALSE. */
gboolean stasis_qmp_fail(StasisQmp *qmp, int code, GError **error, const char *format, ...)
    G_GNUC_PRINTF(4, 5);

/* @text (or NULL): the event as it came. */
void stasis_qmp_note_event(StasisQmp *qmp, const char *name, gsize len, guint64 time_us,
                           const char *text, gsize text_len);

/* Take the version out of {"qemu": {"major": 7, "minor": 2, "micro": 22}, …}, as greeting and
 * query-version have it. FALSE with a message to go into an error of the transport's. */
gboolean stasis_qmp_set_version(StasisQmp *qmp, JsonObject *version, GError **error);

/* When a wait that begins now ends; 0 means the default. */
guint64 stasis_qmp_deadline_us(guint timeout_ms);

/* How much of a command is shown in messages: it, without the newline that may end it. */
int stasis_qmp_shown_len(const char *command);

G_END_DECLS
