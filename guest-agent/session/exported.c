/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What `stasis proc-export --format criu` made, restored here by the command that it told: by the
 * guest's tar, CRIU and the program for message queues in the directory itself. For guests that
 * nobody serves, or that are of another host.
 */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "agent/halves.h"
#include "agent/mqueue.h"
#include "session/image-file.h"

#define TMPFS_ARCHIVE "tmpfs.tar"
#define MQUEUE_PROGRAM "stasis-mqueue"
#define LOG "restore.log"
#define PID_FILE "pid"

static bool has(const char *dir, const char *name)
{
    char path[PATH_MAX];
    return snprintf(path, sizeof path, "%s/%s", dir, name) < (int)sizeof path &&
           access(path, F_OK) == 0;
}

/* Not on the terminal: that is the session's in a moment. It ends with us, if we are ended. */
static void __attribute__((noreturn)) be(char *const argv[], int log_fd)
{
    int null_fd = open("/dev/null", O_RDWR | O_CLOEXEC);
    setsid();
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    dup2(null_fd, STDIN_FILENO);
    dup2(log_fd, STDOUT_FILENO);
    dup2(log_fd, STDERR_FILENO);
    close_range(3, ~0u, 0);
    execvp(argv[0], argv);
    dprintf(STDERR_FILENO, "%s: %s\n", argv[0], strerror(errno));
    _exit(127);
}

/* What it says is added to the log in @work. */
static bool run(char *const argv[], const char *work)
{
    char path[PATH_MAX];
    int status = -1;
    snprintf(path, sizeof path, "%s/" LOG, work);
    int log_fd = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    pid_t pid = log_fd >= 0 ? fork() : -1;
    if (pid == 0)
        be(argv, log_fd);
    while (pid > 0 && waitpid(pid, &status, 0) < 0)
        if (errno != EINTR)
            break;
    if (log_fd >= 0)
        close(log_fd);
    return pid > 0 && WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

static bool unpack(const char *dir, const char *work)
{
    char archive[PATH_MAX];
    char *const argv[] = { "tar", "-C", "/", "-xpf", archive, NULL };
    snprintf(archive, sizeof archive, "%s/" TMPFS_ARCHIVE, dir);
    return !has(dir, TMPFS_ARCHIVE) || run(argv, work);
}

static bool restore(const char *dir, const char *work)
{
    char program[PATH_MAX], pid_file[PATH_MAX], *argv[24];
    unsigned n = 0;
    snprintf(program, sizeof program, "%s/" MQUEUE_PROGRAM, dir);
    snprintf(pid_file, sizeof pid_file, "%s/" PID_FILE, work);
    if (has(dir, STASIS_MQUEUE_FILE)) {
        argv[n++] = program;
        argv[n++] = (char *)dir;
    }
    char *const words[] = { "criu",
                            "restore",
                            "--images-dir",
                            (char *)dir,
                            "--work-dir",
                            (char *)work,
                            "--pidfile",
                            pid_file,
                            "--restore-detached",
                            "--manage-cgroups=ignore",
                            "--file-locks",
                            "--link-remap",
                            "--ext-unix-sk",
                            "--tcp-established",
                            NULL };
    memcpy(argv + n, words, sizeof words);
    return run(argv, work);
}

static pid_t read_pid(const char *work)
{
    char path[PATH_MAX];
    int pid = -1;
    snprintf(path, sizeof path, "%s/" PID_FILE, work);
    FILE *file = fopen(path, "re");
    if (file != NULL && fscanf(file, "%d", &pid) != 1)
        pid = -1;
    if (file != NULL)
        fclose(file);
    return pid;
}

static void remove_work(const char *work)
{
    static const char *const names[] = { LOG, PID_FILE };
    char path[PATH_MAX];
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        snprintf(path, sizeof path, "%s/%s", work, names[i]);
        unlink(path);
    }
    rmdir(work);
}

pid_t exported_restore(const char *dir)
{
    char work[] = "/tmp/stasis-resume-XXXXXX", *full = realpath(dir, NULL);
    pid_t pid = -1;
    if (full == NULL || !has(full, "inventory.img")) {
        fprintf(stderr, "stasis-resume: %s: no image of processes is in it (stasis proc-export)\n",
                dir);
    } else if (has(full, STASIS_HALVES_FILE)) {
        fprintf(stderr,
                "stasis-resume: %s: connections of it were cut; restore it with \"stasis "
                "proc-restore\" at the host, and stasis-resume --attach here\n",
                dir);
    } else if (mkdtemp(work) == NULL) {
        fprintf(stderr, "stasis-resume: make %s: %s\n", work, strerror(errno));
    } else if (unpack(full, work) && restore(full, work) && (pid = read_pid(work)) > 0) {
        remove_work(work);
    } else {
        fprintf(stderr, "stasis-resume: %s: CRIU could not; %s/" LOG " says why\n", dir, work);
    }
    free(full);
    return pid;
}
