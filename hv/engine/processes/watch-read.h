/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The answer to WATCH (<stasis/agent-protocol.h>). Untrusted input: counts and lengths are bounded,
 * and what makes no sense is an error. */
#pragma once

#include <gio/gio.h>
#include <stasis/process-watch.h>

G_BEGIN_DECLS

typedef struct {
    StasisProcessEvents event; /* one */
    guint pid, child;          /* 0: not told */
    guint64 start;
    guint64 count; /* at least 1 */
    char *comm;    /* of a process, or NULL */
    char *object;  /* of an object, or NULL */
} StasisWatchChange;

/* One that is watched, since it was started by who is. */
typedef struct {
    guint pid;
    guint64 start;
} StasisWatchNew;

typedef struct _StasisWatchReader StasisWatchReader;

/* @who is for messages ("VM web"). */
StasisWatchReader *stasis_watch_reader_new(const char *who);
void stasis_watch_reader_free(StasisWatchReader *reader);
/* Takes one part of an answer: a StasisAgentPartFunc. */
gboolean stasis_watch_reader_take(const guint8 *fields, guint32 length, gpointer reader,
                                  GError **error);
/* What was taken: StasisWatchChange; the reader's. */
const GArray *stasis_watch_reader_get(const StasisWatchReader *reader);

/* … and StasisWatchNew; the reader's. */
const GArray *stasis_watch_reader_get_new(const StasisWatchReader *reader);

/* "fork", "mqueue" …, of one event. */
const char *stasis_process_event_word(StasisProcessEvents event);
gboolean stasis_process_event_creates(StasisProcessEvents event);

G_DEFINE_AUTOPTR_CLEANUP_FUNC(StasisWatchReader, stasis_watch_reader_free)

G_END_DECLS
