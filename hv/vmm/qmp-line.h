/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What one line from a QMP peer is, found without building a JSON tree. */
#pragma once

#include <glib.h>

G_BEGIN_DECLS

typedef enum {
    STASIS_QMP_OTHER, /* an object, but none of those below */
    STASIS_QMP_GREETING,
    STASIS_QMP_RETURN,
    STASIS_QMP_ERROR,
    STASIS_QMP_EVENT,
} StasisQmpKind;

typedef struct {
    StasisQmpKind kind;
    gboolean has_id; /* with an "id" that is an integer as we send them */
    guint64 id;
    const char *event; /* event: its name, not NUL-terminated, points into the line */
    gsize event_len;
    guint64 time_us; /* event: QEMU's wall clock, 0 when absent */
} StasisQmpLine;

/* Look at @len bytes of @text. FALSE when they are no JSON object (a member's value is only
 * skipped: its inside may still be malformed). Allocates nothing. */
gboolean stasis_qmp_line_parse(const char *text, gsize len, StasisQmpLine *ret);

G_END_DECLS
