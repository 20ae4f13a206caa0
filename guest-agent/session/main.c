/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * stasis-session: runs a command in a PID and an IPC namespace of its own (namespaces(7)), so that
 * an image of its processes can go on anywhere: their process IDs are free there, and SysV shared
 * memory, semaphores and message queues come along, which CRIU takes with an IPC namespace only.
 *
 *     stasis-session          waits, passes signals on, ends with the command's exit status
 *       └─ the first process  of the namespace and of a terminal session: collects whoever ends
 *            ├─ CMD
 *            └─ the keeper    of its terminal, if there is one
 *
 * On a terminal the command gets one of its own, whose master the keeper holds and whoever sits in
 * front borrows (terminal.c): two keys have the session saved (attend.c). By the name of
 * stasis-resume it is a saved one that is gone on with.
 *
 * There is no mount namespace: CRIU would have to dump and make again every mount in it, which it
 * does for containers and can't for a system's own. So /proc is that of all processes: "self" in it
 * is right, and IDs in it are those of the system.
 */
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <sched.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "session/attend.h"

#ifndef AGENT_VERSION
#define AGENT_VERSION "unknown"
#endif

#define EXIT_OURS 125 /* as env(1) and others: 126 can't be run, 127 not found */

static const char help[] =
    "Usage: stasis-session [OPTION]... [--] CMD [ARG]...\n"
    "Run CMD in a PID and an IPC namespace of its own. An image that the host's\n"
    "\"stasis proc-checkpoint\" takes of it can be restored in any VM, whatever process IDs are\n"
    "taken there, with its SysV shared memory, semaphores and message queues.\n"
    "\n"
    "  -b, --background  don't wait for it: print its process ID, and exit; its standard input\n"
    "                    and output are /dev/null\n"
    "  -o, --output FILE append its standard output and error to FILE\n"
    "  -k, --save-key KEY  on a terminal: saves the session, which goes on (default ^E)\n"
    "  -e, --end-key KEY   … and ends it (default ^]); \"none\": there is no such key\n"
    "  -f, --file FILE     write the ID of each image to FILE, for \"stasis-resume FILE\"\n"
    "  -T, --no-terminal   CMD is on the present terminal itself, and there are no keys\n"
    "      --help        print this and exit\n"
    "      --version     print the version and exit\n"
    "\n"
    "The session ends when the last of its processes has, and is ended by SIGTERM. The exit "
    "status\n"
    "is CMD's, 128 and the signal's number when a signal ended it, and 125 when there is no "
    "session.\n"
    "Needs root.\n";

#define DEFAULT_KEYS                           \
    {                                          \
        .save = 'E' & 31, .save_end = ']' & 31 \
    }

/* What is passed on from outside to the command. */
static const int passed[] = { SIGTERM, SIGINT, SIGHUP, SIGQUIT, SIGUSR1, SIGUSR2 };
static volatile pid_t below; /* who gets it */

static void pass_on(int number)
{
    int saved = errno;
    if (below > 0)
        kill(below, number);
    errno = saved;
}

static void handle_signals(void)
{
    struct sigaction action = { .sa_handler = pass_on, .sa_flags = SA_RESTART };
    for (size_t i = 0; i < sizeof passed / sizeof *passed; i++)
        sigaction(passed[i], &action, NULL);
}

static int complain(const char *what)
{
    fprintf(stderr, "stasis-session: %s: %s\n", what, strerror(errno));
    return EXIT_OURS;
}

static int to_exit(int status)
{
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

/* The child's status, once it has ended; with @all once there are no children any more. */
static int wait_for(pid_t child, bool all)
{
    int status, result = 0;
    for (pid_t pid;;) {
        pid = waitpid(-1, &status, 0);
        if (pid < 0 && errno == EINTR)
            continue;
        if (pid == child)
            result = to_exit(status);
        if (pid < 0 || (pid == child && !all))
            return result;
    }
}

static int exit_code_of(int error_number)
{
    return error_number == ENOENT ? 127 : 126;
}

/* @ready: closed once the command runs, or told why it can't. */
static int be_first(char **argv, int ready, bool terminal)
{
    setsid();
    handle_signals();
    int slave = terminal ? terminal_make() : -1;
    if (terminal && slave < 0)
        return complain("no terminal of its own");
    pid_t pid = fork();
    if (pid < 0)
        return complain("fork");
    if (pid == 0) {
        if (terminal && !terminal_enter(slave))
            _exit(complain("enter its terminal"));
        close_range(3, ~0u, CLOSE_RANGE_CLOEXEC);
        execvp(argv[0], argv);
        uint8_t reason = (uint8_t)errno;
        _exit(write(ready, &reason, 1) == 1 ? exit_code_of(reason) : EXIT_OURS);
    }
    below = pid;
    if (terminal && !terminal_keep())
        return complain("nobody to keep its terminal");
    /* Not to hold whatever the command closes. */
    int null_fd = open("/dev/null", O_RDWR);
    for (int fd = 0; fd < 3 && null_fd >= 0; fd++)
        dup2(null_fd, fd);
    close_range(3, ~0u, 0);
    return wait_for(pid, true);
}

static bool redirect(bool background, const char *output)
{
    int null_fd = open("/dev/null", O_RDWR | O_CLOEXEC);
    int out_fd =
        output != NULL ? open(output, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666) : null_fd;
    if (null_fd < 0 || out_fd < 0)
        return false;
    if (background)
        dup2(null_fd, STDIN_FILENO);
    if (background || output != NULL) {
        dup2(out_fd, STDOUT_FILENO);
        dup2(out_fd, STDERR_FILENO);
    }
    return true;
}

typedef struct {
    bool background, terminal;
    const char *output;
    const char *file; /* for images' IDs, or NULL */
    TerminalKeys keys;
} Options;

static int run(char **argv, const Options *options)
{
    int ready[2];
    uint8_t reason;
    if (pipe2(ready, O_CLOEXEC) < 0 || unshare(CLONE_NEWPID | CLONE_NEWIPC) < 0)
        return complain("no namespaces (it needs root)");
    handle_signals();
    pid_t pid = fork();
    if (pid < 0)
        return complain("fork");
    if (pid == 0) {
        close(ready[0]);
        if (!redirect(options->background, options->output))
            exit(complain(options->output != NULL ? options->output : "/dev/null"));
        exit(be_first(argv, ready[1], options->terminal));
    }
    below = pid;
    close(ready[1]);
    /* So it is in a session of its own when we end, and nobody takes it for a part of ours. */
    ssize_t n;
    while ((n = read(ready[0], &reason, 1)) < 0 && errno == EINTR)
        ;
    if (n == 1) {
        fprintf(stderr, "stasis-session: %s: %s\n", argv[0], strerror(reason));
        return exit_code_of(reason);
    }
    if (options->terminal && attend(pid, &options->keys, options->file)) {
        waitpid(pid, NULL, 0);
        return 0;
    }
    if (!options->background)
        return wait_for(pid, false);
    int status;
    if (waitpid(pid, &status, WNOHANG) == pid) /* it has said why, or has done all already */
        return to_exit(status);
    printf("%d\n", (int)pid);
    return 0;
}

static const char resume_help[] =
    "Usage: stasis-resume [OPTION]... FILE|DIR|ID\n"
    "       stasis-resume [OPTION]... --attach PID\n"
    "Go on with a saved session on the present terminal: FILE is one that \"stasis-session "
    "--file\"\n"
    "wrote, ID an image that the host restores in this VM; DIR was made by the host's \"stasis\n"
    "proc-export --format criu\", and brought here: that needs no host. Or sit down in front of a\n"
    "session that runs already, by the ID of its first process.\n"
    "\n"
    "  -k, --save-key KEY, -e, --end-key KEY, -f, --file FILE   as of stasis-session\n"
    "\n"
    "SIGTERM and others go to the session's first process, as of stasis-session.\n"
    "Needs root; but for DIR and --attach, \"stasis agent-serve\" at the host.\n";

/* -2: it is no key, which was said. */
static int read_key(const char *text)
{
    int key = terminal_parse_key(text);
    if (key == -2)
        fprintf(stderr, "stasis-session: %s: no key; one character, ^A to ^_, or none\n", text);
    return key;
}

static int resume(int argc, char **argv)
{
    static const struct option options[] = {
        { "attach", required_argument, NULL, 'a' },  { "save-key", required_argument, NULL, 'k' },
        { "end-key", required_argument, NULL, 'e' }, { "file", required_argument, NULL, 'f' },
        { "help", no_argument, NULL, 'h' },          { NULL },
    };
    TerminalKeys keys = DEFAULT_KEYS;
    const char *file = NULL;
    pid_t pid = 0;
    for (int c; (c = getopt_long(argc, argv, "a:k:e:f:", options, NULL)) != -1;) {
        int *key = c == 'k' ? &keys.save : &keys.save_end;
        if (c == 'h') {
            fputs(resume_help, stdout);
            return 0;
        }
        if (c == 'a')
            pid = atoi(optarg);
        else if (c == 'f')
            file = optarg;
        else if ((c != 'k' && c != 'e') || (*key = read_key(optarg)) == -2)
            return EXIT_OURS;
    }
    if ((pid > 1) != (optind == argc) || optind < argc - 1) {
        fputs("stasis-resume: one image, or --attach PID, is needed; see --help\n", stderr);
        return EXIT_OURS;
    }
    if (!terminal_is_present()) {
        fputs("stasis-resume: standard input and output are no terminal\n", stderr);
        return EXIT_OURS;
    }
    if (pid == 0)
        pid = attend_resume(argv[optind]);
    if (pid > 0) {
        below = pid;
        handle_signals();
        attend(pid, &keys, file);
    }
    return pid > 0 ? 0 : EXIT_OURS;
}

int main(int argc, char **argv)
{
    static const struct option options[] = {
        { "background", no_argument, NULL, 'b' },
        { "output", required_argument, NULL, 'o' },
        { "save-key", required_argument, NULL, 'k' },
        { "end-key", required_argument, NULL, 'e' },
        { "file", required_argument, NULL, 'f' },
        { "no-terminal", no_argument, NULL, 'T' },
        { "help", no_argument, NULL, 'h' },
        { "version", no_argument, NULL, 'v' },
        { NULL },
    };
    Options chosen = { .terminal = terminal_is_present(), .keys = DEFAULT_KEYS };
    const char *name = strrchr(argv[0], '/');
    if (strcmp(name != NULL ? name + 1 : argv[0], "stasis-resume") == 0)
        return resume(argc, argv);
    for (int c; (c = getopt_long(argc, argv, "+bo:k:e:f:T", options, NULL)) != -1;) {
        switch (c) {
        case 'b':
            chosen.background = true;
            break;
        case 'o':
            chosen.output = optarg;
            break;
        case 'k':
            if ((chosen.keys.save = read_key(optarg)) == -2)
                return EXIT_OURS;
            break;
        case 'e':
            if ((chosen.keys.save_end = read_key(optarg)) == -2)
                return EXIT_OURS;
            break;
        case 'f':
            chosen.file = optarg;
            break;
        case 'T':
            chosen.terminal = false;
            break;
        case 'h':
            fputs(help, stdout);
            return 0;
        case 'v':
            puts("stasis-session " AGENT_VERSION);
            return 0;
        default:
            return EXIT_OURS;
        }
    }
    if (optind == argc) {
        fputs("stasis-session: no command is given; see --help\n", stderr);
        return EXIT_OURS;
    }
    chosen.terminal &= !chosen.background && chosen.output == NULL;
    return run(argv + optind, &chosen);
}
