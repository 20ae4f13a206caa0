/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "agent/client.h"

#include <errno.h>
#include <poll.h>
#include <stasis/error.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include "agent/frame.h"
#include "base/clock.h"
#include "base/fd.h"

#define BUFFER_BYTES 65536
/* What may come in one wait that is no answer of ours: what an earlier host left in the guest's
 * queues, and much less than a flood. */
#define MAX_NOISE_BYTES (4u << 20)
#define MAX_OPERATIONS 64
#define MARK_US 100000u
#define ASK_MS 1000
#define MAX_WORD 64
#define MAX_ERRNO 4095u /* include/linux/err.h */

struct _StasisAgent {
    int fd;
    char *who;
    gboolean greeted, broken;
    guint64 hello_id, last_id;
    int mark_fd;
    guint64 marked_us;
    gboolean asks;
    guint64 asked_id; /* the last question that was between request and answer; 0: none */
    char *version;
    char **operations;
    guint protocol;
    int refused;         /* errno of the last answer, or 0 */
    guint64 noise_bytes; /* in the present wait */
    guint64 max_noise_bytes;
    guint64 open_bytes; /* that came since the last frame */
    gsize at, end;      /* in[at, end) is not decoded yet */
    guint8 in[BUFFER_BYTES];
    guint8 wire[STASIS_AGENT_MAX_WIRE];
    StasisAgentDecoder decoder;
};

static gboolean G_GNUC_PRINTF(4, 5)
    fail(StasisAgent *agent, int code, GError **error, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    g_autofree char *what = g_strdup_vprintf(format, args);
    va_end(args);
    agent->broken = TRUE;
    g_set_error(error, STASIS_ERROR, code, "%s: agent: %s", agent->who, what);
    return FALSE;
}

/* Ids that no earlier conversation has had, nor the same one in another fork of the VM; never 0. */
static guint64 random_id(void)
{
    return (guint64)g_random_int() << 31 | g_random_int() | 1;
}

StasisAgent *stasis_agent_new(int fd, const char *who)
{
    StasisAgent *agent = g_new0(StasisAgent, 1);
    agent->fd = fd;
    agent->mark_fd = -1;
    agent->who = g_strdup(who);
    agent->last_id = random_id();
    agent->max_noise_bytes = MAX_NOISE_BYTES;
    return agent;
}

void stasis_agent_free(StasisAgent *agent)
{
    if (agent == NULL)
        return;
    stasis_close_fdp(&agent->fd);
    stasis_close_fdp(&agent->mark_fd);
    g_free(agent->who);
    g_free(agent->version);
    g_strfreev(agent->operations);
    g_free(agent);
}

void stasis_agent_set_mark(StasisAgent *agent, int fd)
{
    stasis_close_fdp(&agent->mark_fd);
    agent->mark_fd = fd;
}

void stasis_agent_set_max_noise(StasisAgent *agent, guint64 bytes)
{
    agent->max_noise_bytes = bytes;
}

void stasis_agent_keep_asking(StasisAgent *agent)
{
    agent->asks = TRUE;
}

gboolean stasis_agent_is_usable(const StasisAgent *agent)
{
    return !agent->broken;
}

/* ---- bytes ---- */

static void mark(StasisAgent *agent)
{
    guint64 now = stasis_now_us();
    if (agent->mark_fd < 0 || now - agent->marked_us < MARK_US)
        return;
    agent->marked_us = now;
    futimens(agent->mark_fd, NULL);
}

/* Not if it would have to wait: an agent that does not read is not there. */
static void ask(StasisAgent *agent)
{
    StasisAgentFrame frame = { .type = STASIS_AGENT_REQUEST,
                               .code = STASIS_AGENT_OP_PING,
                               .id = agent->last_id++ };
    gsize n = stasis_agent_frame_write(&frame, agent->wire);
    ssize_t sent = send(agent->fd, agent->wire, n, MSG_NOSIGNAL | MSG_DONTWAIT);
    if (sent > 0)
        agent->asked_id = frame.id;
    if (sent > 0 && (gsize)sent < n)
        agent->broken = TRUE; /* what comes next would be taken for the rest */
}

/* Wait for @events. FALSE with @error at the deadline, too. */
static gboolean wait_for(StasisAgent *agent, short events, const StasisAgentWait *wait,
                         const char *late, GError **error)
{
    for (;;) {
        GCancellable *c = wait->cancellable;
        struct pollfd fds[2] = { { .fd = agent->fd, .events = events }, { .fd = -1 } };
        if (c != NULL && g_cancellable_is_cancelled(c))
            return fail(agent, STASIS_ERROR_CANCELLED, error, "cancelled");
        guint64 now = stasis_now_us();
        if (now >= wait->deadline_us)
            return fail(agent, STASIS_ERROR_FAILED, error, "%s", late);
        if (c != NULL)
            fds[1] = (struct pollfd){ g_cancellable_get_fd(c), POLLIN, 0 };
        gboolean asks = agent->asks && agent->greeted && events == POLLIN;
        guint64 left_ms = MIN((wait->deadline_us - now + 999) / 1000, (guint64)G_MAXINT);
        int n = poll(fds, 2, (int)MIN(left_ms, asks ? ASK_MS : G_MAXINT));
        int saved = errno;
        if (fds[1].fd >= 0)
            g_cancellable_release_fd(c);
        if (n < 0 && saved != EINTR)
            return fail(agent, STASIS_ERROR_FAILED, error, "poll: %s", g_strerror(saved));
        if (n > 0 && fds[0].revents != 0)
            return TRUE;
        if (n == 0 && asks)
            ask(agent);
    }
}

static gboolean send_all(StasisAgent *agent, gsize n, const StasisAgentWait *wait, GError **error)
{
    for (gsize done = 0; done < n;) {
        ssize_t part = send(agent->fd, agent->wire + done, n - done, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (part < 0 && errno != EAGAIN && errno != EINTR)
            return fail(agent, STASIS_ERROR_FAILED, error, "send: %s", g_strerror(errno));
        if (part < 0 && errno == EAGAIN &&
            !wait_for(agent, POLLOUT, wait,
                      "the guest does not read its port; is stasis-agent running in it?", error))
            return FALSE;
        done += part > 0 ? (gsize)part : 0;
    }
    return TRUE;
}

static gboolean send_frame(StasisAgent *agent, guint8 type, guint16 code, guint64 id,
                           const StasisFieldWriter *fields, const StasisAgentWait *wait,
                           GError **error)
{
    StasisAgentFrame frame = { .type = type,
                               .code = code,
                               .id = id,
                               .payload = fields != NULL ? fields->payload : NULL,
                               .length = fields != NULL ? fields->length : 0 };
    gsize n =
        fields != NULL && fields->overflow ? 0 : stasis_agent_frame_write(&frame, agent->wire);
    if (n > 0)
        return send_all(agent, n, wait, error);
    g_set_error(error, STASIS_ERROR, STASIS_ERROR_USAGE,
                "%s: agent: a request of more than %u bytes", agent->who, STASIS_AGENT_MAX_PAYLOAD);
    return FALSE;
}

static gboolean receive(StasisAgent *agent, const StasisAgentWait *wait, const char *late,
                        GError **error)
{
    for (;;) {
        ssize_t n = recv(agent->fd, agent->in, sizeof agent->in, MSG_DONTWAIT);
        if (n > 0) {
            agent->at = 0;
            agent->end = (gsize)n;
            mark(agent);
            return TRUE;
        }
        if (n == 0)
            return fail(agent, STASIS_ERROR_FAILED, error,
                        "QEMU closed the channel; the VM has ended");
        if (errno != EAGAIN && errno != EINTR)
            return fail(agent, STASIS_ERROR_FAILED, error, "receive: %s", g_strerror(errno));
        if (errno == EAGAIN && !wait_for(agent, POLLIN, wait, late, error))
            return FALSE;
    }
}

/* ---- frames ---- */

/* What came since the last frame, with @frame (NULL: it is none yet), counts as noise as far as it
 * is not what @frame, which is for us, travels in at most: pieces that were broken. */
static void count_noise(StasisAgent *agent, const StasisAgentFrame *frame)
{
    guint64 used = 0;
    if (frame != NULL)
        used = (frame->length + STASIS_AGENT_HEADER_BYTES) * G_GUINT64_CONSTANT(255) / 254 + 4;
    agent->noise_bytes += agent->open_bytes > used ? agent->open_bytes - used : 0;
    agent->open_bytes = 0;
}

/* The next frame of type @type that answers @id; what else comes is dropped, within limits. */
static gboolean next_frame(StasisAgent *agent, guint8 type, guint64 id, const StasisAgentWait *wait,
                           const char *late, StasisAgentFrame *ret, GError **error)
{
    for (;;) {
        bool whole = false;
        gsize n = stasis_agent_decode(&agent->decoder, agent->in + agent->at,
                                      agent->end - agent->at, ret, &whole);
        agent->at += n;
        agent->open_bytes += n;
        gboolean asked = whole && agent->asked_id != 0 && ret->id == agent->asked_id &&
                         ret->type == STASIS_AGENT_ANSWER;
        gboolean ours = whole && ret->type == type && ret->id == id;
        if (whole || agent->open_bytes > STASIS_AGENT_MAX_WIRE)
            count_noise(agent, ours || asked ? ret : NULL);
        if (ours)
            return TRUE;
        if (asked) {
            if (ret->code == STASIS_AGENT_NO_HELLO)
                return fail(
                    agent, STASIS_ERROR_FAILED, error,
                    "it knows nothing of this conversation any more: its VM was taken back, "
                    "or it was started again");
        }
        if (agent->noise_bytes > agent->max_noise_bytes)
            return fail(agent, STASIS_ERROR_CORRUPT, error,
                        "the guest sends what nobody asked for (%" G_GUINT64_FORMAT
                        " bytes); is it stasis-agent that has the port?",
                        agent->noise_bytes);
        /* A guest that never stops talking must not keep us. */
        if (stasis_now_us() >= wait->deadline_us)
            return fail(agent, STASIS_ERROR_FAILED, error, "%s", late);
        if (agent->at == agent->end && !receive(agent, wait, late, error))
            return FALSE;
    }
}

static gboolean say_hello(StasisAgent *agent, const StasisAgentWait *wait, GError **error)
{
    guint8 room[64];
    StasisFieldWriter fields = { .payload = room, .room = sizeof room };
    if (agent->hello_id != 0)
        return TRUE;
    stasis_field_put_number(&fields, STASIS_AGENT_TAG_VERSION_MIN, STASIS_AGENT_VERSION_MIN);
    stasis_field_put_number(&fields, STASIS_AGENT_TAG_VERSION_MAX, STASIS_AGENT_VERSION_MAX);
    agent->hello_id = agent->last_id++;
    return send_frame(agent, STASIS_AGENT_HELLO, 0, agent->hello_id, &fields, wait, error);
}

static char *text_of(const StasisField *field, guint max)
{
    g_autofree char *raw = g_strndup((const char *)field->value, MIN(field->length, max));
    return g_utf8_make_valid(raw, -1);
}

static void read_operations(StasisAgent *agent, const StasisAgentFrame *frame)
{
    GPtrArray *names = g_ptr_array_new();
    StasisField field;
    for (guint32 at = 0; stasis_field_next(frame->payload, frame->length, &at, &field);)
        if (field.tag == STASIS_AGENT_TAG_OPERATION && names->len < MAX_OPERATIONS)
            g_ptr_array_add(names, text_of(&field, MAX_WORD));
    g_ptr_array_add(names, NULL);
    agent->operations = (char **)g_ptr_array_free(names, FALSE);
}

gboolean stasis_agent_greet(StasisAgent *agent, const StasisAgentWait *wait, GError **error)
{
    StasisAgentFrame frame;
    StasisField field;
    if (agent->greeted)
        return TRUE;
    if (agent->broken)
        return fail(agent, STASIS_ERROR_FAILED, error, "the conversation failed before");
    agent->noise_bytes = 0;
    if (!say_hello(agent, wait, error) ||
        !next_frame(
            agent, STASIS_AGENT_HELLO, agent->hello_id, wait,
            "no answer; is stasis-agent running in the guest? (stasis agent-install puts it there)",
            &frame, error))
        return FALSE;
    guint64 version = stasis_field_number(frame.payload, frame.length, STASIS_AGENT_TAG_VERSION, 0);
    if (frame.code == STASIS_AGENT_VERSION)
        return fail(
            agent, STASIS_ERROR_UNSUPPORTED, error,
            "it speaks protocol versions %" G_GUINT64_FORMAT " to %" G_GUINT64_FORMAT
            ", this stasis %u to %u; install the agent of this version in the guest",
            stasis_field_number(frame.payload, frame.length, STASIS_AGENT_TAG_VERSION_MIN, 0),
            stasis_field_number(frame.payload, frame.length, STASIS_AGENT_TAG_VERSION_MAX, 0),
            STASIS_AGENT_VERSION_MIN, STASIS_AGENT_VERSION_MAX);
    if (frame.code != STASIS_AGENT_OK || version < STASIS_AGENT_VERSION_MIN ||
        version > STASIS_AGENT_VERSION_MAX)
        return fail(agent, STASIS_ERROR_CORRUPT, error,
                    "its greeting makes no sense; is it stasis-agent that has the port?");
    agent->protocol = (guint)version;
    if (stasis_field_find(frame.payload, frame.length, STASIS_AGENT_TAG_AGENT, &field))
        agent->version = text_of(&field, MAX_WORD);
    read_operations(agent, &frame);
    agent->greeted = TRUE;
    return TRUE;
}

const char *stasis_agent_get_version(StasisAgent *agent)
{
    return agent->version != NULL ? agent->version : "";
}

const char *const *stasis_agent_get_operations(StasisAgent *agent)
{
    return (const char *const *)agent->operations;
}

guint stasis_agent_get_protocol(StasisAgent *agent)
{
    return agent->protocol;
}

/* ---- requests ---- */

gboolean stasis_agent_begin(StasisAgent *agent, StasisAgentOp op, const StasisFieldWriter *fields,
                            guint64 *ret_id, const StasisAgentWait *wait, GError **error)
{
    agent->refused = 0;
    if (agent->broken)
        return fail(agent, STASIS_ERROR_FAILED, error, "the conversation failed before");
    if (!say_hello(agent, wait, error))
        return FALSE;
    guint64 id = agent->last_id++;
    if (!send_frame(agent, STASIS_AGENT_REQUEST, (guint16)op, id, fields, wait, error))
        return FALSE;
    *ret_id = id;
    return TRUE;
}

/* What the agent says of a request that failed. Always NULL. */
static GBytes *report(StasisAgent *agent, const StasisAgentFrame *frame, GError **error)
{
    StasisField field;
    g_autofree char *message = NULL;
    if (stasis_field_find(frame->payload, frame->length, STASIS_AGENT_TAG_MESSAGE, &field))
        message = text_of(&field, 512);
    for (char *c = message; c != NULL && *c != '\0'; c++)
        if (g_ascii_iscntrl(*c))
            *c = ' ';
    agent->refused = (int)MIN(
        stasis_field_number(frame->payload, frame->length, STASIS_AGENT_TAG_ERRNO, 0), MAX_ERRNO);
    g_set_error(error, STASIS_ERROR,
                frame->code == STASIS_AGENT_UNSUPPORTED ? STASIS_ERROR_UNSUPPORTED
                                                        : STASIS_ERROR_FAILED,
                "%s: agent: %s", agent->who,
                message != NULL && message[0] != '\0' ? message : "it failed and did not say why");
    return NULL;
}

GBytes *stasis_agent_finish(StasisAgent *agent, guint64 id, StasisAgentPartFunc part,
                            gpointer user_data, gsize max_bytes, const StasisAgentWait *wait,
                            GError **error)
{
    gsize taken = 0;
    agent->refused = 0;
    if (!stasis_agent_greet(agent, wait, error))
        return NULL;
    agent->noise_bytes = 0;
    for (;;) {
        StasisAgentFrame frame;
        if (!next_frame(agent, STASIS_AGENT_ANSWER, id, wait,
                        "no answer to a request in time; it may be too busy, or hang", &frame,
                        error))
            return NULL;
        taken += frame.length + STASIS_AGENT_HEADER_BYTES;
        if (taken > max_bytes) {
            fail(agent, STASIS_ERROR_CORRUPT, error,
                 "an answer of more than the %" G_GSIZE_FORMAT " bytes that it may have",
                 max_bytes);
            return NULL;
        }
        if ((frame.flags & STASIS_AGENT_END) != 0 && frame.code != STASIS_AGENT_OK)
            return report(agent, &frame, error);
        if ((frame.flags & STASIS_AGENT_END) != 0)
            return g_bytes_new(frame.payload, frame.length);
        if (part != NULL && !part(frame.payload, frame.length, user_data, error)) {
            agent->broken = TRUE;
            return NULL;
        }
    }
}

int stasis_agent_get_errno(const StasisAgent *agent)
{
    return agent->refused;
}

GBytes *stasis_agent_call(StasisAgent *agent, StasisAgentOp op, const StasisFieldWriter *fields,
                          const StasisAgentWait *wait, GError **error)
{
    guint64 id = 0;
    if (!stasis_agent_begin(agent, op, fields, &id, wait, error))
        return NULL;
    return stasis_agent_finish(agent, id, NULL, NULL, 2 * STASIS_AGENT_MAX_PAYLOAD, wait, error);
}

char *stasis_agent_text(GBytes *answer, StasisAgentTag tag, guint max)
{
    gsize length;
    const guint8 *fields = g_bytes_get_data(answer, &length);
    StasisField field;
    if (fields == NULL || !stasis_field_find(fields, (guint32)length, (guint16)tag, &field))
        return NULL;
    return text_of(&field, max);
}

guint64 stasis_agent_number(GBytes *answer, StasisAgentTag tag, guint64 otherwise)
{
    gsize length;
    const guint8 *fields = g_bytes_get_data(answer, &length);
    return stasis_field_number(fields, (guint32)length, (guint16)tag, otherwise);
}
