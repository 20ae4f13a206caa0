/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The records of the agent's answers about processes (<stasis/agent-protocol.h>), made into what
 * <stasis/process.h> promises. Untrusted input: counts and lengths are bounded, what contradicts
 * itself is an error.
 */
#pragma once

#include <gio/gio.h>
#include <stasis/process.h>

#include "agent/field.h"

G_BEGIN_DECLS

/* A text of a record, as <stasis/process.h> promises it: at most @max bytes of what came; "" when
 * it is not there. Free with g_free(). */
char *stasis_process_text(const StasisField *record, StasisAgentTag tag, guint max);

typedef struct _StasisProcessReader StasisProcessReader;

/* @who is for messages ("VM web"). */
StasisProcessReader *stasis_process_reader_new(const char *who);
void stasis_process_reader_free(StasisProcessReader *reader);

/* Takes one part of an answer: a StasisAgentPartFunc. */
gboolean stasis_process_reader_take(const guint8 *fields, guint32 length, gpointer reader,
                                    GError **error);

/* With the last part: what was read. The reader is empty then. NULL and STASIS_ERROR_CORRUPT. */
StasisGuestProcesses *stasis_process_reader_end_list(StasisProcessReader *reader, GBytes *last,
                                                     GError **error);
/* @n_cuts: how many the request had. */
StasisGuestBoundary *stasis_process_reader_end_boundary(StasisProcessReader *reader, GBytes *last,
                                                        guint n_cuts, GError **error);

G_DEFINE_AUTOPTR_CLEANUP_FUNC(StasisProcessReader, stasis_process_reader_free)

G_END_DECLS
