/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Running CRIU (criu.org), the program of the guest's own distribution, as it is. */
#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "agent.h"

#define LOG_NAME "stasis.log"
#define LOOK_MS 10
#define NOT_STARTED 127 /* CRIU's exit status then, as a shell's */

/* In a session of its own: what it restores may stay in CRIU's, and must not be ended with the
 * worker. CRIU itself is. */
static void __attribute__((noreturn))
be_criu(char *const argv[], const char *first, const int *inherited, int log_fd, pid_t parent)
{
    setsid();
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != parent)
        _exit(NOT_STARTED);
    int null_fd = open("/dev/null", O_RDWR | O_CLOEXEC);
    dup2(null_fd, STDIN_FILENO);
    dup2(log_fd, STDOUT_FILENO);
    dup2(log_fd, STDERR_FILENO);
    close_range(3, ~0u, CLOSE_RANGE_CLOEXEC);
    for (unsigned i = 0; inherited != NULL && inherited[i] >= 0; i++)
        fcntl(inherited[i], F_SETFD, 0);
    if (getenv("PATH") == NULL)
        setenv("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", 1);
    if (first != NULL) {
        char path[4096];
        snprintf(path, sizeof path, "%s:%s", first, getenv("PATH"));
        setenv("PATH", path, 1);
    }
    signal(SIGPIPE, SIG_DFL);
    execvp(argv[0], argv);
    dprintf(STDERR_FILENO, "Error (stasis-agent): no criu in this guest: %s\n", strerror(errno));
    _exit(NOT_STARTED);
}

static int wait_end(pid_t pid, int64_t end_ms)
{
    int status;
    for (;;) {
        pid_t got = waitpid(pid, &status, WNOHANG);
        if (got == pid)
            return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
        if (got < 0 && errno != EINTR)
            return -1;
        if (now_ms() >= end_ms) {
            kill(pid, SIGKILL);
            waitpid(pid, &status, 0);
            return -1;
        }
        poll(NULL, 0, LOOK_MS);
    }
}

int criu_run(char *const argv[], const char *programs, const int *inherited, const char *dir,
             int64_t end_ms)
{
    char path[512];
    snprintf(path, sizeof path, "%s/" LOG_NAME, dir);
    int log_fd = open(path, O_RDWR | O_CREAT | O_TRUNC | O_APPEND | O_CLOEXEC, 0600);
    if (log_fd < 0)
        return -1;
    pid_t parent = getpid(), pid = fork();
    if (pid == 0)
        be_criu(argv, programs, inherited, log_fd, parent);
    close(log_fd);
    return pid < 0 ? -1 : wait_end(pid, end_ms);
}

/* The first error is the reason, and what comes after it its consequences; but while CRIU gets to
 * know the kernel it also tells of what it can do without, and the reason comes last. */
void criu_complain(const char *what, const char *dir, Answer *answer)
{
    char path[512], line[1024], said[320] = "";
    bool last = false;
    snprintf(path, sizeof path, "%s/" LOG_NAME, dir);
    FILE *file = fopen(path, "re");
    while (file != NULL && !last && fgets(line, sizeof line, file) != NULL) {
        const char *error = strstr(line, "Error (");
        const char *text = error != NULL ? strstr(error, "): ") : NULL;
        /* What its helper programs made of it says nothing. */
        if (text == NULL || strncmp(error, "Error (criu/util.c", 18) == 0)
            continue;
        last = strstr(line, "initializing kerndat") != NULL;
        if (said[0] == '\0' || last)
            snprintf(said, sizeof said, "%.300s", text + 3);
    }
    if (file != NULL)
        fclose(file);
    said[strcspn(said, "\r\n")] = '\0';
    answer_error(answer, STASIS_AGENT_FAILED, 0, "%s: CRIU: %s", what,
                 said[0] != '\0' ? said : "it took too long, or failed and did not say why");
}

bool criu_file_name_is_valid(const char *name)
{
    size_t n = strlen(name);
    for (size_t i = 0; i < n; i++)
        if (!isalnum((unsigned char)name[i]) && strchr("._-", name[i]) == NULL)
            return false;
    return n > 0 && n <= 64 && name[0] != '.';
}

void criu_remove_dir(const char *path)
{
    DIR *dir = opendir(path);
    for (struct dirent *entry; dir != NULL && (entry = readdir(dir)) != NULL;)
        unlinkat(dirfd(dir), entry->d_name, 0);
    if (dir != NULL)
        closedir(dir);
    char other[512];
    ssize_t n = readlink(path, other, sizeof other - 1);
    if (n > 0) {
        other[n] = '\0';
        rmdir(other);
        unlink(path);
    }
    rmdir(path);
}

/* The first word behind "Version:" of what CRIU said in @dir. */
static bool read_version(const char *dir, char version[64])
{
    char path[512], line[256];
    snprintf(path, sizeof path, "%s/" LOG_NAME, dir);
    read_line(path, line, sizeof line);
    return sscanf(line, "Version: %63s", version) == 1;
}

bool criu_is_there(const char *dir, char version[64], Answer *answer)
{
    char *const ask_version[] = { "criu", "--version", NULL };
    int status = criu_run(ask_version, NULL, NULL, dir, now_ms() + 20000);
    if (status == NOT_STARTED) {
        answer_error(answer, STASIS_AGENT_UNSUPPORTED, 0,
                     "there is no criu in the guest; install the package criu there");
        return false;
    }
    if (status == 0 && read_version(dir, version))
        return true;
    criu_complain("criu --version", dir, answer);
    return false;
}

/* In @dir; false, answered. */
static bool check(const char *dir, char version[64], Answer *answer)
{
    char *const ask_kernel[] = { "criu", "check", NULL };
    if (!criu_is_there(dir, version, answer))
        return false;
    if (criu_run(ask_kernel, NULL, NULL, dir, now_ms() + 50000) == 0)
        return true;
    criu_complain("the guest's kernel is not good enough", dir, answer);
    return false;
}

/* It takes a while, in which other processes get less of the CPU; so it is remembered till the next
 * boot that all was well. */
void op_proc_check(const Request *request, Answer *answer)
{
    static const char known[] = AGENT_DIR "/criu";
    char version[64] = "", dir[] = "/tmp/stasis-criu-XXXXXX";
    read_line(known, version, sizeof version);
    if (version[0] == '\0') {
        if (mkdtemp(dir) == NULL) {
            answer_error(answer, STASIS_AGENT_FAILED, errno, "make a directory in /tmp");
            return;
        }
        bool good = check(dir, version, answer);
        criu_remove_dir(dir);
        if (!good)
            return;
        mkdir(AGENT_DIR, 0700);
        int fd = open(known, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
        if (fd >= 0 && !write_all(fd, version, strlen(version)))
            unlink(known);
        if (fd >= 0)
            close(fd);
    }
    stasis_field_put_text(&answer->fields, STASIS_AGENT_TAG_CRIU, version);
    answer_end(answer);
}
