/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The QMP client's inside: what qmp.c (commands) and qmp-wire.c (bytes, lines, events) share. */
#pragma once

#include <sys/uio.h>

#include "vmm/qmp-line.h"
#include "vmm/qmp.h"

G_BEGIN_DECLS

#define STASIS_QMP_EVENTS 64     /* names that are remembered */
#define STASIS_QMP_EVENT_NAME 47 /* longest such name */

typedef struct {
    char name[STASIS_QMP_EVENT_NAME + 1];
    guint64 time_us;
} StasisQmpEvent;

struct _StasisQmp {
    int fd;
    char *path;
    GCancellable *cancellable; /* only while connecting */
    gboolean broken;
    guint64 last_id;
    pid_t peer_pid; /* 0: not looked for yet */
    char *version;
    guint version_number;
    /* Received and not yet consumed: in[start, end); no newline in [start, scanned). */
    char *in;
    gsize capacity, start, scanned, end;
    StasisQmpEvent events[STASIS_QMP_EVENTS];
    guint n_events;
};

/* Mark the connection unusable and set "QMP <path>: …". Always FALSE. */
gboolean stasis_qmp_fail(StasisQmp *qmp, int code, GError **error, const char *format, ...)
    G_GNUC_PRINTF(4, 5);

/* Receive what there is, waiting until the deadline for the first byte of it. FALSE without
 * @error at the deadline. */
gboolean stasis_qmp_receive(StasisQmp *qmp, guint64 deadline_us, GError **error);

/* Take and look at the next line, noting events. 1 with the outputs set, 0 when there is none in
 * the buffer, -1 on error. The text is valid until the next stasis_qmp_receive(). */
int stasis_qmp_take_line(StasisQmp *qmp, const char **ret_text, gsize *ret_len, StasisQmpLine *ret,
                         GError **error);

/* Send all of @iov (which is changed), @pass_fd (or -1) along with its first byte. */
gboolean stasis_qmp_send(StasisQmp *qmp, struct iovec *iov, guint n_iov, int pass_fd,
                         guint64 deadline_us, GError **error);

/* The event of that name, or NULL when there was none. */
StasisQmpEvent *stasis_qmp_find_event(StasisQmp *qmp, const char *name, gsize len);

G_END_DECLS
