/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * In a fork of the VM: several trees become one, for CRIU, which dumps no more than one at a time.
 * Separate dumps would have separate copies of what the trees share, so all of them have to come in
 * one. The kernel gives a process another parent only when its own dies, and then an ancestor; so
 * what is changed is what CRIU is told: a process of ours, the parent, is among the frozen ones,
 * and over the files of /proc by which CRIU finds children and checks their parents
 *
 *     /proc/PARENT/task/PARENT/children      (proc(5))
 *     /proc/TID/status of each thread of each root, line PPid
 *
 * lie others (bind mounts) that say that the roots are its children. CRIU is as it is, and so is
 * what it writes. Where it is restored they are its children in truth, for a moment: it waits in
 * poll(2), which CRIU restores as interrupted, and then ends. The roots belong to init then, as
 * whatever loses its parent.
 *
 * The parent's program is a stub, in a file that has no name any more, so that CRIU takes it along
 * and no such program has to be where it is restored.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/sched.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "agent.h"

#define DIR_PATH AGENT_DIR "/adopt"
#define MAX_TRIES 1000
#define START_MS 10000

/* ---- the parent ---- */

/* Where one may run programs, and where the same directory will be elsewhere. */
static bool write_program(char *path, size_t size)
{
    static const char *const places[] = { "/tmp", "/var/tmp", "/run", "" };
    for (unsigned i = 0; i < sizeof places / sizeof *places; i++) {
        snprintf(path, size, "%s/stasis-parent", places[i]);
        unlink(path);
        if (stub_write(path, STUB_WAIT))
            return true;
    }
    return false;
}

static void __attribute__((noreturn)) be_parent(const char *path)
{
    char *const argv[] = { "stasis-parent", NULL }, *const none[] = { NULL };
    setsid();
    if (chdir("/") < 0)
        _exit(1);
    close_range(0, ~0u, 0);
    execve(path, argv, none);
    _exit(1);
}

/* The highest free process ID below @below. In the VM itself, which runs on, the next ones above
 * will be taken, and then this could not be restored there. */
static pid_t fork_below(pid_t below, const char *path)
{
    for (pid_t pid = below - 1; pid > 1 && below - pid < MAX_TRIES; pid--) {
        struct clone_args args = { .exit_signal = SIGCHLD,
                                   .set_tid = (uint64_t)(uintptr_t)&pid,
                                   .set_tid_size = 1 };
        long got = syscall(SYS_clone3, &args, sizeof args);
        if (got == 0)
            be_parent(path);
        if (got > 0)
            return (pid_t)got;
        if (errno != EEXIST)
            break;
    }
    return -1;
}

/* It is itself once it waits; before, it is a copy of the agent's worker. */
static bool wait_started(pid_t pid)
{
    char path[64], line[64];
    snprintf(path, sizeof path, "/proc/%d/syscall", (int)pid);
    for (int64_t end_ms = now_ms() + START_MS; now_ms() < end_ms; poll(NULL, 0, 5)) {
        read_line(path, line, sizeof line);
        if (atoi(line) == SYS_poll && line[0] != '\0')
            return true;
        if (waitpid(pid, NULL, WNOHANG) != 0)
            return false;
    }
    return false;
}

static bool move_into(const char *group, pid_t pid)
{
    char path[1200], text[16];
    snprintf(path, sizeof path, "%s/cgroup.procs", group);
    int n = snprintf(text, sizeof text, "%d", (int)pid), fd = open(path, O_WRONLY | O_CLOEXEC);
    bool moved = fd >= 0 && write_all(fd, text, (size_t)n);
    if (fd >= 0)
        close(fd);
    return moved;
}

/* ---- namespaces ---- */

/* CRIU takes a namespace if the root of the tree is in it. What CRIU has restored is in a time
 * namespace of its own. */
static const struct {
    const char *name;
    int type;
} joined[] = {
    { "time", CLONE_NEWTIME },
    { "uts", CLONE_NEWUTS },
    { "ipc", CLONE_NEWIPC },
    { "net", CLONE_NEWNET },
};
#define N_JOINED (sizeof joined / sizeof *joined)

static void open_namespaces(pid_t pid, int fds[N_JOINED])
{
    char path[64];
    for (size_t i = 0; i < N_JOINED; i++) {
        snprintf(path, sizeof path, "/proc/%d/ns/%s", (int)pid, joined[i].name);
        fds[i] = open(path, O_RDONLY | O_CLOEXEC); /* a kernel may have no such namespaces */
    }
}

/* And close them. */
static bool enter_namespaces(const int fds[N_JOINED])
{
    bool entered = true;
    for (size_t i = 0; i < N_JOINED; i++) {
        if (fds[i] < 0)
            continue;
        entered = setns(fds[i], joined[i].type) == 0 && entered;
        close(fds[i]);
    }
    return entered;
}

/* Beside @root in its namespaces, and nobody else of us: CRIU compares with its own. */
static pid_t fork_beside(pid_t root, pid_t below, const char *path)
{
    int own[N_JOINED], theirs[N_JOINED];
    open_namespaces(getpid(), own);
    open_namespaces(root, theirs);
    pid_t pid = enter_namespaces(theirs) ? fork_below(below, path) : -1;
    return enter_namespaces(own) ? pid : -1;
}

static pid_t make_parent(const char *group, pid_t root, pid_t below)
{
    char path[64];
    if (!write_program(path, sizeof path))
        return -1;
    pid_t pid = fork_beside(root, below, path);
    bool good = pid > 0 && wait_started(pid);
    unlink(path);
    return good && move_into(group, pid) ? pid : -1;
}

/* ---- what CRIU is told ---- */

/* Lay @text over the file of /proc at @path. */
static bool lay_over(const char *path, const char *text, size_t n)
{
    static unsigned number;
    char file[64];
    snprintf(file, sizeof file, DIR_PATH "/%u", number++);
    int fd = open(file, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    bool written = fd >= 0 && write_all(fd, text, n);
    if (fd >= 0)
        close(fd);
    return written && mount(file, path, NULL, MS_BIND, NULL) == 0;
}

static bool lay_over_children(pid_t parent, const pid_t *roots, unsigned n)
{
    char path[64];
    char *text = malloc((size_t)n * 12 + 1);
    size_t length = 0;
    for (unsigned i = 0; text != NULL && i < n; i++)
        length += (size_t)sprintf(text + length, "%d ", (int)roots[i]);
    snprintf(path, sizeof path, "/proc/%d/task/%d/children", (int)parent, (int)parent);
    bool laid = text != NULL && lay_over(path, text, length);
    free(text);
    return laid;
}

static bool lay_over_status(int tid, pid_t parent)
{
    char path[64], was[8192], is[8300];
    snprintf(path, sizeof path, "/proc/%d/status", tid);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t n = fd >= 0 ? read(fd, was, sizeof was - 1) : -1;
    if (fd >= 0)
        close(fd);
    if (n <= 0)
        return false;
    was[n] = '\0';
    char *line = strstr(was, "\nPPid:\t");
    char *rest = line != NULL ? strchr(line + 1, '\n') : NULL;
    if (rest == NULL)
        return false;
    *line = '\0';
    int length = snprintf(is, sizeof is, "%s\nPPid:\t%d%s", was, (int)parent, rest);
    return lay_over(path, is, (size_t)length);
}

static bool lay_over_root(pid_t root, pid_t parent)
{
    char path[64];
    snprintf(path, sizeof path, "/proc/%d/task", (int)root);
    DIR *tasks = opendir(path);
    bool laid = tasks != NULL;
    for (struct dirent *entry; laid && (entry = readdir(tasks)) != NULL;)
        laid = entry->d_name[0] == '.' || lay_over_status(atoi(entry->d_name), parent);
    if (tasks != NULL)
        closedir(tasks);
    return laid;
}

pid_t adopt(const char *group, const pid_t *roots, unsigned n, Answer *answer)
{
    mkdir(AGENT_DIR, 0700);
    mkdir(DIR_PATH, 0700);
    pid_t lowest = roots[0];
    for (unsigned i = 1; i < n; i++)
        lowest = roots[i] < lowest ? roots[i] : lowest;
    pid_t parent = make_parent(group, roots[0], lowest);
    bool done = parent > 0 && lay_over_children(parent, roots, n);
    for (unsigned i = 0; done && i < n; i++)
        done = lay_over_root(roots[i], parent);
    if (!done)
        answer_error(answer, STASIS_AGENT_FAILED, errno,
                     "the %u trees can't be given a parent for CRIU", n);
    return done ? parent : -1;
}
