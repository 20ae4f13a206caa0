/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Freezing file systems, and that they thaw whatever happens.
 *
 * A frozen file system blocks whoever writes to it until somebody thaws it. So a process of its
 * own, the freezer (keeper.h), holds the mounts open, and thaws. It touches no file while they are
 * frozen. Freezing is done by a child of its: where one file system lies in a file on another that
 * was frozen before it, that waits in the kernel, and can't even be killed, until the other thaws.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "agent.h"
#include "keeper.h"

#define MAX_MOUNTS 512
#define LIMIT_MS 60000
/* A mount may go between the look at the list and its opening. */
#define OPEN_TRIES 3
/* One that an earlier conversation had frozen is just being thawed. Counted, not timed: where the
 * whole VM stands still for a while, time passes without a chance for who thaws. */
#define BUSY_TRIES 200
#define BUSY_POLL_MS 10

typedef struct {
    int fd; /* −1: none of its mounts can be reached, or it can't be frozen */
    unsigned major, minor;
    int error;      /* why not; 0: another one is mounted over it */
    char path[256]; /* of its first mount */
    volatile enum { THAWED, BEING_FROZEN, FROZEN } state; /* by us */
} Mount;

/* What the freezer and its child share. */
typedef struct {
    Mount mounts[MAX_MOUNTS];
    KeeperReport report;
} Shared;

static Shared *shared;
static Mount *mounts;
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

/* The mount that @fd is open in (proc(5)); −1 when that can't be told, as before Linux 3.15. */
static int mount_of(int fd)
{
    char path[64], line[256];
    int id = -1;
    snprintf(path, sizeof path, "/proc/self/fdinfo/%d", fd);
    FILE *file = fopen(path, "re");
    while (file != NULL && id < 0 && fgets(line, sizeof line, file) != NULL)
        sscanf(line, "mnt_id: %d", &id);
    if (file != NULL)
        fclose(file);
    return id;
}

/* Another one may lie over it, or over a directory above. */
static void open_mount(Mount *m, const char *path, int id)
{
    int fd = open(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
    int in = fd >= 0 ? mount_of(fd) : id;
    m->error = fd < 0 ? errno : 0;
    if (in < 0 || in == id) {
        m->fd = fd;
        return;
    }
    close(fd);
}

/* One that lies on no block device (proc_filesystems(5)): none that an image of disks has. Opening
 * it could mount something, or wait for a server. */
static bool has_no_device(const char *type)
{
    char line[128], name[64];
    bool found = false;
    FILE *file = fopen("/proc/filesystems", "re");
    while (file != NULL && !found && fgets(line, sizeof line, file) != NULL)
        found = sscanf(line, "nodev %63s", name) == 1 && strcmp(name, type) == 0;
    if (file != NULL)
        fclose(file);
    return found;
}

/* Is what this line of mountinfo tells of, of that type and source, one to be frozen? What is a
 * program's (FUSE) can't be. */
static bool is_wanted(const char *line, const char *options)
{
    char type[64], source[1024];
    const char *rest = strstr(line, " - ");
    return rest != NULL && sscanf(rest, " - %63s %1023s", type, source) == 2 &&
           strncmp(options, "rw", 2) == 0 && source[0] == '/' && strncmp(type, "fuse", 4) != 0 &&
           !has_no_device(type);
}

/* That of the device, or a new one; NULL when there are too many. */
static Mount *find_mount(unsigned major, unsigned minor, const char *path)
{
    for (unsigned i = 0; i < n_mounts; i++)
        if (mounts[i].major == major && mounts[i].minor == minor)
            return &mounts[i];
    if (n_mounts == MAX_MOUNTS)
        return NULL;
    Mount *m = &mounts[n_mounts++];
    *m = (Mount){ -1, major, minor, 0, "", THAWED };
    snprintf(m->path, sizeof m->path, "%.255s", path);
    return m;
}

/* Open a writable mount of each block device, the first one that can be reached; false, with a
 * text, when not all have one: who uses it all the same would write to it. */
static bool open_mounts(KeeperReport *report)
{
    FILE *file = fopen("/proc/self/mountinfo", "re");
    char line[4096];
    bool fit = true;
    report->text[0] = '\0';
    while (file != NULL && fit && fgets(line, sizeof line, file) != NULL) {
        char path[4096], options[1024];
        unsigned major, minor;
        int id;
        /* ID parent major:minor root mount-point options … - type source … (proc(5)). */
        if (sscanf(line, "%d %*d %u:%u %*s %4095s %1023s", &id, &major, &minor, path, options) !=
                5 ||
            !is_wanted(line, options))
            continue;
        unescape(path);
        Mount *m = find_mount(major, minor, path);
        fit = m != NULL;
        if (fit && m->fd < 0)
            open_mount(m, path, id);
    }
    if (file != NULL)
        fclose(file);
    if (!fit)
        snprintf(report->text, sizeof report->text, "more than %d file systems", MAX_MOUNTS);
    for (unsigned i = 0; i < n_mounts && fit; i++) {
        const Mount *m = &mounts[i];
        fit = m->fd >= 0;
        if (!fit)
            snprintf(report->text, sizeof report->text,
                     "the file system of device %u:%u can't be reached: %s %s", m->major, m->minor,
                     m->error != 0 ? strerror(m->error) : "another one is mounted over", m->path);
    }
    return fit;
}

static void close_mounts(void)
{
    for (unsigned i = 0; i < n_mounts; i++)
        if (mounts[i].fd >= 0)
            close(mounts[i].fd);
    n_mounts = 0;
}

/* From @first on: those that were frozen, the last ones, come first. One that is just being frozen
 * can't be thawed, and who tries waits for that. */
static unsigned thaw(unsigned first)
{
    unsigned n_thawed = 0;
    for (unsigned i = first; i < n_mounts; i++)
        n_thawed += mounts[i].state == FROZEN && ioctl(mounts[i].fd, FITHAW, 0) == 0;
    return n_thawed;
}

static int freeze_one(Mount *m, int64_t end_ms)
{
    for (int tries = 0;; tries++) {
        m->state = BEING_FROZEN;
        int error = ioctl(m->fd, FIFREEZE, 0) < 0 ? errno : 0;
        m->state = error == 0 ? FROZEN : THAWED;
        if (error != EBUSY || tries == BUSY_TRIES || now_ms() >= end_ms)
            return error;
        poll(NULL, 0, BUSY_POLL_MS);
    }
}

/* Freeze all that can be. 0 or the error: EBUSY where somebody else has frozen one, who may thaw it
 * at any moment. */
static int freeze(int64_t end_ms, KeeperReport *report)
{
    for (unsigned i = 0; i < n_mounts; i++)
        syncfs(mounts[i].fd); /* now, so that little is left to be written in the freeze */
    uint64_t begun_ns = clock_ns(CLOCK_MONOTONIC);
    for (unsigned i = n_mounts; i-- > 0; report->held_ns = clock_ns(CLOCK_MONOTONIC) - begun_ns) {
        int r = freeze_one(&mounts[i], end_ms);
        if (r == 0 && now_ms() < end_ms) {
            report->n++;
            continue;
        }
        if (r == EOPNOTSUPP || r == ENOTTY || r == EINVAL || r == EROFS)
            continue;
        thaw(i);
        return r == 0 ? ETIMEDOUT : r;
    }
    return 0;
}

static void __attribute__((noreturn)) be_child(int64_t end_ms, pid_t parent)
{
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    mlockall(MCL_CURRENT);
    if (getppid() != parent)
        _exit(1);
    shared->report.error_number = freeze(end_ms, &shared->report);
    _exit(0);
}

/* Until the child behind @child_fd has ended. False when it is to be ended: we are told to, or the
 * agent is gone, or time is up. */
static bool wait_for(int child_fd, int64_t end_ms)
{
    struct pollfd fds[] = { { .fd = child_fd, .events = POLLIN },
                            { .fd = KEEPER_SOCKET, .events = POLLIN } };
    int64_t now = now_ms();
    return poll(fds, 2, end_ms > now ? (int)(end_ms - now) : 0) > 0 && fds[0].revents != 0;
}

/* A child that hangs goes on when what it waits for has thawed: it then ends, but what it was just
 * freezing is frozen. */
static void freeze_in_child(int64_t end_ms, KeeperReport *report)
{
    int ends[2], status = -1;
    pid_t parent = getpid();
    if (pipe2(ends, O_CLOEXEC) < 0) {
        report->error_number = errno;
        return;
    }
    pid_t pid = fork();
    if (pid == 0) {
        close(ends[0]);
        be_child(end_ms, parent);
    }
    report->error_number = pid < 0 ? errno : 0;
    close(ends[1]);
    if (pid < 0)
        return;
    bool ended = wait_for(ends[0], end_ms);
    if (!ended) {
        kill(pid, SIGKILL);
        thaw(0);
    }
    while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
        ;
    if (!ended || status != 0) {
        for (unsigned i = 0; i < n_mounts; i++)
            if (mounts[i].state == BEING_FROZEN)
                mounts[i].state = FROZEN;
        thaw(0);
        report->error_number = ended ? EIO : ETIMEDOUT;
    } else {
        *report = shared->report;
    }
}

static void freeze_all(const void *what, int64_t end_ms, KeeperReport *report)
{
    bool open = false;
    shared = mmap(NULL, sizeof *shared, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (shared == MAP_FAILED) {
        report->error_number = errno;
        return;
    }
    mlock(shared, sizeof *shared);
    mounts = shared->mounts;
    for (int tries = 0; tries < OPEN_TRIES && !open; tries++) {
        close_mounts();
        open = open_mounts(report);
    }
    if (open)
        freeze_in_child(end_ms, report);
    else
        report->error_number = ENXIO;
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
    else if (report.text[0] != '\0')
        answer_error(answer, STASIS_AGENT_FAILED, 0, "fs-freeze: %s", report.text);
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
