/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Freezing file systems, and that they thaw whatever happens.
 *
 * A frozen file system blocks whoever writes to it until somebody thaws it. So a process of its
 * own, the freezer (keeper.h), freezes and thaws. It holds the mounts open, and touches no file
 * while they are frozen.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

#include "agent.h"
#include "keeper.h"

#define MAX_MOUNTS 256
#define LIMIT_MS 60000
/* One that an earlier conversation had frozen is just being thawed. Counted, not timed: where the
 * whole VM stands still for a while, time passes without a chance for who thaws. */
#define BUSY_TRIES 200
#define BUSY_POLL_MS 10

typedef struct {
    int fd;
    unsigned major, minor;
} Mount;

static Mount mounts[MAX_MOUNTS];
static unsigned n_mounts;

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
static unsigned open_mounts(void)
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

/* From @first on: those that were frozen, the last ones, come first. */
static unsigned thaw(unsigned first)
{
    unsigned n_thawed = 0;
    for (unsigned i = first; i < n_mounts; i++)
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
static int freeze(int64_t end_ms, KeeperReport *report)
{
    for (unsigned i = 0; i < n_mounts; i++)
        syncfs(mounts[i].fd); /* now, so that little is left to be written in the freeze */
    uint64_t begun_ns = clock_ns(CLOCK_MONOTONIC);
    for (unsigned i = n_mounts; i-- > 0; report->held_ns = clock_ns(CLOCK_MONOTONIC) - begun_ns) {
        int r = freeze_one(mounts[i].fd, end_ms);
        if (r == 0 && now_ms() < end_ms) {
            report->n++;
            continue;
        }
        if (r == 0) {
            thaw(i);
            return ETIMEDOUT;
        }
        close(mounts[i].fd);
        mounts[i].fd = -1;
        if (r == EOPNOTSUPP || r == ENOTTY || r == EINVAL || r == EROFS)
            continue;
        thaw(i);
        return r;
    }
    return 0;
}

static void freeze_all(const void *what, int64_t end_ms, KeeperReport *report)
{
    n_mounts = open_mounts();
    report->error_number = freeze(end_ms, report);
}

static void thaw_all(KeeperReport *report)
{
    report->n = thaw(0);
}

static const KeeperOps freezing = { "stasis-freezer", freeze_all, thaw_all };
static Keeper freezer = { &freezing, -1 };

/* ---- in the agent ---- */

void fs_thaw_now(void)
{
    keeper_let_go_now(&freezer);
}

bool op_fs_freeze_before(const Request *request, Answer *answer)
{
    if (keeper_is_holding(&freezer)) {
        answer_error(answer, STASIS_AGENT_STATE, 0, "fs-freeze: frozen already; thaw first");
        return false;
    }
    if (keeper_start(&freezer, NULL, now_ms() + request_timeout(request, LIMIT_MS)))
        return true;
    answer_error(answer, STASIS_AGENT_FAILED, errno, "fs-freeze");
    return false;
}

void op_fs_freeze(const Request *request, Answer *answer)
{
    static KeeperReport report;
    if (!keeper_get_report(&freezer, &report))
        answer_error(answer, STASIS_AGENT_FAILED, 0, "fs-freeze: no process for it");
    else if (report.error_number == ETIMEDOUT)
        answer_error(answer, STASIS_AGENT_TIMEOUT, 0, "fs-freeze: not done in time; thawed again");
    else if (report.error_number != 0)
        answer_error(answer, STASIS_AGENT_FAILED, report.error_number, "fs-freeze; thawed again");
    else {
        stasis_field_put_number(&answer->fields, STASIS_AGENT_TAG_N_FROZEN, report.n);
        stasis_field_put_number(&answer->fields, STASIS_AGENT_TAG_FROZEN_FOR, report.held_ns);
    }
    answer_end(answer);
}

bool op_fs_thaw_before(const Request *request, Answer *answer)
{
    if (keeper_tell(&freezer))
        return true;
    answer_error(answer, STASIS_AGENT_STATE, 0, "fs-thaw: nothing is frozen (any more)");
    return false;
}

void op_fs_thaw(const Request *request, Answer *answer)
{
    static KeeperReport report;
    if (keeper_get_report(&freezer, &report))
        stasis_field_put_number(&answer->fields, STASIS_AGENT_TAG_N_FROZEN, report.n);
    else
        answer_error(answer, STASIS_AGENT_STATE, 0, "fs-thaw: it had thawed by itself");
    answer_end(answer);
}
