/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The loop: one port, one conversation, at most STASIS_AGENT_MAX_REQUESTS workers.
 *
 * A port without a host at its other end is always readable and reads as its end, so it is not
 * polled then: SIGIO tells of a change, and once a second it is looked at all the same. The end
 * proves little: data of a new host come through one queue, that it is there through another, and
 * the driver may know of the first before it knows of the second. So a conversation is forgotten
 * when the next one begins, or when the port has read as its end for a while. A host
 * that does not read makes the queue full; then nothing is read either, neither requests nor what
 * workers say, until there is room for a whole frame. So memory is what the arrays below have.
 */
#include <errno.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include "coop.h"
#include "watch/watch.h"

#define LOOK_MS 1000 /* for a port, or for a host */
#define QUEUE_BYTES (4 * STASIS_AGENT_MAX_WIRE)

static struct {
    const LoopOptions *options;
    int fd; /* the port, or -1 */
    int signal_fd;
    bool connected;  /* a host is there */
    int64_t gone_ms; /* since then the port has read as its end */
    bool greeted;    /* it has said HELLO */
    bool ending;
    StasisAgentDecoder decoder;
    uint8_t in[16384]; /* bytes that are not decoded yet: in[at, end) */
    size_t at, end;
    uint8_t queue[QUEUE_BYTES]; /* to the host: queue[sent, queued) */
    size_t sent, queued;
    Answer answer;
} loop;

/* ---- to the host ---- */

static void flush_queue(void)
{
    while (loop.fd >= 0 && loop.sent < loop.queued) {
        ssize_t n = write(loop.fd, loop.queue + loop.sent, loop.queued - loop.sent);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            break; /* full, or the host has gone: read(2) will tell */
        loop.sent += (size_t)n;
    }
    if (loop.sent == loop.queued)
        loop.sent = loop.queued = 0;
}

static bool has_room(void)
{
    if (QUEUE_BYTES - loop.queued < STASIS_AGENT_MAX_WIRE) {
        flush_queue();
        memmove(loop.queue, loop.queue + loop.sent, loop.queued - loop.sent);
        loop.queued -= loop.sent;
        loop.sent = 0;
    }
    return QUEUE_BYTES - loop.queued >= STASIS_AGENT_MAX_WIRE;
}

/* To a host that is there. */
static bool can_send(void)
{
    return loop.connected && has_room();
}

static bool send_frame(const Answer *answer, uint8_t type, uint16_t code, uint8_t flags)
{
    StasisAgentFrame frame = {
        type, flags, code, answer->id, answer->payload, answer->fields.length
    };
    if (!has_room())
        return false;
    loop.queued += stasis_agent_frame_write(&frame, loop.queue + loop.queued);
    flush_queue();
    return true;
}

static bool send_answer(const Answer *answer, uint16_t status, uint8_t flags)
{
    return send_frame(answer, STASIS_AGENT_ANSWER, status, flags);
}

static Answer *new_answer(uint64_t id)
{
    Answer *answer = &loop.answer;
    answer->id = id;
    answer->send = send_answer;
    answer->ended = false;
    answer->fields = (StasisFieldWriter){ answer->payload, 0, STASIS_AGENT_MAX_PAYLOAD, false };
    return answer;
}

/* ---- from the host ---- */

/* Nobody is there any more whom what it has begun is for. */
static void end_conversation(void)
{
    /* First of all what others may wait for, workers among them. */
    fs_thaw_now();
    device_resume_now();
    worker_forget_all();
    proc_restore_forget();
    coop_forget_requests();
    watch_forget_request();
}

static void forget_conversation(void)
{
    end_conversation();
    stasis_agent_decoder_reset(&loop.decoder);
    loop.sent = loop.queued = 0;
    loop.greeted = false;
}

static void greet(const StasisAgentFrame *frame)
{
    uint64_t min =
        stasis_field_number(frame->payload, frame->length, STASIS_AGENT_TAG_VERSION_MIN, 0);
    uint64_t max =
        stasis_field_number(frame->payload, frame->length, STASIS_AGENT_TAG_VERSION_MAX, 0);
    uint64_t version = max < STASIS_AGENT_VERSION_MAX ? max : STASIS_AGENT_VERSION_MAX;
    bool fits = min <= max && version >= STASIS_AGENT_VERSION_MIN && version >= min;
    end_conversation();
    loop.sent = loop.queued = 0;
    loop.greeted = fits;
    Answer *answer = new_answer(frame->id);
    StasisFieldWriter *fields = &answer->fields;
    stasis_field_put_number(fields, STASIS_AGENT_TAG_VERSION_MIN, STASIS_AGENT_VERSION_MIN);
    stasis_field_put_number(fields, STASIS_AGENT_TAG_VERSION_MAX, STASIS_AGENT_VERSION_MAX);
    stasis_field_put_text(fields, STASIS_AGENT_TAG_AGENT, AGENT_VERSION);
    if (fits)
        stasis_field_put_number(fields, STASIS_AGENT_TAG_VERSION, version);
    for (const AgentOp *op = agent_ops; fits && op->name != NULL; op++)
        stasis_field_put_text(fields, STASIS_AGENT_TAG_OPERATION, op->name);
    send_frame(answer, STASIS_AGENT_HELLO, fits ? STASIS_AGENT_OK : STASIS_AGENT_VERSION,
               STASIS_AGENT_END);
}

static void serve(const StasisAgentFrame *frame)
{
    Request request = { frame->id, frame->payload, frame->length };
    Answer *answer = new_answer(frame->id);
    const AgentOp *op = agent_find_op(frame->code);
    if (!loop.greeted)
        answer_error(answer, STASIS_AGENT_NO_HELLO, 0, "say hello first");
    else if (op == NULL)
        answer_error(answer, STASIS_AGENT_UNSUPPORTED, 0, "operation %u is not known here",
                     frame->code);
    else if (op->before != NULL && !op->before(&request, answer))
        return;
    else if ((op->flags & OP_WORKER) != 0)
        worker_start(op, &request, answer);
    else
        op->run(&request, answer);
}

static void take_frame(const StasisAgentFrame *frame)
{
    switch (frame->type) {
    case STASIS_AGENT_HELLO:
        greet(frame);
        break;
    case STASIS_AGENT_REQUEST:
        serve(frame);
        break;
    case STASIS_AGENT_CANCEL:
        worker_cancel(frame->id, new_answer(frame->id));
        break;
    default:
        break; /* of a version that we don't speak */
    }
}

/* Take frames from what was read, while there is room for what they bring about. */
static void take_frames(void)
{
    while (loop.at < loop.end && has_room()) {
        StasisAgentFrame frame;
        bool whole;
        loop.at += stasis_agent_decode(&loop.decoder, loop.in + loop.at, loop.end - loop.at, &frame,
                                       &whole);
        if (whole)
            take_frame(&frame);
    }
}

static void close_port(void)
{
    if (loop.fd >= 0)
        close(loop.fd);
    loop.fd = -1;
    loop.connected = false;
    forget_conversation();
}

/* Read what there is; finds out whether a host is there. */
static void read_port(void)
{
    for (;;) {
        take_frames();
        if (loop.at < loop.end)
            return; /* no room: the host does not read */
        loop.at = loop.end = 0;
        ssize_t n = read(loop.fd, loop.in, sizeof loop.in);
        if (n > 0) {
            loop.end = (size_t)n;
            loop.connected = true;
        } else if (n == 0) {
            loop.ending |= loop.options->fd >= 0;
            if (loop.connected)
                loop.gone_ms = now_ms();
            else if (now_ms() - loop.gone_ms >= LOOK_MS)
                forget_conversation();
            loop.connected = false;
            return;
        } else if (errno == EAGAIN) {
            loop.connected = true;
            return;
        } else if (errno != EINTR) {
            close_port(); /* unplugged */
            loop.ending |= loop.options->fd >= 0;
            return;
        }
    }
}

/* ---- the loop ---- */

static void take_signals(void)
{
    struct signalfd_siginfo info;
    while (read(loop.signal_fd, &info, sizeof info) == sizeof info)
        loop.ending |= info.ssi_signo == SIGTERM || info.ssi_signo == SIGINT;
}

static void wait_for_something(void)
{
    struct pollfd fds[2 + STASIS_AGENT_MAX_REQUESTS + COOP_MAX_FDS + WATCH_MAX_FDS] = {
        { .fd = loop.signal_fd, .events = POLLIN },
        { .fd = loop.fd },
    };
    bool room = has_room();
    if (loop.fd >= 0 && loop.connected)
        fds[1].events = (short)((room ? POLLIN : 0) | (loop.queued > 0 ? POLLOUT : 0));
    /* Without a host, or with one that must read first, an end of file must not wake us. */
    if (fds[1].events == 0)
        fds[1].fd = -1;
    unsigned n = 2;
    if (room || !loop.connected)
        n += worker_poll_fds(fds + 2);
    n += coop_poll_fds(fds + n);
    n += watch_poll_fds(fds + n);
    int wait_ms = coop_wait_ms(worker_wait_ms(LOOK_MS), can_send());
    poll(fds, n, watch_wait_ms(wait_ms, can_send()));
    /* A host that did not read and has gone: what waits for it goes too, so that the port can be
     * read up to its end. */
    if ((fds[1].revents & (POLLHUP | POLLERR)) != 0 && !has_room()) {
        forget_conversation();
        loop.at = loop.end = 0;
    }
}

static bool take_signals_by_descriptor(void)
{
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGCHLD);
    sigaddset(&set, SIGIO);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGINT);
    sigaddset(&set, SIGPIPE);
    sigprocmask(SIG_BLOCK, &set, NULL);
    loop.signal_fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
    return loop.signal_fd >= 0;
}

int loop_run(const LoopOptions *options)
{
    loop.options = options;
    loop.fd = options->fd;
    if (!take_signals_by_descriptor()) {
        say("signalfd: %s", strerror(errno));
        return 1;
    }
    /* First of all runs who must freeze others; workers are ordinary processes again. */
    struct sched_param first = { .sched_priority = 1 };
    if (options->realtime && sched_setscheduler(0, SCHED_FIFO | SCHED_RESET_ON_FORK, &first) < 0)
        say("no real-time priority: %s", strerror(errno));
    worker_init();
    coop_init(options->programs);
    if (loop.fd < 0)
        loop.end = port_first_words(loop.in, sizeof loop.in);
    while (!loop.ending) {
        if (loop.fd < 0)
            loop.fd = port_open(options->port);
        if (loop.fd >= 0) {
            flush_queue();
            read_port();
        }
        worker_work(send_answer, has_room);
        coop_work(send_answer, can_send);
        watch_work(send_answer, can_send);
        flush_queue();
        if (!loop.ending)
            wait_for_something();
        take_signals();
    }
    close_port();
    return 0;
}
