/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Starting QEMU so that it stands by itself.
 *
 * It must outlive us, have no terminal of ours, and never be a zombie of a library caller that
 * doesn't reap: so a child makes a new session, forks QEMU and ends, and QEMU becomes init's. Its
 * PID and an exec failure come back through a socket. Between fork and exec only async-signal-safe
 * calls are made, since the caller may have threads.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stasis/error.h>
#include <stasis/store.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/fd.h"
#include "base/io.h"
#include "vmm/machine.h"
#include "vmm/shim-preload.h"

#define GREETING_TIMEOUT_MS 120000 /* it may allocate all of its memory first */
#define GREETING_POLL_US 500
#define LOG_TAIL_BYTES 2000
#define LOG_TAIL_LINES 3

/* What comes through the socket: first the PID, and only when exec fails, a second one. A byte that
 * we send back lets it exec. */
typedef struct {
    pid_t pid;
    int exec_errno;
} Message;

static void reset_signals(void)
{
    struct sigaction plain = { .sa_handler = SIG_DFL };
    sigset_t none;
    for (int sig = 1; sig < NSIG; sig++)
        sigaction(sig, &plain, NULL);
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
}

/* A session is a group of its own for the scheduler where that groups by sessions (sched(7),
 * "autogroup"): then niceness tells only within it, and the group has one itself. */
static void step_back(int niceness)
{
    char text[8] = { (char)('0' + niceness / 10), (char)('0' + niceness % 10) };
    int fd = open("/proc/self/autogroup", O_WRONLY | O_CLOEXEC);
    ssize_t n = fd >= 0 ? write(fd, text, 2) : 0;
    close(fd);
    if (n < 0 || nice(niceness) == -1)
        return; /* it is only kinder */
}

/* In the grandchild. Descriptors 0, 1, 2 and 3 (the socket) are all that is left open. */
static void G_GNUC_NORETURN become_qemu(const StasisLaunch *launch, const char *program,
                                        char **environment, const char *cwd, int niceness,
                                        int null_fd, int log_fd, int pipe_fd)
{
    Message failed = { .pid = 0 };
    int moved = fcntl(pipe_fd, F_DUPFD, 10); /* out of the way of 0 to 3 */
    int log = fcntl(log_fd, F_DUPFD, 10);
    int nul = fcntl(null_fd, F_DUPFD, 10);
    gboolean ok = dup2(nul, 0) == 0 && dup2(log, 1) == 1 && dup2(log, 2) == 2 &&
                  dup3(moved, 3, O_CLOEXEC) == 3;
    syscall(SYS_close_range, 4u, ~0u, 0u);
    reset_signals();
    stasis_restore_file_limit();
    if (niceness != 0)
        step_back(niceness);
    char go;
    if (stasis_read_all(3, &go, 1) < 0)
        _exit(127);
    if (ok && (cwd == NULL || chdir(cwd) == 0))
        execve(program, launch->argv, environment);
    failed.exec_errno = errno;
    ssize_t n = write(3, &failed, sizeof failed);
    _exit(n < 0 ? 126 : 127);
}

static void G_GNUC_NORETURN become_starter(const StasisLaunch *launch, const char *program,
                                           char **environment, const char *cwd, int niceness,
                                           int null_fd, int log_fd, int pipe_fd)
{
    setsid();
    pid_t pid = fork();
    if (pid == 0)
        become_qemu(launch, program, environment, cwd, niceness, null_fd, log_fd, pipe_fd);
    Message message = { .pid = pid, .exec_errno = pid < 0 ? errno : 0 };
    ssize_t n = write(pipe_fd, &message, sizeof message);
    _exit(n < 0 ? 1 : 0);
}

/* Our end of the socket: let the process exec, once who must know of it does. */
static gboolean let_go(const StasisLaunchOptions *options, pid_t pid, int socket_fd, GError **error)
{
    if (options->born != NULL && !options->born(pid, options->born_data, error))
        return FALSE;
    return send(socket_fd, "g", 1, MSG_NOSIGNAL) == 1 ||
           stasis_set_errno(error, errno, "start: process %d", (int)pid);
}

/* Start it and wait for the exec. Sets @ret_pid and @ret_group (its process group). */
static gboolean start(const StasisLaunch *launch, const StasisLaunchOptions *options,
                      const char *program, const char *cwd, int log_fd, pid_t *ret_pid,
                      pid_t *ret_group, GError **error)
{
    int ends[2];
    stasis_autofd int null_fd = open("/dev/null", O_RDWR | O_CLOEXEC);
    if (null_fd < 0 || socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) < 0)
        return stasis_set_errno(error, errno, "start %s", program);
    stasis_autofd int read_end = ends[0];
    stasis_autofd int write_end = ends[1];
    g_auto(GStrv) environment = stasis_shim_environment(launch->shim_path, program);
    pid_t starter = fork();
    if (starter < 0)
        return stasis_set_errno(error, errno, "start %s: fork", program);
    if (starter == 0)
        become_starter(launch, program, environment, cwd, options->niceness, null_fd, log_fd,
                       write_end);
    stasis_clear_fd(&write_end);
    while (waitpid(starter, NULL, 0) < 0 && errno == EINTR)
        ;
    Message message;
    for (pid_t pid = 0;;) {
        /* The end of file says that exec closed the other end. */
        if (stasis_read_all(read_end, &message, sizeof message) < 0) {
            if (pid == 0)
                return stasis_set_errno(error, ECHILD, "start %s", program);
            *ret_pid = pid;
            *ret_group = starter;
            return TRUE;
        }
        if (message.exec_errno != 0)
            return stasis_set_errno(error, message.exec_errno, "start %s in %s", program,
                                    cwd != NULL ? cwd : ".");
        pid = message.pid;
        if (!let_go(options, pid, read_end, error))
            return FALSE;
    }
}

/* The last lines QEMU wrote, as one. Free with g_free(). */
static char *last_words(const char *log_path)
{
    stasis_autofd int fd = open(log_path, O_RDONLY | O_CLOEXEC);
    char tail[LOG_TAIL_BYTES + 1] = { 0 };
    struct stat st;
    if (fd < 0 || fstat(fd, &st) < 0)
        return g_strdup("");
    ssize_t n = pread(fd, tail, LOG_TAIL_BYTES, MAX(0, st.st_size - LOG_TAIL_BYTES));
    tail[MAX(n, 0)] = '\0';
    g_autofree char *valid = g_utf8_make_valid(tail, -1);
    g_strdelimit(g_strchomp(valid), "\r\t", ' ');
    g_auto(GStrv) lines = g_strsplit(valid, "\n", -1);
    guint n_lines = g_strv_length(lines);
    guint first = n_lines > LOG_TAIL_LINES ? n_lines - LOG_TAIL_LINES : 0;
    return g_strjoinv("; ", lines + first);
}

static gboolean has_ended(int pidfd)
{
    struct pollfd fds = { .fd = pidfd, .events = POLLIN };
    return poll(&fds, 1, 0) > 0;
}

/* Say why, in QEMU's own words; the log goes with the VM's directory. What its socket said, or that
 * there is none ("not found", as of a VM), tells nothing of one that has @ended by itself. */
static void explain(GError **error, const char *program, const char *log_path, gboolean ended)
{
    if (error == NULL)
        return;
    g_autoptr(GError) cause = g_steal_pointer(error);
    g_autofree char *words = last_words(log_path);
    g_autofree char *base = g_path_get_basename(program);
    if (words[0] != '\0' && ended)
        g_set_error(error, STASIS_ERROR, STASIS_ERROR_FAILED, "%s did not start: \"%s\"", base,
                    words);
    else if (words[0] != '\0')
        g_set_error(error, STASIS_ERROR, STASIS_ERROR_FAILED,
                    "%s did not start: %s; it said \"%s\"", base, cause->message, words);
    else
        g_set_error(error, STASIS_ERROR, STASIS_ERROR_FAILED,
                    "%s did not start and said nothing: %s", base, cause->message);
}

/* Poll for the socket to appear, then for QEMU's greeting. */
static StasisQmp *wait_greeting(const StasisLaunch *launch, int pidfd, GCancellable *cancellable,
                                GError **error)
{
    guint64 deadline_us = stasis_now_us() + GREETING_TIMEOUT_MS * G_GUINT64_CONSTANT(1000);
    for (;;) {
        gboolean ended = has_ended(pidfd); /* before the attempt: it may come and go in between */
        g_autoptr(GError) local = NULL;
        guint64 now = stasis_now_us();
        guint left_ms = now < deadline_us ? (guint)((deadline_us - now) / 1000) + 1 : 1;
        StasisQmp *qmp =
            stasis_qmp_connect_cancellable(launch->qmp_path, left_ms, cancellable, &local);
        if (qmp != NULL)
            return qmp;
        gboolean absent = g_error_matches(local, STASIS_ERROR, STASIS_ERROR_NOT_FOUND);
        if (g_cancellable_set_error_if_cancelled(cancellable, error))
            return NULL;
        if (!absent || ended || now >= deadline_us) {
            g_propagate_error(error, g_steal_pointer(&local));
            return NULL;
        }
        g_usleep(GREETING_POLL_US);
    }
}

/* End what was started. Its group is the one our starter made, so that a wrapper script's QEMU
 * goes too; the group's number is safe to use while its first process lives. */
static void end_started(int pidfd, pid_t group)
{
    if (!has_ended(pidfd))
        kill(-group, SIGKILL);
    struct pollfd fds = { .fd = pidfd, .events = POLLIN };
    poll(&fds, 1, 5000);
}

/* An absolute path, or NULL. */
static char *find_program(const char *name, const char *cwd)
{
    if (strchr(name, '/') == NULL)
        return g_find_program_in_path(name);
    g_autofree char *path = g_canonicalize_filename(name, cwd);
    return g_find_program_in_path(path);
}

StasisQmp *stasis_launch_spawn(const StasisLaunch *launch, const StasisLaunchOptions *options,
                               const char *cwd, pid_t *ret_pid, GCancellable *cancellable,
                               GError **error)
{
    g_autofree char *program = find_program(launch->argv[0], cwd);
    g_autofree char *log_path = g_build_filename(options->runtime_dir, "qemu.log", NULL);
    pid_t pid = 0, group = 0;
    if (program == NULL) {
        g_set_error(error, STASIS_ERROR, STASIS_ERROR_USAGE,
                    "%s: no such program; install QEMU or give its path", launch->argv[0]);
        return NULL;
    }
    stasis_autofd int log_fd =
        open(log_path, O_WRONLY | O_CREAT | O_TRUNC | O_APPEND | O_CLOEXEC, 0600);
    if (log_fd < 0) {
        stasis_set_errno(error, errno, "create %s", log_path);
        return NULL;
    }
    unlink(launch->qmp_path);
    if (!start(launch, options, program, cwd, log_fd, &pid, &group, error))
        return NULL;
    stasis_autofd int pidfd = (int)syscall(SYS_pidfd_open, pid, 0);
    if (pidfd < 0) {
        stasis_set_errno(error, errno, "pidfd_open %d", (int)pid);
        explain(error, program, log_path, /* ended= */ FALSE);
        return NULL;
    }
    StasisQmp *qmp = wait_greeting(launch, pidfd, cancellable, error);
    if (qmp == NULL) {
        gboolean ended = has_ended(pidfd);
        end_started(pidfd, group);
        unlink(launch->qmp_path);
        if (!g_cancellable_is_cancelled(cancellable))
            explain(error, program, log_path, ended);
        return NULL;
    }
    /* A wrapper script may have forked: who answers is QEMU. */
    pid_t answering = stasis_qmp_get_peer_pid(qmp);
    *ret_pid = answering != 0 ? answering : pid;
    return qmp;
}
