/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * UNIX connections of which an image has one end alone: cut by name, or into the system's log, as
 * each service of systemd has one from birth. CRIU leaves such an end out if it is told to
 * (--external unix[INODE]), and at restore takes a descriptor of ours in its place (--inherit-fd;
 * criu.org/External_UNIX_socket, criu.org/Inheriting_FDs_on_restore). Left to itself it would
 * connect to the name that the other end had, and to the log without the greeting that this wants.
 *
 * So they are in a file beside CRIU's (agent/halves.h). In the
 * place of one into the log there is a new one, or /dev/null where there is no such log; in that of
 * another one a socket whose other end has hung up, as it is for whoever loses his peer. A
 * program that asks the agent (lib/) finds in it that it goes on from an image.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "agent.h"
#include "lib/wire.h"
#include "scan/scan.h"

#define LOOK_MS 30000
#define LOOK_BYTES ((size_t)64 << 20)
#define LOG_PATH "/run/systemd/journal/stdout"

/* ---- dumping ---- */

/* A name in one word of plain characters: what it is comes from a process. */
static const char *plain(char name[16])
{
    for (char *p = name; *p != '\0'; p++)
        if (*p <= ' ' || *p > '~')
            *p = '_';
    return name[0] != '\0' ? name : "_";
}

static bool write_file(const char *path, StasisHalf *found, size_t n)
{
    FILE *file = n > 0 ? fopen(path, "wex") : NULL;
    for (size_t i = 0; file != NULL && i < n; i++)
        fprintf(file,
                found[i].log     ? "%llu log %s\n"
                : found[i].agent ? "%llu agent\n"
                                 : "%llu cut\n",
                (unsigned long long)found[i].ino, plain(found[i].comm));
    return n == 0 || (file != NULL && fclose(file) == 0);
}

bool halves_find(const pid_t *pids, unsigned n_pids, const char *path, Halves *ret, Answer *answer)
{
    static StasisHalf found[MAX_HALVES];
    const StasisScanLimits limits = { .max_bytes = LOOK_BYTES,
                                      .deadline_ns =
                                          clock_ns(CLOCK_MONOTONIC) + LOOK_MS * 1000000ull,
                                      .only = pids,
                                      .n_only = n_pids };
    size_t n;
    ret->n = 0;
    if (!stasis_scan_halves(&limits, found, MAX_HALVES, &n)) {
        answer_error(answer, STASIS_AGENT_FAILED, 0,
                     "the UNIX connections that were cut can't be told, or are more than %u",
                     MAX_HALVES);
        return false;
    }
    if (!write_file(path, found, n)) {
        answer_error(answer, STASIS_AGENT_FAILED, errno, "write %s", path);
        return false;
    }
    for (; ret->n < n; ret->n++)
        snprintf(ret->options[ret->n], sizeof ret->options[0], "unix[%llu]",
                 (unsigned long long)found[ret->n].ino);
    return true;
}

unsigned halves_append(const Halves *halves, const char *option, char **argv, unsigned n)
{
    for (unsigned i = 0; halves != NULL && i < halves->n; i++) {
        argv[n++] = (char *)option;
        argv[n++] = (char *)halves->options[i];
    }
    return n;
}

/* ---- restoring ---- */

/* The greeting of sd_journal_stream_fd(3): who it is, its unit, priority of its lines, whether they
 * may begin with another one; and three noes. */
static int connect_log(const char *name)
{
    struct sockaddr_un a = { .sun_family = AF_UNIX, .sun_path = LOG_PATH };
    char greeting[64];
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    int n = snprintf(greeting, sizeof greeting, "%s\n\n6\n1\n0\n0\n0\n", name);
    if (fd >= 0 && connect(fd, (struct sockaddr *)&a, sizeof a) == 0 &&
        shutdown(fd, SHUT_RD) == 0 && write_all(fd, greeting, (size_t)n))
        return fd;
    if (fd >= 0)
        close(fd);
    return open("/dev/null", O_RDWR | O_CLOEXEC);
}

static int hung_up(void)
{
    int ends[2];
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) < 0)
        return -1;
    close(ends[1]);
    return ends[0];
}

/* What it was asked is answered once and for all. */
static int of_agent(void)
{
    StasisGuestMessage message = { STASIS_GUEST_MAGIC, STASIS_GUEST_RESUMED, 0, "" };
    int ends[2];
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) < 0)
        return -1;
    send(ends[1], &message, sizeof message, MSG_NOSIGNAL);
    close(ends[1]);
    return ends[0];
}

bool halves_make(const char *path, Halves *ret, Answer *answer)
{
    char line[STASIS_HALVES_LINE_BYTES];
    StasisHalfLine half;
    bool good = true;
    ret->n = 0;
    FILE *file = fopen(path, "re");
    while (good && file != NULL && fgets(line, sizeof line, file) != NULL) {
        int fd = -1;
        if (ret->n < MAX_HALVES && stasis_half_parse(line, &half))
            fd = half.log ? connect_log(half.name) : half.agent ? of_agent() : hung_up();
        good = fd >= 0;
        if (good)
            snprintf(ret->options[ret->n], sizeof ret->options[0], "fd[%d]:socket:[%llu]", fd,
                     (unsigned long long)half.ino);
        if (good)
            ret->fds[ret->n++] = fd;
    }
    if (file != NULL)
        fclose(file);
    ret->fds[ret->n] = -1;
    if (good)
        return true;
    halves_close(ret);
    answer_error(answer, STASIS_AGENT_FAILED, errno,
                 "what was cut, as " STASIS_HALVES_FILE " has it");
    return false;
}

void halves_close(Halves *halves)
{
    for (unsigned i = 0; i < halves->n; i++)
        close(halves->fds[i]);
    halves->n = 0;
}
