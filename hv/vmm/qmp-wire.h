/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A QMP socket: what qmp-socket.c (the dialogue) and qmp-wire.c (bytes and lines) share. */
#pragma once

#include <sys/uio.h>

#include "vmm/qmp-transport.h"

G_BEGIN_DECLS

typedef struct {
    StasisQmp base;
    int fd;
    GCancellable *cancellable; /* only while connecting */
    guint64 last_id;
    /* Received and not yet consumed: in[start, end); no newline in [start, scanned). */
    char *in;
    gsize capacity, start, scanned, end;
} StasisQmpWire;

/* Receive what there is, waiting until the deadline for the first byte of it. FALSE without
 * @error at the deadline. */
gboolean stasis_qmp_receive(StasisQmpWire *wire, guint64 deadline_us, GError **error);

/* Take and look at the next line, noting events. 1 with the outputs set, 0 when there is none in
 * the buffer, -1 on error. The text is valid until the next stasis_qmp_receive(). */
int stasis_qmp_take_line(StasisQmpWire *wire, const char **ret_text, gsize *ret_len,
                         StasisQmpLine *ret, GError **error);

/* Send all of @iov (which is changed), @pass_fd (or -1) along with its first byte. */
gboolean stasis_qmp_send(StasisQmpWire *wire, struct iovec *iov, guint n_iov, int pass_fd,
                         guint64 deadline_us, GError **error);

G_END_DECLS
