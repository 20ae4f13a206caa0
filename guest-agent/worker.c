/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Workers: forks of the agent in which an operation may take its time.
 *
 * A worker writes its answers into a pipe, each as a head and a payload, and the loop passes them
 * on as frames: whole ones, with the request's id, and only as fast as the host takes them. A
 * worker is a process group of its own and is ended, group and all, when its time is up, when the
 * host cancels or has gone (but what must not be left half done, OP_KEEP), and (by the kernel) when
 * the agent itself dies.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "agent.h"

#define MAX_DYING 32u /* then there are no new ones */
#define DIE_TRIES 20u /* of 1 ms */

/* What goes before each payload in the pipe. */
typedef struct {
    uint32_t length;
    uint16_t status;
    uint16_t flags;
} Head;

typedef struct {
    const AgentOp *op; /* NULL: this place is free */
    uint64_t id;
    pid_t pid;
    int fd;         /* the pipe's read end, or -1 */
    int64_t end_ms; /* when its time is up */
    bool silent;    /* nobody wants its answers */
    bool answered;  /* the last answer is out */
    uint32_t used;  /* bytes of buffer[] */
    uint8_t buffer[sizeof(Head) + STASIS_AGENT_MAX_PAYLOAD];
} Worker;

static Worker workers[STASIS_AGENT_MAX_REQUESTS];
/* Killed, and not gone: in a write to a frozen file system, say. */
static pid_t dying[MAX_DYING + STASIS_AGENT_MAX_REQUESTS];
static unsigned n_dying;
/* For answers that the loop makes itself about a worker. */
static Answer own_answer;

void worker_init(void)
{
    for (unsigned i = 0; i < STASIS_AGENT_MAX_REQUESTS; i++)
        workers[i].fd = -1;
}

/* Has it ended by now? */
static bool reap(pid_t pid)
{
    pid_t got = waitpid(pid, NULL, WNOHANG);
    return got == pid || (got < 0 && errno != EINTR);
}

static void reap_dying(void)
{
    for (unsigned i = 0; i < n_dying;)
        if (reap(dying[i]))
            dying[i] = dying[--n_dying];
        else
            i++;
}

void worker_let_die(pid_t pid)
{
    bool ended;
    kill(pid, SIGKILL);
    for (unsigned i = 0; !(ended = reap(pid)) && i < DIE_TRIES; i++)
        poll(NULL, 0, 1);
    if (!ended && n_dying < sizeof dying / sizeof *dying)
        dying[n_dying++] = pid;
}

static void end_process(Worker *w)
{
    if (w->pid <= 0)
        return;
    kill(-w->pid, SIGKILL);
    worker_let_die(w->pid); /* itself: in case it is not yet a group of its own */
    w->pid = 0;
}

static void release(Worker *w)
{
    end_process(w);
    if (w->fd >= 0)
        close(w->fd);
    w->fd = -1;
    w->op = NULL;
}

/* ---- in the worker ---- */

static int pipe_to_loop = -1;

static bool send_to_loop(const Answer *answer, uint16_t status, uint8_t flags)
{
    Head head = { answer->fields.length, status, flags };
    return write_all(pipe_to_loop, &head, sizeof head) &&
           write_all(pipe_to_loop, answer->payload, answer->fields.length);
}

static void __attribute__((noreturn))
be_worker(const AgentOp *op, const Request *request, Answer *answer, int fd, pid_t parent)
{
    sigset_t none;
    setpgid(0, 0);
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    if (getppid() != parent)
        _exit(1);
    pipe_to_loop = fd;
    answer->send = send_to_loop;
    op->run(request, answer);
    if (!answer->ended)
        answer_error(answer, STASIS_AGENT_FAILED, 0, "%s: no answer", op->name);
    _exit(0);
}

/* ---- in the loop ---- */

void worker_start(const AgentOp *op, const Request *request, Answer *answer)
{
    Worker *w = workers;
    int ends[2];
    pid_t parent = getpid();
    while (w < workers + STASIS_AGENT_MAX_REQUESTS && w->op != NULL)
        w++;
    reap_dying();
    if (w == workers + STASIS_AGENT_MAX_REQUESTS || n_dying >= MAX_DYING) {
        answer_error(answer, STASIS_AGENT_BUSY, 0,
                     n_dying >= MAX_DYING ? "%u requests were ended, and hang in the guest's kernel"
                                          : "%u requests are under way already",
                     n_dying >= MAX_DYING ? n_dying : STASIS_AGENT_MAX_REQUESTS);
        return;
    }
    if (pipe2(ends, O_CLOEXEC) < 0) {
        answer_error(answer, STASIS_AGENT_FAILED, errno, "%s: pipe", op->name);
        return;
    }
    pid_t pid = fork();
    if (pid == 0)
        be_worker(op, request, answer, ends[1], parent);
    int saved = errno;
    close(ends[1]);
    if (pid < 0) {
        close(ends[0]);
        answer_error(answer, STASIS_AGENT_FAILED, saved, "%s: fork", op->name);
        return;
    }
    setpgid(pid, pid); /* both do it: neither waits for the other */
    fcntl(ends[0], F_SETFL, O_NONBLOCK);
    w->op = op;
    w->id = request->id;
    w->pid = pid;
    w->fd = ends[0];
    w->end_ms = now_ms() + op->limit_ms;
    w->silent = w->answered = false;
    w->used = 0;
}

static void forget(Worker *w)
{
    if ((w->op->flags & OP_KEEP) != 0)
        w->silent = true;
    else
        release(w);
}

void worker_forget_all(void)
{
    for (Worker *w = workers; w < workers + STASIS_AGENT_MAX_REQUESTS; w++)
        if (w->op != NULL)
            forget(w);
}

bool worker_is_busy_with(uint16_t op)
{
    bool busy = false;
    for (Worker *w = workers; w < workers + STASIS_AGENT_MAX_REQUESTS; w++) {
        if (w->op == NULL || w->op->code != op)
            continue;
        if (w->answered)
            release(w);
        else
            busy = true;
    }
    return busy;
}

bool worker_cancel(uint64_t id, Answer *answer)
{
    for (Worker *w = workers; w < workers + STASIS_AGENT_MAX_REQUESTS; w++) {
        if (w->op == NULL || w->id != id || w->silent)
            continue;
        const char *name = w->op->name;
        bool answered = w->answered;
        forget(w);
        answer->id = id;
        if (!answered)
            answer_error(answer, STASIS_AGENT_CANCELLED, 0, "%s: cancelled by the host", name);
        return true;
    }
    return false;
}

unsigned worker_poll_fds(struct pollfd *fds)
{
    unsigned n = 0;
    for (Worker *w = workers; w < workers + STASIS_AGENT_MAX_REQUESTS; w++)
        if (w->op != NULL && w->fd >= 0)
            fds[n++] = (struct pollfd){ .fd = w->fd, .events = POLLIN };
    return n;
}

int worker_wait_ms(int otherwise)
{
    int64_t now = now_ms();
    for (Worker *w = workers; w < workers + STASIS_AGENT_MAX_REQUESTS; w++)
        if (w->op != NULL && w->end_ms - now < otherwise)
            otherwise = w->end_ms > now ? (int)(w->end_ms - now) : 0;
    return otherwise;
}

/* The payload in the buffer, as an answer. */
static void pass_on(Worker *w, const Head *head, bool (*send)(const Answer *, uint16_t, uint8_t))
{
    own_answer.id = w->id;
    own_answer.fields =
        (StasisFieldWriter){ own_answer.payload, head->length, STASIS_AGENT_MAX_PAYLOAD, false };
    memcpy(own_answer.payload, w->buffer + sizeof *head, head->length);
    if (!w->silent && !w->answered)
        send(&own_answer, head->status, (uint8_t)head->flags);
    w->answered |= (head->flags & STASIS_AGENT_END) != 0;
    w->used = 0;
}

static void complain(Worker *w, bool (*send)(const Answer *, uint16_t, uint8_t),
                     StasisAgentStatus status, const char *what)
{
    own_answer.id = w->id;
    own_answer.ended = w->silent || w->answered;
    own_answer.send = send;
    own_answer.fields =
        (StasisFieldWriter){ own_answer.payload, 0, STASIS_AGENT_MAX_PAYLOAD, false };
    answer_error(&own_answer, status, 0, "%s: %s", w->op->name, what);
    release(w);
}

/* Read once. False when there is nothing to be read now. */
static bool take(Worker *w, bool (*send)(const Answer *, uint16_t, uint8_t))
{
    Head head = { 0 };
    if (w->used >= sizeof head)
        memcpy(&head, w->buffer, sizeof head);
    size_t want = sizeof head + head.length;
    ssize_t n = read(w->fd, w->buffer + w->used, want - w->used);
    if (n < 0)
        return errno == EINTR;
    if (n == 0) {
        complain(w, send, STASIS_AGENT_FAILED, "ended without an answer"); /* if there was none */
        return false;
    }
    w->used += (uint32_t)n;
    if (w->used < sizeof head)
        return true;
    memcpy(&head, w->buffer, sizeof head);
    if (head.length > STASIS_AGENT_MAX_PAYLOAD) { /* its own code wrote that */
        complain(w, send, STASIS_AGENT_FAILED, "an answer without sense");
        return false;
    }
    if (w->used == sizeof head + head.length)
        pass_on(w, &head, send);
    return true;
}

void worker_work(bool (*send)(const Answer *, uint16_t, uint8_t), bool (*has_room)(void))
{
    int64_t now = now_ms();
    reap_dying();
    for (Worker *w = workers; w < workers + STASIS_AGENT_MAX_REQUESTS; w++) {
        /* One that nobody listens to needs no room. */
        while (w->op != NULL && (w->silent || has_room()) && take(w, send))
            ;
        if (w->op != NULL && now >= w->end_ms && (w->silent || has_room()))
            complain(w, send, STASIS_AGENT_TIMEOUT, "took too long and was ended");
    }
}
