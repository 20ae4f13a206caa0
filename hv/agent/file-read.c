/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "agent/file-read.h"

#include <stasis/error.h>

/* A path, and numbers. */
#define REQUEST_BYTES 8192u

typedef struct {
    guint32 limit, done;
    StasisAgentBytesFunc take;
    gpointer user_data;
} Read;

static gboolean take_part(const guint8 *fields, guint32 length, gpointer user_data, GError **error)
{
    Read *read = user_data;
    StasisField output;
    if (!stasis_field_find(fields, length, STASIS_AGENT_TAG_OUTPUT, &output))
        return TRUE;
    if (output.length > read->limit - read->done) {
        g_set_error_literal(error, STASIS_ERROR, STASIS_ERROR_CORRUPT,
                            "agent: more of a file than was asked for");
        return FALSE;
    }
    read->done += output.length;
    return read->take(output.value, output.length, read->user_data, error);
}

gboolean stasis_agent_file_read(StasisAgent *agent, const char *path, guint64 offset, guint32 limit,
                                StasisAgentBytesFunc take, gpointer user_data, guint32 *ret_n,
                                const StasisAgentWait *wait, GError **error)
{
    guint8 room[REQUEST_BYTES];
    guint64 id;
    StasisFieldWriter fields = { .payload = room, .room = sizeof room };
    Read read = { .limit = limit, .take = take, .user_data = user_data };
    stasis_field_put_text(&fields, STASIS_AGENT_TAG_PATH, path);
    stasis_field_put_number(&fields, STASIS_AGENT_TAG_OFFSET, offset);
    stasis_field_put_number(&fields, STASIS_AGENT_TAG_LIMIT, limit);
    if (!stasis_agent_begin(agent, STASIS_AGENT_OP_FILE_READ, &fields, &id, wait, error))
        return FALSE;
    /* Twice as much: frames, and the last part, have something around the bytes. */
    g_autoptr(GBytes) last = stasis_agent_finish(
        agent, id, take_part, &read, 2 * ((gsize)limit + STASIS_AGENT_MAX_PAYLOAD), wait, error);
    *ret_n = read.done;
    return last != NULL;
}
