/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A conversation with the agent in a guest (protocol: <stasis/agent-protocol.h>).
 *
 * The guest is untrusted. Memory is one frame, one buffer and what the caller allows for an answer;
 * every wait has a deadline, and what is no answer of ours may only be so much. After an error of
 * the conversation itself (a deadline, the end of the connection, nonsense) the client is of no
 * more use; an error that the agent reports leaves it usable. Used by one thread at a time.
 */
#pragma once

#include <gio/gio.h>

#include "agent/field.h"

G_BEGIN_DECLS

typedef struct _StasisAgent StasisAgent;

/* Talk over @fd, a connected stream socket (becomes the client's); @who is for messages ("VM web").
 * Hello is said with the first request: what is begun before its answer is served right behind it.
 */
StasisAgent *stasis_agent_new(int fd, const char *who);
void stasis_agent_free(StasisAgent *agent);
/* More can be said in this conversation: nothing has gone wrong in it but what the agent refused.
 */
gboolean stasis_agent_is_usable(const StasisAgent *agent);

/* Whenever something comes from the agent, @fd (taken; or -1), a file, gets the present time as
 * that of its last change: others who can't have the channel meanwhile learn from it that the agent
 * is there. */
void stasis_agent_set_mark(StasisAgent *agent, int fd);
/* How many bytes that are no answer of ours may come in one wait (4 MiB; less in tests). */
void stasis_agent_set_max_noise(StasisAgent *agent, guint64 bytes);
/* While an answer takes its time, ask the agent once a second whether it is there. An agent that
 * has never heard of this conversation (its VM was taken back, or it was started again) then ends
 * it. */
void stasis_agent_keep_asking(StasisAgent *agent);

/* How long, and until when. */
typedef struct {
    guint64 deadline_us;       /* stasis_now_us() */
    GCancellable *cancellable; /* or NULL */
} StasisAgentWait;

/* Wait for the answer to the hello. Done by all that wait, so it need not be called. */
gboolean stasis_agent_greet(StasisAgent *agent, const StasisAgentWait *wait, GError **error);
/* After that: the agent's own version, and names of its operations, NULL-terminated. Its words, but
 * UTF-8 of bounded length. Owned by @agent. */
const char *stasis_agent_get_version(StasisAgent *agent);
const char *const *stasis_agent_get_operations(StasisAgent *agent);
guint stasis_agent_get_protocol(StasisAgent *agent);

/* Send a request with @fields (or NULL); *ret_id is its id. Doesn't wait for an answer. */
gboolean stasis_agent_begin(StasisAgent *agent, StasisAgentOp op, const StasisFieldWriter *fields,
                            guint64 *ret_id, const StasisAgentWait *wait, GError **error);

/* One part of an answer. FALSE with @error ends the conversation. */
typedef gboolean (*StasisAgentPartFunc)(const guint8 *fields, guint32 length, gpointer user_data,
                                        GError **error);

/*
 * Wait for the answer to request @id; answers to others meanwhile are dropped. @part (or NULL) gets
 * each part but the last, which is returned (fields). All together may have @max_bytes. A status
 * other than 0 becomes an error: STASIS_ERROR_UNSUPPORTED where the agent does not have that, else
 * STASIS_ERROR_FAILED, with the agent's message.
 */
GBytes *stasis_agent_finish(StasisAgent *agent, guint64 id, StasisAgentPartFunc part,
                            gpointer user_data, gsize max_bytes, const StasisAgentWait *wait,
                            GError **error);

/* What stasis_agent_finish() has to allow for @n bytes of a command's output: they come in parts as
 * the command has written them, byte by byte maybe, each with heads: its frame's (20), its own (6),
 * and of a job where the next one begins (14). */
static inline gsize stasis_agent_output_bytes(guint64 n)
{
    return (gsize)(n * 41 + 4 * STASIS_AGENT_MAX_PAYLOAD);
}

/* Linux's error with which the agent refused the last request, if that is finished; 0: it did not,
 * or did not say. */
int stasis_agent_get_errno(const StasisAgent *agent);

/* Begin, and finish an answer of one part. */
GBytes *stasis_agent_call(StasisAgent *agent, StasisAgentOp op, const StasisFieldWriter *fields,
                          const StasisAgentWait *wait, GError **error);

/* A text out of an answer: valid UTF-8, at most @max bytes of what came; NULL when it is not there.
 * Free with g_free(). */
char *stasis_agent_text(GBytes *answer, StasisAgentTag tag, guint max);
guint64 stasis_agent_number(GBytes *answer, StasisAgentTag tag, guint64 otherwise);

G_DEFINE_AUTOPTR_CLEANUP_FUNC(StasisAgent, stasis_agent_free)

G_END_DECLS
