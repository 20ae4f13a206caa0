/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Freezing file systems, and that they thaw whatever happens.
 *
 * A frozen file system blocks whoever writes to it until somebody thaws it. So a process of its
 * own, the freezer, freezes and thaws: it thaws when it is told to, when its time is up, and when
 * the agent is gone, or the conversation that it froze for (the other end of its socket closes). It
 * holds the mounts open, and touches no file while they are frozen. It is in no worker's process
 * group, and nobody waits for it.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "agent.h"

#define MAX_MOUNTS 256
#define LIMIT_MS 60000
/* One that an earlier conversation had frozen is just being thawed. Counted, not timed: where the
 * whole VM stands still for a while, time passes without a chance for who thaws. */
#define BUSY_TRIES 200
#define BUSY_POLL_MS 10

/* What the freezer says: once when it has frozen, once when it has thawed. */
typedef struct {
    uint32_t n;
    int error_number;
    uint64_t frozen_ns; /* since it began to freeze */
    char path[256];     /* the mount that could not be frozen */
} Report;

typedef struct {
    int fd;
    unsigned major, minor;
} Mount;

static int freezer = -1; /* our end of its socket */

/* ---- the freezer ---- */

/* "\040" and the like stand for blanks. */
static void unescape(char *path)
{
    char *to = path;
    for (char *from = path; *from != '\0'; to++) {
        bool octal = from[0] == '\\' && strspn(from + 1, "01234567") >= 3;
        *to = octal ? (char)((from[1] - '0') << 6 | (from[2] - '0') << 3 | (from[3] - '0')) : *from;
        from += octal ? 4 : 1;
    }
    *to = '\0';
}

/* Open each writable mount of a block device, one for each device. */
static unsigned open_mounts(Mount *mounts)
{
    FILE *file = fopen("/proc/self/mountinfo", "re");
    char line[4096];
    unsigned n = 0;
    while (file != NULL && n < MAX_MOUNTS && fgets(line, sizeof line, file) != NULL) {
        char path[4096], options[1024];
        Mount m;
        bool known = false;
        /* ID parent major:minor root mount-point options … - type source … (proc(5)). */
        if (sscanf(line, "%*d %*d %u:%u %*s %4095s %1023s", &m.major, &m.minor, path, options) != 4)
            continue;
        const char *type = strstr(line, " - ");
        char source[1024] = "";
        if (type != NULL)
            sscanf(type, " - %*s %1023s", source);
        for (unsigned i = 0; i < n; i++)
            known |= mounts[i].major == m.major && mounts[i].minor == m.minor;
        /* Opening the others could mount something, or wait for a server. */
        if (known || strncmp(options, "rw", 2) != 0 || source[0] != '/')
            continue;
        unescape(path);
        m.fd = open(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
        if (m.fd < 0)
            continue;
        mounts[n++] = m;
    }
    if (file != NULL)
        fclose(file);
    return n;
}

/* From the last, so that what lies on another comes before it. */
static unsigned thaw(Mount *mounts, unsigned n)
{
    unsigned n_thawed = 0;
    for (unsigned i = 0; i < n; i++)
        n_thawed += mounts[i].fd >= 0 && ioctl(mounts[i].fd, FITHAW, 0) == 0;
    return n_thawed;
}

static int freeze_one(int fd, int64_t end_ms)
{
    for (int tries = 0; ioctl(fd, FIFREEZE, 0) < 0; tries++) {
        if (errno != EBUSY || tries == BUSY_TRIES || now_ms() >= end_ms)
            return errno;
        poll(NULL, 0, BUSY_POLL_MS);
    }
    return 0;
}

/* Freeze all that can be; those that can't are closed. 0 or the error: EBUSY where somebody else
 * has frozen one, who may thaw it at any moment. */
static int freeze(Mount *mounts, unsigned n, int64_t end_ms, Report *report)
{
    for (unsigned i = 0; i < n; i++)
        syncfs(mounts[i].fd); /* now, so that little is left to be written in the freeze */
    uint64_t begun_ns = clock_ns(CLOCK_MONOTONIC);
    for (unsigned i = n; i-- > 0; report->frozen_ns = clock_ns(CLOCK_MONOTONIC) - begun_ns) {
        int r = freeze_one(mounts[i].fd, end_ms);
        if (r == 0 && now_ms() < end_ms) {
            report->n++;
            continue;
        }
        if (r == 0) {
            thaw(mounts + i, n - i);
            return ETIMEDOUT;
        }
        close(mounts[i].fd);
        mounts[i].fd = -1;
        if (r == EOPNOTSUPP || r == ENOTTY || r == EINVAL || r == EROFS)
            continue;
        thaw(mounts + i, n - i);
        return r;
    }
    return 0;
}

static void __attribute__((noreturn)) be_freezer(int socket_fd, int64_t end_ms)
{
    static Mount mounts[MAX_MOUNTS];
    Report report = { 0 };
    setsid();
    prctl(PR_SET_NAME, "stasis-freezer"); /* who ends agents by name means others */
    dup2(socket_fd, 3);
    close_range(4, ~0u, 0);
    mlockall(MCL_CURRENT);
    unsigned n = open_mounts(mounts);
    report.error_number = freeze(mounts, n, end_ms, &report);
    send(3, &report, sizeof report, MSG_NOSIGNAL);
    if (report.error_number == 0 && report.n > 0) {
        struct pollfd fds = { .fd = 3, .events = POLLIN };
        int64_t now = now_ms();
        /* Told to, or the agent is gone, or time is up. */
        poll(&fds, 1, end_ms > now ? (int)(end_ms - now) : 0);
        report.n = thaw(mounts, n);
        /* A socket closed with something unread in it gives an error at the other end. */
        char byte;
        if (recv(3, &byte, 1, MSG_DONTWAIT) == 1)
            send(3, &report, sizeof report, MSG_NOSIGNAL);
    }
    _exit(0);
}

/* ---- in the agent ---- */

/* Is there a freezer at work? Forgets one that has ended. */
static bool is_frozen(void)
{
    char byte;
    if (freezer < 0)
        return false;
    ssize_t n = recv(freezer, &byte, 1, MSG_PEEK | MSG_DONTWAIT);
    if (n < 0 && errno == EAGAIN)
        return true;
    if (n > 0) /* a report that nobody has fetched: it has frozen, or failed to */
        return true;
    close(freezer);
    freezer = -1;
    return false;
}

void fs_thaw_now(void)
{
    if (freezer < 0)
        return;
    send(freezer, "t", 1, MSG_NOSIGNAL | MSG_DONTWAIT);
    close(freezer);
    freezer = -1;
}

bool op_fs_freeze_before(const Request *request, Answer *answer)
{
    int ends[2];
    int64_t end_ms = now_ms() + request_timeout(request, LIMIT_MS);
    if (is_frozen()) {
        answer_error(answer, STASIS_AGENT_STATE, 0, "fs-freeze: frozen already; thaw first");
        return false;
    }
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) < 0) {
        answer_error(answer, STASIS_AGENT_FAILED, errno, "fs-freeze");
        return false;
    }
    pid_t pid = fork();
    if (pid == 0) {
        /* The freezer is init's child, and our end of the socket not in it. */
        close(ends[0]);
        if (fork() == 0)
            be_freezer(ends[1], end_ms);
        _exit(0);
    }
    close(ends[1]);
    while (pid > 0 && waitpid(pid, NULL, 0) < 0 && errno == EINTR)
        ;
    freezer = ends[0];
    return true; /* a failed fork shows as an end of file */
}

static bool get_report(Report *report)
{
    ssize_t n;
    while ((n = recv(freezer, report, sizeof *report, 0)) < 0 && errno == EINTR)
        ;
    return n == sizeof *report;
}

void op_fs_freeze(const Request *request, Answer *answer)
{
    Report report;
    if (!get_report(&report))
        answer_error(answer, STASIS_AGENT_FAILED, 0, "fs-freeze: no process for it");
    else if (report.error_number == ETIMEDOUT)
        answer_error(answer, STASIS_AGENT_TIMEOUT, 0, "fs-freeze: not done in time; thawed again");
    else if (report.error_number != 0)
        answer_error(answer, STASIS_AGENT_FAILED, report.error_number, "fs-freeze; thawed again");
    else {
        stasis_field_put_number(&answer->fields, STASIS_AGENT_TAG_N_FROZEN, report.n);
        stasis_field_put_number(&answer->fields, STASIS_AGENT_TAG_FROZEN_FOR, report.frozen_ns);
    }
    answer_end(answer);
}

bool op_fs_thaw_before(const Request *request, Answer *answer)
{
    if (is_frozen() && send(freezer, "t", 1, MSG_NOSIGNAL | MSG_DONTWAIT) == 1)
        return true;
    answer_error(answer, STASIS_AGENT_STATE, 0, "fs-thaw: nothing is frozen (any more)");
    return false;
}

void op_fs_thaw(const Request *request, Answer *answer)
{
    Report report;
    if (get_report(&report))
        stasis_field_put_number(&answer->fields, STASIS_AGENT_TAG_N_FROZEN, report.n);
    else
        answer_error(answer, STASIS_AGENT_STATE, 0, "fs-thaw: it had thawed by itself");
    answer_end(answer);
}
