/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Promise: whatever the other end of an agent's channel does (nothing, garbage, floods, lies), the
 * client has one clear error in bounded time; with a true agent it has the answer. */
#include <errno.h>
#include <poll.h>
#include <stasis/error.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "agent/client.h"
#include "agent/file-read.h"
#include "agent/frame.h"
#include "base/clock.h"
#include "base/fd.h"
#include "test-agent-real.h"

/* ---- an agent that is played ---- */

/* Until what takes no time counts as hanging: a busy machine has other things to do. */
#define HANG_US 120000000u

typedef struct _Peer Peer;
/* Called for each frame that came; answers with reply(). */
typedef void (*Act)(Peer *peer, const StasisAgentFrame *frame);

struct _Peer {
    int fd;
    Act act;
    GThread *thread;
    StasisAgentDecoder decoder;
    guint8 wire[STASIS_AGENT_MAX_WIRE];
    guint8 payload[STASIS_AGENT_MAX_PAYLOAD];
};

static gboolean say(Peer *peer, const void *bytes, gsize n)
{
    for (gsize done = 0; done < n;) {
        ssize_t part = send(peer->fd, (const guint8 *)bytes + done, n - done, MSG_NOSIGNAL);
        if (part < 0)
            return FALSE;
        done += (gsize)part;
    }
    return TRUE;
}

static gboolean reply(Peer *peer, guint8 type, guint16 code, guint8 flags, guint64 id,
                      guint32 length)
{
    StasisAgentFrame frame = { type, flags, code, id, peer->payload, length };
    return say(peer, peer->wire, stasis_agent_frame_write(&frame, peer->wire));
}

static void greet(Peer *peer, const StasisAgentFrame *frame)
{
    StasisFieldWriter fields = { .payload = peer->payload, .room = 1024 };
    stasis_field_put_number(&fields, STASIS_AGENT_TAG_VERSION, 1);
    stasis_field_put_text(&fields, STASIS_AGENT_TAG_AGENT, "played");
    reply(peer, STASIS_AGENT_HELLO, 0, STASIS_AGENT_END, frame->id, fields.length);
}

static gpointer play(gpointer data)
{
    Peer *peer = data;
    guint8 bytes[4096];
    for (ssize_t n; (n = recv(peer->fd, bytes, sizeof bytes, 0)) > 0;) {
        for (gsize at = 0; at < (gsize)n;) {
            StasisAgentFrame frame;
            bool whole;
            at += stasis_agent_decode(&peer->decoder, bytes + at, (gsize)n - at, &frame, &whole);
            if (whole)
                peer->act(peer, &frame);
        }
    }
    return NULL;
}

static StasisAgent *agent_with(Peer *peer, Act act)
{
    int ends[2];
    g_assert_cmpint(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends), ==, 0);
    peer->fd = ends[1];
    peer->act = act;
    peer->thread = g_thread_new("peer", play, peer);
    return stasis_agent_new(ends[0], "VM test");
}

static void end(Peer *peer)
{
    shutdown(peer->fd, SHUT_RDWR);
    g_thread_join(peer->thread);
    close(peer->fd);
    g_free(peer);
}

/* ---- what it does ---- */

static void say_nothing(Peer *peer, const StasisAgentFrame *frame)
{
}

static void say_garbage(Peer *peer, const StasisAgentFrame *frame)
{
    guint8 bytes[65536];
    for (guint i = 0; i < sizeof bytes; i++)
        bytes[i] = (guint8)(i * 2654435761u >> 11);
    while (say(peer, bytes, sizeof bytes))
        ;
}

/* Frames that are well-formed and nobody asked for. */
static void flood(Peer *peer, const StasisAgentFrame *frame)
{
    guint64 id = frame->id;
    while (reply(peer, STASIS_AGENT_ANSWER, 0, 0, ++id, 0))
        ;
}

/* One byte now and then, for ever. */
static void trickle(Peer *peer, const StasisAgentFrame *frame)
{
    do
        g_usleep(5000);
    while (say(peer, "\1", 1));
}

static void hang_up(Peer *peer, const StasisAgentFrame *frame)
{
    shutdown(peer->fd, SHUT_RDWR);
}

static void other_version(Peer *peer, const StasisAgentFrame *frame)
{
    StasisFieldWriter fields = { .payload = peer->payload, .room = 1024 };
    stasis_field_put_number(&fields, STASIS_AGENT_TAG_VERSION_MIN, 7);
    stasis_field_put_number(&fields, STASIS_AGENT_TAG_VERSION_MAX, 9);
    reply(peer, STASIS_AGENT_HELLO, STASIS_AGENT_VERSION, STASIS_AGENT_END, frame->id,
          fields.length);
}

static void lie_about_version(Peer *peer, const StasisAgentFrame *frame)
{
    StasisFieldWriter fields = { .payload = peer->payload, .room = 1024 };
    stasis_field_put_number(&fields, STASIS_AGENT_TAG_VERSION, G_MAXUINT64);
    reply(peer, STASIS_AGENT_HELLO, 0, STASIS_AGENT_END, frame->id, fields.length);
}

/* Parts of an answer without end. */
static void never_end(Peer *peer, const StasisAgentFrame *frame)
{
    guint64 id = frame->id;
    if (frame->type == STASIS_AGENT_HELLO)
        greet(peer, frame);
    else
        while (reply(peer, STASIS_AGENT_ANSWER, 0, 0, id, 0))
            ;
}

static void greet_only(Peer *peer, const StasisAgentFrame *frame)
{
    if (frame->type == STASIS_AGENT_HELLO)
        greet(peer, frame);
}

static void refuse(Peer *peer, const StasisAgentFrame *frame)
{
    static const char message[] = "no\nsuch\xff thing";
    StasisFieldWriter fields = { .payload = peer->payload, .room = 1024 };
    if (frame->type == STASIS_AGENT_HELLO) {
        greet(peer, frame);
        return;
    }
    stasis_field_put(&fields, STASIS_AGENT_TAG_MESSAGE, message, sizeof message - 1);
    reply(peer, STASIS_AGENT_ANSWER, STASIS_AGENT_UNSUPPORTED, STASIS_AGENT_END, frame->id,
          fields.length);
}

/* Stale answers first, half a frame, and then the truth. */
static void answer_late(Peer *peer, const StasisAgentFrame *frame)
{
    if (frame->type == STASIS_AGENT_HELLO) {
        reply(peer, STASIS_AGENT_ANSWER, 0, STASIS_AGENT_END, frame->id + 1, 0);
        say(peer, "half", 4);
        greet(peer, frame);
        return;
    }
    for (guint i = 1; i < 100; i++)
        reply(peer, STASIS_AGENT_ANSWER, STASIS_AGENT_FAILED, STASIS_AGENT_END, frame->id - i, 0);
    StasisFieldWriter fields = { .payload = peer->payload, .room = 1024 };
    stasis_field_put_text(&fields, STASIS_AGENT_TAG_HOSTNAME, "truth");
    reply(peer, STASIS_AGENT_ANSWER, 0, STASIS_AGENT_END, frame->id, fields.length);
}

/* A long answer whose bytes are stuffed as much as any, with a broken piece before each frame. */
static const char *broken_piece;
static void answer_at_length(Peer *peer, const StasisAgentFrame *frame)
{
    guint64 id = frame->id;
    if (frame->type == STASIS_AGENT_HELLO) {
        greet(peer, frame);
        return;
    }
    guint8 bytes[60000];
    StasisFieldWriter fields = { .payload = peer->payload, .room = sizeof peer->payload };
    memset(bytes, 0xff, sizeof bytes);
    stasis_field_put(&fields, STASIS_AGENT_TAG_MESSAGE, bytes, sizeof bytes);
    for (guint i = 0; i < 64; i++) {
        say(peer, broken_piece, strlen(broken_piece));
        reply(peer, STASIS_AGENT_ANSWER, 0, i == 63 ? STASIS_AGENT_END : 0, id, fields.length);
    }
}

/* What it takes to send an answer is no flood, however long it is; what is dropped is. */
static void test_long_answer(void)
{
    static const char *const pieces[] = { "", "a piece that was broken" };
    for (guint i = 0; i < G_N_ELEMENTS(pieces); i++) {
        Peer *peer = g_new0(Peer, 1);
        broken_piece = pieces[i];
        g_autoptr(StasisAgent) agent = agent_with(peer, answer_at_length);
        g_autoptr(GError) error = NULL;
        guint64 id;
        StasisAgentWait wait = { .deadline_us = stasis_now_us() + HANG_US };
        stasis_agent_set_max_noise(agent, 512);
        g_assert_true(stasis_agent_begin(agent, STASIS_AGENT_OP_INFO, NULL, &id, &wait, &error));
        g_autoptr(GBytes) answer =
            stasis_agent_finish(agent, id, NULL, NULL, G_MAXUINT32, &wait, &error);
        if (i == 0)
            g_assert_no_error(error);
        else
            g_assert_error(error, STASIS_ERROR, STASIS_ERROR_CORRUPT);
        end(peer);
    }
}

static gboolean count_output(const guint8 *fields, guint32 length, gpointer user_data,
                             GError **error)
{
    StasisField field;
    if (stasis_field_find(fields, length, STASIS_AGENT_TAG_OUTPUT, &field))
        *(gsize *)user_data += field.length;
    return TRUE;
}

#define N_BYTES 60000u

static void answer_byte_by_byte(Peer *peer, const StasisAgentFrame *frame)
{
    guint64 id = frame->id;
    if (frame->type == STASIS_AGENT_HELLO) {
        greet(peer, frame);
        return;
    }
    StasisFieldWriter fields = { .payload = peer->payload, .room = sizeof peer->payload };
    stasis_field_put_number(&fields, STASIS_AGENT_TAG_OFFSET, 1); /* as a job's have */
    stasis_field_put(&fields, STASIS_AGENT_TAG_OUTPUT, "x", 1);
    for (guint i = 1; i <= N_BYTES; i++)
        reply(peer, STASIS_AGENT_ANSWER, 0, i == N_BYTES ? STASIS_AGENT_END : 0, id, fields.length);
}

/* A command that writes byte by byte, a job too, has all of its output. */
static void test_small_parts(void)
{
    Peer *peer = g_new0(Peer, 1);
    g_autoptr(StasisAgent) agent = agent_with(peer, answer_byte_by_byte);
    g_autoptr(GError) error = NULL;
    guint64 id;
    gsize n = 0;
    StasisAgentWait wait = { .deadline_us = stasis_now_us() + HANG_US };
    g_assert_true(stasis_agent_begin(agent, STASIS_AGENT_OP_EXEC, NULL, &id, &wait, &error));
    g_autoptr(GBytes) answer = stasis_agent_finish(
        agent, id, count_output, &n, stasis_agent_output_bytes(N_BYTES), &wait, &error);
    g_assert_no_error(error);
    g_assert_cmpuint(n, ==, N_BYTES - 1); /* and the last part */
    end(peer);
}

static void test_hostile(void)
{
    static const struct {
        Act act;
        int code;
        const char *says;
        gboolean waits; /* until the time is up */
    } rows[] = {
        { say_nothing, STASIS_ERROR_FAILED, "*no answer*stasis-agent running*", TRUE },
        { say_garbage, STASIS_ERROR_CORRUPT, "*nobody asked for*", FALSE },
        { flood, STASIS_ERROR_CORRUPT, "*nobody asked for*", FALSE },
        { trickle, STASIS_ERROR_FAILED, "*no answer*", TRUE },
        { hang_up, STASIS_ERROR_FAILED, "*closed the channel*", FALSE },
        { other_version, STASIS_ERROR_UNSUPPORTED, "*versions 7 to 9*install*", FALSE },
        { lie_about_version, STASIS_ERROR_CORRUPT, "*no sense*", FALSE },
        { never_end, STASIS_ERROR_CORRUPT, "*an answer of more than*", FALSE },
        { greet_only, STASIS_ERROR_FAILED, "*no answer to a request in time*", TRUE },
        { refuse, STASIS_ERROR_UNSUPPORTED, "VM test: agent: no such*thing", FALSE },
    };
    for (guint i = 0; i < G_N_ELEMENTS(rows); i++) {
        Peer *peer = g_new0(Peer, 1);
        g_autoptr(StasisAgent) agent = agent_with(peer, rows[i].act);
        g_autoptr(GError) error = NULL;
        guint64 start_us = stasis_now_us();
        StasisAgentWait wait = { .deadline_us = start_us + HANG_US / 2 };
        if (rows[i].act == greet_only)
            g_assert_true(stasis_agent_greet(agent, &wait, &error));
        if (rows[i].waits)
            wait.deadline_us = stasis_now_us() + 300000;
        g_autoptr(GBytes) answer =
            stasis_agent_call(agent, STASIS_AGENT_OP_INFO, NULL, &wait, &error);
        g_assert_null(answer);
        g_test_message("%u: %s", i, error->message);
        g_assert_error(error, STASIS_ERROR, rows[i].code);
        g_assert_true(g_pattern_match_simple(rows[i].says, error->message));
        g_assert_null(strpbrk(error->message, "\n\r"));
        g_assert_cmpuint(stasis_now_us() - start_us, <, HANG_US);
        end(peer);
    }
}

static void test_stale(void)
{
    Peer *peer = g_new0(Peer, 1);
    g_autoptr(StasisAgent) agent = agent_with(peer, answer_late);
    g_autoptr(GError) error = NULL;
    StasisAgentWait wait = { .deadline_us = stasis_now_us() + HANG_US };
    for (guint i = 0; i < 10; i++) {
        g_autoptr(GBytes) answer =
            stasis_agent_call(agent, STASIS_AGENT_OP_INFO, NULL, &wait, &error);
        g_assert_no_error(error);
        g_autofree char *name = stasis_agent_text(answer, STASIS_AGENT_TAG_HOSTNAME, 64);
        g_assert_cmpstr(name, ==, "truth");
    }
    g_assert_cmpstr(stasis_agent_get_version(agent), ==, "played");
    end(peer);
}

/* An agent that is at something: it answers a question meanwhile, and after that the request. */
static guint64 long_request;
static void answer_when_asked(Peer *peer, const StasisAgentFrame *frame)
{
    if (frame->type == STASIS_AGENT_HELLO)
        greet(peer, frame);
    else if (frame->code == STASIS_AGENT_OP_PING) {
        reply(peer, STASIS_AGENT_ANSWER, STASIS_AGENT_OK, STASIS_AGENT_END, frame->id, 0);
        reply(peer, STASIS_AGENT_ANSWER, STASIS_AGENT_OK, STASIS_AGENT_END, long_request, 0);
    } else
        long_request = frame->id;
}

/* One that was started again in the meantime. */
static void forget(Peer *peer, const StasisAgentFrame *frame)
{
    if (frame->type == STASIS_AGENT_HELLO)
        greet(peer, frame);
    else if (frame->code == STASIS_AGENT_OP_PING)
        reply(peer, STASIS_AGENT_ANSWER, STASIS_AGENT_NO_HELLO, STASIS_AGENT_END, frame->id, 0);
}

static guint64 changed_at(const char *path)
{
    struct stat st;
    g_assert_cmpint(stat(path, &st), ==, 0);
    return (guint64)st.st_mtim.tv_sec;
}

/* While a request takes its time the agent is asked whether it is there: others see from a file
 * that it is, and one that has forgotten the request is not waited for. */
static void test_asking(void)
{
    g_autoptr(GError) error = NULL;
    static const struct timespec never[2] = { { 0 }, { 0 } };
    StasisAgentWait wait = { .deadline_us = stasis_now_us() + HANG_US };
    for (int forgets = 0; forgets < 2; forgets++) {
        Peer *peer = g_new0(Peer, 1);
        g_autoptr(StasisAgent) agent = agent_with(peer, forgets ? forget : answer_when_asked);
        g_autofree char *name = NULL;
        int fd = g_file_open_tmp("agent-heard-XXXXXX", &name, &error);
        g_assert_no_error(error);
        g_assert_true(stasis_agent_greet(agent, &wait, &error));
        futimens(fd, never);
        stasis_agent_set_mark(agent, fd);
        stasis_agent_keep_asking(agent);
        g_autoptr(GBytes) answer =
            stasis_agent_call(agent, STASIS_AGENT_OP_EXEC, NULL, &wait, &error);
        g_assert_cmpuint(changed_at(name), >, 0);
        g_assert_true((answer == NULL) == forgets);
        if (forgets)
            g_assert_nonnull(strstr(error->message, "taken back"));
        g_clear_error(&error);
        unlink(name);
        end(peer);
    }
    g_assert_cmpuint(stasis_now_us(), <, wait.deadline_us);
}

static gpointer cancel_soon(gpointer cancellable)
{
    g_usleep(100000);
    g_cancellable_cancel(cancellable);
    return NULL;
}

static void test_cancel(void)
{
    Peer *peer = g_new0(Peer, 1);
    g_autoptr(StasisAgent) agent = agent_with(peer, say_nothing);
    g_autoptr(GCancellable) cancellable = g_cancellable_new();
    g_autoptr(GError) error = NULL;
    StasisAgentWait wait = { stasis_now_us() + HANG_US, cancellable };
    GThread *thread = g_thread_new("cancel", cancel_soon, cancellable);
    g_assert_false(stasis_agent_greet(agent, &wait, &error));
    g_assert_error(error, STASIS_ERROR, STASIS_ERROR_CANCELLED);
    g_thread_join(thread);
    end(peer);
}

/* ---- why the agent refused ---- */

static void refuse_by_errno(Peer *peer, const StasisAgentFrame *frame)
{
    StasisFieldWriter fields = { .payload = peer->payload, .room = 1024 };
    if (frame->type == STASIS_AGENT_HELLO) {
        greet(peer, frame);
        return;
    }
    stasis_field_put_number(&fields, STASIS_AGENT_TAG_ERRNO, ENOENT);
    reply(peer, STASIS_AGENT_ANSWER, STASIS_AGENT_FAILED, STASIS_AGENT_END, frame->id,
          fields.length);
}

/* A request that could not even be made has no errno of the guest's, whatever the one before had.
 */
static void test_errno(void)
{
    Peer *peer = g_new0(Peer, 1);
    g_autoptr(StasisAgent) agent = agent_with(peer, refuse_by_errno);
    StasisAgentWait wait = { .deadline_us = stasis_now_us() + HANG_US };
    g_autoptr(GBytes) none = stasis_agent_call(agent, STASIS_AGENT_OP_INFO, NULL, &wait, NULL);
    g_assert_null(none);
    g_assert_cmpint(stasis_agent_get_errno(agent), ==, ENOENT);
    end(peer);
    g_autoptr(GBytes) never = stasis_agent_call(agent, STASIS_AGENT_OP_INFO, NULL, &wait, NULL);
    g_assert_null(never);
    g_assert_cmpint(stasis_agent_get_errno(agent), ==, 0);
}

/* ---- files ---- */

/* A file in parts, some of them empty: as much as was asked for at first, and then a thousand
 * times that. */
static void send_file(Peer *peer, const StasisAgentFrame *frame)
{
    guint64 limit = 0;
    if (frame->type == STASIS_AGENT_HELLO) {
        greet(peer, frame);
        return;
    }
    limit = stasis_field_number(frame->payload, frame->length, STASIS_AGENT_TAG_LIMIT, 0);
    guint64 from = stasis_field_number(frame->payload, frame->length, STASIS_AGENT_TAG_OFFSET, 0);
    for (guint64 left = from == 0 ? limit : limit * 1000, n; left > 0; left -= n) {
        static const guint8 bytes[30000];
        StasisFieldWriter fields = { .payload = peer->payload, .room = sizeof peer->payload };
        n = MIN(left, sizeof bytes);
        reply(peer, STASIS_AGENT_ANSWER, 0, 0, frame->id, 0);
        stasis_field_put(&fields, STASIS_AGENT_TAG_OUTPUT, bytes, (guint32)n);
        reply(peer, STASIS_AGENT_ANSWER, 0, 0, frame->id, fields.length);
    }
    reply(peer, STASIS_AGENT_ANSWER, 0, STASIS_AGENT_END, frame->id, 0);
}

static gboolean add_up(const guint8 *bytes, guint32 n, gpointer user_data, GError **error)
{
    *(guint64 *)user_data += n;
    return TRUE;
}

/* A file comes in parts; whoever takes it never gets more than was asked for. */
static void test_file_read(void)
{
    Peer *peer = g_new0(Peer, 1);
    g_autoptr(StasisAgent) agent = agent_with(peer, send_file);
    g_autoptr(GError) error = NULL;
    StasisAgentWait wait = { .deadline_us = stasis_now_us() + HANG_US };
    guint64 sum = 0;
    guint32 n = 0;
    g_assert_true(stasis_agent_file_read(agent, "/f", 0, 100000, add_up, &sum, &n, &wait, &error));
    g_assert_no_error(error);
    g_assert_cmpuint(n, ==, 100000);
    g_assert_cmpuint(sum, ==, 100000);
    sum = 0;
    g_assert_false(
        stasis_agent_file_read(agent, "/f", 100000, 100000, add_up, &sum, &n, &wait, &error));
    g_assert_error(error, STASIS_ERROR, STASIS_ERROR_CORRUPT);
    g_assert_cmpuint(sum, <=, 100000);
    g_assert_false(stasis_agent_is_usable(agent));
    end(peer);
}

/* ---- the real one ---- */

static void test_real(void)
{
    pid_t pid;
    StasisAgent *agent = test_agent_new(&pid);
    g_autoptr(GError) error = NULL;
    guint8 room[512];
    StasisAgentWait wait = { .deadline_us = stasis_now_us() + HANG_US };
    g_autoptr(GBytes) info = stasis_agent_call(agent, STASIS_AGENT_OP_INFO, NULL, &wait, &error);
    g_assert_no_error(error);
    g_autofree char *kernel = stasis_agent_text(info, STASIS_AGENT_TAG_KERNEL, 64);
    g_assert_true(g_str_has_prefix(kernel, "Linux "));
    g_assert_true(g_strv_contains(stasis_agent_get_operations(agent), "exec"));
    /* More output than any queue holds. */
    StasisFieldWriter fields = { .payload = room, .room = sizeof room };
    guint64 id = 0;
    gsize n = 0;
    const char *const command[] = { "head", "-c", "3000000", "/dev/zero" };
    for (guint i = 0; i < G_N_ELEMENTS(command); i++)
        stasis_field_put_text(&fields, STASIS_AGENT_TAG_ARG, command[i]);
    g_assert_true(stasis_agent_begin(agent, STASIS_AGENT_OP_EXEC, &fields, &id, &wait, &error));
    g_autoptr(GBytes) done =
        stasis_agent_finish(agent, id, count_output, &n, 16u << 20, &wait, &error);
    g_assert_no_error(error);
    g_assert_cmpuint(n, ==, 3000000);
    g_assert_cmpuint(stasis_agent_number(done, STASIS_AGENT_TAG_EXIT_STATUS, 9), ==, 0);
    g_autoptr(GBytes) none = stasis_agent_call(agent, (StasisAgentOp)999, NULL, &wait, &error);
    g_assert_error(error, STASIS_ERROR, STASIS_ERROR_UNSUPPORTED);
    test_agent_end(agent, pid);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/agent/client/hostile", test_hostile);
    g_test_add_func("/agent/client/long-answer", test_long_answer);
    g_test_add_func("/agent/client/small-parts", test_small_parts);
    g_test_add_func("/agent/client/stale", test_stale);
    g_test_add_func("/agent/client/asking", test_asking);
    g_test_add_func("/agent/client/cancel", test_cancel);
    g_test_add_func("/agent/client/errno", test_errno);
    g_test_add_func("/agent/client/file-read", test_file_read);
    g_test_add_func("/agent/client/real", test_real);
    return g_test_run();
}
