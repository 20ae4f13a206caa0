/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * An image of processes as it comes out of a guest (STASIS_AGENT_OP_PROC_DUMP), part by part, into
 * a writer. Nothing of it is believed: order, names, sizes and digests are checked, and all of it
 * together may have so many bytes.
 */
#pragma once

#include "agent/field.h"
#include "engine/processes/proc-fetch.h"
#include "store/proc-image.h"

G_BEGIN_DECLS

typedef struct _StasisProcReceiver StasisProcReceiver;

/* Borrows @writer. @progress may be NULL. */
StasisProcReceiver *stasis_proc_receiver_new(StasisProcImageWriter *writer, guint64 max_bytes,
                                             StasisProgressFunc progress, gpointer user_data);
void stasis_proc_receiver_free(StasisProcReceiver *receiver);

/* A StasisAgentPartFunc; @receiver is a StasisProcReceiver. */
gboolean stasis_proc_receiver_take(const guint8 *fields, guint32 length, gpointer receiver,
                                   GError **error);
/* Files of which only the place came, of StasisProcPlaced; *ret_done: bytes of the others. The
 * receiver's own. */
const GPtrArray *stasis_proc_receiver_get_placed(StasisProcReceiver *receiver, guint64 *ret_done);
/* The last part: is all of it here? Fills in processes and shell_job of @info. */
gboolean stasis_proc_receiver_finish(StasisProcReceiver *receiver, GBytes *last,
                                     StasisProcessImageInfo *info, GError **error);

G_DEFINE_AUTOPTR_CLEANUP_FUNC(StasisProcReceiver, stasis_proc_receiver_free)

G_END_DECLS
