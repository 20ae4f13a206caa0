/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The program. See criu-cases.h. */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "criu-cases.h"

static int nothing(void)
{
    return 0;
}

static const Case cases_none[] = { CASE(nothing), { NULL } };

static const Case *const groups[] = { cases_none,   cases_files,   cases_devices,  cases_anonymous,
                                      cases_memory, cases_sockets, cases_processes };
#define N_GROUPS (sizeof groups / sizeof *groups)

static const Case *find(const char *name)
{
    for (size_t i = 0; i < N_GROUPS; i++)
        for (const Case *it = groups[i]; it->name != NULL; it++)
            if (strcmp(it->name, name) == 0)
                return it;
    return NULL;
}

static void __attribute__((noreturn)) be_case(const Case *it, int ready)
{
    int null_fd = open("/dev/null", O_RDWR);
    setsid();
    for (int fd = 0; fd < 3; fd++)
        dup2(null_fd, fd);
    ready = dup2(ready, 200);
    close_range(3, 199, 0);
    close_range(201, ~0u, 0);
    int error = it->make() < 0 ? errno : 0;
    if (write(ready, &error, sizeof error) != sizeof error)
        _exit(1);
    close(ready);
    if (it->then != NULL)
        it->then();
    wait_in(NULL);
    _exit(0);
}

static int start(const char *name)
{
    int ready[2], error;
    const Case *it = find(name);
    if (it == NULL || pipe2(ready, O_CLOEXEC) < 0)
        return 2;
    pid_t pid = fork();
    if (pid == 0)
        be_case(it, ready[1]);
    close(ready[1]);
    if (read(ready[0], &error, sizeof error) != sizeof error)
        error = ECHILD;
    if (error == 0) {
        printf("%d\n", (int)pid);
        return 0;
    }
    kill(pid, SIGKILL);
    printf("%s\n", strerror(error));
    return 3;
}

int main(int argc, char **argv)
{
    if (argc == 3 && strcmp(argv[1], "start") == 0)
        return start(argv[2]);
    if (argc == 2 && strcmp(argv[1], "list") == 0) {
        for (size_t i = 0; i < N_GROUPS; i++)
            for (const Case *it = groups[i]; it->name != NULL; it++)
                puts(it->name);
        return 0;
    }
    fputs("usage: criu-cases list | start NAME\n", stderr);
    return 2;
}
