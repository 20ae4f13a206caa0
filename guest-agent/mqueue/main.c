/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * stasis-mqueue: for restoring by hand what has POSIX message queues. Makes those of the image, and
 * runs a command, `criu restore …`, with the options by which it takes them (mqueue-make.c).
 */
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "queues.h"

#ifndef AGENT_VERSION
#define AGENT_VERSION "unknown"
#endif

#define EXIT_OURS 125 /* as env(1) and others: 126 can't be run, 127 not found */

static const char help[] =
    "Usage: stasis-mqueue [OPTION]... DIR CMD [ARG]...\n"
    "Make the POSIX message queues that the image of processes in DIR has, with their messages,\n"
    "and run CMD, which is \"criu restore\" and its options, with those added by which it takes\n"
    "them. When it fails the queues are removed again.\n"
    "\n"
    "  -r, --replace  queues of these names that are there already are removed first\n"
    "      --help     print this and exit\n"
    "      --version  print the version and exit\n"
    "\n"
    "The exit status is CMD's, 128 and the signal's number when a signal ended it, and 125 when\n"
    "there is no making the queues. Needs root.\n";

static int complain(const char *what, const char *why)
{
    fprintf(stderr, "stasis-mqueue: %s%s%s\n", what, why[0] != '\0' ? ": " : "", why);
    return EXIT_OURS;
}

static int run(char **argv, const int *inherited)
{
    int status;
    pid_t pid = fork();
    if (pid == 0) {
        for (unsigned i = 0; inherited[i] >= 0; i++)
            fcntl(inherited[i], F_SETFD, 0);
        execvp(argv[0], argv);
        int code = errno == ENOENT ? 127 : 126;
        complain(argv[0], strerror(errno));
        _exit(code);
    }
    while (pid > 0 && waitpid(pid, &status, 0) < 0)
        if (errno != EINTR)
            pid = -1;
    if (pid < 0)
        return complain("fork", strerror(errno));
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

static int restore(const char *dir, char **command, unsigned n, bool replace)
{
    static MqueueMade made;
    char path[4096];
    char **argv = calloc(n + MQUEUE_MAX_WORDS, sizeof *argv);
    if (argv == NULL ||
        snprintf(path, sizeof path, "%s/" STASIS_MQUEUE_FILE, dir) >= (int)sizeof path)
        return complain(dir, strerror(ENAMETOOLONG));
    if (!mqueue_look(path, replace, &made) || !mqueue_make(path, replace, &made))
        return complain(made.error, "");
    memcpy(argv, command, n * sizeof *argv);
    mqueue_append(&made, argv, n);
    int code = run(argv, made.fds);
    if (code != 0)
        mqueue_undo(&made);
    free(argv);
    return code;
}

int main(int argc, char **argv)
{
    static const struct option options[] = {
        { "replace", no_argument, NULL, 'r' },
        { "help", no_argument, NULL, 'h' },
        { "version", no_argument, NULL, 'v' },
        { NULL },
    };
    bool replace = false;
    for (int c; (c = getopt_long(argc, argv, "+r", options, NULL)) != -1;) {
        switch (c) {
        case 'r':
            replace = true;
            break;
        case 'h':
            fputs(help, stdout);
            return 0;
        case 'v':
            puts("stasis-mqueue " AGENT_VERSION);
            return 0;
        default:
            return EXIT_OURS;
        }
    }
    if (argc - optind < 2)
        return complain("no directory or no command is given; see --help", "");
    return restore(argv[optind], argv + optind + 1, (unsigned)(argc - optind - 1), replace);
}
