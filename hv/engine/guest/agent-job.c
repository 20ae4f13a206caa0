/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "engine/guest/agent-job.h"

#include <stasis/error.h>
#include <string.h>

#include "base/clock.h"

#define DEFAULT_BYTES ((guint64)1 << 20)
#define MAX_BYTES ((guint64)16 << 20)
#define MAX_MS ((guint64)24 * 3600 * 1000)
#define ONE_WAIT_MS 600000
/* An agent that answers at once, with nothing, does not have us spin. */
#define LEAST_TURN_US 10000u

static guint64 max_bytes_of(const StasisJob *job)
{
    return job->max_bytes != 0 ? MIN(job->max_bytes, MAX_BYTES) : DEFAULT_BYTES;
}

gboolean stasis_agent_job_start(StasisAgent *agent, const StasisJob *job, gboolean *ret_is_old,
                                const StasisAgentWait *wait, GError **error)
{
    g_autofree guint8 *room = g_malloc(STASIS_AGENT_MAX_PAYLOAD);
    StasisFieldWriter fields = { .payload = room, .room = STASIS_AGENT_MAX_PAYLOAD };
    stasis_field_put_text(&fields, STASIS_AGENT_TAG_TOKEN, job->name);
    for (guint i = 0; job->argv[i] != NULL; i++)
        stasis_field_put_text(&fields, STASIS_AGENT_TAG_ARG, job->argv[i]);
    for (guint i = 0; job->env != NULL && job->env[i] != NULL; i++)
        stasis_field_put_text(&fields, STASIS_AGENT_TAG_ENVIRONMENT, job->env[i]);
    stasis_field_put_text(&fields, STASIS_AGENT_TAG_PATH, job->dir);
    stasis_field_put_number(&fields, STASIS_AGENT_TAG_LIMIT, max_bytes_of(job));
    stasis_field_put_number(&fields, STASIS_AGENT_TAG_TIMEOUT,
                            job->timeout_ms != 0 ? MIN(job->timeout_ms, MAX_MS) : MAX_MS);
    if (fields.overflow) {
        g_set_error(
            error, STASIS_ERROR, STASIS_ERROR_USAGE,
            "a command and its environment of more than %u bytes; put it into a file in the guest",
            STASIS_AGENT_MAX_PAYLOAD);
        return FALSE;
    }
    g_autoptr(GBytes) answer =
        stasis_agent_call(agent, STASIS_AGENT_OP_JOB_START, &fields, wait, error);
    if (answer == NULL)
        return FALSE;
    g_autofree char *old = stasis_agent_text(answer, STASIS_AGENT_TAG_TOKEN, 64);
    *ret_is_old = old != NULL;
    return TRUE;
}

typedef struct {
    guint64 at, room; /* where the last part ended; bytes of output that may come */
    StasisJobOutputFunc output;
    gpointer user_data;
} Following;

static gboolean take_part(const guint8 *fields, guint32 length, gpointer user_data, GError **error)
{
    Following *f = user_data;
    StasisField field;
    f->at = stasis_field_number(fields, length, STASIS_AGENT_TAG_OFFSET, f->at);
    for (guint32 at = 0; stasis_field_next(fields, length, &at, &field);) {
        if (field.tag != STASIS_AGENT_TAG_OUTPUT && field.tag != STASIS_AGENT_TAG_ERROR_OUTPUT)
            continue;
        if (field.length > f->room) {
            g_set_error_literal(error, STASIS_ERROR, STASIS_ERROR_CORRUPT,
                                "agent: more output of a job than it may have");
            return FALSE;
        }
        f->room -= field.length;
        if (f->output != NULL)
            f->output(field.tag == STASIS_AGENT_TAG_ERROR_OUTPUT, field.value, field.length,
                      f->user_data);
    }
    return TRUE;
}

static StasisJobEnd read_end(GBytes *answer)
{
    gsize length;
    const guint8 *fields = g_bytes_get_data(answer, &length);
    StasisField field;
    StasisJobEnd end = { .exit_status = -1 };
    end.signal = (int)(stasis_agent_number(answer, STASIS_AGENT_TAG_SIGNAL, 0) & 0x7f);
    gboolean exited = fields != NULL && stasis_field_find(fields, (guint32)length,
                                                          STASIS_AGENT_TAG_EXIT_STATUS, &field);
    if (exited && end.signal == 0)
        end.exit_status = (int)(stasis_field_to_number(&field) & 0xff);
    end.ended = exited || end.signal != 0;
    end.timed_out = stasis_agent_number(answer, STASIS_AGENT_TAG_TIMED_OUT, 0) != 0;
    end.truncated = stasis_agent_number(answer, STASIS_AGENT_TAG_TRUNCATED, 0) != 0;
    return end;
}

gboolean stasis_agent_job_follow(StasisAgent *agent, const StasisJob *job, guint64 *offset,
                                 StasisJobOutputFunc output, gpointer user_data,
                                 StasisJobEnd *ret_end, const StasisAgentWait *wait, GError **error)
{
    guint8 room[256];
    guint64 max_bytes = max_bytes_of(job), id = 0;
    Following following = { *offset, max_bytes, output, user_data };
    for (;;) {
        StasisFieldWriter fields = { .payload = room, .room = sizeof room };
        stasis_field_put_text(&fields, STASIS_AGENT_TAG_TOKEN, job->name);
        stasis_field_put_number(&fields, STASIS_AGENT_TAG_OFFSET, following.at);
        stasis_field_put_number(&fields, STASIS_AGENT_TAG_TIMEOUT, ONE_WAIT_MS);
        g_autoptr(GBytes) answer = NULL;
        guint64 from_us = stasis_now_us();
        if (stasis_agent_begin(agent, STASIS_AGENT_OP_JOB_WAIT, &fields, &id, wait, error))
            answer = stasis_agent_finish(agent, id, take_part, &following,
                                         stasis_agent_output_bytes(max_bytes), wait, error);
        *offset = following.at;
        if (answer == NULL)
            return FALSE;
        *ret_end = read_end(answer);
        if (ret_end->ended)
            return TRUE;
        guint64 took_us = stasis_now_us() - from_us;
        g_usleep(took_us < LEAST_TURN_US ? LEAST_TURN_US - took_us : 0);
    }
}
