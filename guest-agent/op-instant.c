/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The VM goes on from an image: what must not be as it was is put right. What others wait for comes
 * first and is done in the loop (thaw, clock, random numbers, name); what touches disks, and the
 * hooks, in a worker, which goes on when the host has gone.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/random.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "coop.h"

#define HOOK_DIR "/etc/stasis/agent.d"
#define HOOK_MS 10000
#define ALL_HOOKS_MS 60000
#define MAX_ENTROPY 512

#ifndef RNDRESEEDCRNG
#define RNDRESEEDCRNG _IO('R', 0x07)
#endif

/* The last instant. A worker has its own copy. */
static struct {
    uint64_t number;
    char kind[32], token[65];
    char trouble[256]; /* what did not work */
    bool devices;      /* some are being resumed */
} instant;

static void note_trouble(const char *what, int error_number)
{
    size_t at = strlen(instant.trouble);
    snprintf(instant.trouble + at, sizeof instant.trouble - at, "%s%s: %s", at > 0 ? "; " : "",
             what, strerror(error_number));
}

bool instant_describe(Answer *answer)
{
    stasis_field_put_number(&answer->fields, STASIS_AGENT_TAG_INSTANTS, instant.number);
    if (instant.number == 0)
        return false;
    stasis_field_put_text(&answer->fields, STASIS_AGENT_TAG_KIND, instant.kind);
    stasis_field_put_text(&answer->fields, STASIS_AGENT_TAG_TOKEN, instant.token);
    return true;
}

/* ---- random numbers ---- */

/* Two VMs from one image would draw the same numbers. */
static uint64_t add_entropy(const StasisField *entropy)
{
    struct {
        struct rand_pool_info info;
        uint8_t bytes[MAX_ENTROPY];
    } pool = { .info = { .entropy_count = (int)entropy->length * 8,
                         .buf_size = (int)entropy->length } };
    memcpy(pool.info.buf, entropy->value, entropy->length);
    int fd = open("/dev/urandom", O_RDWR | O_CLOEXEC);
    bool added = fd >= 0 && ioctl(fd, RNDADDENTROPY, &pool) == 0 && ioctl(fd, RNDRESEEDCRNG) == 0;
    if (!added)
        note_trouble("add entropy", errno);
    if (fd >= 0)
        close(fd);
    explicit_bzero(&pool, sizeof pool);
    return added ? entropy->length : 0;
}

/* ---- identity ---- */

static bool write_machine_id(const char *text)
{
    static const char aside[] = "/etc/.machine-id.stasis";
    int fd = open(aside, O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW | O_CLOEXEC, 0444);
    bool written = fd >= 0 && write_all(fd, text, strlen(text)) && fsync(fd) == 0 &&
                   rename(aside, "/etc/machine-id") == 0;
    int saved = errno;
    if (fd >= 0)
        close(fd);
    if (!written)
        unlink(aside);
    errno = saved;
    return written;
}

static void renew_machine_id(void)
{
    uint8_t bytes[16];
    char text[34] = "";
    if (access("/etc/machine-id", F_OK) < 0)
        return; /* a system without one stays so */
    if (getrandom(bytes, sizeof bytes, 0) != sizeof bytes) {
        note_trouble("draw a machine id", errno);
        return;
    }
    bytes[6] = (bytes[6] & 0x0f) | 0x40; /* a version 4 UUID, as systemd's */
    bytes[8] = (bytes[8] & 0x3f) | 0x80;
    for (unsigned i = 0; i < sizeof bytes; i++)
        snprintf(text + 2 * i, 3, "%02x", bytes[i]);
    strcat(text, "\n");
    if (!write_machine_id(text))
        note_trouble("write /etc/machine-id", errno);
}

/* ---- hooks ---- */

/* What others can write is not run. */
static bool may_run(int dir_fd, const char *name)
{
    struct stat st;
    return name[0] != '.' && fstatat(dir_fd, name, &st, 0) == 0 && S_ISREG(st.st_mode) &&
           st.st_uid == 0 && (st.st_mode & (S_IWGRP | S_IWOTH)) == 0 && (st.st_mode & S_IXUSR) != 0;
}

static void __attribute__((noreturn)) be_hook(const char *path)
{
    static char *environment[] = { "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:"
                                   "/bin",
                                   NULL, NULL };
    static char token[96];
    char *arguments[] = { (char *)path, instant.kind, NULL };
    int null_fd = open("/dev/null", O_RDWR);
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    be_ordinary();
    if (null_fd >= 0)
        dup2(null_fd, STDIN_FILENO);
    snprintf(token, sizeof token, "STASIS_TOKEN=%s", instant.token);
    environment[1] = token;
    execve(path, arguments, environment);
    _exit(127);
}

static bool run_hook(const char *path, int64_t end_ms)
{
    pid_t pid = fork();
    int status = 0;
    if (pid == 0)
        be_hook(path);
    if (pid < 0)
        return false;
    while (waitpid(pid, &status, WNOHANG) == 0) {
        if (now_ms() >= end_ms) {
            kill(pid, SIGKILL);
            waitpid(pid, &status, 0);
            return false;
        }
        poll(NULL, 0, 10);
    }
    return WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

static void run_hooks(Answer *answer)
{
    struct dirent **entries = NULL;
    int n = scandir(HOOK_DIR, &entries, NULL, alphasort);
    int dir_fd = open(HOOK_DIR, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    uint64_t n_run = 0, n_failed = 0;
    int64_t last_ms = now_ms() + ALL_HOOKS_MS;
    for (int i = 0; i < n; i++) {
        char path[512];
        int64_t end_ms = now_ms() + HOOK_MS;
        snprintf(path, sizeof path, HOOK_DIR "/%s", entries[i]->d_name);
        if (may_run(dir_fd, entries[i]->d_name)) {
            n_run++;
            n_failed += !run_hook(path, end_ms < last_ms ? end_ms : last_ms);
        }
        free(entries[i]);
    }
    free(entries);
    if (dir_fd >= 0)
        close(dir_fd);
    stasis_field_put_number(&answer->fields, STASIS_AGENT_TAG_N_HOOKS, n_run);
    stasis_field_put_number(&answer->fields, STASIS_AGENT_TAG_N_FAILED, n_failed);
}

/* ---- the operation ---- */

static void set_name(const Request *request)
{
    char name[65];
    if (!request_text(request, STASIS_AGENT_TAG_HOSTNAME, name, sizeof name))
        return;
    if (sethostname(name, strlen(name)) < 0)
        note_trouble("set the host's name", errno);
}

bool op_instant_before(const Request *request, Answer *answer)
{
    char kind[sizeof instant.kind], token[sizeof instant.token];
    StasisField entropy;
    if (!request_text(request, STASIS_AGENT_TAG_KIND, kind, sizeof kind) ||
        !request_text(request, STASIS_AGENT_TAG_TOKEN, token, sizeof token)) {
        answer_error(answer, STASIS_AGENT_INVALID, 0, "instant: without a kind or a token");
        return false;
    }
    if (strcmp(token, instant.token) == 0) {
        instant_describe(answer);
        answer_end(answer);
        return false;
    }
    instant.devices = device_resume_tell();
    fs_thaw_now();
    /* A fork is there for CRIU: what it finds must be as it was. */
    if (strcmp(kind, "forked") != 0)
        coop_resumed();
    instant.number++;
    strcpy(instant.kind, kind);
    strcpy(instant.token, token);
    instant.trouble[0] = '\0';
    uint64_t host_ns = request_number(request, STASIS_AGENT_TAG_REALTIME, 0);
    int r = host_ns != 0 ? clock_set_by_host(host_ns, &answer->fields) : 0;
    if (r != 0)
        note_trouble("set the clock", r);
    uint64_t n = 0;
    if (stasis_field_find(request->fields, request->length, STASIS_AGENT_TAG_ENTROPY, &entropy) &&
        entropy.length <= MAX_ENTROPY)
        n = add_entropy(&entropy);
    stasis_field_put_number(&answer->fields, STASIS_AGENT_TAG_N_ENTROPY, n);
    set_name(request);
    return true;
}

/* What was suspended for the image; a device that was used at that instant has come back, too. */
static void wait_for_devices(Answer *answer)
{
    unsigned n;
    char text[160];
    if (!instant.devices)
        return;
    if (!device_resume_wait(&n, text, sizeof text)) {
        size_t at = strlen(instant.trouble);
        snprintf(instant.trouble + at, sizeof instant.trouble - at, "%s%s", at > 0 ? "; " : "",
                 text);
    }
    stasis_field_put_number(&answer->fields, STASIS_AGENT_TAG_N_RESUMED, n);
}

void op_instant(const Request *request, Answer *answer)
{
    char id[33];
    wait_for_devices(answer);
    if (request_number(request, STASIS_AGENT_TAG_NEW_IDENTITY, 0) != 0)
        renew_machine_id();
    machine_id(id);
    stasis_field_put_text(&answer->fields, STASIS_AGENT_TAG_MACHINE_ID, id);
    run_hooks(answer);
    if (instant.trouble[0] != '\0')
        stasis_field_put_text(&answer->fields, STASIS_AGENT_TAG_MESSAGE, instant.trouble);
    answer_end(answer);
}
