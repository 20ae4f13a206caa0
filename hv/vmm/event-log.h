/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What QEMU told of a VM, and what we did with it, with times: one JSON object a line,
 * {"at_us": Unix time, "event": NAME, …}. Bounded: the oldest lines go.
 */
#pragma once

#include <glib.h>

G_BEGIN_DECLS

typedef struct _StasisEventLog StasisEventLog;

StasisEventLog *stasis_event_log_new(void);
void stasis_event_log_free(StasisEventLog *log);
/* An event of QEMU's; @text (or NULL) is its line, untrusted. */
void stasis_event_log_add(StasisEventLog *log, const char *name, gsize len, guint64 at_us,
                          const char *text, gsize text_len);
/* One of ours: "stasis" says what was done, @detail more (or NULL). */
void stasis_event_log_note(StasisEventLog *log, const char *what, const char *detail);
/* The "data" of the last event @name as JSON, or NULL. Free with g_free(). */
char *stasis_event_log_last(const StasisEventLog *log, const char *name);
/* All lines. */
GBytes *stasis_event_log_get(const StasisEventLog *log);

G_DEFINE_AUTOPTR_CLEANUP_FUNC(StasisEventLog, stasis_event_log_free)

G_END_DECLS
