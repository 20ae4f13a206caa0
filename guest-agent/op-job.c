/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Jobs: commands that outlive the conversation in which they were begun, so that the same command
 * can be followed from a VM's restored images, too.
 *
 * A job is a directory, JOBS_DIR/TOKEN, and a process that watches over its command. The command's
 * end and what it wrote are in files: whoever asks reads those, as often and from where he likes,
 * and the agent itself remembers nothing.
 *
 *     output   parts: stream (u8, 1 or 2), length (u32), bytes; appended by the watcher, who holds
 *              a flock(2) on it as long as he lives
 *     pid      the command's, which is its process group as well
 *     status   "exit N TRUNCATED TIMED_OUT" or "signal N …", when it has ended
 *
 * These two are renamed into place when they are known, but made before the command begins: from
 * then on it may have filled the file system.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/inotify.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#include "command.h"

#define JOBS_DIR AGENT_DIR "/jobs"
#define MAX_JOBS 8u
#define LIMIT_MS 86400000u    /* of a job */
#define WAIT_LIMIT_MS 600000u /* of one wait for it */
#define END_WAIT_MS 10000
#define LOOK_MS 200 /* for a watcher that was killed; all else wakes us */
#define HEAD_BYTES 5u
#define PATH_BYTES 256
#define PID_NAME ".pid" /* of what becomes "pid" */
#define END_NAME ".end" /* … and "status" */
#define LINE_BYTES 64   /* of either, with blanks behind the words */

static void job_path(char path[PATH_BYTES], const char *token, const char *file)
{
    snprintf(path, PATH_BYTES, JOBS_DIR "/%s%s%s", token, file[0] != '\0' ? "/" : "", file);
}

/* False, answered, when the request has none that can be a file's name. */
static bool take_token(const Request *request, char token[65], Answer *answer)
{
    if (request_text(request, STASIS_AGENT_TAG_TOKEN, token, 65) && criu_file_name_is_valid(token))
        return true;
    answer_error(answer, STASIS_AGENT_INVALID, 0,
                 "job: a name of 1 to 64 letters, digits, '.', '_' and '-' is needed");
    return false;
}

static void remove_job(const char *token)
{
    char path[PATH_BYTES];
    job_path(path, token, "");
    criu_remove_dir(path);
}

static unsigned count_jobs(void)
{
    unsigned n = 0;
    DIR *dir = opendir(JOBS_DIR);
    for (struct dirent *entry; dir != NULL && (entry = readdir(dir)) != NULL;)
        n += entry->d_name[0] != '.';
    if (dir != NULL)
        closedir(dir);
    return n;
}

/* ---- the watcher ---- */

typedef struct {
    char token[65];
    int output;
} Watcher;

static void append_output(Command *c, uint16_t tag, const uint8_t *bytes, uint32_t n)
{
    const Watcher *w = c->data;
    uint8_t head[HEAD_BYTES] = { tag == STASIS_AGENT_TAG_OUTPUT ? 1 : 2 };
    memcpy(head + 1, &n, sizeof n);
    struct iovec parts[2] = { { head, sizeof head }, { (void *)bytes, n } };
    /* A file system that is full: what can't be kept whole is left out. */
    struct stat st;
    if (fstat(w->output, &st) == 0 && writev(w->output, parts, 2) != (ssize_t)(sizeof head + n)) {
        c->truncated = true;
        if (ftruncate(w->output, st.st_size) < 0)
            c->limit = 0;
    }
}

static bool write_line(const char *path, int flags, const char *words)
{
    char line[LINE_BYTES + 2];
    int n = snprintf(line, sizeof line, "%-*s\n", LINE_BYTES, words);
    int fd = open(path, O_WRONLY | O_CLOEXEC | O_NOFOLLOW | flags, 0600);
    bool ok = fd >= 0 && write_all(fd, line, (size_t)n);
    if (fd >= 0)
        close(fd);
    return ok;
}

/* Room for a line. */
static bool reserve(const Watcher *w, const char *aside)
{
    char path[PATH_BYTES];
    job_path(path, w->token, aside);
    return write_line(path, O_CREAT | O_TRUNC, "");
}

/* Into that room, then in place. */
static bool put_words(const Watcher *w, const char *aside, const char *name, const char *words)
{
    char from[PATH_BYTES], to[PATH_BYTES];
    job_path(from, w->token, aside);
    job_path(to, w->token, name);
    return write_line(from, 0, words) && rename(from, to) == 0;
}

static void note_end(const Watcher *w, const Command *c, int status)
{
    char words[LINE_BYTES];
    bool killed = WIFSIGNALED(status);
    snprintf(words, sizeof words, "%s %d %d %d", killed ? "signal" : "exit",
             killed ? WTERMSIG(status) : WEXITSTATUS(status), c->truncated, c->timed_out);
    put_words(w, END_NAME, "status", words);
}

/* Nothing of the agent's stays open in it: neither the port nor the pipe to the loop. */
static void __attribute__((noreturn)) watch(Watcher *w, Command *c, int ready)
{
    char number[32];
    pid_t pid = -1;
    setsid();
    prctl(PR_SET_PDEATHSIG, 0);
    signal(SIGPIPE, SIG_IGN);
    dup3(w->output, 3, O_CLOEXEC);
    dup3(ready, 4, O_CLOEXEC);
    syscall(SYS_close_range, 5u, ~0u, 0u);
    w->output = 3;
    flock(w->output, LOCK_EX | LOCK_NB);
    int r = reserve(w, PID_NAME) && reserve(w, END_NAME) ? command_start(c, &pid) : errno;
    snprintf(number, sizeof number, "%d", (int)pid);
    if (r == 0 && !put_words(w, PID_NAME, "pid", number))
        r = errno;
    write_all(4, &r, sizeof r);
    close(4);
    if (r == 0)
        note_end(w, c, command_wait(c, pid));
    if (pid > 0)
        kill(-pid, SIGKILL); /* what is left of its group */
    _exit(0);
}

/* 0, or why not. */
static int start_watcher(Watcher *w, Command *c)
{
    int ready[2], r = 0;
    /* Numbers that watch() wants for itself are taken before, by others. */
    int output = fcntl(w->output, F_DUPFD_CLOEXEC, 10);
    if (output < 0 || pipe2(ready, O_CLOEXEC) < 0)
        return errno;
    int end = fcntl(ready[1], F_DUPFD_CLOEXEC, 10);
    w->output = output;
    pid_t pid = end >= 0 ? fork() : -1;
    if (pid == 0)
        watch(w, c, end);
    int saved = errno;
    close(ready[1]);
    close(end);
    if (pid < 0)
        return saved;
    if (read(ready[0], &r, sizeof r) != sizeof r)
        r = ECHILD;
    return r;
}

void op_job_start(const Request *request, Answer *answer)
{
    static Command c = { .take = append_output, .own_group = true };
    static Watcher w;
    char path[PATH_BYTES];
    c.data = &w;
    if (!take_token(request, w.token, answer))
        return;
    if (!command_read(request, LIMIT_MS, &c)) {
        answer_error(answer, STASIS_AGENT_INVALID, 0, "job: 1 to %d arguments are needed",
                     COMMAND_MAX_ARGS);
        return;
    }
    mkdir(AGENT_DIR, 0700);
    mkdir(JOBS_DIR, 0700);
    job_path(path, w.token, "");
    if (count_jobs() >= MAX_JOBS && access(path, F_OK) < 0) {
        answer_error(answer, STASIS_AGENT_BUSY, 0, "job: there are %u already", MAX_JOBS);
        return;
    }
    if (mkdir(path, 0700) < 0 && errno == EEXIST) {
        stasis_field_put_text(&answer->fields, STASIS_AGENT_TAG_TOKEN, w.token);
        answer_end(answer);
        return;
    }
    job_path(path, w.token, "output");
    w.output = open(path, O_WRONLY | O_CREAT | O_EXCL | O_APPEND | O_CLOEXEC, 0600);
    int r = w.output >= 0 ? start_watcher(&w, &c) : errno;
    if (r != 0) {
        remove_job(w.token);
        answer_error(answer, STASIS_AGENT_FAILED, r, "job %s: exec %.200s", w.token, c.argv[0]);
        return;
    }
    answer_end(answer);
}

/* ---- following one ---- */

typedef struct {
    const char *token;
    int output;
    uint64_t at; /* read so far */
} Follower;

/* Send what there is from here on; false when nobody wants it, or it is damaged. */
static bool send_parts(Follower *f, Answer *answer)
{
    static uint8_t bytes[AGENT_PART_BYTES];
    for (;;) {
        uint8_t head[HEAD_BYTES];
        uint32_t n;
        ssize_t got = pread(f->output, head, sizeof head, (off_t)f->at);
        if (got != (ssize_t)sizeof head)
            return got >= 0;
        memcpy(&n, head + 1, sizeof n);
        if (n > sizeof bytes)
            return false;
        got = pread(f->output, bytes, n, (off_t)(f->at + sizeof head));
        if (got != (ssize_t)n)
            return got >= 0; /* the rest is being written */
        f->at += sizeof head + n;
        stasis_field_put_number(&answer->fields, STASIS_AGENT_TAG_OFFSET, f->at);
        stasis_field_put(&answer->fields,
                         head[0] == 1 ? STASIS_AGENT_TAG_OUTPUT : STASIS_AGENT_TAG_ERROR_OUTPUT,
                         bytes, n);
        if (!answer_part(answer))
            return false;
    }
}

typedef struct {
    char how[16];
    int number, truncated, timed_out;
} End;

static bool read_end(const char *token, End *ret)
{
    char path[PATH_BYTES], line[LINE_BYTES + 2];
    job_path(path, token, "status");
    read_line(path, line, sizeof line);
    return sscanf(line, "%15s %d %d %d", ret->how, &ret->number, &ret->truncated,
                  &ret->timed_out) == 4;
}

static void put_end(const End *end, Answer *answer)
{
    bool killed = strcmp(end->how, "signal") == 0;
    stasis_field_put_number(&answer->fields,
                            killed ? STASIS_AGENT_TAG_SIGNAL : STASIS_AGENT_TAG_EXIT_STATUS,
                            (uint64_t)end->number);
    if (end->truncated)
        stasis_field_put_number(&answer->fields, STASIS_AGENT_TAG_TRUNCATED, 1);
    if (end->timed_out)
        stasis_field_put_number(&answer->fields, STASIS_AGENT_TAG_TIMED_OUT, 1);
}

static void follow(Follower *f, int64_t end_ms, Answer *answer)
{
    char path[PATH_BYTES], events[4096];
    End end;
    int notify = inotify_init1(IN_CLOEXEC | IN_NONBLOCK);
    job_path(path, f->token, "");
    if (notify >= 0)
        inotify_add_watch(notify, path, IN_MODIFY | IN_MOVED_TO);
    for (;;) {
        /* In this order: what was written before the end is there once the end is. */
        bool lost = flock(f->output, LOCK_SH | LOCK_NB) == 0;
        bool ended = read_end(f->token, &end);
        if (!send_parts(f, answer))
            return;
        if (ended)
            put_end(&end, answer);
        else if (lost) {
            answer_error(answer, STASIS_AGENT_FAILED, 0, "job %s: who watched over it was killed",
                         f->token);
            return;
        }
        if (ended || now_ms() >= end_ms)
            break;
        int64_t left = end_ms - now_ms();
        struct pollfd fd = { .fd = notify, .events = POLLIN };
        poll(&fd, 1, left < LOOK_MS ? (int)(left > 0 ? left : 0) : LOOK_MS);
        while (notify >= 0 && read(notify, events, sizeof events) > 0)
            ;
    }
    stasis_field_put_number(&answer->fields, STASIS_AGENT_TAG_OFFSET, f->at);
    answer_end(answer);
}

void op_job_wait(const Request *request, Answer *answer)
{
    char token[65], path[PATH_BYTES];
    int64_t end_ms = now_ms() + request_timeout(request, WAIT_LIMIT_MS);
    if (!take_token(request, token, answer))
        return;
    job_path(path, token, "output");
    Follower f = { token, open(path, O_RDONLY | O_CLOEXEC),
                   request_number(request, STASIS_AGENT_TAG_OFFSET, 0) };
    if (f.output < 0)
        answer_error(answer, STASIS_AGENT_STATE, errno, "job %s", token);
    else
        follow(&f, end_ms, answer);
}

/* ---- its end ---- */

static bool is_watched(int output)
{
    if (flock(output, LOCK_SH | LOCK_NB) < 0)
        return errno == EWOULDBLOCK;
    flock(output, LOCK_UN);
    return false;
}

void op_job_end(const Request *request, Answer *answer)
{
    char token[65], path[PATH_BYTES], number[32];
    if (!take_token(request, token, answer))
        return;
    job_path(path, token, "output");
    int output = open(path, O_RDONLY | O_CLOEXEC);
    if (output < 0) {
        int saved = errno;
        job_path(path, token, "");
        /* Who began it was ended when it had made the directory, and nothing in it. */
        if (saved == ENOENT && rmdir(path) == 0)
            answer_end(answer);
        else
            answer_error(answer, STASIS_AGENT_STATE, saved, "job %s", token);
        return;
    }
    job_path(path, token, "pid");
    read_line(path, number, sizeof number);
    pid_t pid = atoi(number);
    /* While it is watched nobody else can have its number. */
    for (int64_t end_ms = now_ms() + END_WAIT_MS; is_watched(output) && now_ms() < end_ms;) {
        if (pid > 1)
            kill(-pid, SIGKILL);
        poll(NULL, 0, 10);
    }
    if (is_watched(output)) {
        answer_error(answer, STASIS_AGENT_TIMEOUT, 0, "job %s does not end", token);
        return;
    }
    remove_job(token);
    answer_end(answer);
}
