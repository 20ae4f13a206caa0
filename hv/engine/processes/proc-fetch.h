/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Files of an image whose bytes did not come out of the guest: it has told where in its memory they
 * are. Each piece is read there, and asked for by FILE_READ if it is no longer what it was.
 */
#pragma once

#include <stasis/checkpoint.h>

#include "agent/client.h"
#include "store/proc-image.h"
#include "vmm/guest-memory.h"

G_BEGIN_DECLS

/* One piece: STASIS_AGENT_PIECE_BYTES, of a file's last one what is left. */
typedef struct {
    guint64 checksum;
    guint32 bytes, n_runs;
    StasisAgentRun *runs; /* as many bytes in all; or none */
} StasisProcPiece;

typedef struct {
    char *name;
    guint64 size;
    GArray *pieces; /* of StasisProcPiece */
} StasisProcPlaced;

StasisProcPlaced *stasis_proc_placed_new(const char *name, guint64 size);
void stasis_proc_placed_free(StasisProcPlaced *file);
/* The next piece: fields SIZE, CHECKSUM and RUNS, untrusted. FALSE if that is nonsense. */
gboolean stasis_proc_placed_add(StasisProcPlaced *file, const guint8 *fields, guint32 length);
/* Are all pieces there? */
gboolean stasis_proc_placed_is_whole(const StasisProcPlaced *file);

typedef struct {
    const StasisGuestMemory *memory;
    StasisAgent *agent;
    const char *dir; /* in the guest, or NULL */
    const StasisAgentWait *wait;
    StasisProgressFunc progress; /* or NULL */
    gpointer progress_data;
} StasisProcFetch;

/* Put @files, of StasisProcPlaced, into @writer; @done bytes are there already. */
gboolean stasis_proc_fetch(const StasisProcFetch *from, const GPtrArray *files, guint64 done,
                           StasisProcImageWriter *writer, GError **error);

G_DEFINE_AUTOPTR_CLEANUP_FUNC(StasisProcPlaced, stasis_proc_placed_free)

G_END_DECLS
